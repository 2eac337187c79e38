"""The X509-SVID rules as a table, and the validator that runs them on every certificate we issue.

Owns what a leaf, a root and the control channel's certificate must look like, each rule beside the
sentence of the standard that asks for it; it must never sign, repair or excuse anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from xds.identity import IdentityError, SpiffeId

_MIN_SERIAL_BITS: Final = 64  # CA/Browser Forum 7.1: at least 64 bits from a CSPRNG
_MAX_SERIAL_BITS: Final = 159  # RFC 5280 §4.1.2.2: at most 20 octets, positive
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class InvalidCertificate(Exception):  # noqa: N818  # reads as the verdict that it is
    """A certificate that breaks the rules; `broken` has every sentence that it breaks."""

    def __init__(self, broken: Sequence[str]) -> None:
        super().__init__("; ".join(broken))
        self.broken = tuple(broken)


class Subject:
    """What the rules ask of a certificate: its extensions looked up by type, absent ones as None."""

    __slots__ = ("_extensions", "certificate", "dns", "uris")

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self._extensions: dict[type[x509.ExtensionType], x509.Extension[x509.ExtensionType]] = {
            type(extension.value): extension for extension in certificate.extensions
        }
        names = self.value(x509.SubjectAlternativeName)
        self.uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else ()
        self.dns = tuple(names.get_values_for_type(x509.DNSName)) if names else ()

    def value(self, kind: type[_Extension]) -> _Extension | None:
        """The extension of this type, None if the certificate has none."""
        found = self._extensions.get(kind)
        return found.value if found is not None and isinstance(found.value, kind) else None

    def critical(self, kind: type[x509.ExtensionType]) -> bool:
        """Whether the extension is there and critical."""
        found = self._extensions.get(kind)
        return found is not None and found.critical


@dataclass(frozen=True, slots=True)
class Rule:
    """One sentence that a certificate must keep, and where it stands."""

    source: str
    sentence: str
    holds: Callable[[Subject], bool]


_Rules: TypeAlias = tuple[Rule, ...]


def check(certificate: x509.Certificate, rules: _Rules, *, issuer: x509.Certificate) -> None:
    """Raise InvalidCertificate unless every rule holds and `issuer` signed it for no longer than it lives."""
    try:
        subject = Subject(certificate)
    except (ValueError, x509.DuplicateExtension) as error:
        raise InvalidCertificate((f"unreadable extensions: {type(error).__name__}",)) from None
    broken = [f"{rule.source}: {rule.sentence}" for rule in rules if not rule.holds(subject)]
    if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
        broken.append("Proa: a certificate never outlives its signer")
    if not _signed_by(certificate, issuer):
        broken.append("RFC 5280 §6.1.3: the issuer's name and key have signed it")
    if broken:
        raise InvalidCertificate(broken)


def spiffe_id(certificate: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a certificate; raises InvalidCertificate unless it has exactly one URI SAN and it is one."""
    found = _spiffe_id(Subject(certificate))
    if found is None:
        raise InvalidCertificate(("X509-SVID §2: exactly one URI SAN, a SPIFFE ID",))
    return found


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _spiffe_id(subject: Subject) -> SpiffeId | None:
    if len(subject.uris) != 1:
        return None
    try:
        return SpiffeId.parse(subject.uris[0])
    except IdentityError:
        return None


def _is_ca(subject: Subject, *, expected: bool) -> bool:
    constraints = subject.value(x509.BasicConstraints)
    if constraints is None:
        return not expected
    return constraints.ca is expected and subject.critical(x509.BasicConstraints)


def _key_usages(subject: Subject) -> frozenset[str]:
    usage = subject.value(x509.KeyUsage)
    if usage is None:
        return frozenset()
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign")  # fmt: skip
    return frozenset(name for name in names if getattr(usage, name))


def _has_usages(*expected: str) -> Callable[[Subject], bool]:
    return lambda subject: subject.critical(x509.KeyUsage) and _key_usages(subject) == frozenset(expected)


def _has_purposes(*expected: x509.ObjectIdentifier) -> Callable[[Subject], bool]:
    def holds(subject: Subject) -> bool:
        purposes = subject.value(x509.ExtendedKeyUsage)
        return purposes is not None and set(purposes) == set(expected)

    return holds


def _serial_is_long(subject: Subject) -> bool:
    # A random number of 127 bits has fewer than 64 once in 2^63: a short one is a counter.
    return _MIN_SERIAL_BITS <= subject.certificate.serial_number.bit_length() <= _MAX_SERIAL_BITS


def _is_p256(subject: Subject) -> bool:
    key = subject.certificate.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _names_are_critical(subject: Subject) -> bool:
    return bool(subject.certificate.subject.rdns) or subject.critical(x509.SubjectAlternativeName)


def _has_workload_path(subject: Subject) -> bool:
    found = _spiffe_id(subject)
    return found is not None and bool(found.path)


def _has_no_path(subject: Subject) -> bool:
    found = _spiffe_id(subject)
    return found is not None and not found.path


_COMMON: Final[_Rules] = (
    Rule("Proa", "the key is P-256", _is_p256),
    Rule("CA/B 7.1", "the serial has 64 random bits or more and fits 20 octets", _serial_is_long),
)

LEAF: Final[_Rules] = (
    *_COMMON,
    Rule("X509-SVID §2", "exactly one URI SAN, a SPIFFE ID", lambda s: _spiffe_id(s) is not None),
    Rule("X509-SVID §4.1", "a leaf's SPIFFE ID has a path", _has_workload_path),
    Rule("X509-SVID §4.1", "a leaf is no CA", lambda s: _is_ca(s, expected=False)),
    Rule("X509-SVID §4.3", "key usage is critical and digitalSignature alone", _has_usages("digital_signature")),
    Rule("X509-SVID §4.4", "extended key usage is serverAuth and clientAuth",
         _has_purposes(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)),
    Rule("RFC 5280 §4.2.1.6", "the SAN is critical where the subject is empty", _names_are_critical),
    Rule("Proa", "at most one DNS SAN, the workload's", lambda s: len(s.dns) <= 1),
)  # fmt: skip

ROOT: Final[_Rules] = (
    *_COMMON,
    Rule("X509-SVID §4.1", "a signing certificate is a CA", lambda s: _is_ca(s, expected=True)),
    Rule("X509-SVID §3.2", "a signer's SPIFFE ID has no path", _has_no_path),
    Rule("X509-SVID §4.3", "key usage is critical, keyCertSign and cRLSign alone",
         _has_usages("key_cert_sign", "crl_sign")),
    Rule("RFC 5280 §4.1.2.6", "a CA has a subject", lambda s: bool(s.certificate.subject.rdns)),
)  # fmt: skip

CHANNEL_ROOT: Final[_Rules] = (
    *_COMMON,
    Rule("RFC 5280 §4.2.1.9", "a root is a CA", lambda s: _is_ca(s, expected=True)),
    Rule("RFC 5280 §4.2.1.3", "key usage is critical, keyCertSign and cRLSign alone",
         _has_usages("key_cert_sign", "crl_sign")),
    Rule("Proa", "the channel's root is nobody's identity", lambda s: not s.uris),
)  # fmt: skip

CHANNEL_SERVER: Final[_Rules] = (
    *_COMMON,
    Rule("RFC 5280 §4.2.1.9", "a server certificate is no CA", lambda s: _is_ca(s, expected=False)),
    Rule("RFC 5280 §4.2.1.3", "key usage is critical and digitalSignature alone", _has_usages("digital_signature")),
    Rule("RFC 5280 §4.2.1.12", "extended key usage is serverAuth alone",
         _has_purposes(ExtendedKeyUsageOID.SERVER_AUTH)),
    Rule("RFC 6125 §6.4", "the server's name is a DNS SAN", lambda s: bool(s.dns)),
    Rule("Proa", "the server's certificate is nobody's SPIFFE identity", lambda s: not s.uris),
)  # fmt: skip
