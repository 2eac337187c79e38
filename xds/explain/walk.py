"""The walk itself: from a question through the compiler's nodes to an answer.

It owns the order of the steps and the outcome; it must never decide what a step decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from xds import ir
from xds.api.mesh import PathNormalization
from xds.explain import answer, causes
from xds.explain.access import authorize
from xds.explain.answer import Answer, Cause, Considered, Target
from xds.explain.facts import Caller, Facts, find_caller
from xds.explain.match import Request, failing
from xds.explain.paths import written
from xds.explain.provenance import described_routes, injected_by, left_out, rules_of, subset_labels
from xds.explain.question import Question, split_port
from xds.explain.refusals import proxies, refusals
from xds.explain.rewritten import rewritten
from xds.explain.target import addresses, counted, healthy_of, meet
from xds.explain.way import Way, cluster_named, declared, dialled, direct
from xds.explain.words import behaviour, outcome, said_action
from xds.features.headers import HeaderOps
from xds.features.rewrite import Rewrite
from xds.resources import names


@dataclass(slots=True)
class _Steps:
    """What the walk has found so far."""

    causes: list[Cause] = field(default_factory=list[Cause])
    considered: list[Considered] = field(default_factory=list[Considered])
    targets: list[Target] = field(default_factory=list[Target])


def explain(facts: Facts, question: Question) -> Answer:
    """Return what happens to a request and why; raises ConfigError where nobody is called like its source."""
    caller = find_caller(facts, question.source)
    way = _way(facts, caller, question)
    # A sidecar of the caller's writes the path before its routes see it; without one it arrives as it was sent.
    form = PathNormalization.BASE if caller.shown.is_meshed and way.is_http else PathNormalization.NONE
    path = written(question.path, form)
    request = Request(question.method, path, question.authority, question.headers)
    steps = _Steps()
    taken, described = _taken(facts, caller, way, request, steps)
    _go_on(facts, caller, way, request, taken, steps)
    found = way.routes[taken] if taken is not None else None
    steps.causes += causes.unrouted(facts, caller, way) if caller.shown.is_meshed else ()
    steps.causes += causes.of_targets(steps.targets, is_meshed=caller.shown.is_meshed)
    shown = described[taken] if taken is not None else None
    known = behaviour(found, injected_by(facts, way.host, shown), request)
    steps.causes += causes.of_behaviour(shown, known)
    listed = refusals(facts, caller, way.host, [shown] if shown else [], steps.targets)
    steps.causes += _refused(listed)
    ordered = causes.merged(steps.causes)
    return Answer(
        question=question,
        source=caller.shown,
        outcome=outcome(way, found, ordered, steps.targets),
        causes=tuple(ordered),
        listener=way.listener,
        virtual_host=way.virtual_host,
        route=shown,
        considered=tuple(steps.considered),
        action=said_action(way, found),
        timeout_ms=known.timeout_ms,
        retries=known.retries,
        fault=known.fault,
        rewrite=known.rewrite,
        mirrors=known.mirrors,
        targets=tuple(steps.targets),
        problems=listed,
        proxies=proxies(facts, caller),
    )


def _way(facts: Facts, caller: Caller, question: Question) -> Way:
    if not caller.shown.is_meshed:
        return direct(facts, caller, question)
    return (dialled if caller.shown.is_intercepted else declared)(facts, caller, question)


def _taken(
    facts: Facts, caller: Caller, way: Way, request: Request, steps: _Steps
) -> tuple[int | None, list[answer.Route]]:
    """Return the position of the route that takes the request, and every route with its object."""
    if way.cluster is not None or not way.routes:
        if way.cluster is None:
            _, port = split_port(request.authority)
            steps.causes.append(causes.no_host(facts, caller, way, port))
        return None, []
    described = described_routes(facts, caller, way.host, way.port, way.routes)
    for position, (route, here) in enumerate(zip(way.routes, described, strict=True)):
        reason = failing(route.match, request)
        if not reason:
            steps.considered += left_out(facts, caller, way.host, way.port, route.name)
            steps.causes += causes.shadowed(request, way.routes, position, described)
            return position, described
        steps.considered.append(Considered(here.object, here.rule, "", reason))
    steps.considered += left_out(facts, caller, way.host, way.port, way.routes[0].name)
    steps.causes.append(causes.nothing_matches(steps.considered))
    return None, described


def _go_on(  # noqa: PLR0913, PLR0917 -- the state of the walk
    facts: Facts, caller: Caller, way: Way, request: Request, taken: int | None, steps: _Steps
) -> None:
    """Follow the request to each of its destinations."""
    if way.cluster is not None and way.cluster.host == names.BLACKHOLE:
        steps.causes.append(structs.replace(causes.no_host(facts, caller, way, way.port), status="503"))
        return
    if way.cluster is not None:
        steps.targets += _target(facts, caller, way.cluster, 100.0, request, steps)
        return
    route = way.routes[taken] if taken is not None else None
    if route is None or not isinstance(route.action, ir.Forward):
        return
    total = sum(one.weight for one in route.action.destinations)
    for one in route.action.destinations:
        cluster = cluster_named(facts.lens, caller, one.cluster)
        if cluster is None:
            host = one.cluster.rpartition("|")[2]
            missing = causes.hidden_cluster(facts, caller, one.cluster, host)
            steps.causes.append(structs.replace(missing, percent=100.0 * one.weight / total))
            continue
        sent = _rewritten(route, one, request)
        steps.targets += _target(facts, caller, cluster, 100.0 * one.weight / total, sent, steps)


def _target(  # noqa: PLR0913, PLR0917 -- one row of the answer
    facts: Facts, caller: Caller, cluster: ir.Cluster, percent: float, request: Request, steps: _Steps
) -> Iterator[Target]:
    labels = subset_labels(facts, caller, cluster)
    found = addresses(facts, cluster, labels)
    is_open = cluster.discovery in (
        ir.Discovery.ORIGINAL_DST,
        ir.Discovery.STRICT_DNS,
        ir.Discovery.LOGICAL_DNS,
    )
    if not is_open and not healthy_of(found):
        empty = causes.nobody(facts, cluster, labels, found)
        steps.causes += (structs.replace(empty, percent=percent),) if empty else ()
    inbound, verdict = authorize(facts, caller, cluster, healthy_of(found), request)
    yield Target(
        cluster=cluster.name,
        percent=percent,
        host=cluster.host,
        subset=cluster.subset,
        port=cluster.port,
        protocol=cluster.protocol.value,
        rules=rules_of(facts, caller, cluster),
        endpoints=counted(found),
        tls=meet(facts, caller, cluster, found),
        inbound=inbound,
        authorization=verdict,
    )


def _rewritten(route: ir.Route, destination: ir.Destination, request: Request) -> Request:
    """Return the request as the destination gets it: what its policies see is what the route made of it."""
    ops = [one for one in (*route.features, destination.headers) if isinstance(one, Rewrite | HeaderOps)]
    return rewritten(route.match, ops, request)


def _refused(listed: Iterable[answer.Refusal]) -> Iterator[Cause]:
    """Yield the objects that are not in force as they are written."""
    for one in listed:
        if one.severity == "error":
            place = f" ({one.where})" if one.where else ""
            text = f"{one.object}{place} is refused: {one.field}: {one.reason}; in force is {one.in_force}"
            yield Cause("refused", text)
