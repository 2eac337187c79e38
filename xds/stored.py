"""The stored form of keys and roots: the same few files in a state directory and in a Secret.

Owns names and forms; it must never read or write a file, and never make a fresh key in place of a damaged one.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from xds import ca
from xds.ca import Authority
from xds.keys import SecretBytes
from xds.rotation import Phase, Root, Slots

ROOTS: Final = {Root.WORKLOAD: "workload-roots.json", Root.CHANNEL: "channel-roots.json"}
TOKEN_KEY: Final = "token-key.pem"  # noqa: S105  # a name, not a secret
FILES: Final = (*ROOTS.values(), TOKEN_KEY)

DAMAGED: Final = (ValueError, TypeError, msgspec.MsgspecError, ca.CaError)
"""What the readers below raise for a file that is not what they wrote."""


class _StoredAuthority(msgspec.Struct, frozen=True, omit_defaults=True):
    certificate: str
    key: str
    chain: str = ""
    anchors: str = ""

    def __repr__(self) -> str:
        return "[redacted]"


class _StoredSlots(msgspec.Struct, frozen=True):
    """One file holds a whole phase, so that its replacement is the moment of the step."""

    phase: Phase
    entered: float
    signer: _StoredAuthority
    other: _StoredAuthority | None = None


def pack(slots: Slots) -> SecretBytes:
    """The file of one trust."""
    other = _pack_authority(slots.other) if slots.other else None
    stored = _StoredSlots(slots.phase, slots.entered, _pack_authority(slots.signer), other)
    return SecretBytes(msgspec.json.encode(stored))


def unpack(octets: bytes) -> Slots:
    """Read what `pack` wrote; raises one of DAMAGED for everything else."""
    stored = msgspec.json.decode(octets, type=_StoredSlots)
    other = _unpack_authority(stored.other) if stored.other else None
    return Slots(stored.phase, _unpack_authority(stored.signer), other, stored.entered)


def new_token_key() -> SecretBytes:
    """A fresh key of join tokens: Ed25519, PKCS#8 PEM."""
    form = serialization.PrivateFormat.PKCS8
    key = ed25519.Ed25519PrivateKey.generate()
    return SecretBytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def read_token_key(octets: bytes) -> ed25519.Ed25519PrivateKey:
    """Read a key of join tokens; raises one of DAMAGED if it is none."""
    key = serialization.load_pem_private_key(octets, None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        message = "not an Ed25519 key"
        raise TypeError(message)
    return key


def version_key(key: ed25519.Ed25519PrivateKey) -> SecretBytes:
    """The key of leaf versions (HKDF of the token key): equal after every restart and in every replica."""
    hkdf = HKDF(hashes.SHA256(), length=32, salt=None, info=b"proa leaf version")
    return SecretBytes(hkdf.derive(key.private_bytes_raw()))


def _pack_authority(authority: Authority) -> _StoredAuthority:
    return _StoredAuthority(
        ca.pem_of((authority.certificate,)).decode("ascii"),
        ca.key_pem(authority.key).reveal().decode("ascii"),
        ca.pem_of(authority.chain).decode("ascii"),
        ca.pem_of(authority.anchors).decode("ascii"),
    )


def _unpack_authority(stored: _StoredAuthority) -> Authority:
    key = serialization.load_pem_private_key(stored.key.encode("ascii"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        message = "not an elliptic-curve or RSA key"
        raise TypeError(message)
    certificate = x509.load_pem_x509_certificate(stored.certificate.encode("ascii"))
    return Authority(certificate, key, _certificates(stored.chain), _certificates(stored.anchors))


def _certificates(pem: str) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(pem.encode("ascii"))) if pem else ()
