"""A conversation with one session, spoken in a line per message; it owns no rule of the protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xds.events import Event, Hello, Limits, Watch
from xds.ledger import Ledger, Push
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from xds.push import Registry
from xds.sight import Rule, RuleOf
from xds.snapshot import ResourceType, Snapshot, View
from xds.stream import Session
from xds.subscription import Variant

VIEW: View = ("stream/1", "proxy/shop/web", "class/shop/1", "ns/shop", "mesh")
LAYER = {
    ResourceType.CLUSTER: "mesh",
    ResourceType.ENDPOINTS: "mesh",
    ResourceType.LISTENER: "proxy/shop/web",
    ResourceType.ROUTES: "class/shop/1",
    ResourceType.SECRET: "stream/1",
}
TYPE_OF = {kind.url: kind for kind in ResourceType}


def allow_all(_kind: ResourceType) -> Rule:
    """Authorize everything."""
    return lambda _name: True


@dataclass(frozen=True)
class Said:
    """A response, reduced to what tests ask about."""

    type_url: str
    nonce: str
    resources: tuple[tuple[str, bytes], ...]
    removed: tuple[str, ...] = ()
    version: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it carries."""
        return tuple(name for name, _ in self.resources)


def carried(said: list[Said]) -> list[tuple[str, ...]]:
    """Return the names that each response carries."""
    return [one.names for one in said]


@dataclass
class Talk:
    """A snapshot, a registry, a ledger and one session."""

    variant: Variant = Variant.DELTA
    only: ResourceType | None = None
    rule_of: RuleOf = allow_all
    limits: Limits = field(default_factory=Limits)
    snapshot: Snapshot = field(default_factory=Snapshot)
    registry: Registry = field(default_factory=Registry)
    ledger: Ledger = field(default_factory=Ledger)
    now: float = 0.0
    events: list[Event] = field(default_factory=list[Event])

    def __post_init__(self) -> None:
        self.connect()

    def connect(self, id: str = "1") -> None:  # noqa: A002
        """Open a new stream."""
        self.session = Session(
            id,
            self.snapshot,
            variant=self.variant,
            rule_of=self.rule_of,
            limits=self.limits,
            only=self.only,
        )
        self.introduced = False

    def put(self, kind: ResourceType, *names: str, body: bytes = b"1", cause: tuple[str, ...] = ()) -> Push:
        """Put resources as one batch, with the name as part of the body."""
        push = self.ledger.begin(self.now, ((kind, name) for name in names))
        for name in names:
            if self.snapshot.put(LAYER[kind], kind, name, name.encode() + b"=" + body, cause=cause):
                self.registry.changed(LAYER[kind], kind, name, push)
        return push

    def drop(self, kind: ResourceType, *names: str) -> Push:
        """Drop resources as one batch."""
        push = self.ledger.begin(self.now, ((kind, name) for name in names))
        for name in names:
            self.snapshot.drop(LAYER[kind], kind, name)
            self.registry.changed(LAYER[kind], kind, name, push)
        return push

    def ask(  # noqa: PLR0913 a request has as many fields
        self,
        kind: ResourceType | str,
        *names: str,
        drop: Sequence[str] = (),
        nonce: str = "",
        error: str = "",
        versions: Mapping[str, str] | None = None,
        version: str = "",
    ) -> tuple[Event, ...]:
        """Send a request (SotW: `names` is the whole list, `version` its version_info); return the events."""
        url = kind if isinstance(kind, str) else kind.url
        if self.variant is Variant.DELTA:
            request: DeltaDiscoveryRequest | DiscoveryRequest = DeltaDiscoveryRequest(
                type_url=url,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                response_nonce=nonce,
                initial_resource_versions=versions or {},
            )
        else:
            request = DiscoveryRequest(
                type_url=url, resource_names=names, response_nonce=nonce, version_info=version
            )
        if error:
            request.error_detail.message = error
        if not self.introduced:
            request.node.id = "web.shop"
            self.introduced = True
        return self.send(request.SerializeToString())

    def send(self, request: bytes) -> tuple[Event, ...]:
        """Give bytes to the session, as the server does."""
        events = self.session.receive(request, self.now)
        if events and isinstance(events[0], Hello):
            self.registry.connect(self.session)
            self.ledger.attach(self.session)
            events = self.session.attach(VIEW, self.now)
        for event in events:
            if isinstance(event, Watch):
                self.registry.watch(self.session, event)
        return events

    def hear(self) -> list[Said]:
        """Return what the session writes now."""
        return [self._read(response) for response in self.session.poll(self.now)]

    def _read(self, data: bytes) -> Said:
        if self.variant is Variant.DELTA:
            delta = DeltaDiscoveryResponse.FromString(data)
            found = tuple((r.name, r.resource.value) for r in delta.resources)
            return Said(delta.type_url, delta.nonce, found, tuple(delta.removed_resources))
        sotw = DiscoveryResponse.FromString(data)
        found = tuple((r.value.split(b"=")[0].decode(), r.value) for r in sotw.resources)
        return Said(sotw.type_url, sotw.nonce, found, (), sotw.version_info)

    def ack(self, said: Said, *names: str) -> tuple[Event, ...]:
        """Accept a response (SotW: repeating `names`)."""
        return self.ask(said.type_url, *names, nonce=said.nonce, version=said.version)

    def nack(self, said: Said, *names: str, error: str = "bad") -> tuple[Event, ...]:
        """Reject a response."""
        return self.ask(said.type_url, *names, nonce=said.nonce, error=error)

    def settle(self, *names: str) -> list[Said]:
        """Accept everything until the session is quiet (SotW: repeating `names`); return what was said."""
        said: list[Said] = []
        while turn := self.hear():
            said += turn
            for response in turn:
                self.ack(response, *names)
        return said


def connected(talk: Talk) -> Talk:
    """Subscribe to everything and accept it."""
    for kind in (ResourceType.CLUSTER, ResourceType.LISTENER):
        talk.ask(kind)
    talk.ask(ResourceType.ENDPOINTS, "a", "b")
    talk.ask(ResourceType.ROUTES, "outbound")
    talk.settle()
    return talk
