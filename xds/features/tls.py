"""How a client opens TLS to a host, as a DestinationRule says it.

It owns Istio's ClientTLSSettings; it must never build a TLS context, because what ISTIO_MUTUAL
trusts depends on who answers, which the compiler knows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xds.fields import Reader

SUPPORT: Final = (
    (
        "trafficPolicy.tls.mode",
        "transport_socket",
        "DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL; absent: automatic mutual TLS",
    ),
    ("trafficPolicy.tls.sni", "UpstreamTlsContext.sni", ""),
    ("trafficPolicy.tls.subjectAltNames", "match_typed_subject_alt_names", ""),
    ("trafficPolicy.tls.caCertificates", "trusted_ca", "a file in the proxy; system and default: its roots"),
    (
        "trafficPolicy.tls.clientCertificate, privateKey",
        "tls_certificates",
        "files in the proxy; MUTUAL only",
    ),
    ("trafficPolicy.tls.insecureSkipVerify", "validation_context", "SIMPLE and MUTUAL only"),
    ("trafficPolicy.tls.credentialName, caCrl", "", "refused: not supported yet"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""


SYSTEM: Final = "system"
"""The word that stands for the roots of the proxy's own system, which are also the default (Istio's)."""


class Mode(enum.Enum):
    """Istio's TLS modes of a client."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


@dataclass(frozen=True, slots=True)
class ClientTlsSettings:
    """The mode and what goes with it; files are paths in the proxy, empty where not given."""

    mode: Mode
    sni: str = ""
    sans: tuple[str, ...] = ()
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False


def read(parent: Reader) -> ClientTlsSettings | None:
    """Return the TLS settings of a traffic policy, None where there are none."""
    reader = parent.object("tls")
    if reader is None:
        return None
    reader.refuse("credentialName", "the proxy would have no certificate to show or to trust")
    reader.refuse("caCrl", "revoked certificates would be trusted")
    settings = ClientTlsSettings(
        mode=reader.choice("mode", Mode, Mode.DISABLE),
        sni=reader.text("sni", ""),
        sans=reader.texts("subjectAltNames"),
        ca_file="" if reader.raw("caCertificates") == SYSTEM else reader.text("caCertificates", ""),
        certificate_file=reader.text("clientCertificate", ""),
        key_file=reader.text("privateKey", ""),
        insecure_skip_verify=reader.boolean("insecureSkipVerify"),
    )
    reader.done()
    _check(reader, settings)
    return settings


def _check(reader: Reader, settings: ClientTlsSettings) -> None:
    """Refuse what Istio refuses: files that are missing, and files that the mode brings itself."""
    if settings.mode is Mode.MUTUAL:
        for name in ("clientCertificate", "privateKey"):
            if not reader.raw(name):
                raise reader.fail(name, "is required by mode MUTUAL")
    elif reader.raw("clientCertificate") or reader.raw("privateKey"):
        raise reader.fail(
            "clientCertificate", f"and privateKey belong to mode MUTUAL, not to {settings.mode.value}"
        )
    if settings.mode in (Mode.DISABLE, Mode.ISTIO_MUTUAL):
        for name in ("caCertificates", "insecureSkipVerify"):
            if reader.raw(name):
                raise reader.fail(name, f"has no place in mode {settings.mode.value}")
    if any(not san for san in settings.sans):
        raise reader.fail("subjectAltNames", "must not hold an empty name")
