"""Our own metrics: answers by type, time to live, and the server's events."""

from __future__ import annotations

from xds.ledger import Ledger, Push, Response, State
from xds.metrics import Metrics
from xds.snapshot import ResourceType


def answer(push: Push, at: float, error: str = "") -> Response:
    """Return a response that one proxy has answered, settled on its push as a stream does it."""
    response = Response(ResourceType.ROUTES.url, "1", {}, [push], at=push.at, size_bytes=10)
    response.state = State.NACKED if error else State.ACKED
    push.settle("web-0.shop", at, error)
    return response


def lines(metrics: Metrics) -> list[str]:
    """Return the exposition text, line by line."""
    return metrics.render().decode().splitlines()


def test_answers_are_counted_by_type_and_word() -> None:
    """An ACK and a NACK of routes are two series."""
    metrics, ledger = Metrics(), Ledger()
    for error in ("", "", "Only unique values for domains"):
        push = ledger.begin(10.0, [])
        push.waiting = 1
        metrics.answered(answer(push, 10.1, error))

    assert 'proa_pushes_total{answer="ack",type="RouteConfiguration"} 2.0' in lines(metrics)
    assert 'proa_pushes_total{answer="nack",type="RouteConfiguration"} 1.0' in lines(metrics)


def test_a_push_is_timed_by_its_last_answer() -> None:
    """Two proxies, one push, one observation: 0.25 s."""
    metrics, push = Metrics(), Ledger().begin(10.0, [])
    push.waiting = 2
    metrics.answered(answer(push, 10.1))
    metrics.answered(answer(push, 10.25))

    assert "proa_push_live_seconds_count 1.0" in lines(metrics)
    assert "proa_push_live_seconds_sum 0.25" in lines(metrics)


def test_the_servers_events_are_read_at_the_scrape() -> None:
    """A counter that grew between two scrapes shows its new value."""
    events = {"refused": 1}
    metrics = Metrics(lambda: events)
    metrics.render()
    events["refused"] = 3

    assert 'proa_server_events_total{event="refused"} 3.0' in lines(metrics)
