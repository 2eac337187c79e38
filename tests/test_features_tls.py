"""TLS from a sidecar to one cluster, as a DestinationRule asks for it."""

from __future__ import annotations

import pytest

from tests.fakes.reading import reader, refusal
from xds.features import tls
from xds.features.tls import ClientTlsSettings, Mode


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("{mode: DISABLE}", ClientTlsSettings(Mode.DISABLE)),
        ("{mode: ISTIO_MUTUAL, sni: a}", ClientTlsSettings(Mode.ISTIO_MUTUAL, sni="a")),
        (
            "{mode: SIMPLE, caCertificates: /ca, subjectAltNames: [a]}",
            ClientTlsSettings(Mode.SIMPLE, sans=("a",), ca_file="/ca"),
        ),
        (
            "{mode: SIMPLE, insecureSkipVerify: true}",
            ClientTlsSettings(Mode.SIMPLE, insecure_skip_verify=True),
        ),
        (
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k}",
            ClientTlsSettings(Mode.MUTUAL, certificate_file="/c", key_file="/k"),
        ),
        ("{}", ClientTlsSettings(Mode.DISABLE)),
    ],
)
def test_tls(text: str, settings: ClientTlsSettings) -> None:
    """Modes and what belongs to each; an empty message is DISABLE, protobuf's first value, as in Istio."""
    assert tls.read(reader(f"tls: {text}")) == settings


def test_no_tls_settings() -> None:
    """An absent field is automatic mutual TLS, which is not a setting."""
    assert tls.read(reader("{}")) is None


def test_system_stands_for_the_roots_of_the_system() -> None:
    """It is a word and no file, and means what absence means."""
    assert tls.read(reader("tls: {mode: SIMPLE, caCertificates: system}")) == ClientTlsSettings(Mode.SIMPLE)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{mode: mutual}", "x.tls.mode: must be one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
        ("{mode: MUTUAL, clientCertificate: /c}", "x.tls.privateKey: is required by mode MUTUAL"),
        ("{mode: SIMPLE, privateKey: /k}", "x.tls.clientCertificate: and privateKey belong to mode MUTUAL"),
        (
            "{mode: ISTIO_MUTUAL, caCertificates: /ca}",
            "x.tls.caCertificates: has no place in mode ISTIO_MUTUAL",
        ),
        (
            "{mode: ISTIO_MUTUAL, insecureSkipVerify: true}",
            "x.tls.insecureSkipVerify: has no place in mode ISTIO_MUTUAL",
        ),
        ("{mode: SIMPLE, credentialName: a}", "x.tls.credentialName: is not supported yet"),
        ("{mode: SIMPLE, caCrl: /crl}", "x.tls.caCrl: is not supported yet"),
        ("{mode: SIMPLE, subjectAltNames: ['']}", "x.tls.subjectAltNames: must not hold an empty name"),
    ],
)
def test_refused_tls(text: str, start: str) -> None:
    """Settings that would trust, or show, something else than the user thinks are refused."""
    assert refusal(tls.read, f"tls: {text}").startswith(start)
