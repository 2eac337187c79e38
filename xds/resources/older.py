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
from xds.releases import FORMATTED_TAGS, HANDSHAKES, SCOPED_STATS, STATS_LOGGER
from xds.resources import repeated, telemetry
from xds.resources.filters import HCM, TCP_PROXY, Hcm
from xds.resources.parts import pack, serialise

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2
    from xds.releases import Release

_FORMS_KEPT: Final = 512
"""Listeners, and route tables, of older Envoys that are kept in their form; Pods of a workload share theirs."""

_Proxy = TypeVar("_Proxy", Hcm, tcp_proxy_pb2.TcpProxy)


@functools.lru_cache(maxsize=_FORMS_KEPT)
def listener(body: bytes, found: Release) -> bytes:
    """Return a listener as that release of Envoy takes it."""
    message = listener_pb2.Listener.FromString(body)
    for chain in message.filter_chains:
        _change(chain, found)
    return serialise(message)


@functools.lru_cache(maxsize=_FORMS_KEPT)
def inbound_routes(body: bytes) -> bytes:
    """Return the routes of a workload's own port for Envoys before `xds.releases.EACH_LINE`."""
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
