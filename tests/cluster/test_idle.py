"""A mesh in which nothing happens: what a control plane asks and burns is bounded, whatever the apiserver forgot."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.cluster import outside, rights
from tests.cluster.cluster import Cluster
from xds import install, settings
from xds.demo.processes import Family

RECORDED_S: Final = 10.0

OF_A_KIND: Final = 60 / settings.CA_POLL_S + 60 / RECORDED_S
"""Requests of one verb and kind in a minute: the CA's Secret is watched in the shortest turns. At the end of the record
one more may fall into it."""
OF_LEASES: Final = 60 / settings.LEASE_RETRY_S + 60 / settings.REPLICA_RENEW_S + 2 * 60 / RECORDED_S
"""The Lease of the leader, and each replica's own."""


def test_a_control_plane_that_idles_asks_little_and_burns_nothing(own_api: Cluster, tmp_path: Path) -> None:
    """No watch is asked for in a loop, although every version from before is too old; `make bench ARGS=idle`: 6 min."""
    own_api.apply(install.carried())
    own_api.kubectl("-n", "proa-system", "scale", "deployment", "proa", "--replicas=0")
    family = Family(tmp_path / "logs")
    try:
        child, _, _ = outside.serve(own_api, family, rights.as_control_plane(own_api, tmp_path))
        before = outside.written(own_api)
        outside.expire(own_api)
        outside.record(own_api, child, 5.0)  # its return: lists, a renewed Lease
        idle = outside.record(own_api, child, RECORDED_S)
        asked = outside.requests_since(own_api, before)
    finally:
        family.stop()

    allowed = {what: OF_LEASES if what.endswith(" leases") else OF_A_KIND for what in idle.requests}
    assert {what: idle.a_minute(what) for what in allowed if idle.a_minute(what) > allowed[what]} == {}
    assert idle.cpu < 0.05
    assert {"watch pods", "watch secrets"} <= set(asked)
