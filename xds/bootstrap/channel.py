"""The way to the control plane: one HTTP/2 cluster with TLS 1.3, a pinned name, and a token from a watched file.

It owns the cluster `xds` and its credential; it must never hold a token's text, only the name of its file.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.clusters.common.dns import v3 as families
from envoy_data_plane.envoy.extensions.clusters.dns import v3 as dns
from envoy_data_plane.envoy.extensions.filters.http.credential_injector import v3 as credential_injector
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec import v3 as upstream_codec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as http
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic import v3 as generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google import protobuf

from xds import settings
from xds.bootstrap import Collector, Spec, Tls

COLLECTOR_CLUSTER: Final = "collector"
XDS_CLUSTER: Final = "xds"

_TOKEN_NAME: Final = "control-plane-token"  # noqa: S105  # its name, not its text
_BARE: Final = "x-proa-token"
"""Where an older Envoy has the token while it is on its way through the filters."""

_OPTIONS_KEY: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# A control plane that is restarted must find its sidecars again at once: with Envoy's own backoff a
# disconnected sidecar made 8 attempts in 52 s. Envoy adds the jitter.
_BACKOFF_BASE = timedelta(milliseconds=200)
_BACKOFF_MAX = timedelta(seconds=2)

# A half-open connection (a node that vanished) is noticed within 35 s instead of the kernel's two hours.
_KEEPALIVE_INTERVAL = timedelta(seconds=30)
_KEEPALIVE_TIMEOUT = timedelta(seconds=5)

# The control plane is one hop away; longer only delays the next attempt.
_CONNECT_TIMEOUT = timedelta(seconds=1)


def pack(message: betterproto2.Message) -> protobuf.Any:
    """`message` as an Any, for Envoy's `typed_config` fields."""
    return protobuf.Any.pack(message)


def address(host: str, port: int) -> core.Address:
    """The socket address `host:port`."""
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def everywhere(port: int) -> core.Address:
    """The port on every address of the Pod, IPv4 and IPv6 with one socket."""
    return core.Address(socket_address=core.SocketAddress(address="::", port_value=port, ipv4_compat=True))


def one_endpoint(name: str, host: str, port: int) -> endpoint.ClusterLoadAssignment:
    """A load assignment of exactly one endpoint."""
    return endpoint.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint.LocalityLbEndpoints(
                lb_endpoints=[endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address(host, port)))]
            )
        ],
    )


def control_plane_service() -> core.GrpcService:
    """The gRPC service of the control plane, with a reconnect backoff of 0.2 to 2 s."""
    backoff = core.BackoffStrategy(base_interval=_BACKOFF_BASE, max_interval=_BACKOFF_MAX)
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(
            cluster_name=XDS_CLUSTER,
            authority=settings.CHANNEL_SERVER_NAME,
            # Without it Envoy adds x-forwarded-for with an address of the machine.
            skip_envoy_headers=True,
            retry_policy=core.RetryPolicy(retry_back_off=backoff),
        )
    )


def xds_cluster(spec: Spec) -> cluster.Cluster:
    """The static cluster of the control plane."""
    keepalive = core.KeepaliveSettings(interval=_KEEPALIVE_INTERVAL, timeout=_KEEPALIVE_TIMEOUT)
    options = upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions(connection_keepalive=keepalive)
        ),
        http_filters=_token_filters(spec.channel, is_older=spec.is_older)
        if isinstance(spec.channel, Tls)
        else [],
    )
    is_address = _is_address(spec.xds_host)
    return cluster.Cluster(
        name=XDS_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC if is_address else None,
        cluster_type=None if is_address else _resolution(),
        connect_timeout=_CONNECT_TIMEOUT,
        load_assignment=one_endpoint(XDS_CLUSTER, spec.xds_host, spec.xds_port),
        transport_socket=_transport(spec.channel) if isinstance(spec.channel, Tls) else None,
        typed_extension_protocol_options={_OPTIONS_KEY: pack(options)},
    )


def collector_service() -> core.GrpcService:
    """The gRPC service of the user's collector."""
    return core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=COLLECTOR_CLUSTER))


def collector_cluster(found: Collector) -> cluster.Cluster:
    """The static cluster of the user's collector: HTTP/2.

    A sink exists before any certificate of the mesh, so the collector is asked for its own, and is shown none.
    """
    options = upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions()
        )
    )
    is_address = _is_address(found.host)
    return cluster.Cluster(
        name=COLLECTOR_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC if is_address else None,
        cluster_type=None if is_address else _resolution(),
        connect_timeout=_CONNECT_TIMEOUT,
        load_assignment=one_endpoint(COLLECTOR_CLUSTER, found.host, found.port),
        transport_socket=_collector_transport(found) if found.roots else None,
        typed_extension_protocol_options={_OPTIONS_KEY: pack(options)},
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolution() -> cluster.ClusterCustomClusterType:
    """Look a name up, and after a failure again within 2 s: a name server may start after its first clients."""
    config = dns.DnsCluster(
        dns_lookup_family=families.DnsLookupFamily.V4_PREFERRED,
        dns_failure_refresh_rate=dns.DnsClusterRefreshRate(
            base_interval=_BACKOFF_BASE, max_interval=_BACKOFF_MAX
        ),
    )
    return cluster.ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=pack(config))


def _transport(channel: Tls) -> core.TransportSocket:
    """TLS 1.3 only, under the channel's own roots (inlined: they outlive any file), for one name only."""
    context = tls.UpstreamTlsContext(
        sni=settings.CHANNEL_SERVER_NAME,
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(
                tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
                tls_maximum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
            ),
            alpn_protocols=["h2"],
            validation_context=tls.CertificateValidationContext(
                trusted_ca=core.DataSource(inline_string="".join(channel.roots)),
                match_typed_subject_alt_names=[
                    tls.SubjectAltNameMatcher(
                        san_type=tls.SubjectAltNameMatcherSanType.DNS,
                        matcher=matcher.StringMatcher(exact=settings.CHANNEL_SERVER_NAME),
                    )
                ],
            ),
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _collector_transport(found: Collector) -> core.TransportSocket:
    """TLS 1.2 or 1.3, which is the least that a server of others may have; for the host that was asked for."""
    is_address = _is_address(found.host)
    kinds = tls.SubjectAltNameMatcherSanType
    context = tls.UpstreamTlsContext(
        sni="" if is_address else found.host,
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["h2"],
            validation_context=tls.CertificateValidationContext(
                trusted_ca=core.DataSource(inline_string=found.roots),
                match_typed_subject_alt_names=[
                    tls.SubjectAltNameMatcher(
                        san_type=kinds.IP_ADDRESS if is_address else kinds.DNS,
                        matcher=matcher.StringMatcher(exact=found.host),
                    )
                ],
            ),
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _token_filters(channel: Tls, *, is_older: bool) -> list[http.HttpFilter]:
    """The token as a header of every request to the control plane, read again when its directory changes.

    Found with Envoy 1.40: a generic secret in the bootstrap's `static_resources.secrets` is read once, its
    `watched_directory` notwithstanding; `%FILE_CONTENT()%` is refused in an upstream `header_mutation`; a secret
    from a *file* of secrets is re-read. Hence the second file beside the token.
    """
    source = core.ConfigSource(
        path_config_source=core.PathConfigSource(
            path=channel.secret_file,
            watched_directory=core.WatchedDirectory(path=str(Path(channel.token_file).parent)),
        ),
        resource_api_version=core.ApiVersion.V3,
    )
    credential = generic.Generic(
        credential=tls.SdsSecretConfig(name=_TOKEN_NAME, sds_config=source),
        header=_BARE if is_older else "authorization",
        header_value_prefix="" if is_older else "Bearer ",
    )
    injector = credential_injector.CredentialInjector(
        overwrite=True,
        credential=core.TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=pack(credential)
        ),
    )
    return [
        http.HttpFilter(name="envoy.filters.http.credential_injector", typed_config=pack(injector)),
        *([_scheme()] if is_older else []),
        http.HttpFilter(
            name="envoy.filters.http.upstream_codec", typed_config=pack(upstream_codec.UpstreamCodec())
        ),
    ]


def _scheme() -> http.HttpFilter:
    """Write "Bearer" before the token, where the injector cannot."""
    value = core.HeaderValue(key="authorization", value=f"Bearer %REQ({_BARE})%")
    mutations = header_mutation.Mutations(
        request_mutations=[
            mutation_rules.HeaderMutation(append=core.HeaderValueOption(header=value)),
            mutation_rules.HeaderMutation(remove=_BARE),
        ]
    )
    config = header_mutation.HeaderMutation(mutations=mutations)
    return http.HttpFilter(name="envoy.filters.http.header_mutation", typed_config=pack(config))


def token_secret(channel: Tls) -> discovery.DiscoveryResponse:
    """The content of `channel.secret_file`: a secret that names the token's file and holds no token."""
    secret = tls.Secret(
        name=_TOKEN_NAME,
        generic_secret=tls.GenericSecret(secret=core.DataSource(filename=channel.token_file)),
    )
    return discovery.DiscoveryResponse(resources=[pack(secret)])
