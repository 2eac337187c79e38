"""When an edit counts as live, how fast the demonstration sends, and what it shows; must never start a process."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
from msgspec.structs import replace
from rich.console import Console

from xds import report as api
from xds.demo.admin import Edge, Traffic
from xds.demo.processes import DemoError, wait_until
from xds.demo.report import GUARD_S, MIN_REQUESTS, Second
from xds.demo.run import View, default_rps, live_at
from xds.demo.screen import Lines, draw, summary_line

CAUSE = "VirtualService shop/orders"
PUSH = api.PushRecord(
    id=7,
    at=100.0,
    live_ms=25.0,
    changes=(),
    causes=("VirtualService shop/orders http[0]",),
    answered=6,
    waiting=0,
    rejections=(),
)


def test_an_edit_is_live_when_its_push_has_its_last_answer() -> None:
    """The time is that of the last acknowledgement, in seconds since the epoch."""
    assert live_at((PUSH,), CAUSE, 99.999) == pytest.approx(100.025)


@pytest.mark.parametrize(
    "push",
    [
        replace(PUSH, live_ms=None, waiting=1),
        replace(PUSH, at=99.0),
        replace(PUSH, causes=("Service shop/orders",)),
    ],
    ids=["one proxy has not answered", "older than the edit", "caused by something else"],
)
def test_an_edit_is_not_live_by_a_push_that_is_not_its_own(push: api.PushRecord) -> None:
    """Waiting proxies, earlier pushes and other causes prove nothing."""
    assert live_at((push,), CAUSE, 100.0) is None


def test_of_two_pushes_the_later_answer_counts() -> None:
    """An edit that went out in two batches is live with the second."""
    second = replace(PUSH, id=8, at=100.1, live_ms=10.0)

    assert live_at((second, PUSH), CAUSE, 100.0) == pytest.approx(100.11)


@pytest.mark.parametrize("duration_s", [10, 30, 600])
def test_the_default_rate_proves_both_phases(duration_s: float) -> None:
    """Without the second around the edit, each phase has more than 1,000 requests."""
    phase_s = duration_s / 2 - 1 - GUARD_S

    assert default_rps(duration_s) * phase_s > MIN_REQUESTS


def test_waiting_ends_with_a_sentence() -> None:
    """A condition that does not come true is named in the error."""
    with pytest.raises(DemoError, match=r"not within 0 s: the moon is full"):
        wait_until("the moon is full", lambda: False, timeout_s=0)


@pytest.fixture
def view() -> View:
    """A moment after the edit."""
    counts: Mapping[str, int] = {"orders-v1": 60, "orders-v2": 40}
    edge = Edge(
        source="load.shop",
        service="web.shop.svc.cluster.local",
        destination="web.shop",
        reporter="destination",
        protocol="http",
        security="mutual_tls",
    )
    traffic = Traffic(
        edge=edge,
        requests=1_234,
        errors=0,
        connections=0,
        requests_per_s=99.5,
        errors_per_s=0.0,
        p50_ms=3.25,
        p90_ms=None,
        p99_ms=None,
    )
    second = Second(
        type="second", at=5.0, seconds=1.0, sent=100, ok=100, failed=0, skipped=0, by_orders=dict(counts)
    )
    proxy = api.Proxy(id="web.shop", workload="shop/web", connected_at=1.0, streams=1, acked=True, types=())
    return View(
        elapsed_s=20,
        duration_s=30,
        seconds=(second,),
        desired={"orders-v1": 0.5, "orders-v2": 0.5},
        observed=counts,
        live_ms=24.2,
        proxies=(proxy,),
        edges=(traffic, replace(traffic, edge=replace(edge, reporter="source"))),
        certificate_ages_s={"web": 21.0},
    )


def test_one_line_says_rate_failures_split_and_liveness(view: View) -> None:
    """What a log needs every five seconds."""
    assert summary_line(view) == (
        "100 requests/s, 0 failed, split orders-v1 60.0% (50%) orders-v2 40.0% (50%), 1/1 proxies acked, "
        "edit live in 24 ms"
    )


def test_lines_come_every_five_seconds(view: View) -> None:
    """Twice a second is for panels."""
    out = io.StringIO()
    lines = Lines(Console(file=out))

    lines.show(view)
    lines.show(view)

    assert out.getvalue().count("requests/s") == 1


def test_the_panel_shows_each_edge_once(view: View) -> None:
    """Both ends report an edge; the destination knows whether it was encrypted."""
    out = io.StringIO()

    Console(file=out, width=80).print(draw(view))

    shown = out.getvalue()
    assert shown.count("1234") == 1
    assert "mTLS" in shown
    assert "certificates 21 to 21 s old" in " ".join(shown.split())
