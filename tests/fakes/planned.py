"""A plan with its store: manifests in, decoded resources out; and the shop that its tests speak of."""

from __future__ import annotations

from google.protobuf.message import Message

from tests.fakes.manifests import endpoints, objects, pod, service
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
