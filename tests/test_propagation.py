"""Which applications lose a trace, told from sampled requests alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from xds.traffic.propagation import Propagation, Verdict, mend, propagation
from xds.traffic.sightings import Sighting

TRACE = "0af7651916cd43dd8448eb211c80319c"


def sighting(reporter: str, request: str, trace: str, *, node: str = "b-1", parent: str = "") -> Sighting:
    """Return what a sidecar of ``b`` saw: a request of ``a``, or one to ``c``."""
    is_source = reporter == "source"
    source, destination = ("b.shop", "c.shop") if is_source else ("a.shop", "b.shop")
    return Sighting(
        node=node,
        reporter=reporter,
        source=source,
        destination=destination,
        service=f"{destination}.svc",
        route="",
        method="GET",
        request_id=request,
        trace_id=trace,
        parent=parent,
        arrived=False,
        code=200,
        flags="",
        attempts=1,
        started="",
        duration_ms=1,
    )


def handled(count: int, made: Iterable[tuple[str, str]] | None = None) -> Iterator[Sighting]:
    """Yield requests that b took, and those that it made: the same in order, or (request, trace) as given."""
    for number in range(count):
        yield sighting("destination", f"r{number}", f"t{number}")
    for request, trace in made if made is not None else ((f"r{n}", f"t{n}") for n in range(count)):
        yield sighting("source", request, trace)


def judged(sightings: Iterable[Sighting]) -> Propagation:
    """Return the one workload that both takes and makes requests."""
    (found,) = propagation(sightings)
    return found


def test_a_workload_that_copies_keeps() -> None:
    """Each call is in a trace that it took."""
    found = judged(handled(10))

    assert (found.workload, found.taken, found.made, found.continued) == ("b.shop", 10, 10, 10)
    assert (found.verdict, found.services, mend(found)) == (Verdict.KEEPS, (), "")


@pytest.mark.parametrize(
    ("made", "verdict", "named"),
    [
        ([(f"x{n}", f"y{n}") for n in range(10)], Verdict.LOSES_ALL, "x-request-id"),
        ([(f"r{n}", f"y{n}") for n in range(10)], Verdict.LOSES_TRACE, "traceparent"),
        ([(f"r{n}", f"t{n}" if n % 2 else f"y{n}") for n in range(10)], Verdict.SOME, "traceparent"),
    ],
)
def test_a_workload_that_loses_is_named(made: list[tuple[str, str]], verdict: Verdict, named: str) -> None:
    """With whom it calls then, and what to copy."""
    found = judged(handled(10, made))

    assert found.verdict is verdict
    assert found.services == ("c.shop.svc",)
    assert named in mend(found)


def test_a_few_requests_accuse_nobody() -> None:
    """Five of each are needed."""
    assert judged(handled(4, [("x", "y")] * 4)).verdict is Verdict.UNKNOWN


def test_who_takes_nothing_begins_traces_rightly() -> None:
    """A job, or an ingress, is not told of."""
    assert propagation(sighting("source", f"x{n}", f"y{n}") for n in range(10)) == []


def test_a_trace_of_another_pod_is_not_its_own() -> None:
    """Only the Pod that took a request can go on with it."""
    other = [sighting("source", f"r{n}", f"t{n}", node="b-2") for n in range(10)]

    assert judged([*handled(10, []), *other]).verdict is Verdict.LOSES_ALL


def test_without_a_tracer_headers_tell() -> None:
    """The W3C header is what applications send on; without any, the request's id."""
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    taken = [sighting("destination", f"r{n}", "", parent=parent) for n in range(10)]
    kept = [sighting("source", f"x{n}", "", parent=parent.replace("b7", "c8")) for n in range(10)]
    by_id = [sighting("source", f"r{n}", "") for n in range(10)]

    assert judged([*taken, *kept]).verdict is Verdict.KEEPS
    assert judged([*taken, *by_id]).verdict is Verdict.KEEPS


def test_the_worst_comes_first() -> None:
    """Whoever reads only the first line reads what matters."""
    other = [
        sighting(s.reporter, s.request_id, s.trace_id, node="c-1")
        for s in handled(10, [(f"x{n}", f"y{n}") for n in range(10)])
    ]
    renamed = [replace(s, source="z.shop", destination="z.shop") for s in other]

    assert [found.workload for found in propagation([*handled(10), *renamed])] == ["z.shop", "b.shop"]
