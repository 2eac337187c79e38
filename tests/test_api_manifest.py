"""The dispatch: which kinds are read, which are passed over, and how strictly."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.objects import Raw, peer_authentication, raw
from xds.api.core import Key
from xds.api.istio_traffic import DestinationRule, VirtualService
from xds.api.manifest import Ignored, Parsed, key_of, read
from xds.fields import ConfigError


def virtual_service(api: str = "networking.istio.io/v1", **top: Any) -> Raw:
    """Return a valid VirtualService."""
    spec: Raw = {"hosts": ["orders"], "http": [{"route": [{"destination": {"host": "orders"}}]}]}
    top.setdefault("spec", spec)
    return raw("VirtualService", "orders", api=api, **top)


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_istio_traffic_versions_are_one(version: str) -> None:
    """The three versions have the same fields."""
    found = read(virtual_service(f"networking.istio.io/{version}"))

    assert isinstance(found, Parsed)
    assert isinstance(found.object, VirtualService)
    assert found.key == Key("VirtualService", "shop", "orders")


def test_destination_rules_are_read() -> None:
    """By the same dispatch."""
    found = read(raw("DestinationRule", "a", api="networking.istio.io/v1", spec={"host": "orders"}))

    assert isinstance(found, Parsed)
    assert isinstance(found.object, DestinationRule)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], "must be an object, got a list"),
        (None, "must be an object, got null"),
        ({}, "apiVersion: is required"),
        ({"apiVersion": "v1"}, "kind: is required"),
        ({"apiVersion": "v1", "kind": 3}, "kind: must be a string, got a number 3"),
        ({"apiVersion": "v1", "kind": "Pod"}, "metadata: is required"),
        (virtual_service("networking.istio.io/v2"), "apiVersion: must be one of networking.istio.io/v1,"),
        (raw("Pod", "a", api="v2", spec={}), 'apiVersion: must be one of v1, got "v2"'),
        ({**virtual_service(), "sepc": {}}, "sepc: unknown field; did you mean spec?"),
        (virtual_service(spec={"hosts": ["a"], "htpp": []}), "spec.htpp: unknown field; did you mean http?"),
        (virtual_service(spec=[]), "spec: must be an object, got a list"),
    ],
)
def test_what_is_refused_names_its_field(value: object, error: str) -> None:
    """Istio's kinds are read strictly, a misspelt field is an error."""
    with pytest.raises(ConfigError) as caught:
        read(value)

    assert str(caught.value).startswith(error)


def test_status_is_not_read() -> None:
    """It is the cluster's word, not the user's."""
    assert isinstance(read(virtual_service(status={"conditions": "anything"})), Parsed)


@pytest.mark.parametrize(
    ("value", "subject", "reason"),
    [
        (raw("Deployment", "a", api="apps/v1"), "Deployment shop/a", "write the Pods themselves"),
        (
            raw("Service", "a", api="serving.knative.dev/v1"),
            "Service shop/a",
            "serving.knative.dev/v1 Service",
        ),
        (
            raw("ConfigMap", "a", data={}),
            "ConfigMap shop/a",
            "only the mesh settings in ConfigMap proa-system/proa",
        ),
        ({"apiVersion": "x\x1b", "kind": "y\x1b[31m"}, "y\\x1b[31m", "does not read"),
    ],
)
def test_other_kinds_are_passed_over_with_a_reason(value: object, subject: str, reason: str) -> None:
    """A directory may hold whatever a cluster holds; nothing of it reaches a terminal unescaped."""
    found = read(value)

    assert isinstance(found, Ignored)
    assert found.subject == subject
    assert reason in found.reason


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (peer_authentication(mtls="broken"), Key("PeerAuthentication", "shop", "default")),
        (raw("Namespace", "a", metadata={"labels": 1}), Key("Namespace", "", "a")),
        (raw("Pod", "a", namespace=None), Key("Pod", "default", "a")),
        (raw("Pod", "A"), None),
        (raw("Pod", "a", namespace="A"), None),
        (raw("Deployment", "a"), None),
        ({"kind": "Pod"}, None),
        ({"kind": ["Pod"], "metadata": {"name": "a"}}, None),
        ([], None),
    ],
)
def test_a_broken_object_is_known_by_its_key(value: object, key: Key | None) -> None:
    """So that its last good version can stay in force; what has no usable name has no key."""
    assert key_of(value) == key


@pytest.mark.parametrize(
    ("version", "kind", "meant"),
    [("networking.istio.io/v1", "VirtualServices", "VirtualService"), ("v1", "Servce", "Service")],
)
def test_nearly_a_kind_of_ours_is_an_error(version: str, kind: str, meant: str) -> None:
    """A misspelt kind would lose its rule in silence, so it is refused with the kind that was meant."""
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        read({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}})


def test_other_kinds_of_a_group_are_passed_over() -> None:
    """A Gateway or a Secret is somebody else's."""
    for version, kind in (("networking.istio.io/v1", "Gateway"), ("v1", "Secret"), ("v1", "Event")):
        assert isinstance(read({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}}), Ignored)
