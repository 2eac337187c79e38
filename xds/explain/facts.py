"""What an explanation may look at: the world, its problems, the objects as read, and what proxies have said.

It owns these four and who the source is; it must never change any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xds.api.core import Key, Pod
from xds.callers import class_of
from xds.compile.hosts import Client
from xds.compile.lens import Lens
from xds.explain.answer import Source
from xds.fields import ConfigError, Problem
from xds.hosts import Name
from xds.ledger import Row
from xds.world import World


def _nothing(_key: Key) -> object:
    return None


def _nobody(_pod: Name) -> Sequence[tuple[str, Sequence[Row]]]:
    return ()


@dataclass(frozen=True, slots=True)
class Facts:
    """One state of the mesh."""

    world: World
    now_s: float
    """The time of the epoch at which tokens are looked at."""
    problems: tuple[Problem, ...] = ()
    """Everything that is wrong with the objects, as `proa validate` says it."""
    stored: Callable[[Key], object] = _nothing
    """The object of a key as it was last read, None where none could ever be."""
    proxies: Callable[[Name], Sequence[tuple[str, Sequence[Row]]]] = _nobody
    """The connected proxies of a Pod by their ID, each with what it was sent."""
    is_intercepted: Callable[[Name], bool] = lambda _pod: False
    """Whether a Pod's proxy has said that its traffic is redirected to it."""

    @property
    def lens(self) -> Lens:
        """A lens whose record nobody reads."""
        return Lens(self.world)


@dataclass(frozen=True, slots=True)
class Caller:
    """The source as the compiler knows it; no Pod: a namespace asks, for all of its Pods that no rule tells apart."""

    client: Client
    pod: Pod | None
    shown: Source

    @property
    def namespace(self) -> str:
        """The namespace that asks."""
        return self.client.namespace


def find_caller(facts: Facts, text: str) -> Caller:
    """Return who ``NAME.NAMESPACE``, ``NAMESPACE/NAME`` or ``NAMESPACE`` is: a Pod, a Pod of a workload, or a class.

    Raises ConfigError where nobody is called so.
    """
    namespace, slash, name = text.partition("/")
    if not slash:
        name, dot, namespace = text.rpartition(".")
        if not dot:
            return _of_namespace(facts, text)
    pod = facts.world.pod((namespace, name)) or _of_workload(facts, namespace, name)
    if pod is None:
        raise ConfigError(
            "source",
            f"no Pod or workload {name} is known in namespace {namespace}; {_known(facts, namespace)}",
        )
    return _of_pod(facts, pod)


def _of_workload(facts: Facts, namespace: str, name: str) -> Pod | None:
    """Return the workload's first Pod that is not on its way out."""
    world = facts.world
    names = sorted(n for n in world.pods() if n[0] == namespace and world.backend(n).workload == name)
    pods = [pod for pod in map(world.pod, names) if pod is not None]
    return min(
        pods, key=lambda pod: (pod.finished or pod.terminating, not pod.ready, pod.meta.name), default=None
    )


def _of_namespace(facts: Facts, name: str) -> Caller:
    if facts.world.namespace(name) is None and not any(pod[0] == name for pod in facts.world.pods()):
        raise ConfigError(
            "source", f"no namespace {name} is known; write a Pod or workload as NAME.NAMESPACE"
        )
    client = class_of(facts.world, name, ())
    # Who asks for all of a namespace is taken for the ServiceAccount that Pods have where none is written.
    identity = f"spiffe://{facts.world.settings.trust_domain}/ns/{name}/sa/default"
    shown = Source(
        name,
        "",
        "",
        identity if facts.world.has_keys else "",
        is_meshed=True,
        is_intercepted=facts.world.sees_sidecars,
        sidecar=client.sidecar,
    )
    return Caller(client, None, shown)


def _of_pod(facts: Facts, pod: Pod) -> Caller:
    world, name = facts.world, (pod.meta.namespace, pod.meta.name)
    backend, client = world.backend(name), class_of(world, name[0], pod.meta.labels)
    has_identity = backend.is_meshed and world.has_keys
    identity = f"spiffe://{world.settings.trust_domain}/ns/{name[0]}/sa/{backend.service_account}"
    shown = Source(
        namespace=name[0],
        workload=backend.workload,
        pod=name[1],
        identity=identity if has_identity else "",
        is_meshed=backend.is_meshed,
        is_intercepted=backend.is_meshed and (pod.is_redirected or facts.is_intercepted(name)),
        sidecar=client.sidecar if backend.is_meshed else "",
    )
    return Caller(client, pod, shown)


def _known(facts: Facts, namespace: str) -> str:
    names = sorted({facts.world.backend(n).workload for n in facts.world.pods() if n[0] == namespace} - {""})
    return f"it has {', '.join(names[:10])}" if names else "it has no Pods"
