"""A control plane in a Kubernetes cluster: TokenReview admits, one Secret keeps the keys, one replica writes.

It owns what `proa serve --kubernetes` is made of and the order in which it starts; it must never hold a rule of the
mesh, and never serve a byte before the cluster has been read and the keys are the ones that all replicas use.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from xds import channel, settings
from xds.address import Address
from xds.app import App, Life, Ports
from xds.bootstrap.probes import watch
from xds.ca import CaError, Leaf
from xds.gate import ServerOptions
from xds.identity import Refusal, Refused
from xds.injection.istio import IstioLabels
from xds.injection.names import TOKEN_FILE
from xds.injection.template import Template
from xds.kube.client import ApiError, Client
from xds.kube.custody import Custody
from xds.kube.election import Elector
from xds.kube.events import Events
from xds.kube.registration import Injectors, Registration
from xds.kube.replicas import Replicas
from xds.kube.review import Admission, Reviewer
from xds.kube.secret import SecretFile
from xds.kube.webhook import Sources, Webhook
from xds.ledger import State
from xds.report import TYPE_NAMES
from xds.rotation import Phase
from xds.server import Call, Caller
from xds.sources.kubernetes import Kubernetes
from xds.state import StateError
from xds.trust import Fleet, Trust, bootstrap_roots, joined

if TYPE_CHECKING:
    import grpc

    from xds.api.core import Labels
    from xds.fields import Problem
    from xds.ledger import Response
    from xds.sources.directory import Batch
    from xds.sources.informer import Status as Following

log = logging.getLogger("xds.kubernetes")

LEASE: Final = "proa"
"""The Lease whose holder writes: trust, webhook configuration, Events about objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``proa serve --kubernetes`` was asked for."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str = "proa-system"
    pod: str
    """The name of this replica: its Pod's."""
    pod_uid: str = ""
    webhook: Address | None = None
    """None: nothing is injected from here."""
    proxy_image: str = settings.PROXY_IMAGE
    collector: tuple[str, int] | None = None
    """Where sidecars push their counters besides, by OTLP."""
    collector_ca: Path | None = None
    """PEM file of who vouches for the collector; None: without TLS."""
    istio_labels: IstioLabels = IstioLabels.AUTO
    ca_secret: str = ""
    """A user's own CA, a Secret of type kubernetes.io/tls in our namespace; empty: we make one."""
    leaf_ttl_s: int = settings.LEAF_TTL_S


def compose(options: Options, ports: Ports) -> App:
    """Return the control plane of a cluster, not yet running."""
    return App(InKubernetes(options), ports, ServerOptions(stream_life_s=settings.STREAM_LIFE_S))


@dataclass(frozen=True, slots=True)
class _Api:
    """What talks to the apiserver, from the moment that there is a client."""

    client: Client
    source: Kubernetes
    reviewer: Reviewer
    elector: Elector
    events: Events


@dataclass(frozen=True, slots=True)
class _Keys:
    """What stands on the trust of all replicas, from the moment that it is known."""

    trust: Trust
    custody: Custody
    replicas: Replicas
    admission: Admission
    registration: Registration | None


class InKubernetes:
    """The home of a control plane in a cluster."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.has_keys = True
        self.sees_sidecars = True
        self._api: _Api | None = None
        self._keys: _Keys | None = None

    # -- start -----------------------------------------------------------------------------

    async def load(self, life: Life) -> Batch:
        """Read the whole cluster, however long that takes; who leads is decided meanwhile."""
        options = self._options
        try:
            client = await Client.connect(options.kubeconfig, options.context)
        except ApiError as error:
            raise StateError(str(error)) from None
        life.stack.push_async_callback(client.close)
        me = f"{options.pod}_{secrets.token_hex(4)}"
        api = _Api(
            client,
            Kubernetes(client),
            Reviewer(client),
            Elector.of(client, options.namespace, LEASE, me),
            Events(client, options.pod),
        )
        self._api = api
        life.run("source", api.source.run())
        life.run("election", api.elector.run())
        life.run("events", api.events.run())
        await api.reviewer.load()
        life.run("token-keys", api.reviewer.run())
        return await api.source.load()

    def watch(self) -> AsyncGenerator[Batch]:
        """Yield what the cluster changes."""
        return self._started.source.watch()

    async def open(self, app: App, life: Life) -> grpc.ServerCredentials:
        """Open the trust of all replicas, say that this one is there, and let the webhook answer."""
        api, options = self._started, self._options
        world = app.plane.plan.world
        theirs = SecretFile(api.client, options.namespace, options.ca_secret) if options.ca_secret else None
        custody = Custody(
            SecretFile(api.client, options.namespace, settings.CA_SECRET),
            leads=api.elector.leads,
            trust_domain=world.settings.trust_domain,
            issuer=theirs,
            leaf_ttl_s=options.leaf_ttl_s,
        )
        trust = await custody.open()
        app.plane.trust = trust
        world.pin_trust_domain()
        app.plane.put_secrets((trust.issuer.bundle(),), time.time())
        life.run("ca", custody.run(lambda puts: app.server.wake(app.plane.put_secrets(puts, time.time()))))
        replicas = Replicas(api.client, options.namespace, options.pod, pod_uid=options.pod_uid)
        await replicas.publish(trust.report(app.plane.fleet()))  # who has proxies has a Lease
        life.run(
            "replicas",
            replicas.run(lambda: trust.report(app.plane.fleet()), looks=lambda: self._is_rotating(trust)),
        )
        admission = Admission(api.reviewer, app.pod_facts, lambda: world.settings.trust_domain)
        registration = await self._inject(app, life, trust, options.webhook) if options.webhook else None
        self._keys = _Keys(trust, custody, replicas, admission, registration)
        return channel.server_credentials(lambda: trust.channel_leaf(time.time()))

    async def _inject(self, app: App, life: Life, trust: Trust, address: Address) -> Registration:
        api, options = self._started, self._options
        injectors = Injectors(api.client, options.istio_labels)
        registration = Registration(
            api.client, roots=lambda: bootstrap_roots(trust.channel.slots), istio=lambda: injectors.rule
        )
        port = app.ports.xds.port
        server = f"{settings.CHANNEL_SERVER_NAME}:{port}"
        sidecar = Sidecar(options.proxy_image, trust, server, options.collector, options.collector_ca)
        await sidecar.refresh()

        def labels(namespace: str) -> Labels | None:
            found = app.plane.plan.world.namespace(namespace)
            return found.meta.labels if found else None

        webhook = Webhook(
            Sources(
                template=lambda: sidecar.template,
                labels=labels,
                istio=lambda: injectors.rule,
                certificate=_lasting(lambda: trust.channel_leaf(time.time())),
                record=api.events.say,
            )
        )
        life.run("injectors", injectors.run())
        life.run("sidecar-template", sidecar.run())
        life.run("registration", self._register(registration, trust))
        at = await life.stack.enter_async_context(webhook.listening(address))
        log.info("webhook listening", extra={"address": str(at)})
        return registration

    async def _register(self, registration: Registration, trust: Trust) -> None:
        """Keep the webhook's configuration as it should be, from wherever the Lease is held."""
        seen, due_at = None, 0.0
        while True:
            roots, now = newest_first(trust), time.monotonic()
            is_due = roots != seen or now >= due_at
            if is_due and self._started.elector.leads() and await registration.reconcile():
                seen, due_at = roots, now + settings.REGISTRATION_READ_S
            await asyncio.sleep(settings.REGISTRATION_RETRY_S)

    # -- what the app asks ------------------------------------------------------------------

    async def authenticate(self, call: Call) -> Caller:
        """Admit who brings the ServiceAccount token of a Pod that we know; nothing else is proof."""
        if self._keys is None:
            raise Refused(Refusal.NO_TOKEN)
        authorization = call.metadata.get("authorization", "")
        return await self._keys.admission.admit(authorization, call.node.id if call.node else None)

    def placed(self, problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """Return the problems, and what is wrong with the user's own CA."""
        own = self._keys.custody.problem if self._keys else None
        return problems if own is None else (*problems, own)

    def loading(self) -> str:
        """Return what has not been read yet."""
        if self._api is None:
            return "the apiserver has not been asked yet"
        missing = self._api.source.unsynced()
        return f"not read yet: {', '.join(missing)}" if missing else "keys and ports are being opened"

    def leads(self) -> bool:
        """Whether this replica writes."""
        return self._started.elector.leads()

    def fleet(self, own: Fleet) -> Fleet:
        """Return what the proxies of all replicas have said, and the apiserver as one more that trusts our root."""
        keys = self._keys
        if keys is None:
            return own
        everybody = joined(own, keys.replicas.others)
        if keys.registration is None:
            return everybody
        reported = keys.registration.reported
        return replace(everybody, channel_roots=lambda: everybody.channel_roots() | reported())

    async def settled(self) -> None:
        """Wait until a step of trust that was ordered is in the Secret; raises CaError if it is not."""
        if self._keys is not None and not await self._keys.custody.settled():
            message = (
                f"Secret {self._options.namespace}/{settings.CA_SECRET}: not written yet; ask for the status"
            )
            raise CaError(message)

    def told(self, problems: tuple[Problem, ...]) -> None:
        """Say problems on their objects."""
        self._started.events.problems(problems, leads=self.leads())

    def answered(self, response: Response) -> None:
        """Say a rejection on the objects that caused what was rejected."""
        if response.state is State.NACKED:
            causes = {name: found.cause for name, found in response.items.items() if found}
            kind = TYPE_NAMES.get(response.type_url, response.type_url)
            self._started.events.rejected(kind, response.error, causes)

    def counters(self) -> Mapping[str, int]:
        """Return what reviews and Events have counted, for /metrics."""
        api = self._api
        if api is None:
            return {}
        return {**_named("review", api.reviewer.counters), **_named("event", api.events.counters)}

    def kinds(self) -> tuple[Following, ...]:
        """Return how each kind of the API is doing."""
        return () if self._api is None else self._api.source.statuses()

    @property
    def _started(self) -> _Api:
        if self._api is None:
            message = "the apiserver has not been asked yet"
            raise StateError(message)
        return self._api

    def _is_rotating(self, trust: Trust) -> bool:
        phases = (trust.workload.slots.phase, trust.channel.slots.phase)
        return self.leads() and any(phase is not Phase.STEADY for phase in phases)


@dataclass(slots=True)
class Sidecar:
    """The sidecar of this mesh as its newest channel roots have it: a template that is made in a process of its own.

    ``xds.bootstrap`` stands on envoy-data-plane, which must not live in the server.
    """

    image: str
    trust: Trust
    server: str
    """HOST:PORT that sidecars connect to."""
    collector: tuple[str, int] | None = None
    collector_ca: Path | None = None
    template: Template = field(init=False)
    _roots: tuple[tuple[str, ...], str] | None = None

    async def run(self) -> None:
        """Make the template again when the roots have changed, for ever; one that cannot be made keeps the last."""
        while True:
            await asyncio.sleep(settings.REGISTRATION_RETRY_S)
            await self.keep()

    async def keep(self) -> None:
        """As `refresh`, but what fails is logged and tried again: Pods of the last template trust what signs now."""
        try:
            await self.refresh()
        except StateError as error:
            log.warning("sidecar template not made", extra={"why": str(error)})

    async def refresh(self) -> None:
        """Make the template if the roots are not those that it was made with; raises StateError if that fails."""
        roots = newest_first(self.trust)
        if roots == self._roots:
            return
        command = (sys.executable, "-m", "xds", "bootstrap", "--transparent", "--roots", "-",
                   "--xds", self.server, "--token-file", TOKEN_FILE, *self._collector())  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(settings.TEMPLATE_S):
                text, said = await process.communicate("".join(roots[0]).encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StateError(f"proa bootstrap: no answer in {settings.TEMPLATE_S:g} s") from None
        if process.returncode != 0:
            raise StateError(f"proa bootstrap: {said.decode('utf-8', 'replace').strip()}")
        self.template = Template(
            image=self.image,
            bootstrap=msgspec.json.decode(text, type=dict[str, object]),
            watch=watch,
        )
        self._roots = roots

    def _collector(self) -> tuple[str, ...]:
        """Return the flags that name a collector; an IPv6 address gets its brackets back."""
        if self.collector is None:
            return ()
        host, port = self.collector
        named = ("--otlp-metrics", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return named if self.collector_ca is None else (*named, "--otlp-metrics-ca", str(self.collector_ca))


def newest_first(trust: Trust) -> tuple[tuple[str, ...], str]:
    """Return the channel's roots as PEM, the newest first, and the newest one's fingerprint."""
    slots = trust.channel.slots
    return tuple(root.pem.decode("ascii") for root in reversed(slots.trusted)), slots.newest.fingerprint


def _lasting(issue: Callable[[], Leaf]) -> Callable[[], Leaf]:
    """Return the newest certificate that could be issued: a handshake must not fail for a root that cannot sign."""
    last = issue()

    def current() -> Leaf:
        nonlocal last
        try:
            last = issue()
        except CaError:
            log.exception("webhook certificate not renewed")
        return last

    return current


def _named(prefix: str, counters: Mapping[str, int]) -> dict[str, int]:
    return {f"{prefix}_{name}": count for name, count in counters.items()}
