"""Which routes and subsets are in force: what is missing, whose rule wins, and who sees it."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import pod, rule, split
from tests.fakes.planned import ALL, ORDERS, V1, V2, Mesh
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.snapshot import ResourceType


def test_missing_subset_keeps_the_last_good_route() -> None:
    """A VirtualService that names an unknown subset is reported, and its last good version stays in force."""
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"), split("orders", v1=90, v2=10))
    mesh.view()
    mesh.apply(split("orders", v1=90, v3=10))

    assert mesh.changed == []
    assert mesh.weights() == {V1: 90, V2: 10}
    assert mesh.errors() == [
        (
            "error: VirtualService shop/orders: spec.http[0].route[1].destination.subset: "
            "subset v3 is unknown: DestinationRule shop/orders has v1, v2"
        )
    ]


def test_subset_without_a_destination_rule_says_so() -> None:
    """The user learns that the rule is missing, not that a rule lacks a name."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    mesh.apply(split("orders", v1=100))

    assert mesh.errors() == [
        (
            "error: VirtualService shop/orders: spec.http[0].route[0].destination.subset: subset v1 is unknown: "
            "there is no DestinationRule for orders.shop.svc.cluster.local; write one that names it"
        )
    ]


def test_missing_subset_at_start_is_as_if_absent() -> None:
    """Without a last good version the service has its plain route."""
    mesh = Mesh(*ORDERS, split("orders", v3=100))

    assert mesh.weights() == {ALL: 100}
    assert len(mesh.errors()) == 1


def test_route_comes_into_force_with_its_subset() -> None:
    """The order of arrival does not matter: the missing DestinationRule heals the VirtualService."""
    mesh = Mesh(*ORDERS, split("orders", v1=90, v2=10))
    mesh.view()
    mesh.apply(rule("orders", "v1", "v2"))

    assert mesh.errors() == []
    assert mesh.weights() == {V1: 90, V2: 10}


def test_subset_in_use_outlives_its_rule() -> None:
    """A subset that a route in force uses stays when its rule goes, until the route has moved."""
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"), split("orders", v1=90, v2=10))
    mesh.view()
    mesh.apply(rule("orders", "v1"))
    held = mesh.names(ResourceType.CLUSTER)
    addresses = mesh.addresses(V2)
    mesh.apply(split("orders", v1=100))

    assert V2 in held
    assert addresses == ["10.0.0.2"]
    assert V2 not in mesh.names(ResourceType.CLUSTER)
    assert V2 not in mesh.names(ResourceType.ENDPOINTS)


def test_older_virtual_service_wins_a_host() -> None:
    """Two for one host: the older stays in force, the younger is told so."""
    mesh = Mesh(
        *ORDERS,
        rule("orders", "v1", "v2"),
        split("orders", name="second", created="2026-02-01T00:00:00Z", v2=100),
        split("orders", name="first", created="2026-01-01T00:00:00Z", v1=100),
    )

    assert mesh.weights() == {V1: 100}
    assert len(mesh.errors()) == 1
    assert "VirtualService shop/second: spec.hosts[0]" in mesh.errors()[0]
    assert "the older VirtualService shop/first" in mesh.errors()[0]


def test_a_host_with_and_without_its_last_dot_is_one() -> None:
    """A VirtualService that names both, as one has to where the dot makes another host, holds for the Service."""
    host = "orders.shop.svc.cluster.local"
    both = split(f"{host}.", name="both", v2=100).replace(
        f"hosts: ['{host}.']", f"hosts: ['{host}', '{host}.']"
    )
    mesh = Mesh(*ORDERS, rule(f"{host}.", "v1", "v2", name="orders"), both)

    assert mesh.weights() == {V2: 100}
    assert mesh.errors() == []


def test_foreign_namespace_cannot_capture_a_host() -> None:
    """A VirtualService of a third namespace routes its own clients only."""
    mesh = Mesh(
        *ORDERS,
        pod("spy-1", "spy", "10.0.1.1", namespace="spy"),
        rule("orders.shop.svc.cluster.local", "v2", namespace="spy", name="r"),
        split("orders.shop.svc.cluster.local", namespace="spy", name="s", v2=100),
    )
    spied = route_pb2.RouteConfiguration.FromString(
        mesh.body(ResourceType.ROUTES, "outbound", mesh.view("spy-1", "spy"))
    )

    assert mesh.weights() == {ALL: 100}
    assert spied.virtual_hosts[0].routes[0].route.cluster == V2


def test_foreign_namespaces_wildcard_does_not_hide_the_meshs() -> None:
    """A more specific wildcard that rules nobody here leaves the wider one in force."""
    hosts = "hosts: ['orders.shop.svc.cluster.local']"
    narrow = split("orders.shop.svc.cluster.local", namespace="spy", v1=1)
    wide = split("orders.shop.svc.cluster.local", namespace="proa-system", v1=1)
    mesh = Mesh(
        *ORDERS,
        rule("orders", "v1"),
        narrow.replace(hosts, "hosts: ['*.shop.svc.cluster.local']"),
        wide.replace(hosts, "hosts: ['*.local']"),
    )

    assert mesh.weights() == {V1: 100}


def test_client_namespace_rule_is_seen_by_its_clients_only() -> None:
    """A DestinationRule of the client's namespace shapes the cluster there, and nowhere else."""
    mesh = Mesh(*ORDERS, rule("orders.shop.svc.cluster.local", "v2", namespace="web", name="r"))

    assert V2 not in mesh.names(ResourceType.CLUSTER)
    assert V2 in mesh.names(ResourceType.CLUSTER, ("ns/web", "mesh"))
    assert mesh.addresses(V2, ("ns/web", "mesh")) == ["10.0.0.2"]


def test_source_labels_split_the_class() -> None:
    """Clients with the label that a rule asks for get a table of their own."""
    labelled = split("orders", v2=100).replace(
        "http: [{route:", "http: [{match: [{sourceLabels: {version: v2}}], route:"
    )
    labelled = labelled.replace("}]}]\n", "}]}, {route: [{destination: {host: orders, subset: v1}}]}]\n")
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"), labelled)

    assert mesh.weights(pod_name="orders-2") == {V2: 100}
    assert mesh.weights(pod_name="orders-1") == {V1: 100}


@pytest.mark.parametrize("condition", ["sourceLabels: {version: v2}", "port: 8080", "sourceNamespace: web"])
def test_virtual_service_without_a_rule_for_a_client_is_as_if_absent(condition: str) -> None:
    """Whoever no rule can ever match, by place or port, gets the Service itself and no 404."""
    narrow = split("orders", v2=100).replace("http: [{route:", f"http: [{{match: [{{{condition}}}], route:")
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"), narrow)

    assert mesh.weights(pod_name="orders-1") == {ALL: 100}


def test_wildcard_of_foreign_hosts_has_a_virtual_host() -> None:
    """``*.example.com`` is no Service's pattern, so it is a host of its own; it goes with its rule."""
    outside = split("orders", v1=100).replace("hosts: ['orders']", "hosts: ['*.example.com']")
    mesh = Mesh(*ORDERS, rule("orders", "v1"), outside)

    assert mesh.weights("*.example.com:80") == {V1: 100}
    mesh.drop("VirtualService", "orders")
    with pytest.raises(StopIteration):
        mesh.weights("*.example.com:80")
