"""The verdict of a demonstration: counts in, one document out.

It owns what counts as a success (nothing failed, everything acknowledged, the split within 3 sigma, no plaintext,
nobody let in whom a policy keeps out); it must never measure anything itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from xds.demo.admin import Traffic

SCHEMA: Final = "proa.dev/demo/v1"
"""Changes when a field changes its meaning; new fields do not change it."""

SIGMAS: Final = 3
"""A fair split is outside 3 sigma once in 370 runs."""

MIN_REQUESTS: Final = 1000
"""Requests before and after the edit: with 1,000 of a 10 % share, 3 sigma is 2.8 percentage points."""

GUARD_S: Final = 0.5
"""Half of the second around the edit that is left out: what was on its way may have been routed by either rule."""


class Second(msgspec.Struct, frozen=True):
    """What `shop load` reports once a second: answers that came in the `seconds` before `at` (epoch, s)."""

    type: str
    at: float
    seconds: float
    sent: int
    ok: int
    failed: int
    skipped: int
    by_orders: dict[str, int]
    reasons: dict[str, int] = {}  # msgspec copies it
    first_errors: tuple[dict[str, Any], ...] = ()


class ProxyState(msgspec.Struct, frozen=True):
    """One sidecar as the ledger has it."""

    id: str
    workload: str
    acked: bool


class Phase(msgspec.Struct, frozen=True):
    """The split before or after the edit: shares by workload, over `n` answered requests."""

    desired: dict[str, float]
    observed: dict[str, float]
    n: int
    within_3_sigma: bool


class SplitReport(msgspec.Struct, frozen=True):
    """Both phases."""

    before: Phase
    after: Phase


class Denial(msgspec.Struct, frozen=True):
    """A call that an AuthorizationPolicy forbids, and what its caller was answered."""

    caller: str
    service: str
    status: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The one document of `proa demo --output json`."""

    schema: str = SCHEMA
    ok: bool
    problems: tuple[str, ...]
    duration_s: float
    rps: float
    proxies: tuple[ProxyState, ...]
    requests: int
    failed: int
    failures: tuple[dict[str, Any], ...] = ()
    split: SplitReport
    tls_hops: int
    plaintext_hops: int
    live_ms: float | None
    nacks: int
    edges: tuple[Traffic, ...] = ()
    denial: Denial | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run has seen."""

    duration_s: float
    rps: float
    seconds: tuple[Second, ...]
    final: Second
    edited_at: float | None
    """The rename's time; None: a run without end was ended before its edit."""
    live_at: float | None
    is_endless: bool = False
    """Ended by Ctrl-C: too few requests are then nobody's failure."""
    desired_before: dict[str, float]
    desired_after: dict[str, float]
    proxies: tuple[ProxyState, ...]
    expected_proxies: frozenset[str]
    tls_hops: int
    plaintext_hops: int
    nacks: int
    died: tuple[str, ...] = ()
    edges: tuple[Traffic, ...] = ()
    denial: Denial | None = None
    """None: the manifests forbid nothing that the run knows how to try."""


def judge(measured: Measured) -> Report:
    """Return the document, with every reason why the run did not succeed."""
    split = SplitReport(
        before=phase(measured.desired_before, before(measured.seconds, measured.edited_at)),
        after=phase(measured.desired_after, after(measured.seconds, measured.live_at)),
    )
    problems = tuple(_problems(measured, split))
    edited_at, live_at = measured.edited_at, measured.live_at
    return Report(
        ok=not problems,
        problems=problems,
        duration_s=measured.duration_s,
        rps=measured.rps,
        proxies=measured.proxies,
        requests=measured.final.ok + measured.final.failed,
        failed=measured.final.failed,
        failures=measured.final.first_errors,
        split=split,
        tls_hops=measured.tls_hops,
        plaintext_hops=measured.plaintext_hops,
        live_ms=None if live_at is None or edited_at is None else round((live_at - edited_at) * 1000, 1),
        nacks=measured.nacks,
        edges=measured.edges,
        denial=measured.denial,
    )


def before(seconds: Iterable[Second], edited_at: float | None) -> dict[str, int]:
    """Return answers by workload of the seconds that ended half a second or more before the edit."""
    return _sum(second for second in seconds if edited_at is None or second.at <= edited_at - GUARD_S)


def after(seconds: Iterable[Second], live_at: float | None) -> dict[str, int]:
    """Return answers by workload of the seconds that began half a second or more after every proxy had it."""
    if live_at is None:
        return {}
    return _sum(second for second in seconds if second.at - second.seconds >= live_at + GUARD_S)


def phase(desired: Mapping[str, float], counts: Mapping[str, int]) -> Phase:
    """Return shares, and whether each is within 3 sigma of the binomial distribution of its desired share."""
    n = sum(counts.values())
    observed = {name: (counts.get(name, 0) / n if n else 0.0) for name in {**desired, **counts}}
    return Phase(
        desired=dict(desired),
        observed={name: round(share, 4) for name, share in observed.items()},
        n=n,
        within_3_sigma=all(_is_fair(desired.get(name, 0.0), share, n) for name, share in observed.items()),
    )


def _is_fair(desired: float, observed: float, n: int) -> bool:
    return n > 0 and abs(observed - desired) <= SIGMAS * math.sqrt(desired * (1 - desired) / n) + 1e-9


def _sum(seconds: Iterable[Second]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for second in seconds:
        for name, count in second.by_orders.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _problems(measured: Measured, split: SplitReport) -> Iterable[str]:
    yield from (f"{name} ended by itself" for name in measured.died)
    yield from _requests(measured)
    yield from _proxies(measured)
    if measured.plaintext_hops:
        yield f"{measured.plaintext_hops} connections between sidecars were plaintext"
    if not measured.tls_hops:
        yield "no connection between sidecars was seen"
    denial = measured.denial
    if denial is not None and denial.status != HTTPStatus.FORBIDDEN:
        yield f"{denial.caller} called {denial.service}, which no policy allows, and was answered {denial.status}"
    if measured.edited_at is not None and measured.live_at is None:
        yield "the edit was not acknowledged by every proxy"
    for when, found in (("before", split.before), ("after", split.after)):
        if not measured.is_endless or found.n >= MIN_REQUESTS:
            yield from _split(when, found)


def _requests(measured: Measured) -> Iterable[str]:
    final = measured.final
    if final.failed:
        reasons = ", ".join(f"{count}x {reason}" for reason, count in sorted(final.reasons.items()))
        yield f"{final.failed} requests failed: {reasons}"
    if final.skipped:
        yield f"{final.skipped} requests were not sent: the answers did not keep up, lower --rps"


def _proxies(measured: Measured) -> Iterable[str]:
    missing = measured.expected_proxies - {proxy.id for proxy in measured.proxies}
    if missing:
        yield f"not connected: {', '.join(sorted(missing))}"
    unsynced = sorted(proxy.id for proxy in measured.proxies if not proxy.acked)
    if unsynced:
        yield f"not acknowledged: {', '.join(unsynced)}"
    if measured.nacks:
        yield f"{measured.nacks} responses were rejected: `proa status` shows Envoy's words"


def _split(when: str, found: Phase) -> Iterable[str]:
    if found.n < MIN_REQUESTS:
        yield f"only {found.n} requests {when} the edit, not {MIN_REQUESTS}: raise --rps or --duration"
    elif not found.within_3_sigma:
        yield f"split {when} the edit: observed {found.observed}, desired {found.desired}: outside 3 sigma"
