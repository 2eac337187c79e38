"""What stands in front of a port: modes of mutual TLS, policies and limits, and the objects that they name as cause."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import endpoints, pod
from tests.fakes.planned import ALL, ORDERS, Mesh, sans
from xds.api.core import Key
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.snapshot import ResourceType


def test_pod_without_mesh_gets_no_inbound() -> None:
    """A Pod that is not meshed sees the outbound view of its namespace only."""
    mesh = Mesh(*ORDERS, pod("plain", "plain", "10.0.0.9").replace('proa.dev/inject: "true"', "x: y"))

    assert mesh.names(ResourceType.LISTENER, mesh.view("plain")) == set()
    assert mesh.names(ResourceType.LISTENER, mesh.view("orders-1")) == {"outbound", "inbound|8080"}


@pytest.mark.parametrize("namespace", ["shop", "proa-system"])
def test_unreadable_peer_authentication_is_strict(namespace: str) -> None:
    """A PeerAuthentication that never could be read closes its scope."""
    mesh = Mesh(*ORDERS)
    view = mesh.view()
    before = mesh.body(ResourceType.LISTENER, "inbound|8080", view)
    mesh.plan.apply((), [Key("PeerAuthentication", namespace, "broken")])
    closed = listener_pb2.Listener.FromString(mesh.body(ResourceType.LISTENER, "inbound|8080", view))
    mesh.plan.apply(())

    assert all(chain.filter_chain_match.transport_protocol == "tls" for chain in closed.filter_chains)
    assert mesh.body(ResourceType.LISTENER, "inbound|8080", view) == before


def test_rivalry_of_policies_ends_with_one_of_them() -> None:
    """Both policies are named while they meet on a Pod, and no longer than that."""
    policy = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{matchLabels: {labels}}}, mtls: {{mode: STRICT}}}}
"""
    mesh = Mesh(
        policy.format(name="a", labels="{app: orders}"), policy.format(name="b", labels="{version: v2}")
    )
    before = mesh.plan.problems()
    mesh.apply(*ORDERS)
    during = [str(problem) for problem in mesh.plan.problems()]
    mesh.drop("Pod", "orders-2")

    assert before == mesh.plan.problems() == []
    assert len(during) == 1
    assert during[0].startswith(
        "warning: PeerAuthentication shop/b: spec.selector.matchLabels: takes Pods that"
    )
    assert "the older PeerAuthentication shop/a" in during[0]


def test_pod_without_sidecar_vouches_for_nobody() -> None:
    """Only Pods that can show a certificate are among a cluster's exact peers."""
    plain = pod("orders-9", "orders", "10.0.0.9", account="plain").replace('proa.dev/inject: "true"', "x: y")
    mesh = Mesh(*ORDERS, plain, endpoints("orders", "10.0.0.1=orders-1", "10.0.0.9=orders-9"))

    assert sans(mesh.cluster(ALL)) == ["spiffe://cluster.local/ns/shop/sa/orders"]


GUARD = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: [PUT]}}]}]}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: few, namespace: shop}
spec: {targetRef: {kind: Namespace}, rules: [{requests: 10}]}
"""


def test_rules_in_front_of_a_port_name_their_objects_as_cause() -> None:
    """Who asks why a request was refused finds the policy at the routes that hold it, once."""
    mesh = Mesh(*ORDERS, GUARD)
    view = mesh.view()
    names = [name for name in mesh.names(ResourceType.ROUTES, view) if name.startswith("inbound|")]
    found = [mesh.plan.snapshot.resolve(view, ResourceType.ROUTES, name) for name in names]

    causes = ("Pod shop/orders-1", "AuthorizationPolicy shop/guard", "RateLimit shop/few")
    assert found and all(table is not None and table.cause == causes for table in found)


EVERY_GUARD = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders: [{name: judge, envoyExtAuthzGrpc: {service: judge.shop.svc.cluster.local, port: 80}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: judge}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: a, jwksUri: "https://a.example.com/keys"}]}
"""
BYTES = """
apiVersion: v1
kind: Service
metadata: {name: lines, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: lines, port: 7000, targetPort: 7000, appProtocol: tcp}]}
"""


def test_every_kind_of_guard_is_a_cause_of_what_it_stands_in() -> None:
    """Also an ALLOW policy without rules, which allows nothing; the listener of bytes has what can be asked of them."""
    ports = [
        text.replace(
            "containerPort: 8080, name: http}", "containerPort: 8080, name: http}, {containerPort: 7000}"
        )
        for text in ORDERS
    ]
    mesh = Mesh(*ports, BYTES, EVERY_GUARD)
    view = mesh.view()

    def causes(kind: ResourceType, name: str) -> set[str]:
        found = mesh.plan.snapshot.resolve(view, kind, name)
        return set(found.cause) if found else set()

    guards = {"Pod shop/orders-1", "AuthorizationPolicy shop/ask", "AuthorizationPolicy shop/nobody"}
    (routes,) = (name for name in mesh.names(ResourceType.ROUTES, view) if name.startswith("inbound|"))
    assert causes(ResourceType.ROUTES, routes) == {*guards, "RequestAuthentication shop/tokens"}
    assert causes(ResourceType.LISTENER, "inbound|7000") == guards
    assert causes(ResourceType.LISTENER, routes) == {"Pod shop/orders-1"}
