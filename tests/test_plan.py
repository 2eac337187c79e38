"""What a change of objects does to the snapshot, and what it leaves alone."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import endpoints, pod, rule, service, split
from tests.fakes.planned import ALL, ORDERS, V1, V2, Mesh, sans
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.snapshot import ResourceType


def test_service_gets_cluster_and_endpoints() -> None:
    """A Service is a cluster and its load assignment, in the layer that everybody sees."""
    mesh = Mesh(*ORDERS)

    assert mesh.names(ResourceType.CLUSTER, ("mesh",)) == {ALL}
    assert mesh.addresses(ALL) == ["10.0.0.1", "10.0.0.2"]


def test_subset_holds_only_its_pods() -> None:
    """A subset's endpoints are those whose Pods carry its labels."""
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"))

    assert mesh.addresses(V2) == ["10.0.0.2"]


def test_weights_change_only_the_route_table() -> None:
    """An edited weight is one changed resource."""
    mesh = Mesh(*ORDERS, rule("orders", "v1", "v2"), split("orders", v1=90, v2=10))
    before = mesh.weights()
    mesh.apply(split("orders", v1=50, v2=50))

    assert before == {V1: 90, V2: 10}
    assert mesh.changed == [("class/shop/", ResourceType.ROUTES, "outbound")]
    assert mesh.weights() == {V1: 50, V2: 50}


def test_endpoint_change_touches_only_endpoints() -> None:
    """A new address changes load assignments, and no cluster as long as nobody new answers."""
    mesh = Mesh(*ORDERS)
    mesh.apply(endpoints("orders", "10.0.0.1=orders-1"))

    assert mesh.changed == [("mesh", ResourceType.ENDPOINTS, ALL)]


def test_new_service_account_changes_the_cluster_first() -> None:
    """Who may answer is part of the cluster: it precedes the endpoints in the batch."""
    mesh = Mesh(*ORDERS)
    mesh.apply(
        pod("orders-3", "orders", "10.0.0.3", account="other"),
        endpoints("orders", "10.0.0.1=orders-1", "10.0.0.3=orders-3"),
    )

    assert [kind for _, kind, _ in mesh.changed] == [ResourceType.CLUSTER, ResourceType.ENDPOINTS]
    assert sans(mesh.cluster(ALL)) == [
        "spiffe://cluster.local/ns/shop/sa/orders",
        "spiffe://cluster.local/ns/shop/sa/other",
    ]


def test_equal_object_changes_nothing() -> None:
    """The same documents again are no change."""
    mesh = Mesh(*ORDERS)
    mesh.apply(*ORDERS)

    assert mesh.changed == []


def test_removed_service_leaves_nothing() -> None:
    """With the Service go its clusters, endpoints and virtual host."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    mesh.drop("Service", "orders")

    assert mesh.names(ResourceType.CLUSTER, ("mesh",)) == set()
    assert mesh.names(ResourceType.ENDPOINTS) == set()
    assert ("class/shop/", ResourceType.ROUTES, "outbound") in mesh.changed


def test_deleted_pod_leaves_no_unit() -> None:
    """A stream may outlive its Pod: looking at the world again then brings nothing of the Pod back."""
    mesh = Mesh(*ORDERS)
    before = mesh.plan.units
    mesh.view()
    mesh.drop("Pod", "orders-1")
    mesh.view()

    assert mesh.plan.units == before + 1  # the route table of its namespace
    assert mesh.names(ResourceType.LISTENER, mesh.view()) == set()


def test_returned_pod_gets_its_listeners_again() -> None:
    """A Pod of the same name is looked at anew."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    mesh.drop("Pod", "orders-1")
    mesh.view()
    mesh.apply(ORDERS[1])

    assert mesh.names(ResourceType.LISTENER, mesh.view()) == {"outbound", "inbound|8080"}


def test_deleted_outside_host_leaves_no_unit() -> None:
    """The virtual host of an outside host goes with its VirtualService, and so does its unit."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    before = mesh.plan.units
    mesh.apply(
        split("orders", v1=100).replace("hosts: ['orders']", "hosts: [api.example.com]"), rule("orders", "v1")
    )
    mesh.drop("VirtualService", "orders")

    assert mesh.plan.units == before


def test_deleted_pods_are_not_remembered() -> None:
    """Pods come and go with new names: what a Pod meant is forgotten with it, also behind a stale slice."""
    mesh = Mesh(*ORDERS)
    mesh.drop("Pod", "orders-1")
    mesh.drop("Pod", "orders-2")

    assert mesh.plan.world.meanings == 0
    assert mesh.addresses(ALL) == ["10.0.0.1", "10.0.0.2"]


def test_route_table_of_a_first_proxy_names_it_as_cause() -> None:
    """A table that is opened by a proxy is caused by the proxy, not by whatever changed last."""
    mesh = Mesh(*ORDERS)
    found = mesh.plan.snapshot.resolve(mesh.view(), ResourceType.ROUTES, "outbound")

    assert found is not None
    assert found.cause == ("Pod shop/orders-1",)


def test_namespace_can_join_and_leave_the_mesh() -> None:
    """A namespace's label decides for its Pods at any time, also after their proxies have connected."""
    plain = pod("web-1", "web", "10.0.0.9").replace('proa.dev/inject: "true"', "x: y")
    joined = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {proa.dev/inject: enabled}}\n"
    mesh = Mesh(*ORDERS, plain)
    seen = [mesh.names(ResourceType.LISTENER, mesh.view("web-1"))]
    mesh.apply(joined)
    seen.append(mesh.names(ResourceType.LISTENER, mesh.view("web-1")))
    mesh.apply(joined.replace("enabled", "disabled"))
    seen.append(mesh.names(ResourceType.LISTENER, mesh.view("web-1")))

    assert seen == [set(), {"outbound", "inbound|8080"}, set()]


def test_port_can_change_its_protocol() -> None:
    """A port that turns from HTTP to TCP loses its virtual host and keeps its cluster; and back."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    mesh.apply(service("orders", protocol="tcp"))
    with pytest.raises(StopIteration):
        mesh.weights()
    mesh.apply(service("orders"))

    assert mesh.weights() == {ALL: 100}


def test_service_can_become_an_external_name_and_back() -> None:
    """An ExternalName resolves by DNS and has no load assignment; a Service of that name has one again."""
    external = """
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {type: ExternalName, externalName: orders.example.com, ports: [{name: http, port: 80}]}
"""
    mesh = Mesh(*ORDERS)
    mesh.apply(external)
    kind, held = mesh.cluster(ALL).type, mesh.names(ResourceType.ENDPOINTS)
    mesh.apply(ORDERS[0])

    assert (kind, held) == (cluster_pb2.Cluster.STRICT_DNS, set())
    assert mesh.addresses(ALL) == ["10.0.0.1", "10.0.0.2"]


SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data: {mesh: "trustDomain: TRUST"}
"""


def test_trust_domain_does_not_change_while_certificates_are_out() -> None:
    """Who trusts the new domain trusts no certificate that is out: the old one holds, and the user is told."""
    mesh = Mesh(*ORDERS)
    mesh.plan.world.pin_trust_domain()
    mesh.apply(SETTINGS.replace("TRUST", "acme.org"))
    changed, errors = mesh.changed, mesh.errors()
    mesh.apply(SETTINGS.replace("TRUST", "cluster.local"))

    assert changed == []
    assert sans(mesh.cluster(ALL)) == ["spiffe://cluster.local/ns/shop/sa/orders"]
    assert errors == [
        (
            "error: ConfigMap proa-system/proa: data.mesh.trustDomain: stays cluster.local while certificates "
            "that say so are out; restart the control plane to take acme.org"
        )
    ]
    assert mesh.errors() == []


def test_trust_domain_is_taken_at_the_start() -> None:
    """Before a certificate is out, the settings decide."""
    mesh = Mesh(*ORDERS, SETTINGS.replace("TRUST", "acme.org"))

    assert sans(mesh.cluster(ALL)) == ["spiffe://acme.org/ns/shop/sa/orders"]


def test_service_of_another_app_compiles_no_sidecar_again() -> None:
    """A Service concerns the Pods that it selects, now or before, and no other of its namespace."""
    mesh = Mesh(*ORDERS, pod("web-1", "web", "10.0.0.9"))
    mesh.view("orders-1")
    mesh.view("web-1")
    ran = mesh.plan.ran["sidecar"]
    mesh.apply(service("web", port=81))

    assert mesh.plan.ran["sidecar"] - ran == 1
