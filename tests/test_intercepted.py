"""What an intercepted proxy is told of its own workload, and how often that is built."""

from __future__ import annotations

import pytest
import yaml

from tests.fakes.manifests import objects, pod, service
from xds.api.core import Key
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.plan import Plan
from xds.redirect import TO_APPLICATION
from xds.snapshot import Resource, ResourceType, Snapshot
from xds.sources.store import Store

ORDERS = pod("orders-1", "orders", "10.0.0.1")
CONTROLLED = "proa.dev/workload: orders"


class Mesh:
    """A plan with its store."""

    def __init__(self, *texts: str) -> None:
        self.store = Store()
        self.plan = Plan(Snapshot())
        self.apply(*texts)

    def apply(self, *texts: str) -> None:
        """Apply documents as one batch."""
        self.plan.apply(self.store.apply_all(objects(*texts)))

    def resource(
        self, name: str, kind: ResourceType = ResourceType.LISTENER, of: str = "orders-1"
    ) -> Resource:
        """Return what a pod's intercepted proxy is told under a name."""
        view, _ = self.plan.view(("shop", of), transparent=True)
        found = self.plan.snapshot.resolve(view, kind, name)
        assert found is not None, name
        return found

    def inbound(self) -> listener_pb2.Listener:
        """Return the listener that takes what is redirected on its way in."""
        return listener_pb2.Listener.FromString(self.resource("inbound").body)

    def chains(self) -> list[str]:
        """Return the names of its chains, without those that close the sidecar's own ports."""
        return [chain.name for chain in self.inbound().filter_chains if not chain.name.startswith("closed|")]


def policy(mode: str, **ports: str) -> str:
    """Return a PeerAuthentication of the orders; `p8080="STRICT"` sets a port."""
    spec: dict[str, object] = {"selector": {"matchLabels": {"app": "orders"}}, "mtls": {"mode": mode}}
    if ports:
        spec["portLevelMtls"] = {name[1:]: {"mode": of} for name, of in ports.items()}
    meta = {"name": "orders", "namespace": "shop"}
    kind = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
    return yaml.safe_dump({**kind, "metadata": meta, "spec": spec})


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("STRICT", ["mtls|8080", "mtls"]),
        ("PERMISSIVE", ["mtls|8080", "own-tls|8080", "plain|8080", "mtls", "own-tls", "plain"]),
        ("DISABLE", ["plain|8080", "plain"]),
    ],
)
def test_a_mode_opens_what_it_says(mode: str, names: list[str]) -> None:
    """For ports that are declared and for those that are not; and never by a default chain (see inbound.py)."""
    mesh = Mesh(ORDERS, policy(mode))

    assert mesh.chains() == names
    assert not mesh.inbound().HasField("default_filter_chain")


def test_ports_are_those_that_anybody_speaks_of() -> None:
    """Container ports, numeric targets of Services, ports of a policy: Kubernetes asks nobody to declare one."""
    admin = (
        service("admin").replace("app: admin", "app: orders").replace("targetPort: 8080", "targetPort: 9901")
    )
    mesh = Mesh(ORDERS, admin, policy("STRICT", p7000="STRICT"))

    assert mesh.chains() == ["mtls|7000", "mtls|8080", "mtls|9901", "mtls"]


def test_protocol_is_the_services() -> None:
    """A Service's port tells what its undeclared target speaks."""
    admin = (
        service("admin").replace("app: admin", "app: orders").replace("targetPort: 8080", "targetPort: 9901")
    )
    mesh = Mesh(ORDERS, admin, policy("STRICT"))
    (chain,) = [found for found in mesh.inbound().filter_chains if found.name == "mtls|9901"]

    assert chain.filters[0].name == "envoy.filters.network.http_connection_manager"


def test_the_sidecars_own_ports_are_closed() -> None:
    """A container that declares one is told so, and its chain is the closed one."""
    mesh = Mesh(ORDERS.replace("containerPort: 8080", "containerPort: 15006"), policy("STRICT"))
    closed = [chain for chain in mesh.inbound().filter_chains if chain.name.startswith("closed|")]

    assert [chain.filter_chain_match.destination_port.value for chain in closed] == list(range(15000, 15007))
    assert not [chain.filters for chain in closed if chain.filters]
    assert mesh.chains() == ["mtls"]
    (problem,) = mesh.plan.problems()
    assert str(problem).startswith("error: Pod shop/orders-1: spec.containers[].ports: port 15006 belongs")


def test_nothing_waits_for_a_hello_where_none_comes() -> None:
    """Ports without mutual TLS are not inspected: alone, or beside others that are."""
    alone = Mesh(ORDERS, policy("DISABLE")).inbound()
    beside = Mesh(ORDERS, policy("STRICT", p7000="DISABLE", p7001="DISABLE")).inbound()
    rule = beside.listener_filters[1].filter_disabled.or_match.rules

    assert [found.name for found in alone.listener_filters] == ["envoy.filters.listener.original_dst"]
    assert [(found.destination_port_range.start, found.destination_port_range.end) for found in rule] == [
        (7000, 7001),
        (7001, 7002),
    ]


def test_all_is_known_before_the_pod_has_an_address() -> None:
    """A sidecar starts before its Pod has a status; what it is told does not change when it gets one."""
    mesh = Mesh(ORDERS.replace("status: {podIP: 10.0.0.1}", ""))
    before = mesh.resource("inbound")
    mesh.apply(ORDERS)

    assert mesh.resource("inbound") is before
    assert b"10.0.0.1" not in before.body


def test_the_way_to_the_application_is_marked() -> None:
    """To where the connection was going, with the priority that the pod's rules let pass."""
    found = Mesh(ORDERS).resource("inbound|8080||", ResourceType.CLUSTER)
    cluster = cluster_pb2.Cluster.FromString(found.body)
    (option,) = cluster.upstream_bind_config.socket_options

    assert cluster.type == cluster_pb2.Cluster.ORIGINAL_DST
    assert (option.level, option.name, option.int_value) == (1, 12, TO_APPLICATION)


def test_equal_pods_are_built_once() -> None:
    """The pods of a workload share one copy of the bytes, and the last one takes it with it."""
    second = pod("orders-2", "orders", "10.0.0.2")
    labelled = [text.replace("app: orders,", f"app: orders, {CONTROLLED},") for text in (ORDERS, second)]
    mesh = Mesh(*labelled)
    first = mesh.resource("inbound")
    built = mesh.plan.results.built
    other = mesh.resource("inbound", of="orders-2")

    assert other.sotw is first.sotw
    assert mesh.plan.results.built == built
    assert (first.cause, other.cause) == (("Pod shop/orders-1",), ("Pod shop/orders-2",))

    held = mesh.plan.results.shared
    for name in ("orders-1", "orders-2"):
        mesh.plan.apply(mesh.store.apply_all([(Key("Pod", "shop", name), None)]))
    # The listener, the port's routes, its cluster, that of all other ports.
    assert held - mesh.plan.results.shared == 4


def test_a_pod_outside_the_mesh_has_no_listener() -> None:
    """Rules without a sidecar that is configured refuse what they redirect: nothing falls open."""
    outside = ORDERS.replace('proa.dev/inject: "true"', 'proa.dev/inject: "false"')
    mesh = Mesh(outside)
    view, _ = mesh.plan.view(("shop", "orders-1"), transparent=True)

    assert "inbound" not in set(mesh.plan.snapshot.names(view, ResourceType.LISTENER))
