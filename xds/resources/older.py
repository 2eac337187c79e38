"""What an Envoy gets that is older than what our builders write for.

It owns the differences between versions, newest first; it must never change who may connect or where anything goes, and
never touch what goes to an Envoy of today.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeVar

from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.pb.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.resources import repeated, telemetry
from xds.resources.filters import HCM, TCP_PROXY, Hcm
from xds.resources.parts import pack, serialise

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2

Release = tuple[int, int]
"""Major and minor number."""

ROUTE_FILTERS: Final[Release] = (1, 40)
"""From here on a route can bring every filter that a port needs. 1.39 has the filter that takes them, but no token and
no shared limit can be brought; before, there is none. So the listener holds them (docs/adr/0036)."""

SCOPED_STATS: Final[Release] = (1, 39)
"""From here on the stats logger takes ``stats_scope``, which caps series; before, ``stat_prefix`` is required."""

ON_DEMAND: Final[Release] = (1, 38)
"""From here on a stream that waited for its cluster looks for its route again (docs/adr/0027)."""

STATS_LOGGER: Final[Release] = (1, 37)
"""From here on there is a stats logger. Before, a listener that names its type is refused as a whole, so it goes:
what remains are the counters of clusters (docs/metrics.md)."""

EACH_LINE: Final[Release] = (1, 38)
"""From here on a rule sees each line of a repeated header. Before, only the lines joined with commas."""

HANDSHAKES: Final[Release] = (1, 37)
"""From here on a proxy of bytes can wait for the client's certificate before it connects to the application. Before,
the application sees a connection, and no byte, of a peer that is refused afterwards."""

FORMATTED_TAGS: Final[Release] = (1, 37)
"""From here on a tag of a span can be a format. Before, such a tag is left out."""

_FORMS_KEPT: Final = 512
"""Listeners, and route tables, of older Envoys that are kept in their form; Pods of a workload share theirs."""

_Proxy = TypeVar("_Proxy", Hcm, tcp_proxy_pb2.TcpProxy)


def release(version: str) -> Release | None:
    """Return the release of a node's ``1.39.3`` if it needs another form, None for today's or what is no version."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal() and len(version) < 32):
        return None
    found = int(major), int(minor)
    # Clients that are no Envoy say nothing, which arrives as 0.0: they get what is true today.
    return found if (0, 0) < found < ROUTE_FILTERS else None


def takes_filters(version: str) -> bool:
    """Tell whether a node's version takes the filters of its ports from routes."""
    return release(version) is None


def can_ask(version: str) -> bool:
    """Tell whether a node's version asks for clusters on demand as our listeners need it."""
    found = release(version)
    return found is None or found >= ON_DEMAND


@functools.lru_cache(maxsize=_FORMS_KEPT)
def listener(body: bytes, found: Release) -> bytes:
    """Return a listener as that release of Envoy takes it."""
    message = listener_pb2.Listener.FromString(body)
    for chain in message.filter_chains:
        _change(chain, found)
    return serialise(message)


@functools.lru_cache(maxsize=_FORMS_KEPT)
def inbound_routes(body: bytes) -> bytes:
    """Return the routes of a workload's own port for Envoys before ``EACH_LINE``."""
    table = route_pb2.RouteConfiguration.FromString(body)
    for route in (route for host in table.virtual_hosts for route in host.routes):
        for config in route.typed_per_filter_config.values():
            rules = rbac_pb2.RBACPerRoute()
            if config.Unpack(rules):
                repeated.widen(rules.rbac.rules)
                repeated.widen(rules.rbac.shadow_rules)
                config.CopyFrom(pack(rules))
    return serialise(table)


def _change(chain: listener_components_pb2.FilterChain, found: Release) -> None:
    for each in chain.filters:
        if each.name == HCM:
            each.typed_config.CopyFrom(_proxy(each.typed_config, Hcm(), found))
        elif each.name == TCP_PROXY:
            each.typed_config.CopyFrom(_proxy(each.typed_config, tcp_proxy_pb2.TcpProxy(), found))


def _proxy(config: Any, proxy: _Proxy, found: Release) -> Any:
    config.Unpack(proxy)
    kept = [_logger(log, found) for log in proxy.access_log if found >= STATS_LOGGER or not _counts(log)]
    del proxy.access_log[:]
    proxy.access_log.extend(kept)
    if isinstance(proxy, Hcm):
        _trace(proxy, found)
    elif found < HANDSHAKES:
        proxy.ClearField("upstream_connect_mode")
        proxy.ClearField("max_early_data_bytes")
    return pack(proxy)


def _trace(hcm: Hcm, found: Release) -> None:
    if hcm.HasField("tracing") and found < FORMATTED_TAGS:
        tags = [tag for tag in hcm.tracing.custom_tags if tag.WhichOneof("type") != "value"]
        del hcm.tracing.custom_tags[:]
        hcm.tracing.custom_tags.extend(tags)


def _counts(log: accesslog_pb2.AccessLog) -> bool:
    return log.name == telemetry.LOGGER


def _logger(log: accesslog_pb2.AccessLog, found: Release) -> accesslog_pb2.AccessLog:
    if _counts(log) and found < SCOPED_STATS:
        config = stats_pb2.Config()
        log.typed_config.Unpack(config)
        config.DiscardUnknownFields()  # stats_scope, which our copy of the API does not have
        config.stat_prefix = telemetry.PREFIX
        log.typed_config.CopyFrom(pack(config))
    return log
