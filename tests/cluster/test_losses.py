"""Disturbances of a meshed service under load: no request is lost, counted by the client, without retries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import losses
from tests.cluster.cluster import Cluster
from xds.demo.report import Second

RPS = 50
"""On two cores that also run a whole Kubernetes; `make bench ARGS=losses` sends 200."""


FOLLOWED_S = 20.0
"""From the apiserver's return to the last proxy's ACK: 5 s on an idle machine (`make bench ARGS=outage`)."""


@pytest.fixture(scope="module")
def namespace(mesh: Cluster) -> Iterator[str]:
    """Yield a meshed Namespace with three Pods of one service."""
    with losses.meshed_echo(mesh) as name:
        yield name


def lost(final: Second) -> object:
    """Return what a failed assertion should show: nothing, or the first failures in their own words."""
    return final.first_errors or final.reasons or final.skipped or None


def test_a_rolling_update_loses_nothing(mesh: Cluster, namespace: str) -> None:
    """Endpoints leave before their Pods do, and arrive when these are Ready."""
    assert lost(losses.rolling_update(mesh, namespace, rps=RPS, seconds=1)) is None


def test_a_killed_control_plane_loses_nothing(mesh: Cluster, namespace: str) -> None:
    """Sidecars keep what they have, and the next one tells them nothing less."""
    assert lost(losses.control_plane_restart(mesh, namespace, rps=RPS, seconds=1)) is None


def test_an_absent_apiserver_loses_nothing(mesh: Cluster, namespace: str) -> None:
    """Absence of information removes no endpoint; proxies whose control plane dies meanwhile find another one.

    When the apiserver is back, so are changes.
    """
    outage = losses.apiserver_down(mesh, namespace, rps=RPS, seconds=20)

    assert lost(outage.final) is None
    assert outage.moved > 0
    assert outage.followed_s < FOLLOWED_S


def test_the_first_dial_of_a_fresh_pod_succeeds(mesh: Cluster, namespace: str) -> None:
    """A program may call before it does anything else; and a Job with a sidecar completes."""
    finals = losses.first_dials(mesh, namespace, 10)

    assert [lost(final) for final in finals] == [None] * 10
    assert all(final.ok for final in finals)
