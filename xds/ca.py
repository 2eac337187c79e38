"""The certificate authority as functions of (signer, identity, time, entropy).

Owns what is issued, by which root, for how long; it must never read a clock, make randomness of its own,
touch a file, or hand out a certificate that :mod:`xds.svid` has not passed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xds import settings, svid
from xds.identity import Identity, SpiffeId
from xds.keys import Entropy, SecretBytes

_SERIAL_OCTETS: Final = 16  # 126 random bits: twice what CA/B 7.1 asks, below the 20 octets of RFC 5280


class CaError(Exception):
    """The authority cannot issue: its own certificate is expired or not valid yet."""


SignerKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""Ours are P-256; a user's own CA may have any curve or RSA."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that signs, and its key: a root of ours, or a user's own CA below roots of theirs."""

    certificate: x509.Certificate
    key: SignerKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    """What a leaf is sent with: the signer and what stands between it and its root. Empty: it is the root."""
    anchors: tuple[x509.Certificate, ...] = ()
    """The roots that peers trust for it. Empty: itself."""
    fingerprint: str = field(init=False)
    """SHA-256 of the certificate's DER form, hex."""

    def __post_init__(self) -> None:
        if self.certificate.public_key() != self.key.public_key():
            message = "authority: the key is not the certificate's"
            raise CaError(message)
        object.__setattr__(self, "fingerprint", self.certificate.fingerprint(hashes.SHA256()).hex())

    @property
    def pem(self) -> bytes:
        """What peers trust for it, in PEM: the root certificate, or a user's own roots."""
        return pem_of(self.anchors or (self.certificate,))

    @property
    def is_ours(self) -> bool:
        """Whether this is a root that we made, not a user's own CA."""
        return not self.anchors

    @property
    def not_after(self) -> int:
        """When the first of its chain ends, seconds since the epoch: no leaf is good for longer."""
        ends = (link.not_valid_after_utc for link in (self.certificate, *self.chain))
        return int(min(ends).timestamp())


@dataclass(frozen=True, slots=True)
class Leaf:
    """An issued certificate with its key; times are seconds since the epoch."""

    certificate_pem: bytes
    key_pem: SecretBytes
    issuer: str
    """Fingerprint of the signer."""
    not_after: int
    renew_at: int
    """When the next one should be issued: half life, jittered by the holder's name."""


def new_root(trust_domain: str, *, now: float, entropy: Entropy) -> Authority:
    """A self-signed workload root of a trust domain: P-256, ten years, its SPIFFE ID without a path."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain)))])
    return _self_signed("Proa workload root", names, svid.ROOT, now=now, entropy=entropy)


def new_channel_root(*, now: float, entropy: Entropy) -> Authority:
    """A self-signed root for the xDS server's certificate alone: an identity for nobody."""
    return _self_signed("Proa control channel root", None, svid.CHANNEL_ROOT, now=now, entropy=entropy)


def issue_leaf(
    signer: Authority, identity: Identity, *, now: float, entropy: Entropy, ttl_s: int = settings.LEAF_TTL_S
) -> Leaf:
    """An X509-SVID for an identity with a key of its own; raises CaError if the signer is not valid now.

    The certificate carries what we know of the caller, never what it asked for, and ends no later than
    its signer.
    """
    sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity.spiffe_id))]
    if identity.dns_san is not None:
        sans.append(x509.DNSName(identity.dns_san))
    purposes = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _issue(
        signer, sans, purposes, svid.LEAF, holder=identity.node_id, now=now, entropy=entropy, ttl_s=ttl_s
    )


def issue_channel_leaf(signer: Authority, *, now: float, entropy: Entropy) -> Leaf:
    """The xDS server's certificate: its Service name and the loopback names, serverAuth only."""
    sans: list[x509.GeneralName] = [
        x509.DNSName(name) for name in (settings.CHANNEL_SERVER_NAME, *settings.CHANNEL_LOOPBACK_NAMES)
    ]
    sans += [x509.IPAddress(ipaddress.ip_address(address)) for address in settings.CHANNEL_LOOPBACK_ADDRESSES]
    return _issue(
        signer, sans, (ExtendedKeyUsageOID.SERVER_AUTH,), svid.CHANNEL_SERVER,
        holder=settings.CHANNEL_SERVER_NAME, now=now, entropy=entropy, ttl_s=settings.CHANNEL_LEAF_TTL_S,
    )  # fmt: skip


def check_root(root: Authority, trust_domain: str) -> None:
    """Raise InvalidCertificate unless a stored root still passes every rule and is this trust domain's."""
    svid.check(root.certificate, svid.ROOT, issuer=root.certificate)
    found = svid.spiffe_id(root.certificate)
    if found != SpiffeId(trust_domain):
        raise svid.InvalidCertificate(
            (f"the root is of trust domain {found.trust_domain}, not {trust_domain}",)
        )


def renew_at(holder: str, *, now: int, not_after: int) -> int:
    """When a certificate that `holder` gets now is renewed: half life ± 10 %, fixed by the holder's name.

    The jitter is a hash, not a draw: pods of one workload spread, and a restart changes nobody's turn.
    """
    turn = int.from_bytes(hashlib.sha256(holder.encode()).digest()[:8]) / 2**64
    half_life = (not_after - now) / 2
    return now + int(half_life * (1 + settings.LEAF_RENEW_JITTER * (2 * turn - 1)))


def _self_signed(
    title: str,
    names: x509.SubjectAlternativeName | None,
    rules: tuple[svid.Rule, ...],
    *,
    now: float,
    entropy: Entropy,
) -> Authority:
    key = entropy.new_key()
    serial = _serial(entropy)
    # The subject is unique, so that a chain never builds through the wrong one of two roots.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{title} {serial & 0xFFFFFFFF:08x}")])
    builder = _builder(subject, subject, key, serial, now=int(now), not_after=int(now) + settings.ROOT_TTL_S)
    # Path length 0: a workload that obtained a CA certificate from us could still not make another CA.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(certificates=True), critical=True)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
    svid.check(certificate, rules, issuer=certificate)
    return Authority(certificate, key)


def _issue(  # noqa: PLR0913  # the one place where a certificate of ours is put together
    signer: Authority,
    sans: list[x509.GeneralName],
    purposes: tuple[x509.ObjectIdentifier, ...],
    rules: tuple[svid.Rule, ...],
    *,
    holder: str,
    now: float,
    entropy: Entropy,
    ttl_s: int,
) -> Leaf:
    issued_at = int(now)
    not_after = min(issued_at + ttl_s, signer.not_after)
    if not _not_before(signer) <= issued_at < signer.not_after:
        message = "the signing certificate is expired or not valid yet: run `proa ca rotate`, check the clock"
        raise CaError(message)
    key = entropy.new_key()
    issuer = signer.certificate
    builder = _builder(
        x509.Name([]), issuer.subject, key, _serial(entropy), now=issued_at, not_after=not_after
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    # Critical, because the subject is empty (RFC 5280 §4.2.1.6).
    builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=True)
    certificate = builder.add_extension(_issued_by(signer), critical=False).sign(signer.key, hashes.SHA256())
    svid.check(certificate, rules, issuer=issuer)
    return Leaf(
        certificate_pem=pem_of((certificate, *signer.chain)),
        key_pem=key_pem(key),
        issuer=signer.fingerprint,
        not_after=not_after,
        renew_at=renew_at(holder, now=issued_at, not_after=not_after),
    )


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates in PEM, one after the other."""
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in certificates)


def key_pem(key: SignerKey) -> SecretBytes:
    """The private key as unencrypted PKCS#8 PEM: for SDS, and for a file of mode 0600."""
    form = serialization.PrivateFormat.PKCS8
    return SecretBytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _builder(  # noqa: PLR0913  # the fields that every certificate has
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    *,
    now: int,
    not_after: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_moment(now - settings.CLOCK_SKEW_S))
        .not_valid_after(_moment(not_after))
    )


def _issued_by(signer: Authority) -> x509.AuthorityKeyIdentifier:
    """Return the identifier of the signer's key: the one that its certificate says, else the usual hash."""
    try:
        said = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(said)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=certificates, crl_sign=certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _serial(entropy: Entropy) -> int:
    # The top bit off keeps it positive, the next one on keeps its length: 126 bits are random.
    return int.from_bytes(entropy.octets(_SERIAL_OCTETS)) >> 1 | 1 << 126


def _moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _not_before(signer: Authority) -> int:
    return int(signer.certificate.not_valid_before_utc.timestamp())
