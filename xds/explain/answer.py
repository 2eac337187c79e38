"""The answer: each step of one request and what decided it, as one frozen document.

It owns the fields that people and programs read; it must never say how anything was found.
"""

from __future__ import annotations

import msgspec

from xds.explain.question import Question


class Cause(msgspec.Struct, frozen=True):
    """Why the request does not do what its sender wants: ``code`` is one word for programs, ``text`` names objects.

    ``status`` is what its sender gets because of it (``404``, ``closed``); empty: it only goes another way than one
    might expect. ``percent`` is the share of such requests that it concerns.
    """

    code: str
    text: str
    status: str = ""
    percent: float = 100.0


class Source(msgspec.Struct, frozen=True):
    """Who asks; ``pod`` is empty for a namespace, whose class of clients without labels then asks."""

    namespace: str
    workload: str
    pod: str
    identity: str
    is_meshed: bool
    is_intercepted: bool
    sidecar: str
    """The Sidecar that narrows what it sees, ``NAMESPACE/NAME``, empty for none."""


class Route(msgspec.Struct, frozen=True):
    """The rule that takes the request: its object, its place in it, and what it asks of a request."""

    name: str
    object: str
    rule: str
    where: str
    match: str


class Considered(msgspec.Struct, frozen=True):
    """A rule that does not take the request, and why not."""

    object: str
    rule: str
    where: str
    reason: str


class Retries(msgspec.Struct, frozen=True):
    """``attempts`` counts retries, not the first try."""

    attempts: int
    on: tuple[str, ...]
    per_try_timeout_ms: float


class Endpoints(msgspec.Struct, frozen=True):
    """The addresses behind a cluster, by what they can take; ``zones`` counts the healthy ones."""

    known: int
    healthy: int
    draining: int
    zones: tuple[tuple[str, int], ...]


class TlsEnd(msgspec.Struct, frozen=True):
    """What one end of the hop speaks or takes, and the object that says so."""

    mode: str
    why: str
    endpoints: int = 0
    """How many of the healthy endpoints, for the server's end."""


class Tls(msgspec.Struct, frozen=True):
    """Both ends of the hop, and what comes of the two."""

    client: TlsEnd
    server: tuple[TlsEnd, ...]
    result: str


class TokenCheck(msgspec.Struct, frozen=True):
    """A rule that looks for a token: in which places, of which issuer, for whom, and what it makes of the request."""

    rule: str
    issuer: str
    audiences: tuple[str, ...]
    places: tuple[str, ...]
    keys: str
    result: str


class Asking(msgspec.Struct, frozen=True):
    """Who is asked about the request, by which rule, and what becomes of it by what that one says.

    ``healthy`` counts the endpoints of the service; none: nobody answers.
    """

    rule: str
    provider: str
    service: str
    healthy: int
    on_yes: str
    on_no: str
    on_silence: str


class Authorization(msgspec.Struct, frozen=True):
    """What the destination's policies say: ``policy`` decided, or came nearest where none did.

    ``status`` is what the sender gets where the verdict is ``deny``.
    """

    verdict: str
    policy: str
    reason: str
    status: str = ""
    tokens: tuple[TokenCheck, ...] = ()
    asked: tuple[Asking, ...] = ()


class Target(msgspec.Struct, frozen=True):
    """One destination of the route, with its share of the requests."""

    cluster: str
    percent: float
    host: str
    subset: str
    port: int
    protocol: str
    rules: tuple[str, ...]
    endpoints: Endpoints
    tls: Tls
    inbound: str
    authorization: Authorization


class Fault(msgspec.Struct, frozen=True):
    """A fault that is injected on purpose, and the object that says so; 0 percent: none of that kind."""

    object: str
    delay_ms: float
    delay_percent: float
    abort: str
    abort_percent: float


class Mirror(msgspec.Struct, frozen=True):
    """Where copies go."""

    cluster: str
    percent: float


class Refusal(msgspec.Struct, frozen=True):
    """A problem of an object that is involved; ``in_force``: what holds instead of what is written."""

    object: str
    severity: str
    field: str
    reason: str
    where: str
    in_force: str


class Proxy(msgspec.Struct, frozen=True):
    """A proxy of the source that is connected, and what it has not accepted."""

    id: str
    rejected: tuple[str, ...]
    unanswered: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True):
    """``GET /api/v1/explain`` and ``proa explain -o json``: one request, from its listener to its verdict."""

    question: Question
    source: Source
    outcome: str
    causes: tuple[Cause, ...]
    listener: str
    virtual_host: str
    route: Route | None
    considered: tuple[Considered, ...]
    action: str
    timeout_ms: float
    retries: Retries | None
    fault: Fault | None
    rewrite: str
    mirrors: tuple[Mirror, ...]
    targets: tuple[Target, ...]
    problems: tuple[Refusal, ...]
    proxies: tuple[Proxy, ...]
