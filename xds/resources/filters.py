"""Network and HTTP filters that every kind of listener is made of, with defaults that no application can see.

It owns those defaults and the packing of filters; it must never decide who gets in or where anything goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf import wrappers_pb2

from xds.api.mesh import PathNormalization
from xds.pb.envoy.config.listener.v3 import listener_components_pb2
from xds.pb.envoy.extensions.filters.http.router.v3 import router_pb2
from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.resources.parts import OFF, pack, stat_name

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2

HCM: Final = "envoy.filters.network.http_connection_manager"
TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"

Hcm = http_connection_manager_pb2.HttpConnectionManager
HttpFilter = http_connection_manager_pb2.HttpFilter


def http(name: str, logs: list[accesslog_pb2.AccessLog]) -> Hcm:
    """Return a connection manager that changes nothing that an application can see."""
    hcm = Hcm(
        codec_type=Hcm.AUTO,
        stat_prefix=stat_name(name),
        access_log=logs,
        server_header_transformation=Hcm.PASS_THROUGH,
        # A stream may rest for hours (watches, WebSockets); Envoy would cut it after five minutes.
        stream_idle_timeout=OFF,
        # Istio's default (pathNormalization BASE): dot segments go before any rule reads the path.
        normalize_path=wrappers_pb2.BoolValue(value=True),
        generate_request_id=wrappers_pb2.BoolValue(value=True),
        preserve_external_request_id=True,
        # ``orders.shop.svc.cluster.local.`` is the same host: for routes, for rules of access, for who is asked.
        strip_trailing_host_dot=True,
        upgrade_configs=[Hcm.UpgradeConfig(upgrade_type="websocket")],
        http_filters=[http_filter("envoy.filters.http.router", router_pb2.Router())],
    )
    # A sidecar is no edge: X-Forwarded-For stays as the application or the ingress in front wrote it.
    hcm.use_remote_address.value = False
    return hcm


def normalise(hcm: Hcm, paths: PathNormalization) -> None:
    """Let paths be read, compared and sent on as the mesh's setting says; `http` is as BASE says."""
    if paths is PathNormalization.NONE:
        hcm.normalize_path.value = False
    hcm.merge_slashes = paths in {PathNormalization.MERGE_SLASHES, PathNormalization.DECODE_AND_MERGE_SLASHES}
    if paths is PathNormalization.DECODE_AND_MERGE_SLASHES:
        hcm.path_with_escaped_slashes_action = Hcm.UNESCAPE_AND_FORWARD


def tcp(name: str, cluster: str, logs: list[accesslog_pb2.AccessLog]) -> tcp_proxy_pb2.TcpProxy:
    """Return a proxy of bytes that counts a connection when it opens, and again when it ends."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=stat_name(name), cluster=cluster, access_log=logs)
    # Without it a connection is counted when it ends, which for a database is never.
    proxy.access_log_options.flush_access_log_on_connected = True
    return proxy


def http_filter(name: str, config: Message) -> http_connection_manager_pb2.HttpFilter:
    """Return an HTTP filter under its well-known name."""
    return http_connection_manager_pb2.HttpFilter(name=name, typed_config=pack(config))


def hcm_filter(hcm: Hcm) -> listener_components_pb2.Filter:
    """Return the connection manager as the filter of a chain."""
    return _filter(HCM, hcm)


def tcp_filter(proxy: tcp_proxy_pb2.TcpProxy) -> listener_components_pb2.Filter:
    """Return the TCP proxy as the filter of a chain."""
    return _filter(TCP_PROXY, proxy)


def _filter(name: str, config: Message) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(config))
