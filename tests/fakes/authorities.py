"""A user's own certificate authority: a root, and intermediates as cert-manager keeps them in a Secret.

Owns keys that no other run has; it must never be imported by the program.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authorities:
    """One root and what stands below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key: Key = ec.generate_private_key(ec.SECP384R1())
        self.root = certificate(f"{name} root", self.key.public_key(), f"{name} root", self.key)

    def secret(  # noqa: PLR0913  # what a certificate may have
        self,
        name: str,
        *,
        key: Key | None = None,
        days: int = 30,
        is_ca: bool = True,
        path_length: int | None = 0,
        extra: x509.ExtensionType | None = None,
    ) -> dict[str, bytes]:
        """The Secret of an intermediate, which is made anew at every call."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        signer = certificate(
            f"{self.name} {name}", own.public_key(), f"{self.name} root", self.key,
            days=days, is_ca=is_ca, path_length=path_length, extra=extra,
        )  # fmt: skip
        return {"tls.crt": pem(signer), "tls.key": key_pem(own), "ca.crt": pem(self.root)}


def certificate(  # noqa: PLR0913  # what a certificate has
    subject: str,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: str,
    key: Key,
    *,
    days: int = 30,
    is_ca: bool = True,
    path_length: int | None = None,
    extra: x509.ExtensionType | None = None,
) -> x509.Certificate:
    """A certificate as cert-manager makes one; `days` below zero: it has ended."""
    now = dt.datetime.now(dt.UTC)
    begins = now - dt.timedelta(days=2 + abs(days), minutes=5)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins if days < 0 else now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True)
        .add_extension(_usage(signs=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates one after the other."""
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in certificates)


def key_pem(key: Key) -> bytes:
    """A key as cert-manager writes one."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip
