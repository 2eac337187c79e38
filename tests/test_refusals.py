"""What refused callers are told, and how many lines of log they may cause."""

from __future__ import annotations

import pytest

from xds import settings
from xds.identity import Refusal
from xds.refusals import Refusals, answer


@pytest.mark.parametrize("reason", [Refusal.BUSY, Refusal.REVIEW])
def test_who_cannot_be_judged_now_is_told_to_come_back(reason: Refusal) -> None:
    """An overloaded queue says nothing against the caller."""
    assert answer(reason) == ("UNAVAILABLE", "try again later")


def test_only_a_genuine_token_is_told_of_rights() -> None:
    """Whoever asks with it for another's configuration is denied; everybody else has proven nothing."""
    denied = {reason for reason in Refusal if answer(reason)[0] == "PERMISSION_DENIED"}
    unproven = {reason for reason in Refusal if answer(reason)[0] == "UNAUTHENTICATED"}

    assert denied == {Refusal.SUBJECT, Refusal.NODE, Refusal.POD}
    assert unproven == set(Refusal) - denied - {Refusal.BUSY, Refusal.REVIEW}


def test_a_flood_of_refusals_is_a_few_lines_with_a_count() -> None:
    """The first of the next span tells how many got no line."""
    refusals = Refusals()
    said = [refusals.take(Refusal.EXPIRED, 0.001 * n) for n in range(1000)]
    later = [refusals.take(Refusal.EXPIRED, settings.REFUSALS_SPAN_S) for _ in range(2)]

    assert [one for one in said if one is not None] == [0] * settings.REFUSALS_SAID
    assert later == [1000 - settings.REFUSALS_SAID, 0]


def test_a_flood_of_one_reason_hides_no_other() -> None:
    """Each has its own share."""
    refusals = Refusals()
    for _ in range(100):
        refusals.take(Refusal.NO_TOKEN, 0.0)

    assert refusals.take(Refusal.NODE, 0.0) == 0
