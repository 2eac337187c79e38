"""The reference evaluator and compiled filters say the same of random requests under random policies."""

from __future__ import annotations

from pathlib import Path

import netns
import pytest

from tests.access_reference import Verdict
from tests.envoy import access_campaign

NEEDS = netns.NEEDS

PAIRS, SEED = 20_000, 20_240_229
WAYS = ("HTTP/1", "HTTP/2", "TCP", "IPv4", "IPv6", "addressed", "redirected")


@pytest.mark.timeout(900)  # 110 s of processor time on two cores
def test_no_pair_is_judged_differently(tmp_path: Path) -> None:
    """Of 20,000 pairs none; and the pairs are worth comparing: a third or so is let in, a third or so is not."""
    report = access_campaign.run(PAIRS, SEED, tmp_path)

    assert [str(access_campaign.shrunk(found, tmp_path / "shrink")) for found in report.differences[:1]] == []
    assert report.pairs >= PAIRS
    assert report.share(Verdict.ALLOW) >= 0.3
    assert report.share(Verdict.DENY, Verdict.UNAUTHENTICATED) >= 0.3
    assert {way: count >= PAIRS // 50 for way, count in report.ways.items()} == dict.fromkeys(WAYS, True)
