"""TLS contexts: mutual TLS between sidecars, and TLS that a sidecar opens to a server outside the mesh.

It owns what makes a peer trusted, and every doubt denies: no context here accepts a peer that nobody named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.api.core import Protocol
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from xds.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from xds.pb.envoy.type.matcher.v3 import string_pb2
from xds.resources.names import OWN_CERTIFICATE, TRUST_BUNDLE
from xds.resources.parts import ads, pack

if TYPE_CHECKING:
    from xds.ir import OriginateTls

ALPN: Final = "mesh"
"""What tells mutual TLS of the mesh from an application's own TLS. Only the client offers it, and it offers
nothing else: a server that may choose ``h2`` breaks every HTTP/1 call that goes through it."""

_NOBODY: Final = "spiffe://nobody.invalid/"
"""Ends in a slash, which SPIFFE-ID §2.2 forbids: no authority of a mesh can issue it."""

_SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's ``ca-certificates`` puts them, on which Envoy's own images are built."""

_Matcher = common_pb2.SubjectAltNameMatcher
_Validation = common_pb2.CertificateValidationContext


def mesh_client(sans: tuple[str, ...], sni: str) -> base_pb2.TransportSocket:
    """Return the client side of mutual TLS: the server must hold exactly one of these SPIFFE IDs.

    An empty list in Envoy means "anybody under the root"; here it means nobody.
    """
    matchers = [_uri(string_pb2.StringMatcher(exact=san)) for san in sans or (_NOBODY,)]
    common = _mesh_context(matchers)
    common.alpn_protocols.append(ALPN)
    return _socket(tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=sni))


def mesh_server(trust_domain: str) -> base_pb2.TransportSocket:
    """Return the server side of mutual TLS: any client certificate of this trust domain, and never none.

    There is no ALPN on purpose: the codec then sniffs what is spoken inside, HTTP/1, HTTP/2 or neither. No session is
    resumed: nobody would look at the certificate again, so that it outlives its end and its root, and Envoy's RBAC
    takes the caller for one that has proved nothing (``mtls_authenticated`` asks for a validation on this connection).
    """
    common = _mesh_context([_uri(string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/"))])
    context = tls_pb2.DownstreamTlsContext(common_tls_context=common)
    context.require_client_certificate.value = True
    context.disable_stateless_session_resumption = True
    context.disable_stateful_session_resumption = True
    return _socket(context)


def originate(tls: OriginateTls, protocol: Protocol) -> base_pb2.TransportSocket:
    """Return TLS to a server outside the mesh, which must hold one of the given names, else the SNI's."""
    common = tls_pb2.CommonTlsContext(alpn_protocols=_offered(protocol))
    if not tls.insecure_skip_verify:
        common.validation_context.CopyFrom(_outside_peer(tls, protocol))
    if tls.certificate_file:
        common.tls_certificates.add(
            certificate_chain=base_pb2.DataSource(filename=tls.certificate_file),
            private_key=base_pb2.DataSource(filename=tls.key_file),
        )
    return _socket(tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=tls.sni))


def plaintext() -> base_pb2.TransportSocket:
    """Return no TLS at all, for where Envoy wants that said."""
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
    )


def names_itself(tls: OriginateTls, protocol: Protocol) -> bool:
    """Tell whether SNI and expected name follow each request's Host: no SNI is given (Istio's auto SNI)."""
    return protocol.is_http and not tls.sni


def _offered(protocol: Protocol) -> tuple[str, ...]:
    match protocol:
        case Protocol.HTTP2 | Protocol.GRPC:
            return ("h2",)
        case Protocol.HTTP:
            return ("http/1.1",)
        case Protocol.TCP:
            return ()


def _outside_peer(tls: OriginateTls, protocol: Protocol) -> _Validation:
    roots = base_pb2.DataSource(filename=tls.ca_file or _SYSTEM_ROOTS)
    if names_itself(tls, protocol) and not tls.sans:
        return _Validation(trusted_ca=roots)  # auto_san_validation of the cluster adds the name
    names = tls.sans or ((tls.sni,) if tls.sni else (_NOBODY,))
    return _Validation(trusted_ca=roots, match_typed_subject_alt_names=[_exact(name) for name in names])


def _exact(name: str) -> _Matcher:
    matcher = string_pb2.StringMatcher(exact=name)
    return _uri(matcher) if "://" in name else _Matcher(san_type=_Matcher.DNS, matcher=matcher)


def _uri(matcher: string_pb2.StringMatcher) -> _Matcher:
    return _Matcher(san_type=_Matcher.URI, matcher=matcher)


def _mesh_context(peers: list[_Matcher]) -> tls_pb2.CommonTlsContext:
    """Return TLS 1.3, our own certificate, and a peer under the mesh's root whom one of ``peers`` matches."""
    only = common_pb2.TlsParameters.TLSv1_3
    validation = tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=_Validation(match_typed_subject_alt_names=peers),
        validation_context_sds_secret_config=_secret(TRUST_BUNDLE),
    )
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=only, tls_maximum_protocol_version=only
        ),
        tls_certificate_sds_secret_configs=[_secret(OWN_CERTIFICATE)],
        combined_validation_context=validation,
    )


def _secret(name: str) -> secret_pb2.SdsSecretConfig:
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads())


def _socket(context: tls_pb2.UpstreamTlsContext | tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
