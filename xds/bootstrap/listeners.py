"""The two doors of a sidecar that exist before any configuration arrives: readiness on 15021, metrics on 15090.

It owns these static listeners and the cluster behind them; it must never open any other admin path to strangers.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as http
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from xds import settings
from xds.bootstrap import ADMIN_PORT, METRICS_PORT, READY_PORT, Spec
from xds.bootstrap.channel import address, everywhere, one_endpoint, pack

ADMIN_CLUSTER: Final = "admin"

# The admin endpoint of the same process: if it does not answer in this time, the sidecar is not ready.
_ADMIN_TIMEOUT = timedelta(seconds=1)

# A scrape of a sidecar that holds 1,000 services renders megabytes of text.
_SCRAPE_TIMEOUT = timedelta(seconds=10)


def admin_cluster(spec: Spec) -> cluster.Cluster:
    """The sidecar's own admin endpoint as a cluster."""
    return cluster.Cluster(
        name=ADMIN_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=_ADMIN_TIMEOUT,
        load_assignment=one_endpoint(ADMIN_CLUSTER, spec.admin_address, ADMIN_PORT),
    )


def ready_listener(spec: Spec) -> listener.Listener:
    """`GET /ready` of the admin endpoint; Envoy opens it only once LDS and CDS have answered."""
    return _door("ready", spec, READY_PORT, "/ready", _ADMIN_TIMEOUT)


def metrics_listener(spec: Spec) -> listener.Listener:
    """`/stats/prometheus` of the admin endpoint: what is used of it, whoever asks."""
    return _door("metrics", spec, METRICS_PORT, settings.METRICS_PATH, _SCRAPE_TIMEOUT, query="?usedonly")


def _door(  # noqa: PLR0913 -- what a door is
    name: str, spec: Spec, port: int, path: str, timeout: timedelta, *, query: str = ""
) -> listener.Listener:
    connection = http.HttpConnectionManager(
        stat_prefix=name,
        route_config=_only(name, path, timeout, query),
        http_filters=[http.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router.Router()))],
        use_remote_address=False,
        generate_request_id=False,
    )
    manager = listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(connection)
    )
    return listener.Listener(
        name=name,
        stat_prefix=name,
        address=everywhere(port) if spec.is_transparent else address(spec.pod_ip, port),
        traffic_direction=core.TrafficDirection.INBOUND,
        filter_chains=[listener.FilterChain(filters=[manager])],
        # A full sidecar is still ready, and its metrics are what explains that it is full.
        ignore_global_conn_limit=True,
    )


def _only(name: str, path: str, timeout: timedelta, query: str) -> route.RouteConfiguration:
    """Routes `GET path` and nothing else: everything else is Envoy's own 404.

    The header `:path` holds the query too, so a stranger cannot ask with one of his own (a regex to filter by, all
    that was never used: a hundred times the work).
    """
    get = route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))
    bare = route.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(exact=path))
    allowed = route.Route(
        match=route.RouteMatch(path=path, headers=[get, bare]),
        route=route.RouteAction(
            cluster=ADMIN_CLUSTER, timeout=timeout, prefix_rewrite=f"{path}{query}" if query else ""
        ),
    )
    return route.RouteConfiguration(
        name=name, virtual_hosts=[route.VirtualHost(name=name, domains=["*"], routes=[allowed])]
    )
