"""What a route does besides choosing a destination, and the outcome of the whole, in fields and words.

It owns the reading of a route's features; it must never look at the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xds import ir
from xds.explain import answer
from xds.explain.answer import Cause, Target
from xds.explain.match import Request
from xds.explain.way import Way
from xds.features.direct_response import DirectResponse
from xds.features.fault import GRPC_STATUSES, Fault, GrpcAbort, HttpAbort
from xds.features.headers import HeaderOps
from xds.features.mirror import Mirror
from xds.features.redirect import Redirect
from xds.features.retry import Retry
from xds.features.rewrite import Rewrite
from xds.features.timeout import Timeout


@dataclass(slots=True)
class Behaviour:
    """What a route does to every request that it takes; 0 ms: no timeout."""

    timeout_ms: float = 0.0
    retries: answer.Retries | None = None
    fault: answer.Fault | None = None
    rewrite: str = ""
    mirrors: tuple[answer.Mirror, ...] = ()


def behaviour(route: ir.Route | None, injected_by: str, request: Request) -> Behaviour:
    """Return what a route does, nothing where there is none; ``injected_by`` is the object of its fault."""
    found = Behaviour()
    for feature in route.features if route else ():
        match feature:
            case Timeout(timeout_ms):
                found.timeout_ms = float(timeout_ms)
            case Retry() if feature.attempts:
                on = feature.holding(request.method, request.headers)
                found.retries = answer.Retries(feature.attempts, on, float(feature.per_try_timeout_ms))
            case Fault():
                found.fault = _fault(feature, injected_by)
            case Rewrite():
                found.rewrite = _rewrite(feature)
            case HeaderOps() if feature.authority:
                found.rewrite = f"authority {feature.authority}"
            case Mirror() if feature.cluster:
                found.mirrors += (answer.Mirror(feature.cluster, float(feature.percent)),)
            case _:
                pass
    return found


def said_action(way: Way, route: ir.Route | None) -> str:
    """Return what becomes of the request at the caller's sidecar."""
    if way.cluster is not None:
        return f"to {way.cluster.name}"
    match route.action if route else None:
        case None:
            return "nothing takes it"
        case Redirect() as found:
            return f"redirect {found.code}"
        case DirectResponse(status, _):
            return f"answer {status}"
        case ir.Forward(destinations):
            return "to " + ", ".join(one.cluster for one in destinations)


def outcome(way: Way, route: ir.Route | None, causes: Sequence[Cause], targets: Sequence[Target]) -> str:
    """Return what the sender sees: the failure that comes first, an answer of the sidecar's own, or who answers."""
    fatal = next((cause for cause in causes if cause.status), None)
    if fatal is not None:
        share = "" if fatal.percent >= 100 else f" for {fatal.percent:g} % of the requests"
        return f"{fatal.status}{share}: {fatal.text}"
    action = route.action if route else None
    if isinstance(action, DirectResponse | Redirect):
        return said_action(way, route)
    if not targets:
        return said_action(way, route)
    healthy = sum(target.endpoints.healthy for target in targets)
    unsure = sorted({one.authorization.policy for one in targets if one.authorization.verdict == "depends"})
    condition = f", if {' and '.join(unsure)} lets it in" if unsure else ""
    return f"forwarded to {healthy} endpoint{'' if healthy == 1 else 's'}{condition}"


def _fault(found: Fault, injected_by: str) -> answer.Fault:
    delay, abort = found.delay, found.abort
    said, percent = "", 0.0
    match abort:
        case HttpAbort(status, percent):
            said = str(status)
        case GrpcAbort(status, percent):
            said = f"gRPC {GRPC_STATUSES[status]}"
        case None:
            pass
    delayed = (float(delay.delay_ms), float(delay.percent)) if delay else (0.0, 0.0)
    return answer.Fault(injected_by, *delayed, said, float(percent))


def _rewrite(found: Rewrite) -> str:
    parts = [
        f"uri {found.uri}" if found.uri else "",
        f"uri {found.pattern} becomes {found.substitution}" if found.pattern else "",
        f"authority {found.authority}" if found.authority else "",
    ]
    return ", ".join(part for part in parts if part)
