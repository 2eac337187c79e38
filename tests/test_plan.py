"""What a change of objects does to the snapshot, and what it leaves alone."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from tests.fakes.manifests import endpoints, objects, pod, rule, service, split
from xds.api.core import Key
from xds.api.manifest import Object
from xds.fields import Severity
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.endpoint.v3 import endpoint_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from xds.pb.envoy.service.discovery.v3 import discovery_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

V1 = "outbound|80|v1|orders.shop.svc.cluster.local"
V2 = "outbound|80|v2|orders.shop.svc.cluster.local"
ALL = "outbound|80||orders.shop.svc.cluster.local"
SHOP = ("class/shop/", "ns/shop", "mesh")
ORDERS = (
    service("orders"),
    pod("orders-1", "orders", "10.0.0.1", version="v1"),
    pod("orders-2", "orders", "10.0.0.2", version="v2"),
    endpoints("orders", "10.0.0.1=orders-1", "10.0.0.2=orders-2"),
)

MESSAGES: dict[ResourceType, type[Message]] = {
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    ResourceType.LISTENER: listener_pb2.Listener,
    ResourceType.ROUTES: route_pb2.RouteConfiguration,
}


class Mesh:
    """A plan with its store; manifests in, decoded resources out."""

    def __init__(self, *texts: str) -> None:
        self.store = Store()
        self.plan = Plan(Snapshot())
        self.changed: list[tuple[str, ResourceType, str]] = []
        self.apply(*texts)

    def apply(self, *texts: str) -> None:
        """Apply documents as one batch."""
        self.put(objects(*texts))

    def put(self, batch: list[tuple[Key, Object | None]]) -> None:
        """Apply objects as one batch; None removes."""
        self.changed = self.plan.apply(self.store.apply_all(batch)).changed

    def drop(self, kind: str, name: str, namespace: str = "shop") -> None:
        """Remove one object."""
        self.put([(Key(kind, namespace, name), None)])

    def view(self, name: str = "orders-1", namespace: str = "shop") -> tuple[str, ...]:
        """Return what a Pod sees."""
        return self.plan.view((namespace, name))[0]

    def names(self, kind: ResourceType, view: tuple[str, ...] = SHOP) -> set[str]:
        """Return the names of a type in a view."""
        return set(self.plan.snapshot.names(view, kind))

    def body(self, kind: ResourceType, name: str, view: tuple[str, ...] = SHOP) -> bytes:
        """Return a resource's bytes."""
        found = self.plan.snapshot.resolve(view, kind, name)
        assert found is not None, name
        return discovery_pb2.DiscoveryResponse.FromString(found.sotw).resources[0].value

    def cluster(self, name: str, view: tuple[str, ...] = SHOP) -> cluster_pb2.Cluster:
        """Return a cluster."""
        return cluster_pb2.Cluster.FromString(self.body(ResourceType.CLUSTER, name, view))

    def addresses(self, name: str, view: tuple[str, ...] = SHOP) -> list[str]:
        """Return the addresses of a load assignment."""
        found = endpoint_pb2.ClusterLoadAssignment.FromString(self.body(ResourceType.ENDPOINTS, name, view))
        return [
            e.endpoint.address.socket_address.address for zone in found.endpoints for e in zone.lb_endpoints
        ]

    def weights(
        self, host: str = "orders.shop.svc.cluster.local:80", pod_name: str = "orders-1"
    ) -> dict[str, int]:
        """Return the weights of a host's first route as one Pod sees it."""
        table = route_pb2.RouteConfiguration.FromString(
            self.body(ResourceType.ROUTES, "outbound", self.view(pod_name))
        )
        found = next(h for h in table.virtual_hosts if h.name == host).routes[0].route
        if found.cluster:
            return {found.cluster: 100}
        return {c.name: c.weight.value for c in found.weighted_clusters.clusters}

    def errors(self) -> list[str]:
        """Return the errors as text."""
        return [str(p) for p in self.plan.problems() if p.severity is Severity.ERROR]


def sans(found: cluster_pb2.Cluster) -> list[str]:
    """Return the exact peer names that a cluster's mutual TLS accepts."""
    context = tls_pb2.UpstreamTlsContext.FromString(
        found.transport_socket_matches[0].transport_socket.typed_config.value
    )
    default = context.common_tls_context.combined_validation_context.default_validation_context
    return [m.matcher.exact for m in default.match_typed_subject_alt_names]


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


def test_removed_service_leaves_nothing() -> None:
    """With the Service go its clusters, endpoints and virtual host."""
    mesh = Mesh(*ORDERS)
    mesh.view()
    mesh.drop("Service", "orders")

    assert mesh.names(ResourceType.CLUSTER, ("mesh",)) == set()
    assert mesh.names(ResourceType.ENDPOINTS) == set()
    assert ("class/shop/", ResourceType.ROUTES, "outbound") in mesh.changed


def test_pod_without_sidecar_vouches_for_nobody() -> None:
    """Only Pods that can show a certificate are among a cluster's exact peers."""
    plain = pod("orders-9", "orders", "10.0.0.9", account="plain").replace('proa.dev/inject: "true"', "x: y")
    mesh = Mesh(*ORDERS, plain, endpoints("orders", "10.0.0.1=orders-1", "10.0.0.9=orders-9"))

    assert sans(mesh.cluster(ALL)) == ["spiffe://cluster.local/ns/shop/sa/orders"]


def test_wildcard_of_foreign_hosts_has_a_virtual_host() -> None:
    """``*.example.com`` is no Service's pattern, so it is a host of its own; it goes with its rule."""
    outside = split("orders", v1=100).replace("hosts: ['orders']", "hosts: ['*.example.com']")
    mesh = Mesh(*ORDERS, rule("orders", "v1"), outside)

    assert mesh.weights("*.example.com:80") == {V1: 100}
    mesh.drop("VirtualService", "orders")
    with pytest.raises(StopIteration):
        mesh.weights("*.example.com:80")


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
