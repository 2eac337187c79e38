"""Facts about Envoy clusters: defaults, who is trusted, and which HTTP version is spoken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.api.core import Protocol
from xds.features.connection_pool import HTTP_OPTIONS
from xds.ir import (
    AutoMtls,
    ClientTls,
    Cluster,
    Discovery,
    Endpoint,
    InboundCluster,
    Mtls,
    OriginateTls,
    Plaintext,
)
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from xds.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from xds.resources import cluster

ORDERS = "spiffe://cluster.local/ns/shop/sa/orders"
NODE = Cluster(
    name="outbound|80||orders.shop.svc.cluster.local",
    host="orders.shop.svc.cluster.local",
    namespace="shop",
    service="orders",
    port=80,
    subset="",
    protocol=Protocol.HTTP,
    tls=AutoMtls((ORDERS,), "outbound_.80_._.orders.shop.svc.cluster.local"),
)
OUTSIDE = OriginateTls("api.example.com", (), "", "", "", insecure_skip_verify=False)


def built(node: Cluster) -> cluster_pb2.Cluster:
    """The Envoy cluster of a node."""
    return cluster_pb2.Cluster.FromString(cluster.build(node))


def options(message: cluster_pb2.Cluster) -> http_protocol_options_pb2.HttpProtocolOptions:
    """The HTTP options of a cluster."""
    unpacked = http_protocol_options_pb2.HttpProtocolOptions()
    assert message.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(unpacked)
    return unpacked


def context(socket: base_pb2.TransportSocket) -> tls_pb2.UpstreamTlsContext:
    """The client's TLS context in a transport socket."""
    unpacked = tls_pb2.UpstreamTlsContext()
    assert socket.typed_config.Unpack(unpacked)
    return unpacked


def expected_names(socket: base_pb2.TransportSocket) -> list[str]:
    """The exact names of which the server must hold one."""
    common = context(socket).common_tls_context
    validation = common.combined_validation_context.default_validation_context
    return [san.matcher.exact for san in validation.match_typed_subject_alt_names]


def outside_names(node: Cluster) -> list[str]:
    """The same for a server outside the mesh."""
    validation = context(built(node).transport_socket).common_tls_context.validation_context
    return [san.matcher.exact for san in validation.match_typed_subject_alt_names]


def test_endpoints_come_over_the_same_stream_and_are_waited_for() -> None:
    """A cluster without its endpoints never goes live, however long they take."""
    eds = built(NODE).eds_cluster_config

    assert eds.eds_config.WhichOneof("config_source_specifier") == "ads"
    assert eds.eds_config.HasField("initial_fetch_timeout")
    assert eds.eds_config.initial_fetch_timeout.ToMilliseconds() == 0
    assert eds.service_name == ""


def test_defaults_are_istios() -> None:
    """Without a DestinationRule: least request, 10 s to connect, no limits, no panic."""
    message = built(NODE)
    (limits,) = message.circuit_breakers.thresholds

    assert message.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST
    assert message.connect_timeout.ToSeconds() == 10
    assert message.common_lb_config.HasField("healthy_panic_threshold")
    assert message.common_lb_config.healthy_panic_threshold.value == 0
    every = (limits.max_connections, limits.max_pending_requests, limits.max_requests, limits.max_retries)
    assert {limit.value for limit in every} == {2**32 - 1}


def test_the_stat_name_holds_no_dot() -> None:
    """Envoy ends the tag envoy_cluster_name at the first dot."""
    assert built(NODE).alt_stat_name == "outbound|80||orders_shop_svc_cluster_local"


def test_metadata_names_the_destination_for_metrics() -> None:
    """Access loggers read the destination's service from the cluster."""
    fields = built(NODE).metadata.filter_metadata["proa"].fields

    assert {key: value.string_value for key, value in fields.items()} == {
        "service": "orders.shop.svc.cluster.local",
        "service_name": "orders",
        "namespace": "shop",
        "protocol": "http",
    }


def test_automatic_mutual_tls_follows_the_endpoints_metadata() -> None:
    """Endpoints marked tls=mesh get mutual TLS, all others plaintext."""
    mtls, plain = built(NODE).transport_socket_matches

    assert dict(mtls.match) == {"tls": "mesh"}
    assert mtls.transport_socket.name == "envoy.transport_sockets.tls"
    assert dict(plain.match) == {}
    assert plain.transport_socket.name == "envoy.transport_sockets.raw_buffer"


@pytest.mark.parametrize("tls", [AutoMtls((), "orders"), Mtls((), "orders")], ids=["auto", "mutual"])
def test_no_known_peer_means_that_nobody_is_trusted(tls: ClientTls) -> None:
    """An empty list of names would let Envoy accept every certificate of the mesh."""
    message = built(replace(NODE, tls=tls))
    matches = message.transport_socket_matches
    socket = matches[0].transport_socket if matches else message.transport_socket
    (name,) = expected_names(socket)

    assert name.endswith("/")  # SPIFFE-ID §2.2: no certificate of ours can hold it


@given(st.lists(st.text(min_size=1), max_size=5).map(tuple))
def test_peers_are_exactly_the_given_ones(sans: tuple[str, ...]) -> None:
    """Each name is matched whole, and there is always at least one matcher."""
    names = expected_names(built(replace(NODE, tls=Mtls(sans, "orders"))).transport_socket)

    assert names == list(sans) or (not sans and len(names) == 1)


def test_mutual_tls_is_version_1_3_and_offers_only_mesh() -> None:
    """Offering h2 too lets the server pick it, which breaks HTTP/1 calls."""
    tls = context(built(replace(NODE, tls=Mtls((ORDERS,), "orders"))).transport_socket)
    common = tls.common_tls_context

    assert list(common.alpn_protocols) == ["mesh"]
    assert common.tls_params.tls_minimum_protocol_version == common.tls_params.TLSv1_3
    assert common.tls_params.tls_maximum_protocol_version == common.tls_params.TLSv1_3
    assert [secret.name for secret in common.tls_certificate_sds_secret_configs] == ["default"]
    assert common.combined_validation_context.validation_context_sds_secret_config.name == "ROOTCA"


def test_plaintext_has_no_transport_socket() -> None:
    """DestinationRule DISABLE: nothing on the connection but the request."""
    message = built(replace(NODE, tls=Plaintext()))

    assert not message.HasField("transport_socket")
    assert not message.transport_socket_matches


@pytest.mark.parametrize(
    ("protocol", "spoken"),
    [
        (Protocol.HTTP, "use_downstream_protocol_config"),
        (Protocol.HTTP2, "explicit_http_config"),
        (Protocol.GRPC, "explicit_http_config"),
    ],
)
def test_http_version_by_protocol(protocol: Protocol, spoken: str) -> None:
    """HTTP goes on as it came; HTTP/2 and gRPC are HTTP/2 whoever calls."""
    assert options(built(replace(NODE, protocol=protocol))).WhichOneof("upstream_protocol_options") == spoken


def test_tcp_has_no_http_options() -> None:
    """Bytes have no version."""
    assert not built(replace(NODE, protocol=Protocol.TCP)).typed_extension_protocol_options


def test_the_application_gets_the_version_that_was_sent() -> None:
    """A gRPC port may get an HTTP/1 request and the other way round: a Go server takes both."""
    for protocol in Protocol:
        raw = cluster.build_inbound(InboundCluster("inbound|8080||", "127.0.0.1", 8080, protocol))
        message = cluster_pb2.Cluster.FromString(raw)

        assert options(message).WhichOneof("upstream_protocol_options") == "use_downstream_protocol_config"


def test_an_external_name_is_resolved_by_the_sidecar() -> None:
    """Endpoints come from DNS; the flag that crashes Envoy 1.40 together with SDS stays away."""
    outside = (Endpoint("db.example.com", 5432, "", "shop", mtls=False),)
    message = built(replace(NODE, discovery=Discovery.STRICT_DNS, endpoints=outside))
    address = message.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address

    assert message.type == cluster_pb2.Cluster.STRICT_DNS
    assert (address.address, address.port_value) == ("db.example.com", 5432)
    assert not message.HasField("wait_for_warm_on_init")


def test_a_server_outside_must_hold_the_name_of_the_sni() -> None:
    """Without subjectAltNames the SNI is what is checked."""
    assert outside_names(replace(NODE, tls=OUTSIDE)) == ["api.example.com"]


def test_a_tcp_server_outside_without_any_name_is_not_trusted() -> None:
    """No SNI, no names, no Host to learn one from: nothing can be checked, so nothing passes."""
    (name,) = outside_names(replace(NODE, protocol=Protocol.TCP, tls=replace(OUTSIDE, sni="")))

    assert name.startswith("spiffe://nobody.invalid")


def test_an_http_server_outside_without_sni_is_checked_against_the_host() -> None:
    """SNI and expected name then come from each request, as in Istio."""
    upstream = options(built(replace(NODE, tls=replace(OUTSIDE, sni="")))).upstream_http_protocol_options

    assert upstream.auto_sni
    assert upstream.auto_san_validation


def test_skipping_verification_is_said_and_done() -> None:
    """InsecureSkipVerify leaves no validation context behind that only looks like one."""
    message = built(replace(NODE, tls=replace(OUTSIDE, insecure_skip_verify=True)))

    assert not context(message.transport_socket).common_tls_context.HasField("validation_context")


def test_features_have_the_last_word_in_their_order() -> None:
    """A DestinationRule overrides every default, and a later feature an earlier one."""

    @dataclass(frozen=True, slots=True)
    class Timeout:
        seconds: int

        def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
            cluster.connect_timeout.FromSeconds(self.seconds)

    assert built(replace(NODE, features=(Timeout(1), Timeout(2)))).connect_timeout.ToSeconds() == 2


def test_equal_nodes_give_equal_bytes() -> None:
    """The version of a resource is the hash of its bytes, so maps must be written in one order."""
    assert cluster.build(NODE) == cluster.build(replace(NODE))
