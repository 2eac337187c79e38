"""Optional behaviours, one per file: each reads its own field, holds it as a frozen value, and patches it in.

This file is the visible list of them, in filter order; features must never import each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xds.pb.envoy.config.cluster.v3 import cluster_pb2
    from xds.pb.envoy.config.route.v3 import route_components_pb2


class RouteFeature(Protocol):
    """A frozen value that shapes one route."""

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write this behaviour into an Envoy route."""
        ...


class ClusterFeature(Protocol):
    """A frozen value that shapes one cluster."""

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write this behaviour into an Envoy cluster."""
        ...
