"""What makes a demonstration a success, and what it edits; must never start a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from xds.demo.manifests import read_pods, read_split
from xds.demo.programs import examples
from xds.demo.report import Denial, Measured, ProxyState, Second, after, before, judge, phase

EDIT_AT, LIVE_AT = 1_010.2, 1_010.3


def second(at: float, v1: int, v2: int) -> Second:
    """One second of answers that ended at `at`."""
    counts = {"orders-v1": v1, "orders-v2": v2}
    return Second(
        type="second", at=at, seconds=1.0, sent=v1 + v2, ok=v1 + v2, failed=0, skipped=0, by_orders=counts
    )


@pytest.fixture
def measured() -> Measured:
    """Ten seconds at 90/10, the edit, ten seconds at 50/50; nothing went wrong."""
    seconds = [second(1_001.0 + i, 180, 20) for i in range(10)]
    seconds += [second(1_011.0 + i, 100, 100) for i in range(10)]
    final = replace(second(1_021.0, 2_800, 1_200), type="final")
    return Measured(
        duration_s=20,
        rps=200,
        seconds=tuple(seconds),
        final=final,
        edited_at=EDIT_AT,
        live_at=LIVE_AT,
        desired_before={"orders-v1": 0.9, "orders-v2": 0.1},
        desired_after={"orders-v1": 0.5, "orders-v2": 0.5},
        proxies=(ProxyState("web.shop", "web", acked=True),),
        expected_proxies=frozenset({"web.shop"}),
        tls_hops=12,
        plaintext_hops=0,
        nacks=0,
    )


def test_clean_run_is_ok_and_says_when_the_edit_was_live(measured: Measured) -> None:
    """live_ms runs from the file's rename to the last acknowledgement."""
    report = judge(measured)

    assert report.ok
    assert report.problems == ()
    assert report.live_ms == pytest.approx(100, abs=0.1)
    assert report.split.before.observed == {"orders-v1": 0.9, "orders-v2": 0.1}
    assert report.split.after.observed == {"orders-v1": 0.5, "orders-v2": 0.5}


def test_the_second_around_the_edit_counts_for_neither_phase(measured: Measured) -> None:
    """What was on its way while the weight changed may have followed either rule."""
    assert sum(before(measured.seconds, EDIT_AT).values()) == 9 * 200
    assert sum(after(measured.seconds, LIVE_AT).values()) == 9 * 200


def test_one_failed_request_fails_the_run(measured: Measured) -> None:
    """A single failure is a failure, and its reason is told."""
    report = judge(replace(measured, final=replace(measured.final, failed=1, reasons={"status 503": 1})))

    assert not report.ok
    assert report.problems == ("1 requests failed: 1x status 503",)


@pytest.mark.parametrize(("status", "is_ok"), [(403, True), (200, False), (0, False)])
def test_whoever_was_let_in_against_a_policy_fails_the_run(
    measured: Measured, status: int, *, is_ok: bool
) -> None:
    """No answer proves nothing either."""
    report = judge(replace(measured, denial=Denial("load", "orders", status)))

    assert report.ok is is_ok


def test_split_beyond_three_sigma_is_told_from_chance() -> None:
    """13 % instead of 10 % in 1,800 requests is no chance."""
    assert not phase({"a": 0.9, "b": 0.1}, {"a": 1_566, "b": 234}).within_3_sigma
    assert phase({"a": 0.9, "b": 0.1}, {"a": 1_602, "b": 198}).within_3_sigma


def test_answers_of_an_undesired_workload_are_outside_of_any_sigma() -> None:
    """A workload with desired share 0 must not answer at all."""
    assert not phase({"a": 1.0}, {"a": 1_999, "b": 1}).within_3_sigma


def test_too_few_requests_are_no_proof(measured: Measured) -> None:
    """Below 1,000 requests in a phase the run does not succeed."""
    report = judge(replace(measured, seconds=measured.seconds[6:]))

    assert report.problems == ("only 600 requests before the edit, not 1000: raise --rps or --duration",)


def test_a_run_without_end_may_be_ended_early(measured: Measured) -> None:
    """Ctrl-C before the edit, or before 1,000 requests, is no failure."""
    early = replace(measured, is_endless=True, seconds=measured.seconds[:3], edited_at=None, live_at=None)

    assert judge(early).ok
    assert judge(early).live_ms is None
    assert not judge(replace(early, is_endless=False)).ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plaintext_hops": 1}, "plaintext"),
        ({"tls_hops": 0}, "no connection"),
        ({"nacks": 1}, "rejected"),
        ({"died": ("envoy-web",)}, "envoy-web ended by itself"),
        ({"proxies": ()}, "not connected: web.shop"),
        ({"proxies": (ProxyState("web.shop", "web", acked=False),)}, "not acknowledged: web.shop"),
        ({"live_at": None}, "not acknowledged by every proxy"),
    ],
)
def test_whatever_went_wrong_is_told(measured: Measured, change: dict[str, object], words: str) -> None:
    """Each kind of failure fails the run in its own words."""
    report = judge(replace(measured, **change))

    assert not report.ok
    assert any(words in problem for problem in report.problems)


def test_the_examples_have_five_meshed_workloads_and_one_split() -> None:
    """What the demonstration starts: every pod on its own address, and the canary of orders."""
    mesh = examples() / "mesh"
    pods = {pod.name: pod for pod in read_pods(mesh)}
    split = read_split(mesh)

    assert set(pods) == {"load", "web", "orders-v1", "orders-v2", "payments", "stock"}
    assert len({pod.pod_ip for pod in pods.values()}) == len(pods)
    assert pods["web"].listen == f"{pods['web'].app_address}:8080"
    assert split.name == "VirtualService shop/orders"
    assert split.desired == {"orders-v1": 0.9, "orders-v2": 0.1}


def test_edit_changes_the_weights_and_no_other_byte(tmp_path: Path) -> None:
    """Comments and layout of the file stay as they are."""
    for path in (examples() / "mesh").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    split = read_split(tmp_path)
    old = split.path.read_text("utf-8")

    split.write((5, 95))

    assert split.path.read_text("utf-8") == old.replace("weight: 10", "weight: 95").replace(
        "weight: 90", "weight: 5"
    )
    assert read_split(tmp_path).desired == {"orders-v1": 0.05, "orders-v2": 0.95}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".draft"] == []
