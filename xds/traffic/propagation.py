"""Applications that lose a trace: what they send is in no trace, and has no request's id, of what they took.

It owns the counts and the verdicts; it must never accuse on a handful of requests, nor for calls of a workload that
takes none, because such a one begins traces rightly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from xds.traffic.sightings import Sighting

SEEN_MIN: Final = 5
"""Sampled requests on each side below which nothing is said. An application that copies continues each of them; that
five in a row are calls of its own is rare, and the counts are shown beside the verdict."""

KEPT_SHARE: Final = 0.9
LOST_SHARE: Final = 0.1
"""From here on an application copies, with a few calls of its own; below, it does not."""


class Verdict(Enum):
    """What becomes of a trace in an application; the values are words for people."""

    KEEPS = "keeps"
    SOME = "loses some traces"
    LOSES_TRACE = "loses the trace, keeps x-request-id"
    LOSES_ALL = "loses the trace"
    UNKNOWN = "too few requests"


@dataclass(frozen=True, slots=True)
class Propagation:
    """One workload: sampled requests that it took and made, and how many of the latter go on with the former.

    ``continued`` are in the trace of a request that the same Pod took, ``same_id`` have the id of one.
    """

    workload: str
    taken: int
    made: int
    continued: int
    same_id: int
    verdict: Verdict
    services: tuple[str, ...] = ()
    """Whom the calls go to that do not go on, sorted."""


@dataclass(slots=True)
class _Pod:
    traces: set[str] = field(default_factory=set[str])
    ids: set[str] = field(default_factory=set[str])
    taken: int = 0
    made: list[Sighting] = field(default_factory=list[Sighting])


def propagation(sightings: Iterable[Sighting]) -> list[Propagation]:
    """Return every workload that takes and makes requests, those that lose traces first."""
    workloads: defaultdict[str, defaultdict[str, _Pod]] = defaultdict(lambda: defaultdict(_Pod))
    for seen in sightings:
        if seen.reporter == "source":
            workloads[seen.source][seen.node].made.append(seen)
            continue
        pod = workloads[seen.destination][seen.node]
        pod.taken += 1
        pod.traces.add(_trace(seen))
        pod.ids.add(seen.request_id)
    found = [_judge(name, list(pods.values())) for name, pods in workloads.items()]
    ranks = list(Verdict)
    return sorted(
        (each for each in found if each.taken and each.made),
        key=lambda each: (-_badness(each.verdict, ranks), each.workload),
    )


def mend(found: Propagation) -> str:
    """Return what to change in an application, empty where nothing is wrong."""
    match found.verdict:
        case Verdict.LOSES_ALL | Verdict.SOME:
            names = "traceparent, tracestate, baggage, b3, x-b3-* and x-request-id"
        case Verdict.LOSES_TRACE:
            names = "traceparent and tracestate (or b3 and x-b3-*)"
        case Verdict.KEEPS | Verdict.UNKNOWN:
            return ""
    return f"copy {names} from each request to the calls that are made for it"


def _judge(workload: str, pods: list[_Pod]) -> Propagation:
    taken, made = sum(pod.taken for pod in pods), sum(len(pod.made) for pod in pods)
    continued = same_id = 0
    strayed: set[str] = set()
    for pod in pods:
        traces, ids = pod.traces - {""}, pod.ids - {""}
        for call in pod.made:
            has_id = call.request_id in ids
            # Without a tracer nobody writes a trace; then the request's id is all there is to go by.
            goes_on = _trace(call) in traces if _trace(call) else has_id
            continued += goes_on
            same_id += has_id
            if not goes_on:
                strayed.add(call.service)
    verdict = _verdict(taken, made, continued, same_id)
    return Propagation(workload, taken, made, continued, same_id, verdict, tuple(sorted(strayed)))


def _verdict(taken: int, made: int, continued: int, same_id: int) -> Verdict:
    if taken < SEEN_MIN or made < SEEN_MIN:
        return Verdict.UNKNOWN
    if continued >= KEPT_SHARE * made:
        return Verdict.KEEPS
    if continued > LOST_SHARE * made:
        return Verdict.SOME
    return Verdict.LOSES_TRACE if same_id >= KEPT_SHARE * made else Verdict.LOSES_ALL


def _badness(verdict: Verdict, ranks: list[Verdict]) -> int:
    return -1 if verdict is Verdict.UNKNOWN else ranks.index(verdict)


def _trace(seen: Sighting) -> str:
    """Return the id of a request's trace: the tracer's word, else that of the W3C header."""
    if seen.trace_id:
        return seen.trace_id
    parts = seen.parent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else ""
