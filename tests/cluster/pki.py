"""Keys, certificates and static tokens of a throw-away cluster.

It owns what proves an identity to the cluster's apiserver; nothing here may be used outside one test machine.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A cluster lives for one test run, or for a working day of its owner.
_VALID: Final = dt.timedelta(days=30)
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)

USERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "admin": ("admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
        "proxy": ("system:kube-proxy", ""),
        "node": ("system:node:node1", "system:nodes"),
        "stranger": ("stranger", ""),
    }
)
"""Short name → Kubernetes' user name and group. The stranger may do nothing but what a test grants it."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """The one CA of a cluster, and the folder into which it writes."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """Make a CA and write ``ca.crt`` and ``ca.key``."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("proa-test-cluster")
        builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)  # noqa: FBT003 (the library's own name for it is positional)
        certificate = builder.sign(key, hashes.SHA256())
        _write(folder / "ca", key, certificate)
        return cls(folder, certificate, key)

    def issue(self, file: str, subject: str, *, group: str = "", names: Iterable[str] = ()) -> None:
        """Write ``FILE.crt`` and ``FILE.key``: a certificate for both ends of a connection."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_name(subject, group), self.certificate.subject, key).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        alternatives = [_alternative(name) for name in names]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        _write(self.folder / file, key, builder.sign(self.key, hashes.SHA256()))


def write_service_account_key(folder: Path) -> None:
    """Write ``sa.key`` and ``sa.pub``, which sign and verify ServiceAccount tokens."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    _write_private(folder / "sa.key", key)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "sa.pub").write_bytes(public)


def write_tokens(file: Path) -> Mapping[str, str]:
    """Write the apiserver's table of static tokens, new ones each time, and return them by short name."""
    tokens = {short: secrets.token_hex(16) for short in USERS}
    rows = [f'{tokens[short]},{user},{short},"{group}"' for short, (user, group) in USERS.items()]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tokens


def _name(common: str, group: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if group:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(attributes)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(stem: Path, key: Key, certificate: x509.Certificate) -> None:
    stem.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(stem.with_suffix(".key"), key)


def _write_private(file: Path, key: Key) -> None:
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
