"""Mesh settings: one ConfigMap with the names of Istio's MeshConfig."""

from __future__ import annotations

import pytest

from tests.fakes.objects import raw
from xds.api.manifest import Ignored, Parsed, read
from xds.api.mesh import MeshSettings, OutboundPolicy, PathNormalization
from xds.api.mesh_telemetry import MeshTelemetry
from xds.fields import ConfigError, Severity


def parsed(mesh: object, *, namespace: str = "proa-system") -> Parsed:
    """Read settings that must be taken."""
    found = read(raw("ConfigMap", "proa", namespace=namespace, data={"mesh": mesh}))
    assert isinstance(found, Parsed)
    return found


def settings(mesh: object) -> MeshSettings:
    """Read settings that must be taken."""
    found = parsed(mesh).object
    assert isinstance(found, MeshSettings)
    return found


def test_settings_are_read() -> None:
    """From YAML within the ConfigMap."""
    found = settings(
        "trustDomain: example.org\n"
        "rootNamespace: istio-system\n"
        "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
        "accessLogFile: /dev/stdout\n"
        "enableTracing: true\n"
    )

    assert found == MeshSettings(
        trust_domain="example.org",
        root_namespace="istio-system",
        outbound=OutboundPolicy.REGISTRY_ONLY,
        telemetry=MeshTelemetry(log_file="/dev/stdout", is_tracing=True),
    )


@pytest.mark.parametrize("mesh", ["", "# nothing", "{}"])
def test_an_empty_document_means_the_defaults(mesh: str) -> None:
    """The same as no ConfigMap at all."""
    assert settings(mesh) == MeshSettings()


def test_the_defaults_are_istios() -> None:
    """Except for the root namespace, which is ours."""
    found = MeshSettings()

    assert (found.trust_domain, found.root_namespace) == ("cluster.local", "proa-system")
    assert found.outbound is OutboundPolicy.ALLOW_ANY


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{}", "BASE"),
        ("{normalization: DEFAULT}", "BASE"),
        ("{normalization: NONE}", "NONE"),
        ("{normalization: MERGE_SLASHES}", "MERGE_SLASHES"),
        ("{normalization: DECODE_AND_MERGE_SLASHES}", "DECODE_AND_MERGE_SLASHES"),
    ],
)
def test_path_normalization(written: str, meant: str) -> None:
    """By Istio's names; its default is its own BASE."""
    assert settings(f"pathNormalization: {written}").paths is PathNormalization(meant)


def test_an_unknown_path_normalization_is_refused() -> None:
    """A misspelt one would leave holes that its author thinks closed."""
    with pytest.raises(ConfigError, match="normalization"):
        read(
            raw(
                "ConfigMap",
                "proa",
                namespace="proa-system",
                data={"mesh": "pathNormalization: {normalization: MERGE}"},
            )
        )


def test_unknown_settings_warn() -> None:
    """A mesh configuration of Istio moves over unchanged, and a slip is named."""
    notes = parsed("trustDomian: a\noutboundTrafficPolicy: {mod: x}").notes

    assert {note.severity for note in notes} == {Severity.WARNING}
    assert [f"{note.path}: {note.reason}" for note in notes] == [
        "data.mesh.outboundTrafficPolicy.mod: is not known and was left out; did you mean mode?",
        "data.mesh.trustDomian: is not known and was left out; did you mean trustDomain?",
    ]


@pytest.mark.parametrize(
    ("mesh", "error"),
    [
        ("trustDomain: Example.org", "data.mesh.trustDomain: must be lower-case letters"),
        ("trustDomain: ''", "data.mesh.trustDomain: must be lower-case letters"),
        ("trustDomain: a/b", "data.mesh.trustDomain: must be lower-case letters"),
        ("rootNamespace: a.b", "data.mesh.rootNamespace: must be at most 63"),
        (
            "outboundTrafficPolicy: {mode: ALLOW}",
            "data.mesh.outboundTrafficPolicy.mode: must be one of ALLOW_ANY,",
        ),
        ("enableTracing: 'true'", "data.mesh.enableTracing: must be true or false"),
        ("- a", "data.mesh: must be an object, got a list"),
        ("a: 1\na: 2", 'data.mesh: line 2 of it: key "a" appears twice'),
        ("a: [", "data.mesh: line 2 of it is not YAML"),
        ("a: 1\n---\nb: 1", "data.mesh: must be one YAML document, got several"),
        ({"trustDomain": "a"}, "data.mesh: must be a string, got an object"),
        (None, "data.mesh: is required"),
    ],
)
def test_settings_are_refused_by_field(mesh: object, error: str) -> None:
    """A trust domain becomes part of every certificate."""
    with pytest.raises(ConfigError) as caught:
        parsed(mesh)

    assert str(caught.value).startswith(error)


def test_only_the_home_namespace_is_read() -> None:
    """Whoever may write ConfigMaps elsewhere must not be able to rename the trust domain."""
    found = read(raw("ConfigMap", "proa", namespace="shop", data={"mesh": "trustDomain: evil"}))

    assert isinstance(found, Ignored)


def test_evidence_is_off_until_it_is_asked_for() -> None:
    """Per cent of the requests."""
    assert settings("trustDomain: example.org").evidence == 0
    assert settings("evidence: {sampling: 2.5}").evidence == 2.5


@pytest.mark.parametrize(
    "text", ["{sampling: 101}", "{sampling: -1}", "{sampling: .nan}", "{samples: 1}", "[]"]
)
def test_evidence_that_means_nothing_is_refused(text: str) -> None:
    """With the field's path."""
    with pytest.raises(ConfigError, match="evidence"):
        settings(f"evidence: {text}")
