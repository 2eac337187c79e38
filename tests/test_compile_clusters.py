"""Which policy a port of a subset has: Istio's order of host, port, subset and the subset's port."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import rule
from tests.fakes.planned import ALL, ORDERS, SHOP, V1, V2, Mesh
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.snapshot import ResourceType

LAYERED = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user}}
    connectionPool: {tcp: {connectTimeout: 1s}}
    HOST_PORT
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy:
      loadBalancer: {simple: RANDOM}
      SUBSET_PORT
"""


def _rule(host_port: str = "", subset_port: str = "") -> str:
    return LAYERED.replace("HOST_PORT", host_port).replace("SUBSET_PORT", subset_port)


def test_subset_replaces_what_it_sets_and_inherits_the_rest() -> None:
    """A subset's simple load balancer takes the place of the host's hash; its connect timeout is the host's."""
    mesh = Mesh(*ORDERS, _rule())

    assert mesh.cluster(ALL).lb_policy == cluster_pb2.Cluster.RING_HASH
    assert mesh.cluster(V1).lb_policy == cluster_pb2.Cluster.RANDOM
    assert mesh.cluster(V1).connect_timeout.ToSeconds() == 1


def test_hosts_port_settings_do_not_erase_the_subsets_own() -> None:
    """Port-level settings of the host replace the host's, and the subset's fields still come on top."""
    mesh = Mesh(
        *ORDERS,
        _rule("portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 3s}}}]"),
    )

    assert mesh.cluster(ALL).lb_policy == cluster_pb2.Cluster.LEAST_REQUEST
    assert mesh.cluster(V1).lb_policy == cluster_pb2.Cluster.RANDOM
    assert mesh.cluster(V1).connect_timeout.ToSeconds() == 3


def test_subsets_port_settings_replace_everything() -> None:
    """Port-level settings of a subset inherit nothing."""
    mesh = Mesh(
        *ORDERS, _rule("", "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]")
    )

    assert mesh.cluster(V1).lb_policy == cluster_pb2.Cluster.ROUND_ROBIN
    assert mesh.cluster(V1).connect_timeout.ToSeconds() == 10


def test_route_of_a_hashed_service_carries_the_hash_policy() -> None:
    """The hash is computed by the route, so a plain service gets it there."""
    mesh = Mesh(*ORDERS, _rule())
    found = mesh.body(ResourceType.ROUTES, "outbound", mesh.view())

    assert b"x-user" in found
    assert ALL in mesh.names(ResourceType.CLUSTER, SHOP)


POLICY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  host: "{host}"
  exportTo: {export_to}
  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}
"""

ORDERS_HOST = "orders.shop.svc.cluster.local"


def _policy(seconds: int, namespace: str, host: str = ORDERS_HOST, export_to: str = "['*']") -> str:
    name = f"p{seconds}"
    return POLICY.format(name=name, namespace=namespace, host=host, export_to=export_to, seconds=seconds)


def _seconds(mesh: Mesh, client: str) -> int:
    return mesh.cluster(ALL, (f"ns/{client}", "mesh")).connect_timeout.ToSeconds()


def test_rules_of_one_namespace_and_host_are_merged() -> None:
    """Subsets add up, the first policy that is set holds: how Istio lets two teams share a host."""
    mesh = Mesh(
        *ORDERS, rule("orders", "v1", name="a"), _policy(3, "shop"), rule("orders", "v1", "v2", name="z")
    )

    assert {ALL, V1, V2} <= mesh.names(ResourceType.CLUSTER)
    assert mesh.cluster(V2).connect_timeout.ToSeconds() == 3


def test_a_third_namespaces_rule_does_not_hide_the_meshs() -> None:
    """What one namespace says of a host for itself leaves the wider rule of all others in force."""
    mesh = Mesh(*ORDERS, _policy(7, "proa-system", "*.local"), _policy(2, "web"))

    assert (_seconds(mesh, "web"), _seconds(mesh, "shop")) == (2, 7)


def test_the_clients_wildcard_goes_before_the_owners_exact_rule() -> None:
    """Namespaces are asked in order, and the most specific host decides within one only."""
    mesh = Mesh(*ORDERS, _policy(4, "web", "*.shop.svc.cluster.local"), _policy(5, "shop"))

    assert (_seconds(mesh, "web"), _seconds(mesh, "shop")) == (4, 5)


@pytest.mark.parametrize(
    ("export_to", "seen"),
    [("['*']", (3, 3, 3)), ("['.']", (3, 9, 9)), ("[web]", (3, 3, 9)), ("[web, '.']", (3, 3, 9))],
)
def test_export_to_names_who_sees_a_rule(export_to: str, seen: tuple[int, int, int]) -> None:
    """Whoever does not see the owner's rule goes by the mesh's."""
    mesh = Mesh(*ORDERS, _policy(3, "shop", export_to=export_to), _policy(9, "proa-system", "*.local"))

    assert tuple(_seconds(mesh, client) for client in ("shop", "web", "lab")) == seen
