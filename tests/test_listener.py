"""Facts about Envoy listeners: what gets in, what is counted, and what stays as the application sent it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from xds import ir
from xds.api.core import Protocol
from xds.ir import Inbound, InboundRoutes, MtlsMode, OutboundHttp, OutboundTcp, Workload
from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from xds.resources import inbound_routes, listener

WORKLOAD = Workload("orders-v1", "shop", "orders", "orders", "v1", "cluster.local")
OUTBOUND = OutboundHttp("outbound", "127.0.1.2", 15001, "outbound", WORKLOAD)
DATABASE = OutboundTcp("tcp|127.0.1.2:3306", "127.0.1.2", 3306, "outbound|3306||mysql.shop", WORKLOAD)
INBOUND = Inbound(
    name="inbound|8080",
    address="127.0.1.2",
    port=8080,
    protocol=Protocol.HTTP,
    mode=MtlsMode.STRICT,
    cluster="inbound|8080||",
    workload=WORKLOAD,
    service="orders.shop.svc.cluster.local",
)

M = TypeVar("M", bound=Message)

_Hcm = http_connection_manager_pb2.HttpConnectionManager


def built(node: ir.Listener) -> listener_pb2.Listener:
    """The Envoy listener of a node."""
    return listener_pb2.Listener.FromString(listener.build(node))


def chains(node: ir.Listener) -> dict[str, listener_components_pb2.FilterChain]:
    """The filter chains of a listener by name."""
    return {chain.name: chain for chain in built(node).filter_chains}


def unpack(kind: type[M], chain: listener_components_pb2.FilterChain) -> M:
    """The only network filter of a chain."""
    message = kind()
    (only,) = chain.filters
    assert only.typed_config.Unpack(message)
    return message


def hcm(node: ir.Listener, chain: str) -> _Hcm:
    """The HTTP connection manager of a chain."""
    return unpack(_Hcm, chains(node)[chain])


def labels(manager: _Hcm) -> dict[str, str]:
    """The labels of the request counter."""
    config = stats_pb2.Config()
    assert manager.access_log[0].typed_config.Unpack(config)
    return {tag.name: tag.value_format for tag in config.counters[0].stat.tags}


@pytest.mark.parametrize(
    ("mode", "probes", "names"),
    [
        (MtlsMode.STRICT, (), ["mtls"]),
        (MtlsMode.STRICT, ("/healthz",), ["mtls", "probe"]),
        (MtlsMode.PERMISSIVE, ("/healthz",), ["mtls", "own-tls", "plain"]),
        (MtlsMode.DISABLE, ("/healthz",), ["plain"]),
    ],
)
@pytest.mark.parametrize("protocol", Protocol)
def test_chains_by_mode(
    protocol: Protocol, mode: MtlsMode, probes: tuple[str, ...], names: list[str]
) -> None:
    """A mode opens exactly the ways in that its name says, for every protocol."""
    assert list(chains(replace(INBOUND, protocol=protocol, mode=mode, probes=probes))) == names


def test_strict_takes_only_certificates_of_the_trust_domain() -> None:
    """A client without a certificate, or of another mesh under the same root, gets no connection."""
    chain = chains(INBOUND)["mtls"]
    tls = tls_pb2.DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(tls)
    validation = tls.common_tls_context.combined_validation_context.default_validation_context

    assert tls.require_client_certificate.value
    assert [san.matcher.prefix for san in validation.match_typed_subject_alt_names] == [
        "spiffe://cluster.local/"
    ]
    assert (
        tls.common_tls_context.tls_params.tls_minimum_protocol_version
        == tls.common_tls_context.tls_params.TLSv1_3
    )


def test_the_server_offers_no_alpn_and_the_chain_asks_for_mesh() -> None:
    """The client's ALPN tells mesh TLS from the application's own; the codec is sniffed inside."""
    chain = chains(INBOUND)["mtls"]
    tls = tls_pb2.DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(tls)

    assert list(chain.filter_chain_match.application_protocols) == ["mesh"]
    assert chain.filter_chain_match.transport_protocol == "tls"
    assert not tls.common_tls_context.alpn_protocols


def test_probes_pass_strict_exactly() -> None:
    """Exactly the declared paths, HTTP ones with GET only; everything else is answered 403."""
    node = replace(INBOUND, probes=("/healthz?full=1", "/grpc.health.v1.Health/Check"))
    (host,) = hcm(node, "probe").route_config.virtual_hosts
    health, grpc, rest = host.routes

    assert health.match.path == "/healthz"
    assert health.match.headers[0].string_match.exact == "GET"
    assert grpc.match.path == "/grpc.health.v1.Health/Check"
    for probe in (health, grpc):  # an upgraded connection would carry more than the probe
        assert [(each.name, each.invert_match) for each in probe.match.headers if each.present_match] == [
            ("upgrade", True)
        ]
    assert rest.direct_response.status == 403
    assert chains(node)["probe"].filter_chain_match.transport_protocol == "raw_buffer"


def test_disabled_mutual_tls_inspects_nothing() -> None:
    """Without an inspector the server may speak first at no cost."""
    assert not built(replace(INBOUND, mode=MtlsMode.DISABLE)).listener_filters


def test_permissive_tcp_waits_100_ms_for_a_hello() -> None:
    """A server-first client says nothing; after 100 ms it is taken for plaintext."""
    message = built(replace(INBOUND, mode=MtlsMode.PERMISSIVE, protocol=Protocol.TCP))

    assert message.continue_on_listener_filters_timeout
    assert message.listener_filters_timeout.ToMilliseconds() == 100


def test_permissive_http_is_not_hurried() -> None:
    """A TLS hello that a busy machine delays by 100 ms must not be read as plaintext."""
    message = built(replace(INBOUND, mode=MtlsMode.PERMISSIVE))

    assert message.continue_on_listener_filters_timeout
    assert not message.HasField("listener_filters_timeout")


def test_the_caller_in_xfcc_is_the_verified_one() -> None:
    """What the caller wrote itself is removed on both chains; only mutual TLS sets a new one."""
    node = replace(INBOUND, mode=MtlsMode.PERMISSIVE)

    assert hcm(node, "mtls").forward_client_cert_details == _Hcm.SANITIZE_SET
    assert hcm(node, "mtls").set_current_client_cert_details.uri
    assert hcm(node, "plain").forward_client_cert_details == _Hcm.SANITIZE
    assert hcm(replace(INBOUND, probes=("/",)), "probe").forward_client_cert_details == _Hcm.SANITIZE


def test_inbound_requests_have_no_timeout_and_survive_a_closing_connection() -> None:
    """How long a request may take is the caller's word; a connection that the application closed is retried."""
    table = route_pb2.RouteConfiguration.FromString(
        inbound_routes.build(InboundRoutes("inbound|8080", INBOUND))
    )
    *_, route = table.virtual_hosts[0].routes

    assert route.route.HasField("timeout")
    assert route.route.timeout.ToMilliseconds() == 0
    assert route.route.retry_policy.retry_on == "reset-before-request"
    assert route.route.retry_policy.num_retries.value == 2


def test_routes_come_by_name() -> None:
    """A changed rule never touches the listener."""
    rds = hcm(OUTBOUND, "http").rds

    assert rds.route_config_name == "outbound"
    assert rds.config_source.WhichOneof("config_source_specifier") == "ads"


def test_faults_can_be_switched_on_by_a_route() -> None:
    """The filter stands before the router in every outbound listener."""
    names = [entry.name for entry in hcm(OUTBOUND, "http").http_filters]

    assert names == [
        "envoy.filters.http.fault",
        "proa.retry_owner",
        "proa.retry_owner_grpc",
        "envoy.filters.http.router",
    ]


@pytest.mark.parametrize(
    ("node", "chain"), [(OUTBOUND, "http"), (INBOUND, "mtls")], ids=["outbound", "inbound"]
)
def test_the_application_sees_what_was_sent(node: ir.Listener, chain: str) -> None:
    """Streams may rest for ever, WebSockets upgrade, and server and X-Forwarded-For stay as they are."""
    manager = hcm(node, chain)

    assert manager.HasField("stream_idle_timeout")
    assert manager.stream_idle_timeout.ToMilliseconds() == 0
    assert [upgrade.upgrade_type for upgrade in manager.upgrade_configs] == ["websocket"]
    assert manager.server_header_transformation == _Hcm.PASS_THROUGH
    assert not manager.use_remote_address.value
    assert manager.preserve_external_request_id
    assert manager.normalize_path.value


def test_server_first_tcp_works_outbound() -> None:
    """No inspector waits for the client's first byte."""
    message = built(DATABASE)

    assert not message.listener_filters
    assert unpack(tcp_proxy_pb2.TcpProxy, message.filter_chains[0]).cluster == DATABASE.cluster


def test_the_destination_labels_its_caller_by_certificate() -> None:
    """What a client claims never becomes a label."""
    node = replace(INBOUND, mode=MtlsMode.PERMISSIVE)
    mutual, plain = labels(hcm(node, "mtls")), labels(hcm(node, "plain"))

    assert mutual["source_workload"] == "%DOWNSTREAM_PEER_DNS_SAN%"
    assert mutual["source_principal"] == "%DOWNSTREAM_PEER_URI_SAN%"
    assert mutual["connection_security_policy"] == "mutual_tls"
    assert plain["source_workload"] == "unknown"
    assert plain["connection_security_policy"] == "none"


def test_no_label_holds_what_a_client_chooses() -> None:
    """Each new value of a label is a series for ever, so no label reads the request."""
    everything = labels(hcm(OUTBOUND, "http")) | labels(hcm(INBOUND, "mtls"))

    assert not [text for text in everything.values() if "REQ(" in text or "REQUESTED" in text]


def test_ports_have_their_own_tls_counters() -> None:
    """Whether a hop was encrypted is read per port."""
    assert built(INBOUND).stat_prefix == "inbound|8080"


@pytest.mark.parametrize("node", [OUTBOUND, DATABASE, *(replace(INBOUND, mode=mode) for mode in MtlsMode)])
def test_equal_nodes_give_equal_bytes(node: ir.Listener) -> None:
    """Every kind of listener is deterministic."""
    assert listener.build(node) == listener.build(replace(node))
