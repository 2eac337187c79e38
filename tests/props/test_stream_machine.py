"""Sessions against a client written from the protocol document: whatever happens, both end with equal state."""

from collections import deque
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.xds_client import POISON, DeltaClient, SotwClient, Violation
from xds.events import Close, Hello, Watch
from xds.ledger import State
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds.push import Registry
from xds.snapshot import ResourceType, Snapshot
from xds.stream import Session
from xds.subscription import Variant

VIEW = ("proxy/shop/web", "class/shop/1", "ns/shop", "mesh")
LAYER_OF = {
    ResourceType.CLUSTER: ("proxy/shop/web", "ns/shop", "mesh"),
    ResourceType.ENDPOINTS: ("ns/shop", "mesh"),
    ResourceType.ROUTES: ("proxy/shop/web", "class/shop/1"),
}
COMPLETE = (ResourceType.CLUSTER.url,)
# Few types and names, so that the steps of a run meet each other: listeners behave as clusters do.
types = st.sampled_from(
    [ResourceType.CLUSTER, ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.ROUTES]
)
names = st.sampled_from(["a", "b", "d"])
asked = st.lists(st.sampled_from(["a", "b", "d", "nowhere", "*"]), max_size=4, unique=True)


class Machine(RuleBasedStateMachine):
    """Two FIFO pipes between a session and a client; Hypothesis decides what moves when."""

    variant: ClassVar[Variant]

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = Snapshot()
        self.registry = Registry()
        self.streams = 0
        self.to_client: deque[bytes] = deque()
        self.unanswered: dict[str, int] = {}
        self.client = self.new_client()
        self.open()

    def new_client(self) -> DeltaClient | SotwClient:
        """Return the client of this variant."""
        raise NotImplementedError

    def url_of(self, response: bytes) -> str:
        """Return the type URL of a response."""
        raise NotImplementedError

    def check(self) -> None:
        """Compare the client's state with the snapshot."""
        raise NotImplementedError

    def open(self) -> None:
        """Open a stream."""
        self.streams += 1
        self.session = Session(
            str(self.streams),
            self.snapshot,
            variant=self.variant,
            rule_of=lambda _kind: lambda name: name != "d",
        )
        self.to_client.clear()
        self.unanswered = {}

    def write(self) -> None:
        """Let the server write what it may."""
        for response in self.session.poll(0.0):
            url = self.url_of(response)
            self.unanswered[url] = self.unanswered.get(url, 0) + 1
            self.to_client.append(response)

    @rule(
        kind=types,
        name=names,
        layer=st.integers(0, 2),
        body=st.sampled_from([b"1", b"2", b"3"]),
        bad=st.booleans(),
    )
    def put(self, kind: ResourceType, name: str, layer: int, body: bytes, bad: bool) -> None:  # noqa: FBT001
        """Put a resource; one in two bodies is one that the client rejects."""
        layers = LAYER_OF[kind]
        where = layers[layer % len(layers)]
        content = (POISON if bad else b"") + name.encode() + b"=" + body
        if self.snapshot.put(where, kind, name, content):
            self.registry.changed(where, kind, name)

    @rule(kind=types, name=names, layer=st.integers(0, 2))
    def drop(self, kind: ResourceType, name: str, layer: int) -> None:
        """Drop a resource."""
        layers = LAYER_OF[kind]
        where = layers[layer % len(layers)]
        if self.snapshot.drop(where, kind, name):
            self.registry.changed(where, kind, name)

    @rule(kind=types)
    def legacy(self, kind: ResourceType) -> None:
        """Open a type with an empty request."""
        if kind.url in COMPLETE:
            self.client.legacy(kind.url)

    @rule()
    def poll(self) -> None:
        """Let the server write."""
        self.write()

    @rule()
    def deliver_request(self) -> None:
        """Move one request to the server."""
        if self.client.requests:
            self.take(self.client.requests.pop(0))

    def take(self, request: bytes) -> None:
        """Give a request to the session as the server does."""
        events = self.session.receive(request, 0.0)
        for event in events:
            if isinstance(event, Hello):
                self.registry.connect(self.session)
                for more in self.session.attach(VIEW, 0.0):
                    self.note(more)
            self.note(event)

    def note(self, event: object) -> None:
        """Follow the subscription as the server does."""
        if isinstance(event, Watch):
            self.registry.watch(self.session, event)
        if isinstance(event, Close):
            raise Violation(event.text)

    @rule()
    def deliver_response(self) -> None:
        """Move one response to the client, which answers."""
        if self.to_client:
            response = self.to_client.popleft()
            self.unanswered[self.url_of(response)] -= 1
            self.client.receive(response)

    @rule()
    def reconnect(self) -> None:
        """The stream breaks; what was under way is lost."""
        self.registry.disconnect(self.session)
        self.session.close()
        self.open()
        self.client.reconnect()

    @invariant()
    def one_response_in_flight(self) -> None:
        """A type has at most one response that the client has not answered."""
        assert all(count <= 1 for count in self.unanswered.values())

    @invariant()
    def tallies_count_the_rows(self) -> None:
        """What a thousand proxies are summed up from equals what each shows row by row."""
        rows = list(self.session.rows())
        for tally in self.session.tallies():
            states = [row.state for row in rows if row.type_url == tally.type_url]
            accepted = states.count(State.ACKED) + states.count(State.HELD)
            assert (tally.accepted, tally.unanswered, tally.rejected) == (
                accepted,
                states.count(State.SENT),
                states.count(State.NACKED),
            )

    @rule()
    def settle(self) -> None:
        """Deliver everything until nothing moves; then both sides agree."""
        for _ in range(400):
            self.write()
            if not self.client.requests and not self.to_client:
                break
            while self.client.requests:
                self.take(self.client.requests.pop(0))
            while self.to_client:
                self.deliver_response()
        else:
            raise Violation("server and client never come to rest")
        self.check()

    def teardown(self) -> None:
        """Every run ends at rest."""
        self.settle()

    def expected(self, kind: ResourceType, name: str) -> bytes | None:
        """Return what a name means in the view; `d` is what this identity may not have."""
        resource = None if name == "d" else self.snapshot.resolve(VIEW, kind, name)
        return None if resource is None else resource.body


class DeltaMachine(Machine):
    """The incremental variant."""

    variant = Variant.DELTA
    client: DeltaClient

    def new_client(self) -> DeltaClient:
        """Return an incremental client."""
        return DeltaClient(kind.url for kind in LAYER_OF)

    def url_of(self, response: bytes) -> str:
        """Return the type URL of a response."""
        return DeltaDiscoveryResponse.FromString(response).type_url

    @rule(kind=types, asked=asked)
    def subscribe(self, kind: ResourceType, asked: list[str]) -> None:
        """Subscribe to names; only LDS and CDS have a wildcard."""
        names = [name for name in asked if name != "*" or kind.url in COMPLETE]
        if names:
            self.client.subscribe(kind.url, names)

    @rule(kind=types, asked=asked)
    def unsubscribe(self, kind: ResourceType, asked: list[str]) -> None:
        """Unsubscribe, phantoms among them."""
        if asked and self.client.types[kind.url].opened:
            self.client.unsubscribe(kind.url, asked)

    @rule(kind=types, name=names)
    def forget(self, kind: ResourceType, name: str) -> None:
        """Forget a resource and ask for it again."""
        self.client.forget_and_resubscribe(kind.url, name)

    def check(self) -> None:
        """Every name is held as the snapshot has it, known to be absent, or poisoned."""
        for kind in LAYER_OF:
            held = self.client.types[kind.url]
            for name in ("a", "b", "d", "nowhere"):
                body = self.expected(kind, name)
                cached = held.cache.get(name, ("", None))[1]
                if not held.wants(name):
                    assert cached is None
                elif body is None:
                    assert cached is None, f"{kind} {name} was removed"
                    assert name not in held.names or name in held.absent, (
                        f"{kind} {name} is not known to be absent"
                    )
                elif body.startswith(POISON):
                    assert cached is None or not cached.startswith(POISON)
                else:
                    assert cached == body, f"{kind} {name}"


class SotwMachine(Machine):
    """The state-of-the-world variant."""

    variant = Variant.SOTW
    client: SotwClient

    def new_client(self) -> SotwClient:
        """Return a state-of-the-world client."""
        return SotwClient((kind.url for kind in LAYER_OF), COMPLETE)

    def url_of(self, response: bytes) -> str:
        """Return the type URL of a response."""
        return DiscoveryResponse.FromString(response).type_url

    @rule(kind=types, asked=asked)
    def want(self, kind: ResourceType, asked: list[str]) -> None:
        """Replace the list of names."""
        names = [name for name in asked if name != "*" or kind.url in COMPLETE]
        self.client.want(kind.url, names)

    def check(self) -> None:
        """What exists and is wanted is held; in LDS and CDS nothing else is.

        Except where a client brought a state along and rejects the first one that it is offered: nobody here has
        the bytes that it holds, and a state without the culprit could delete them. It keeps what it has.
        """
        for kind in LAYER_OF:
            held = self.client.types[kind.url]
            if held.complete and held.rejected_first:
                assert not any(body.startswith(POISON) for body in held.cache.values())
                continue
            for name in ("a", "b", "d", "nowhere"):
                body = self.expected(kind, name)
                cached = held.cache.get(name)
                if not held.wants(name):
                    continue
                if body is None:
                    assert cached is None or not held.complete, f"{kind} {name} was removed"
                elif body.startswith(POISON):
                    assert cached is None or not cached.startswith(POISON)
                else:
                    assert cached == body, f"{kind} {name}"


TestDelta = DeltaMachine.TestCase
TestSotw = SotwMachine.TestCase
TestDelta.settings = TestSotw.settings = settings(deadline=None)
