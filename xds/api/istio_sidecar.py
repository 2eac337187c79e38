"""Istio's Sidecar: which hosts some Pods may reach, as a frozen value, and its reader.

It holds what the user wrote; which Sidecar holds for a Pod is decided in ``visibility``, never here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.api.core import Labels, Meta
from xds.api.mesh import OutboundPolicy
from xds.api.meta import read_labels
from xds.fields import ConfigError, Reader, show
from xds.grammar import check_host, check_label

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT: Final = (
    ("workloadSelector.labels", "", "without it: the namespace; in the root namespace: the mesh"),
    ("egress[].hosts", "", "NAMESPACE/HOST: either may be *, the namespace . for its own and ~ for none"),
    ("outboundTrafficPolicy.mode", "", "goes before the mesh's"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_PLACES: Final = frozenset({"*", ".", "~"})
"""What a host's namespace can be besides a name."""


@dataclass(frozen=True, slots=True)
class EgressHost:
    """Hosts of a namespace; both may be ``*``, the namespace ``.`` (the client's own) or ``~`` (none)."""

    namespace: str
    host: str


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the Pods that it selects may reach; ``egress`` of None means: all that is visible.

    ``outbound`` of None leaves unknown destinations to the mesh's policy.
    """

    meta: Meta
    selector: Labels = ()
    egress: tuple[EgressHost, ...] | None = None
    outbound: OutboundPolicy | None = None


def read_sidecar(spec: Reader, meta: Meta) -> Sidecar:
    """Return a Sidecar; raise ConfigError for the first field that is wrong."""
    spec.refuse("ingress", "the Pod's own ports would be taken instead of these")
    spec.leave("inboundConnectionPool", "connections to the application are not limited")
    found = Sidecar(meta, _selector(spec), _egress(spec), _outbound(spec))
    spec.done()
    return found


def _selector(spec: Reader) -> Labels:
    reader = spec.object("workloadSelector")
    if reader is None:
        return ()
    labels = read_labels(reader, "labels")
    reader.done()
    if not labels:
        raise reader.fail("labels", "must not be empty; remove workloadSelector to take the whole namespace")
    return labels


def _egress(spec: Reader) -> tuple[EgressHost, ...] | None:
    listeners = spec.objects("egress")
    if not listeners:
        return None
    hosts: dict[EgressHost, None] = {}
    for reader in listeners:
        reader.refuse("port", "these hosts would be reachable on every port")
        reader.refuse("bind", "the application would find nobody at this address")
        reader.leave("captureMode", "what is redirected was decided when the Pod was injected")
        for host in _hosts(reader):
            hosts[host] = None
        reader.done()
    return tuple(sorted(hosts, key=lambda found: (found.namespace, found.host)))


def _hosts(reader: Reader) -> Iterator[EgressHost]:
    texts = reader.texts("hosts")
    if not texts:
        raise reader.fail("hosts", "must name at least one host, as NAMESPACE/HOST; ~/* means none")
    for index, text in enumerate(texts):
        path = f"{reader.at('hosts')}[{index}]"
        namespace, slash, host = text.partition("/")
        if not slash:
            raise ConfigError(
                path, f"must be NAMESPACE/HOST such as ./* or */api.example.com, got {show(text)}"
            )
        if namespace not in _PLACES:
            check_label(path, namespace)
        yield EgressHost(namespace, host if host == "*" else check_host(path, host).lower().rstrip("."))


def _outbound(spec: Reader) -> OutboundPolicy | None:
    policy = spec.object("outboundTrafficPolicy")
    if policy is None:
        return None
    policy.refuse("egressProxy", "unknown destinations would be called directly")
    # The API's own default of a policy that is given without a mode (its first value).
    mode = policy.choice("mode", OutboundPolicy, OutboundPolicy.REGISTRY_ONLY)
    policy.done()
    return mode
