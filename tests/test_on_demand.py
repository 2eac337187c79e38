"""Clusters that a proxy asks for by the dialled address: what it is told, when, and what it is sent ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fakes.manifests import endpoints, objects, pod, service, split
from tests.fakes.talk import allow_all
from xds.api.core import Key
from xds.control import ControlPlane
from xds.events import Denied, Event, Limits, Watch
from xds.identity import Identity, Proof
from xds.ledger import State
from xds.pb.envoy.config.cluster.v3.cluster_pb2 import Cluster
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from xds.rations import NOWHERE
from xds.snapshot import ResourceType
from xds.stream import Session
from xds.subscription import Variant

CDS, EDS, RDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.ROUTES
VIP, NOBODY, POD = "o|10.96.0.1:80", "o|10.96.0.99:80", "o|10.0.0.2:8080"
ORDERS = "outbound|80||orders.shop.svc.cluster.local"


def addressed(name: str, ip: str, **more: Any) -> str:
    """Return a Service with a cluster IP."""
    return service(name, **more).replace("spec:\n", f"spec:\n  clusterIPs: [{ip}]\n  clusterIP: {ip}\n")


WORLD = (
    pod("web-1", "web", "10.0.0.1"),
    addressed("orders", "10.96.0.1"),
    pod("orders-1", "orders", "10.0.0.2"),
    endpoints("orders", "10.0.0.2=orders-1"),
)


WHOLE = split("orders", v1=100).replace(", subset: v1", "")
"""A rule that sends everything to the Service itself."""


def plane(*texts: str) -> ControlPlane:
    """Return a control plane that has taken these documents."""
    made = ControlPlane()
    made.apply(objects(*texts), at=0.0, now=0.0)
    return made


@dataclass
class Proxy:
    """A proxy with redirected traffic, as the server sees its stream."""

    made: ControlPlane
    id: str = "1"
    pod: str = "web-1"
    limits: Limits = field(default_factory=Limits)
    denied: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Open the stream with the wildcard of clusters."""
        self.session = Session(
            self.id, self.made.snapshot, variant=Variant.DELTA, rule_of=allow_all, limits=self.limits
        )

    def open(self, *names: str, versions: dict[str, str] | None = None) -> list[DeltaDiscoveryResponse]:
        """Send the first request, of clusters."""
        request = DeltaDiscoveryRequest(
            type_url=CDS.url,
            resource_names_subscribe=["*", *names] if names or versions else [],
            initial_resource_versions=versions or {},
        )
        request.node.metadata["INTERCEPTION_MODE"] = "REDIRECT"
        self.session.receive(request.SerializeToString(), 0.0)
        caller = Identity(self.pod, "shop", "web", "web", "cluster.local", Proof.NODE_ID)
        view = self.made.connect(caller, self.session)
        self.made.registry.connect(self.session)
        self._note(self.session.attach(view, 0.0))
        return self.hear()

    def ask(self, kind: ResourceType, *names: str) -> list[DeltaDiscoveryResponse]:
        """Subscribe to names."""
        return self._send(DeltaDiscoveryRequest(type_url=kind.url, resource_names_subscribe=names))

    def drop(self, kind: ResourceType, *names: str) -> list[DeltaDiscoveryResponse]:
        """Unsubscribe from names."""
        return self._send(DeltaDiscoveryRequest(type_url=kind.url, resource_names_unsubscribe=names))

    def answer(self, said: DeltaDiscoveryResponse, error: str = "") -> list[DeltaDiscoveryResponse]:
        """Accept or reject a response."""
        request = DeltaDiscoveryRequest(type_url=said.type_url, response_nonce=said.nonce)
        if error:
            request.error_detail.message = error
        return self._send(request)

    def settle(self, said: list[DeltaDiscoveryResponse]) -> list[DeltaDiscoveryResponse]:
        """Accept everything until nothing more comes; return all that was said."""
        heard = list(said)
        while said:
            said = [more for one in said for more in self.answer(one)]
            heard += said
        return heard

    def hear(self) -> list[DeltaDiscoveryResponse]:
        """Return what is written now."""
        return [DeltaDiscoveryResponse.FromString(body) for body in self.session.poll(0.0)]

    def close(self, now: float = 0.0) -> None:
        """End the stream."""
        self.made.registry.disconnect(self.session)
        self.session.close()
        self.made.close(self.session, now)

    def _send(self, request: DeltaDiscoveryRequest) -> list[DeltaDiscoveryResponse]:
        self._note(self.session.receive(request.SerializeToString(), 0.0))
        return self.hear()

    def _note(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, Watch):
                self.made.registry.watch(self.session, event)
                self.made.on_names(self.session, event, 0.0)
            if isinstance(event, Denied):
                self.denied.append(event.name)


def said(responses: list[DeltaDiscoveryResponse], kind: ResourceType) -> dict[str, bytes]:
    """Return the resources of a type by name, the last word of each."""
    return {
        found.name: found.resource.value
        for response in responses
        if response.type_url == kind.url
        for found in response.resources
    }


def cluster(responses: list[DeltaDiscoveryResponse], name: str) -> Cluster:
    """Return a cluster that was sent."""
    return Cluster.FromString(said(responses, CDS)[name])


def is_nowhere(found: Cluster) -> bool:
    """Tell whether a cluster has no endpoint and will have none."""
    return found.type == Cluster.STATIC and not found.load_assignment.endpoints


def removed(responses: list[DeltaDiscoveryResponse]) -> list[str]:
    """Return every name that was taken away."""
    return [name for response in responses for name in response.removed_resources]


def test_wildcard_covers_only_what_belongs_to_the_proxy() -> None:
    """A proxy that has asked for nothing gets no service of the mesh."""
    heard = Proxy(plane(*WORLD)).open()

    assert set(said(heard, CDS)) == {"inbound-others", "passthrough", "blackhole", "inbound|8080||"}


def test_service_is_found_by_its_address_and_shares_its_endpoints() -> None:
    """The cluster has the asked name and takes the load assignment that the Service has anyway."""
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open())
    heard = proxy.ask(CDS, VIP)

    assert cluster(heard, VIP).eds_cluster_config.service_name == ORDERS


def test_endpoints_come_again_with_every_cluster_that_shares_them() -> None:
    """A second name of the same Service warms only when the assignment, which is held already, is sent again."""
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open())
    proxy.settle(proxy.ask(CDS, VIP))
    first = proxy.settle(proxy.ask(EDS, ORDERS))
    second = proxy.settle(proxy.ask(CDS, ORDERS))

    assert set(said(first, EDS)) == {ORDERS}
    assert set(said(second, EDS)) == {ORDERS}


def test_endpoint_change_sends_the_assignment_alone() -> None:
    """Churn of endpoints costs no cluster."""
    made = plane(*WORLD)
    proxy = Proxy(made)
    proxy.settle(proxy.open(VIP))
    proxy.settle(proxy.ask(EDS, ORDERS))
    made.apply(objects(endpoints("orders", "10.0.0.2=orders-1", "10.0.0.3")), at=1.0, now=1.0)
    heard = proxy.hear()

    assert (set(said(heard, EDS)), set(said(heard, CDS))) == ({ORDERS}, set())


def test_pod_is_found_by_its_address() -> None:
    """Its cluster has one endpoint, and lets its ServiceAccount alone answer there."""
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open())
    found = cluster(proxy.ask(CDS, POD), POD)
    (locality,) = found.load_assignment.endpoints

    assert [e.endpoint.address.socket_address.address for e in locality.lb_endpoints] == ["10.0.0.2"]
    assert b"spiffe://cluster.local/ns/shop/sa/orders" in found.SerializeToString()


def test_no_name_is_ever_missing() -> None:
    """Nonsense, a port that a Service lacks and a Service that is not there lead nowhere; a stranger leads through."""
    wrong = ("o|10.96.0.1:81", "o|10.96.000.1:80", "tcp|::1:80", "outbound|80||gone.shop.svc.cluster.local")
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open())
    heard = proxy.settle(proxy.ask(CDS, *wrong, NOBODY))

    assert [is_nowhere(cluster(heard, name)) for name in wrong] == [True] * len(wrong)
    assert cluster(heard, NOBODY).type == Cluster.ORIGINAL_DST
    assert removed(heard) == []


def test_service_that_comes_later_takes_its_name() -> None:
    """Who asked for an address keeps the name, and hears of the Service as soon as there is one."""
    made = plane(*WORLD)
    proxy = Proxy(made)
    proxy.settle(proxy.open(NOBODY))
    made.apply(objects(addressed("late", "10.96.0.99")), at=1.0, now=1.0)
    came = cluster(proxy.settle(proxy.hear()), NOBODY)
    made.apply([(Key("Service", "shop", "late"), None)], at=2.0, now=2.0)
    heard = proxy.settle(proxy.hear())

    assert came.type == Cluster.EDS
    assert cluster(heard, NOBODY).type == Cluster.ORIGINAL_DST
    assert removed(heard) == []


def test_service_that_is_not_exported_leads_nowhere() -> None:
    """``exportTo`` holds for addresses as well, and the ledger says why."""
    hidden = addressed("far", "10.96.0.7", namespace="other").replace(
        "name: far,", "annotations: {networking.istio.io/exportTo: .}, name: far,"
    )
    proxy = Proxy(plane(*WORLD, hidden))
    proxy.settle(proxy.open())
    heard = proxy.settle(proxy.ask(CDS, "o|10.96.0.7:80"))
    (row,) = [row for row in proxy.session.rows() if row.name == "o|10.96.0.7:80"]

    assert is_nowhere(cluster(heard, "o|10.96.0.7:80"))
    assert row.cause == ("Service other/far", "exportTo keeps it from namespace shop")


def test_names_beyond_the_share_lead_nowhere() -> None:
    """A proxy that scans is told so, on the ledger as well; its own clusters are not counted."""
    proxy = Proxy(plane(*WORLD), limits=Limits(names_on_demand=1))
    proxy.settle(proxy.open())
    heard = proxy.settle(proxy.ask(CDS, VIP)) + proxy.settle(proxy.ask(CDS, POD))
    states = {row.name: row.state for row in proxy.session.rows()}

    assert not is_nowhere(cluster(heard, VIP))
    assert is_nowhere(cluster(heard, POD))
    assert states[POD] is State.DENIED
    assert proxy.denied == [POD]


def test_a_share_is_not_won_back_by_dropping_names() -> None:
    """What was compiled for a name lives as long as the stream: who drops it may not have another instead."""
    made = plane(*WORLD)
    proxy = Proxy(made, limits=Limits(names_on_demand=1))
    proxy.settle(proxy.open(NOBODY))
    proxy.settle(proxy.drop(CDS, NOBODY))

    assert is_nowhere(cluster(proxy.ask(CDS, VIP), VIP))
    assert made.demand.held(proxy.id) == {NOBODY}


def test_stand_in_says_that_nothing_answers() -> None:
    """The ledger shows a cause for a name that leads nowhere."""
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open("outbound|80||gone.shop.svc.cluster.local"))
    (row,) = [row for row in proxy.session.rows() if "gone" in row.name]

    assert row.cause == (NOWHERE,)


def test_table_is_accepted_before_the_cluster_that_a_request_waits_for() -> None:
    """Rules first: the request that is let go by its cluster looks into the table again."""
    proxy = Proxy(plane(*WORLD, WHOLE))
    proxy.settle(proxy.open())
    proxy.settle(proxy.ask(RDS, "outbound"))
    table = proxy.ask(CDS, VIP)
    released = proxy.answer(table[0])

    assert (set(said(table, RDS)), set(said(table, CDS))) == ({"outbound"}, set())
    assert set(said(released, CDS)) == {VIP, ORDERS}


def test_mirror_is_there_before_the_table_that_names_it() -> None:
    """No request waits for a mirror's cluster, so it is accepted, and thus warm, before any rule can name it."""
    copied = WHOLE.replace("http: [{", "http: [{mirror: {host: shadow}, ")
    proxy = Proxy(plane(*WORLD, addressed("shadow", "10.96.0.3"), copied))
    proxy.settle(proxy.open())
    proxy.settle(proxy.ask(RDS, "outbound"))
    mirror = proxy.ask(CDS, VIP)
    table = proxy.answer(mirror[0])

    assert (set(said(mirror, CDS)), set(said(mirror, RDS))) == ({ORDERS.replace("orders", "shadow")}, set())
    assert set(said(table, RDS)) == {"outbound"}


def test_rules_that_a_proxy_rejects_are_not_skipped() -> None:
    """A destination whose rules the proxy refuses leads nowhere until it takes them; one that it has goes on."""
    made = plane(*WORLD, addressed("other", "10.96.0.2"), WHOLE)
    proxy = Proxy(made)
    proxy.settle(proxy.open("o|10.96.0.2:80"))
    proxy.settle(proxy.ask(RDS, "outbound"))
    table = proxy.ask(CDS, VIP)
    refused = proxy.settle(proxy.answer(table[0], error="no"))
    made.apply(objects(WHOLE.replace("http: [{", "http: [{timeout: 3s, ")), at=1.0, now=1.0)
    mended = proxy.settle(proxy.hear())

    assert is_nowhere(cluster(refused, VIP))
    assert "o|10.96.0.2:80" not in said(refused, CDS)
    assert cluster(mended, VIP).type == Cluster.EDS


def test_cluster_without_rules_waits_for_nothing() -> None:
    """A service that no rule concerns is answered at once, while a table is open."""
    proxy = Proxy(plane(*WORLD))
    proxy.settle(proxy.open())
    proxy.settle(proxy.ask(RDS, "outbound"))

    assert set(said(proxy.ask(CDS, VIP), CDS)) == {VIP}


def test_next_pod_of_a_workload_gets_what_it_used() -> None:
    """Names that resolve are sent with the first response; strangers are not."""
    made = plane(*WORLD)
    first = Proxy(made)
    first.settle(first.open(VIP, NOBODY))
    first.close(now=10.0)
    second = Proxy(made, id="2")
    heard = second.settle(second.open())

    assert VIP in said(heard, CDS)
    assert NOBODY not in said(heard, CDS)


def test_memory_of_a_workload_ends() -> None:
    """Who has had no proxy for a day starts anew; a running one is never forgotten."""
    made = plane(*WORLD)
    first = Proxy(made)
    first.settle(first.open(VIP))
    made.sweep(10.0**9)
    kept = made.demand.workloads
    first.close(now=10.0**9)
    made.sweep(2 * 10.0**9)

    assert (kept, made.demand.workloads) == (1, 0)


def test_reconnecting_proxy_is_sent_nothing_that_it_holds() -> None:
    """A fresh replica learns the names from what the proxy holds, wildcard or not, and takes none of them away."""
    first = Proxy(plane(*WORLD))
    first.settle(first.open(VIP, NOBODY))
    held = {row.name: row.version for row in first.session.rows() if row.type_url == CDS.url}
    fresh = Proxy(plane(*WORLD))
    heard = fresh.settle(fresh.open(versions=held))

    assert heard == []
    assert VIP in fresh.made.demand.names(("shop", "web-1"))


def test_reconnecting_proxy_keeps_a_name_that_is_unknown() -> None:
    """What the fresh replica knows nothing of is answered, never removed."""
    proxy = Proxy(plane(WORLD[0]))
    heard = proxy.settle(proxy.open(versions={VIP: "old", ORDERS: "old"}))

    assert removed(heard) == []
    assert set(said(heard, CDS)) >= {VIP, ORDERS}


def test_last_stream_leaves_nothing_behind() -> None:
    """Units, layers and watches of a caller end with it."""
    made = plane(*WORLD)
    before = made.plan.units
    proxy = Proxy(made)
    proxy.settle(proxy.open(VIP, POD))
    proxy.close()

    assert made.registry.watched == 0
    assert made.plan.units == before + 1  # the Pod's own inbound side, which ends with the Pod
    assert made.snapshot.get("demand/shop", CDS, VIP) is None


def test_names_end_with_the_last_proxy_of_a_workload_that_asked() -> None:
    """A workload that lives long dials Pods that come and go: what they meant does not pile up behind it."""
    made = plane(*WORLD)
    stays = Proxy(made, id="stays")
    stays.settle(stays.open(VIP))
    before = made.plan.units
    for turn in range(3):
        passing = Proxy(made, id=str(turn))
        passing.settle(passing.open(VIP, f"o|10.0.7.{turn}:8080"))
        passing.close()

    assert made.plan.units == before
    assert made.snapshot.get("demand/shop", CDS, VIP) is not None


def test_rules_leave_the_table_with_the_last_proxy_that_needs_them() -> None:
    """The proxies of the workload that are still there are told, and keep the rules of what they dialled themselves."""
    made = plane(*WORLD, WHOLE)
    stays = Proxy(made, id="stays")
    stays.settle([*stays.open(NOBODY), *stays.ask(RDS, "outbound")])
    passing = Proxy(made, id="passing")
    passing.settle([*passing.open(VIP), *passing.ask(RDS, "outbound")])
    stays.settle(stays.hear())
    made.registry.disconnect(passing.session)
    woken = made.close(passing.session, 0.0)
    (table,) = said(stays.hear(), RDS).values()

    assert woken == {stays.session}
    assert b"10.96.0.1:80" not in table


def test_endpoints_of_a_cluster_that_waits_for_the_table_do_not_hold_the_table_up() -> None:
    """Each would wait for the next: table, endpoints, the cluster of their name, table; and the request with them."""
    stock, stock_vip = "outbound|80||stock.shop.svc.cluster.local", "o|10.96.0.2:80"
    to_stock = WHOLE.replace("host: 'orders'", "host: 'stock'")
    stocked = (addressed("stock", "10.96.0.2"), endpoints("stock", "10.0.0.3"))
    proxy = Proxy(plane(*WORLD, *stocked, to_stock))
    proxy.settle([*proxy.open(stock_vip), *proxy.ask(EDS, stock), *proxy.ask(RDS, "outbound")])
    proxy.made.apply(objects(endpoints("stock", "10.0.0.4")), at=1.0, now=1.0)
    heard = proxy.settle(proxy.ask(CDS, VIP))

    assert set(said(heard, CDS)) == {VIP, stock}
    assert set(said(heard, EDS)) == {stock}
    assert set(said(heard, RDS)) == {"outbound"}
