"""Policies that are replaced, added, deleted, moved and spoilt under traffic leave no gap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.envoy import access_changes

ROUNDS, LEAST, SEED, LIMIT_S = 40, 8, 20_240_229, 20


@pytest.mark.timeout(300)
def test_every_request_is_answered_by_the_old_or_the_new_policies(tmp_path: Path) -> None:
    """Over open and new connections and as bytes; what is asked after the acknowledgement, by the new ones alone."""
    report = access_changes.run(ROUNDS, SEED, tmp_path, limit_s=LIMIT_S, least=LEAST)

    assert report.wrong[:1] == []
    assert report.rounds >= LEAST
    assert set(report.answers) == {"open", "new", "bytes"}
    assert report.between > report.rounds
    assert report.turned > report.rounds
