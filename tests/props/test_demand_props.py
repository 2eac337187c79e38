"""Any order of asking, changing, losing streams and replicas ends with what a fresh replica would say."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.fakes.manifests import endpoints, objects, pod, service, split
from tests.fakes.manifests import rule as destination_rule
from tests.fakes.talk import allow_all
from tests.fakes.xds_client import DeltaClient
from xds.api.core import Key
from xds.api.manifest import Object
from xds.control import ControlPlane
from xds.events import Event, Hello, Watch
from xds.fields import Severity
from xds.identity import Identity, Proof
from xds.pb.envoy.config.route.v3.route_pb2 import RouteConfiguration
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from xds.snapshot import ResourceType
from xds.stream import Session
from xds.subscription import Variant

CDS, EDS, RDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.ROUTES
CALLER = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.NODE_ID)
OUTBOUND = "outbound"


def addressed(name: str, ip: str, protocol: str = "http") -> str:
    """Return a Service with a cluster IP."""
    return service(name, protocol=protocol).replace(
        "spec:\n", f"spec:\n  clusterIPs: [{ip}]\n  clusterIP: {ip}\n"
    )


CLIENT = pod("web-1", "web", "10.0.0.1")
POOL = (
    addressed("orders", "10.96.0.1"),
    addressed("orders", "10.96.0.2"),
    addressed("stock", "10.96.0.2"),
    addressed("stock", "10.96.0.2", "tcp"),
    addressed("orders", "10.96.0.1").replace(
        "name: orders,", "annotations: {networking.istio.io/exportTo: x}, name: orders,"
    ),
    pod("orders-1", "orders", "10.0.0.2"),
    pod("orders-1", "orders", "10.0.0.3", version="v2"),
    endpoints("orders", "10.0.0.2=orders-1"),
    endpoints("orders", "10.0.0.2=orders-1", "10.0.0.3"),
    split("orders", v1=100).replace(", subset: v1", ""),
    split("orders", v1=90, v2=10),
    split("stock", v1=100).replace(", subset: v1", ""),
    destination_rule("orders", "v1", "v2"),
    destination_rule("orders", "v1"),
)
OBJECTS = [objects(text)[0] for text in POOL]
KEYS = sorted({key for key, _ in OBJECTS})
NAMES = (
    "o|10.96.0.1:80",
    "o|10.96.0.2:80",
    "tcp|10.96.0.2:80",
    "o|10.0.0.2:8080",
    "o|10.0.0.3:8080",
    "o|10.9.9.9:80",
    "o|nonsense",
    "outbound|80||orders.shop.svc.cluster.local",
    "outbound|80|v2|orders.shop.svc.cluster.local",
)


class Replica:
    """One control plane, and the one stream that it has."""

    def __init__(self, world: dict[Key, Object]) -> None:
        self.made = ControlPlane()
        self.made.apply([*objects(CLIENT), *world.items()], at=0.0, now=0.0)
        self.streams = 0

    def open(self) -> None:
        """Begin a stream."""
        self.streams += 1
        name = str(self.streams)
        self.session = Session(name, self.made.snapshot, variant=Variant.DELTA, rule_of=allow_all)

    def close(self) -> None:
        """End it."""
        self.made.registry.disconnect(self.session)
        self.session.close()
        self.made.close(self.session, 0.0)

    def receive(self, request: bytes) -> None:
        """Take a request as the server does."""
        if self.session.node is None:
            first = DeltaDiscoveryRequest.FromString(request)
            first.node.metadata["INTERCEPTION_MODE"] = "REDIRECT"
            request = first.SerializeToString()
        for event in self.session.receive(request, 0.0):
            if isinstance(event, Hello):
                view = self.made.connect(CALLER, self.session)
                self.made.registry.connect(self.session)
                self._note(self.session.attach(view, 0.0))
            self._note((event,))

    def _note(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, Watch):
                self.made.registry.watch(self.session, event)
                self.made.on_names(self.session, event, 0.0)


class Machine(RuleBasedStateMachine):
    """Two pipes between a replica and a proxy; Hypothesis decides what moves when."""

    def __init__(self) -> None:
        super().__init__()
        self.world: dict[Key, Object] = {}
        self.client = DeltaClient(kind.url for kind in (CDS, EDS, RDS))
        self.to_client: deque[bytes] = deque()
        self.replica = Replica(self.world)
        self.replica.open()
        self.client.legacy(CDS.url)
        self.client.subscribe(RDS.url, [OUTBOUND])

    @rule(index=st.integers(0, len(OBJECTS) + len(KEYS) - 1))
    def change(self, index: int) -> None:
        """Put an object, or take one away."""
        key, new = OBJECTS[index] if index < len(OBJECTS) else (KEYS[index - len(OBJECTS)], None)
        if new is None:
            self.world.pop(key, None)
        else:
            self.world[key] = new
        self.replica.made.apply([(key, new)], at=0.0, now=0.0)

    @rule(name=st.sampled_from(NAMES))
    def ask(self, name: str) -> None:
        """Dial a destination."""
        self.client.subscribe(CDS.url, [name])
        if name.startswith("outbound"):
            self.client.subscribe(EDS.url, [name])

    @rule()
    def poll(self) -> None:
        """Let the server write."""
        self.to_client.extend(self.replica.session.poll(0.0))

    @precondition(lambda self: bool(self.client.requests))
    @rule()
    def deliver_request(self) -> None:
        """Move one request to the server."""
        self.replica.receive(self.client.requests.pop(0))

    @precondition(lambda self: bool(self.to_client))
    @rule()
    def deliver_response(self) -> None:
        """Move one response to the proxy, which accepts it."""
        self.client.receive(self.to_client.popleft())

    @rule(is_new=st.booleans())
    def reconnect(self, is_new: bool) -> None:  # noqa: FBT001
        """Lose the stream; come back to the same replica, or to one that has just started."""
        if self.replica.session.node is not None:
            self.replica.close()
        if is_new:
            self.replica = Replica(self.world)
        self.replica.open()
        self.to_client.clear()
        self.client.reconnect()

    def teardown(self) -> None:
        """Let everything arrive, and compare what the proxy holds with a fresh replica."""
        for _ in range(1000):
            while self.client.requests:
                self.replica.receive(self.client.requests.pop(0))
            said = self.replica.session.poll(0.0) if self.replica.session.node is not None else []
            self.to_client.extend(said)
            if not self.to_client:
                break
            while self.to_client:
                self.client.receive(self.to_client.popleft())
        else:
            raise AssertionError("it never comes to rest")
        self._compare()

    def _compare(self) -> None:
        """Every cluster that the proxy holds or asked for, and its rules, are those of a fresh compilation."""
        held = self.client.types[CDS.url]
        asked = held.names | {name for name in held.cache if name.startswith(("o|", "tcp|", "outbound|"))}
        fresh = Replica(self.world)
        fresh.open()
        probe = DeltaClient(kind.url for kind in (CDS, EDS, RDS))
        probe.subscribe(CDS.url, ["*", *sorted(asked)])
        probe.subscribe(RDS.url, [OUTBOUND])
        while probe.requests:
            fresh.receive(probe.requests.pop(0))
            for response in fresh.session.poll(0.0):
                probe.receive(response)
        wanted = probe.types[CDS.url].cache
        assert not held.absent
        if any(problem.severity is Severity.ERROR for problem in fresh.made.plan.problems()):
            return  # the last good version of an object stays with who had it: equal for valid worlds only
        assert {name: held.cache.get(name) for name in asked} == {name: wanted.get(name) for name in asked}
        rules, fresh_rules = rules_of(self.client), rules_of(probe)
        assert {name: rules.get(name) for name in asked} == {name: fresh_rules.get(name) for name in asked}


def rules_of(client: DeltaClient) -> dict[str, bytes]:
    """Return the routes of each destination that a client's table has."""
    _, body = client.types[RDS.url].cache[OUTBOUND]
    (host,) = RouteConfiguration.FromString(body).virtual_hosts
    rules = host.matcher.matcher_tree.exact_match_map.map
    return {name: found.SerializeToString(deterministic=True) for name, found in rules.items()}


TestDemand = Machine.TestCase
TestDemand.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
