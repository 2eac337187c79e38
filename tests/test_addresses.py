"""Whose an address is, which zone a Pod is in, and where the cluster's addresses come from."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objects import Raw, endpoint_slice, pod, raw, service
from xds.api.core import Key, Pod, Service
from xds.api.manifest import Parsed, read
from xds.compile.lens import Lens
from xds.pb.envoy.config.endpoint.v3 import endpoint_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store
from xds.topics import Topic
from xds.world import World


class Told:
    """A world that is told raw objects."""

    def __init__(self) -> None:
        self.store, self.world = Store(), World()

    def put(self, *values: Raw) -> set[Topic]:
        """Apply objects; return the topics that they touch."""
        touched: set[Topic] = set()
        for value in values:
            found = read(value)
            assert isinstance(found, Parsed)
            change = self.store.apply(found.key, found.object)
            touched |= self.world.apply(change) if change else set()
        return touched

    def drop(self, kind: str, name: str, namespace: str = "shop") -> set[Topic]:
        """Remove an object; return the topics that this touches."""
        change = self.store.apply(Key(kind, namespace, name), None)
        return self.world.apply(change) if change else set()

    def owner(self, ip: str) -> str:
        """Return whose an address is, as ``Kind name``, empty for nobody's."""
        found = self.world.by_address(ip)
        return f"{type(found).__name__} {found.meta.name}" if found else ""


def node(name: str, zone: str = "", *ranges: str) -> Raw:
    """Return a Node of a zone."""
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return raw("Node", name, namespace=None, metadata={"labels": labels}, spec={"podCIDRs": list(ranges)})


def settings_map(document: str) -> Raw:
    """Return the mesh settings."""
    return raw("ConfigMap", "proa", namespace="proa-system", data={"mesh": document})


def test_addresses_have_owners() -> None:
    """Cluster IPs and Pod IPs, both families; what is gone is nobody's."""
    told = Told()
    told.put(
        service(clusterIPs=["10.96.0.1", "fd00::10"]),
        pod("o1", status={"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
    )

    owners = {ip: told.owner(ip) for ip in ("10.96.0.1", "fd00::10", "10.0.0.1", "fd00::1", "10.9.9.9")}
    assert owners == {
        "10.96.0.1": "Service orders",
        "fd00::10": "Service orders",
        "10.0.0.1": "Pod o1",
        "fd00::1": "Pod o1",
        "10.9.9.9": "",
    }
    assert ("address", "10.0.0.1") in told.drop("Pod", "o1")
    assert told.owner("10.0.0.1") == ""


def test_headless_services_and_host_network_have_no_address_of_their_own() -> None:
    """A node's address is everybody's on it."""
    told = Told()
    told.put(
        service("db", clusterIP="None"),
        pod("agent", "10.1.0.1", spec={"hostNetwork": True, "containers": []}),
    )

    assert [told.owner(ip) for ip in ("None", "", "10.1.0.1")] == ["", "", ""]


def test_an_address_that_is_given_on_is_the_newest_pods() -> None:
    """The object of a Pod that ends outlives its hold on the address."""
    told = Told()
    old: Raw = {"creationTimestamp": "2026-01-02T00:00:00Z", "deletionTimestamp": "2026-01-03T00:00:00Z"}
    told.put(pod("old", "10.0.0.1", metadata=old))
    touched = told.put(pod("new", "10.0.0.1", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"}))

    assert told.owner("10.0.0.1") == "Pod new"
    assert ("address", "10.0.0.1") in touched


def test_a_service_goes_before_a_pod() -> None:
    """Whatever a Pod's status says, it takes nothing that is a Service's."""
    told = Told()
    told.put(pod("thief", "10.96.0.1"), service(clusterIPs=["10.96.0.1"]))

    assert told.owner("10.96.0.1") == "Service orders"


def test_readiness_touches_no_address() -> None:
    """A change that moves no address asks nobody to look again."""
    told = Told()
    told.put(pod("o1", "10.0.0.1"))
    conditions = [{"type": "Ready", "status": "False"}]

    touched = told.put(pod("o1", status={"podIP": "10.0.0.1", "conditions": conditions}))

    assert touched >= {("pod", "shop", "o1")}
    assert not any(topic[0] == "address" for topic in touched)


def test_who_asks_for_an_address_reads_its_owner() -> None:
    """The unit is compiled again when the Service itself changes, not only when the address moves."""
    told = Told()
    told.put(service(clusterIPs=["10.96.0.1"]))
    lens = Lens(told.world)

    lens.by_address("10.96.0.1")
    lens.by_address("10.96.0.2")

    assert lens.topics == {("address", "10.96.0.1"), ("service", "shop", "orders"), ("address", "10.96.0.2")}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["Pod", "Service"]),
        st.sampled_from(["", "10.0.0.1", "10.0.0.2"]),
        st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_history_does_not_matter_to_owners(steps: list[tuple[str, str, str, str]]) -> None:
    """After any history an address has the owner that the objects alone say, and every move was told."""
    told = Told()
    last: dict[tuple[str, str], Raw] = {}
    for name, kind, ip, created in steps:
        before = {at: told.world.by_address(at) for at in ("10.0.0.1", "10.0.0.2")}
        meta: dict[str, Any] = {"creationTimestamp": created}
        if not ip:
            touched = told.drop(kind, name)
            last.pop((kind, name), None)
        else:
            value = pod(name, ip, metadata=meta) if kind == "Pod" else service(name, clusterIPs=[ip])
            last[kind, name] = value
            touched = told.put(value)
        moved = {at for at, owner in before.items() if _key(owner) != _key(told.world.by_address(at))}
        assert {("address", at) for at in moved} <= touched

    fresh = Told()
    fresh.put(*(last[key] for key in sorted(last, reverse=True)))
    assert [told.owner(at) for at in ("10.0.0.1", "10.0.0.2")] == [
        fresh.owner(at) for at in ("10.0.0.1", "10.0.0.2")
    ]


def _key(found: Service | Pod | None) -> tuple[str, str]:
    return (type(found).__name__, found.meta.name) if found else ("", "")


def test_a_pod_is_where_its_node_is() -> None:
    """Its own label goes first; without a Node nothing is known."""
    told = Told()
    spec: Raw = {"nodeName": "n1", "containers": []}
    told.put(
        node("n1", "a"),
        pod("by-node", spec=spec),
        pod("by-label", spec=spec, metadata={"labels": {"topology.kubernetes.io/zone": "b"}}),
        pod("nowhere"),
    )

    assert [told.world.zone(("shop", name)) for name in ("by-node", "by-label", "nowhere", "gone")] == [
        "a",
        "b",
        "",
        "",
    ]


def test_a_node_that_gets_its_zone_touches_the_services_of_its_pods() -> None:
    """The zone of an endpoint without one is its Pod's; other Nodes' Pods are left alone."""
    told = Told()
    target = {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "o1"}}
    told.put(node("n1"), node("n2"), endpoint_slice(endpoints=[target]))
    told.put(pod("o1", "10.0.0.1", spec={"nodeName": "n1", "containers": []}))
    told.world.backend(("shop", "o1"))

    assert told.put(node("n2", "b")) == set()
    assert ("endpoints", "shop", "orders") in told.put(node("n1", "a"))
    assert told.world.backend(("shop", "o1")).zone == "a"


def test_an_endpoint_without_a_zone_is_where_its_node_is() -> None:
    """A directory's slices, and those that users write, need not say a zone; one that says it keeps it."""
    store, plan = Store(), Plan(Snapshot())
    pods = [{"kind": "Pod", "name": name} for name in ("o1", "o2")]
    endpoints = [{"addresses": ["10.0.0.1"], "targetRef": pods[0]}, {"addresses": ["10.0.0.2"], "zone": "z"}]
    on_node: Raw = {"nodeName": "n1", "containers": []}
    values = (
        service(),
        endpoint_slice(endpoints=endpoints),
        pod("o1", "10.0.0.1", spec=on_node),
        node("n1", "a"),
    )
    for value in values:
        found = read(value)
        assert isinstance(found, Parsed)
        plan.apply(store.apply_all([(found.key, found.object)]))

    body = plan.snapshot.get("mesh", ResourceType.ENDPOINTS, "outbound|80||orders.shop.svc.cluster.local")
    assert body is not None
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(body.body)
    assert [locality.locality.zone for locality in assignment.endpoints] == ["a", "z"]


def test_ranges_come_from_the_cluster() -> None:
    """Every Node's ranges and every ServiceCIDR, each once; a Node that changes nothing touches nothing."""
    told = Told()
    cidr = raw("ServiceCIDR", "kubernetes", api="networking.k8s.io/v1", spec={"cidrs": ["10.96.0.0/12"]})
    touched = told.put(cidr, node("n1", "", "10.244.0.0/24"), node("n2", "", "10.244.1.0/24"))

    assert ("cidrs",) in touched
    assert told.world.cidrs() == (("10.96.0.0/12",), ("10.244.0.0/24", "10.244.1.0/24"))
    assert told.put(node("n1", "a", "10.244.0.0/24")) == set()
    assert told.drop("Node", "n1", "") == {("cidrs",)}
    assert told.world.cidrs()[1] == ("10.244.1.0/24",)


def test_ranges_of_the_settings_go_first() -> None:
    """For clusters that do not tell, or tell wrongly."""
    told = Told()
    told.put(node("n1", "", "10.244.0.0/24"))

    touched = told.put(settings_map("serviceCidrs: [10.96.0.1/12]\npodCidrs: [10.200.0.0/16]"))

    assert ("cidrs",) in touched
    assert told.world.cidrs() == (("10.96.0.0/12",), ("10.200.0.0/16",))
