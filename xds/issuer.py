"""A user's own CA as workload issuer, from a Secret of cert-manager's shape: `tls.crt`, `tls.key`, `ca.crt`.

Owns what such a Secret must hold; it must never repair one, and never let a leaf be signed that a peer would refuse.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from xds import settings, svid
from xds.ca import Authority, SignerKey
from xds.fields import ConfigError
from xds.identity import SpiffeId
from xds.keys import SecretBytes

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
ROOTS: Final = "ca.crt"
_MIN_RSA_BITS: Final = 2048  # CA/Browser Forum 6.1.5
_T = TypeVar("_T")


def read_issuer(files: Mapping[str, SecretBytes], *, trust_domain: str, now: float) -> Authority:
    """The signer that a Secret holds; raises ConfigError that names the field and what would be right.

    `tls.crt` is the signer, then what stands between it and its root; `ca.crt` the roots that peers shall trust
    (a signer that is its own root needs none). `now`: seconds since the epoch.
    """
    chain = _certificates(files, CERTIFICATE)
    signer, key = chain[0], _key(files)
    if signer.public_key() != key.public_key():
        raise ConfigError(f"data[{KEY}]", f"is not the key of the first certificate in {CERTIFICATE}")
    roots = _certificates(files, ROOTS) if ROOTS in files else ()
    if not roots and _issued(signer, signer):
        roots = (signer,)
    if not roots:
        raise ConfigError(f"data[{ROOTS}]", "is required: the root certificates that peers shall trust")
    path = _path(chain, roots)
    for depth, link in enumerate(path):
        _check_ca(link, depth, now)
    _check_spiffe_id(signer, trust_domain)
    sent = tuple(link for link in path if not _issued(link, link))
    return Authority(signer, key, sent, roots)


def _path(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the certificates from the signer to a root; each is issued by the next."""
    path, rest = [chain[0]], list(chain[1:])
    while path[-1] not in roots:
        root = next((one for one in roots if _issued(path[-1], one)), None)
        if root is not None:
            return [*path, root]
        above = next((one for one in rest if _issued(path[-1], one)), None)
        if above is None:
            name = path[-1].subject.rfc4514_string()
            raise ConfigError(f"data[{CERTIFICATE}]", f"nothing here or in {ROOTS} has issued {name}")
        rest.remove(above)
        path.append(above)
    return path


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_ca(certificate: x509.Certificate, depth: int, now: float) -> None:
    """Raise unless this certificate may stand `depth` authorities above the leaf's own."""
    at, name = f"data[{CERTIFICATE if depth == 0 else ROOTS}]", certificate.subject.rfc4514_string()
    basic = _extension(certificate, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise ConfigError(at, f"{name} is no CA: issue it with isCA: true")
    if basic.path_length is not None and basic.path_length < depth:
        raise ConfigError(
            at, f"{name} allows {basic.path_length} authorities below it, and there are {depth}"
        )
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise ConfigError(at, f"{name} may not sign certificates: add the usage `cert sign`")
    if _extension(certificate, x509.NameConstraints) is not None:
        raise ConfigError(
            at, f"{name} has name constraints, which are not supported: peers might refuse its leaves"
        )
    if not certificate.subject.rdns:
        raise ConfigError(at, "a CA needs a subject: set commonName")
    before, after = (moment.timestamp() for moment in _validity(certificate))
    if not before <= now + settings.CLOCK_SKEW_S or now >= after:
        raise ConfigError(at, f"{name} is not valid now: it lasts from {_validity(certificate)[0]:%Y-%m-%d} "
                              f"to {_validity(certificate)[1]:%Y-%m-%d}")  # fmt: skip


def _validity(certificate: x509.Certificate) -> tuple[dt.datetime, dt.datetime]:
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _check_spiffe_id(signer: x509.Certificate, trust_domain: str) -> None:
    """X509-SVID §3.2: a signer may have a SPIFFE ID, then the trust domain's own, without a path."""
    names = _extension(signer, x509.SubjectAlternativeName)
    if names is None or not names.get_values_for_type(x509.UniformResourceIdentifier):
        return
    try:
        found = svid.spiffe_id(signer)
    except svid.InvalidCertificate as error:
        raise ConfigError(f"data[{CERTIFICATE}]", str(error)) from None
    if found != SpiffeId(trust_domain):
        raise ConfigError(f"data[{CERTIFICATE}]", f"is the CA of {found}, not of spiffe://{trust_domain}")


_ExtensionType = TypeVar("_ExtensionType", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[_ExtensionType]) -> _ExtensionType | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension):
        raise ConfigError(f"data[{CERTIFICATE}]", "has extensions that cannot be read") from None


def _certificates(files: Mapping[str, SecretBytes], name: str) -> tuple[x509.Certificate, ...]:
    found = _parsed(files, name, lambda pem: tuple(x509.load_pem_x509_certificates(pem)))
    if len(found) > settings.ISSUER_CERTIFICATES_MAX:
        raise ConfigError(
            f"data[{name}]", f"must hold at most {settings.ISSUER_CERTIFICATES_MAX} certificates"
        )
    return found


def _key(files: Mapping[str, SecretBytes]) -> SignerKey:
    key = _parsed(files, KEY, lambda pem: serialization.load_pem_private_key(pem, None))
    match key:
        case ec.EllipticCurvePrivateKey():
            return key
        case rsa.RSAPrivateKey() if key.key_size >= _MIN_RSA_BITS:
            return key
        case _:
            raise ConfigError(
                f"data[{KEY}]", f"must be an elliptic-curve key, or RSA of {_MIN_RSA_BITS} bits or more"
            )


def _parsed(files: Mapping[str, SecretBytes], name: str, parse: Callable[[bytes], _T]) -> _T:
    octets = files.get(name)
    if octets is None:
        raise ConfigError(
            f"data[{name}]", "is required: a Secret of type kubernetes.io/tls, as cert-manager writes it"
        )
    try:
        return parse(octets.reveal())
    except (ValueError, TypeError):
        raise ConfigError(f"data[{name}]", "must be PEM, and a key unencrypted") from None
