"""Sampled requests by kind, as `proa top --requests` shows them."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from tests.fakes.fleet import LOOPBACK, answering, facts
from xds.__main__ import main
from xds.admin import listening
from xds.traffic.calls import Calls, calls
from xds.traffic.sightings import Sighting, Sightings

ONE = Sighting(
    node="web-1.shop",
    reporter="source",
    source="web.shop",
    destination="orders.shop",
    service="orders.shop.svc.cluster.local",
    route="VirtualService/shop/orders/canary",
    method="GET",
    request_id="r",
    trace_id="",
    parent="",
    arrived=False,
    code=200,
    flags="",
    attempts=1,
    started="",
    duration_ms=5,
)


def seen(**changes: object) -> Sighting:
    """Return the sighting with other values."""
    return dataclasses.replace(ONE, **changes)


def test_requests_of_one_kind_are_one_row() -> None:
    """With the fastest, the slowest and the newest, and the share of those that did not fail."""
    found = calls(
        [seen(), seen(duration_ms=9, code=503), seen(duration_ms=7), seen(method="PUT", duration_ms=1)]
    )

    assert found == [
        Calls("web.shop", "orders.shop", "GET", ONE.route, 3, 5, 9, 7, 2 / 3),
        Calls("web.shop", "orders.shop", "PUT", ONE.route, 1, 1, 1, 1, 1),
    ]


def test_a_request_that_both_ends_saw_counts_once() -> None:
    """The caller's sidecar knows the rule; the called one is heard where the caller has none."""
    both = [seen(), seen(reporter="destination", route="inbound|8080")]
    alone = seen(reporter="destination", source="", route="inbound|8080")

    assert [(one.source, one.route, one.count) for one in calls([*both, alone])] == [
        ("", "inbound|8080", 1),
        ("web.shop", ONE.route, 1),
    ]


@pytest.mark.parametrize(
    ("code", "flags", "success"), [(404, "", 1), (500, "", 0), (0, "UF,URX", 0), (0, "DC", 1)]
)
def test_what_is_a_failure(code: int, flags: str, success: float) -> None:
    """As in the metrics: a 5xx, or no answer unless the caller hung up."""
    assert calls([seen(code=code, flags=flags)])[0].success == success


def test_a_request_that_never_arrived_goes_to_its_service() -> None:
    """Nobody knows which workload would have taken it."""
    assert calls([seen(destination="", code=503)])[0].destination == ONE.service


@pytest.mark.parametrize(("sampling", "words"), [(100.0, ""), (0.0, "evidence is off")])
async def test_people_see_the_columns(sampling: float, words: str) -> None:
    """One look in a pipe; what switches the sampling on is told where it is off."""
    now = datetime.now(UTC).isoformat()
    found = (seen(started=now), seen(started="2020-01-01T00:00:00Z", method="PUT"))
    kept = Sightings(found if sampling else (), 0, sampling)
    async with listening(dataclasses.replace(facts(), evidence=answering(kept)), LOOPBACK) as bound:
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ("top", "--requests", "--admin", str(bound))
        )

    assert result.exit_code == 0
    assert words in result.stdout
    if sampling:
        head, row = (line.split() for line in result.stdout.splitlines())
        assert head == [
            "SOURCE",
            "DESTINATION",
            "METHOD",
            "ROUTE",
            "COUNT",
            "BEST",
            "WORST",
            "LAST",
            "SUCCESS",
        ]
        assert row == ["web.shop", "orders.shop", "GET", ONE.route, "1", "5ms", "5ms", "5ms", "100.00%"]
