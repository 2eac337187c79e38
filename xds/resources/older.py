"""What an Envoy gets that is older than what our builders write for.

It owns the differences between versions, newest first; it must never change who may connect or where anything goes, and
never touch what goes to an Envoy of today.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeVar

from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.resources import telemetry
from xds.resources.filters import HCM, TCP_PROXY, Hcm
from xds.resources.parts import pack, serialise

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2

Release = tuple[int, int]
"""Major and minor number."""

SCOPED_STATS: Final[Release] = (1, 39)
"""From here on the stats logger takes ``stats_scope``, which caps series; before, ``stat_prefix`` is required."""

ON_DEMAND: Final[Release] = (1, 38)
"""From here on a stream that waited for its cluster looks for its route again (docs/adr/0027)."""

STATS_LOGGER: Final[Release] = (1, 37)
"""From here on there is a stats logger. Before, a listener that names its type is refused as a whole, so it goes:
what remains are the counters of clusters (docs/metrics.md)."""

_FORMS_KEPT: Final = 512
"""Listeners of older Envoys that are kept in their form; Pods of a workload share theirs."""

_Proxy = TypeVar("_Proxy", Hcm, tcp_proxy_pb2.TcpProxy)


def release(version: str) -> Release | None:
    """Return the release of a node's ``1.39.3`` if it needs another form, None for today's or what is no version."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal() and len(version) < 32):
        return None
    found = int(major), int(minor)
    # Clients that are no Envoy say nothing, which arrives as 0.0: they get what is true today.
    return found if (0, 0) < found < SCOPED_STATS else None


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
    return pack(proxy)


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
