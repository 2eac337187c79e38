"""SDS secrets as Envoy reads them: the proxy's own SVID and the trust bundle.

Owns the bytes of the two Secret messages; it must never decide who may have them, nor log or keep them.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.ca import Leaf
from xds.identity import OWN_CERTIFICATE, TRUST_BUNDLE
from xds.pb.envoy.config.core.v3.base_pb2 import DataSource
from xds.pb.envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsCertificate,
)
from xds.pb.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret


def build_own_certificate(leaf: Leaf) -> bytes:
    """The Secret `default`: certificate and private key inline. The result holds a key: treat it as one."""
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=leaf.certificate_pem),
        private_key=DataSource(inline_bytes=leaf.key_pem.reveal()),
    )
    return Secret(name=OWN_CERTIFICATE, tls_certificate=certificate).SerializeToString(deterministic=True)


def build_trust_bundle(roots_pem: Iterable[bytes]) -> bytes:
    """The Secret `ROOTCA`: every root that a peer may be signed by; equal roots give equal bytes."""
    # Whom a peer must be is in the cluster and the listener (exact SANs), so the bundle is roots alone.
    # An empty bundle would make Envoy accept any chain: refuse it (SPIFFE bundle §4: no keys, no trust).
    pem = b"".join(sorted(roots_pem))
    if not pem:
        message = "trust bundle: at least one root"
        raise ValueError(message)
    context = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=pem))
    return Secret(name=TRUST_BUNDLE, validation_context=context).SerializeToString(deterministic=True)
