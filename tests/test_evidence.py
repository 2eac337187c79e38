"""Facts about sampled requests: what is kept, what is read, and whose word counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.pb.opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from xds.traffic import evidence
from xds.traffic.evidence import Evidence


def export(*records: dict[str, str]) -> bytes:
    """A serialised push of records."""
    request = logs_service_pb2.ExportLogsServiceRequest()
    logs = request.resource_logs.add().instrumentation_library_logs.add().logs
    for record in records:
        attributes = logs.add().attributes
        for key, text in record.items():
            attributes.add(key=key, value={"string_value": text})
    return request.SerializeToString()


OUTBOUND = {
    "reporter": "source",
    "source_workload": "other.shop",
    "destination_workload": "orders-v1",
    "destination_namespace": "shop",
    "destination_service": "orders.shop.svc.cluster.local",
    "request_id": "r1",
    "code": "503",
    "flags": "-",
    "attempts": "3",
    "arrived": "true",
    "duration": "12",
}


def test_a_record_becomes_a_sighting() -> None:
    """Numbers are numbers, a dash is nothing."""
    kept = Evidence()
    kept.receive("web-0.shop", export(OUTBOUND), workload="web.shop")
    (found,) = kept.sightings(10)

    assert (found.destination, found.service) == ("orders-v1.shop", "orders.shop.svc.cluster.local")
    assert (found.code, found.attempts, found.duration_ms, found.flags, found.arrived) == (
        503,
        3,
        12,
        "",
        True,
    )


def test_a_sidecar_speaks_for_its_own_workload() -> None:
    """Whatever it writes: its end of the call is who was authenticated."""
    kept = Evidence()
    kept.receive("web-0.shop", export(OUTBOUND, OUTBOUND | {"reporter": "destination"}), workload="web.shop")
    made, taken = kept.sightings(10)

    assert (made.source, taken.destination) == ("web.shop", "web.shop")


def test_the_newest_are_answered_in_order() -> None:
    """At most as many as were asked for."""
    kept = Evidence()
    for number in range(5):
        kept.receive("web-0.shop", export(OUTBOUND | {"request_id": str(number)}), workload="web.shop")

    assert [found.request_id for found in kept.sightings(3)] == ["2", "3", "4"]


def test_what_is_old_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded over all sidecars."""
    body = export(OUTBOUND)
    monkeypatch.setattr(evidence, "MAX_BYTES", 3 * len(body))
    kept = Evidence()
    for number in range(10):
        kept.receive(f"web-{number}.shop", body, workload="web.shop")

    assert [found.node for found in kept.sightings(100)] == ["web-7.shop", "web-8.shop", "web-9.shop"]
    assert kept.size_bytes == 3 * len(body)


def test_one_node_cannot_push_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends beyond its share takes the place of its own oldest, which are counted."""
    bodies = [export(OUTBOUND | {"request_id": str(number)}) for number in range(9)]
    monkeypatch.setattr(evidence, "MAX_NODE_BYTES", 4 * len(bodies[0]))
    kept = Evidence()
    kept.receive("quiet.shop", bodies[0], workload="web.shop")
    for body in bodies[1:]:
        kept.receive("web-0.shop", body, workload="web.shop")

    assert [found.request_id for found in kept.sightings(100)] == ["0", "5", "6", "7", "8"]
    assert kept.counters() == {"evidence_exports_dropped": 4}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_left_out(body: bytes) -> None:
    """Garbage stops nobody."""
    kept = Evidence()
    kept.receive("web-0.shop", body, workload="web.shop")
    kept.receive("web-0.shop", export(OUTBOUND), workload="web.shop")

    assert kept.sightings(10)[-1].request_id == "r1"
