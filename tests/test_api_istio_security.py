"""PeerAuthentication: modes, selectors and single ports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.objects import Raw, peer_authentication
from tests.fakes.taken import taken
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.fields import ConfigError


def policy(**spec: Any) -> PeerAuthentication:
    """Read a policy that must be taken."""
    return taken(peer_authentication(**spec), PeerAuthentication)


@pytest.mark.parametrize(
    ("mtls", "mode"),
    [
        ({"mode": "STRICT"}, MtlsMode.STRICT),
        ({"mode": "PERMISSIVE"}, MtlsMode.PERMISSIVE),
        ({"mode": "DISABLE"}, MtlsMode.DISABLE),
        ({"mode": "UNSET"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_mode(mtls: Raw | None, mode: MtlsMode | None) -> None:
    """UNSET and absent inherit."""
    assert policy(mtls=mtls).mode is mode


def test_ports_of_a_workload() -> None:
    """Sorted by number, each with a mode of its own or none."""
    found = policy(
        selector={"matchLabels": {"app": "orders"}},
        portLevelMtls={"9090": {"mode": "DISABLE"}, "80": {"mode": "STRICT"}, "443": {}},
    )

    assert found.selector == (("app", "orders"),)
    assert found.ports == ((80, MtlsMode.STRICT), (443, None), (9090, MtlsMode.DISABLE))


SELECTED: Raw = {"selector": {"matchLabels": {"app": "orders"}}}


REFUSED: list[tuple[Raw, str]] = [
    ({"mtls": {"mode": "strict"}}, "spec.mtls.mode: must be one of UNSET, DISABLE, PERMISSIVE, STRICT, got"),
    ({"mtls": {"mod": "STRICT"}}, "spec.mtls.mod: unknown field; did you mean mode?"),
    ({"selector": {"labels": {}}}, "spec.selector.labels: unknown field; known: matchLabels"),
    ({"slector": {}}, "spec.slector: unknown field; did you mean selector?"),
    ({"portLevelMtls": {"80": {}}}, "spec.portLevelMtls: needs a selector with matchLabels"),
    (
        SELECTED | {"portLevelMtls": {"0": {}}},
        "spec.portLevelMtls.0: must be a port of the workload, 1..65535",
    ),
    (SELECTED | {"portLevelMtls": {"65536": {}}}, "spec.portLevelMtls.65536: must be a port of the workload"),
    (SELECTED | {"portLevelMtls": {"http": {}}}, "spec.portLevelMtls.http: must be a port of the workload"),
    (SELECTED | {"portLevelMtls": {"80": {"mode": 1}}}, "spec.portLevelMtls.80.mode: must be a string"),
]


@pytest.mark.parametrize(("spec", "error"), REFUSED)
def test_a_policy_is_refused_by_field(spec: Raw, error: str) -> None:
    """A policy that means less than it says would be a hole, so nothing unknown is passed over."""
    with pytest.raises(ConfigError) as caught:
        policy(**spec)

    assert str(caught.value).startswith(error)
