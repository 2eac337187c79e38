"""What the gauges of a control plane say, read from its own facts."""

from __future__ import annotations

import pytest

from xds.gauges import EXPLANATIONS, Reading, of_kinds, of_ledger, of_trust
from xds.ledger import Ledger
from xds.metrics import Metrics
from xds.rotation import Phase
from xds.sources.informer import Status as Following
from xds.trust import RootStatus, RotationStatus, Status


def values(readings: list[Reading]) -> dict[str, float]:
    """Return readings by name, with their last label's value."""
    return {" ".join((each.name, *(text for _, text in each.labels))): each.value for each in readings}


def test_a_push_that_is_owed_answers_is_open() -> None:
    """Two proxies owe one, nobody owes the other."""
    ledger = Ledger()
    ledger.begin(1.0, [])
    ledger.begin(2.0, []).waiting = 2

    assert values(list(of_ledger(ledger))) == {"proa_answers_awaited": 2, "proa_pushes_open": 1}


def test_an_authority_ends_with_its_newest_root() -> None:
    """While a rotation goes on there are two."""
    roots = (RootStatus("a", 100, signs=True), RootStatus("b", 200, signs=False))
    turning = RotationStatus(Phase.PREPARED, 0.0, roots, "")
    steady = RotationStatus(Phase.STEADY, 0.0, roots[:1], "")
    found = values(list(of_trust(Status(turning, steady, 7))))

    assert found["proa_ca_expiry_timestamp_seconds workload"] == 200
    assert found["proa_ca_expiry_timestamp_seconds channel"] == 100
    assert found["proa_ca_rotation_phase workload prepared"] == 1
    assert found["proa_leaves"] == 7


def test_a_kind_that_was_never_heard_of_has_no_silence() -> None:
    """It is not synced, which says more."""
    quiet = Following("Pod", is_synced=False, lists=1, watches=0, failures=1, failure="403", heard_at=0.0)
    heard = Following("Service", is_synced=True, lists=1, watches=2, failures=0, failure="", heard_at=90.0)
    found = values(list(of_kinds((quiet, heard), now_s=100.0)))

    assert "proa_kind_silence_seconds Pod" not in found
    assert (found["proa_kind_synced Pod"], found["proa_kind_failing Pod"]) == (0, 1)
    assert found["proa_kind_silence_seconds Service"] == 10
    assert found["proa_kind_requests Service watch"] == 2


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_each_gauge_is_rendered_with_its_words(name: str) -> None:
    """HELP, TYPE and the value."""
    lines = Metrics(readings=lambda: [Reading(name, 3, (("kind", 'a"b\n'),))]).render().decode().splitlines()

    assert f"# TYPE {name} gauge" in lines
    assert f'{name}{{kind="a\\"b\\n"}} 3.0' in lines


def test_changes_are_counted_by_kind() -> None:
    """What was edited, not how often it was sent."""
    metrics = Metrics()
    metrics.caused("VirtualService")

    assert 'proa_changes_total{kind="VirtualService"} 1.0' in metrics.render().decode().splitlines()


def test_the_process_is_measured_too() -> None:
    """CPU and memory under Prometheus' usual names."""
    text = Metrics().render().decode()

    assert "process_cpu_seconds_total " in text
    assert "process_resident_memory_bytes " in text
