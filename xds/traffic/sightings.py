"""What a sidecar saw of one request: the values that `proa analyze` joins by the request's id.

It owns the fields and the names under which a sidecar writes them; it must never hold a header, a path or a body: who
analyses calls need not know what was in them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sighting:
    """One request at one sidecar; workloads are ``NAME.NAMESPACE``, empty where nobody knows.

    ``arrived``: it had the mark of a retry's owner when it came from the application (outbound) or from the network
    (inbound). ``attempts`` are those that this sidecar made.
    """

    node: str
    reporter: str
    source: str
    destination: str
    service: str
    route: str
    method: str
    request_id: str
    trace_id: str
    parent: str
    arrived: bool
    code: int
    flags: str
    attempts: int
    started: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Sightings:
    """``GET /api/v1/evidence``: the newest, in the order in which they came, and what could not be kept.

    ``dropped`` is what was taken when there was no room, or that could not be read.
    """

    sightings: tuple[Sighting, ...]
    dropped: int = 0
    sampling: float = 0
    """The mesh setting, per cent of requests; 0: nobody is asked."""
