"""Objects that are involved and not in force as written, and proxies that have not taken what they were sent.

It owns which problem concerns a request; it must never repeat the checks that found it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xds.api.core import Key
from xds.explain.answer import Proxy, Refusal, Route, Target
from xds.explain.facts import Caller, Facts
from xds.fields import Problem, Severity
from xds.hosts import route_hosts, service_of
from xds.ledger import Row, State

_POLICY = "AuthorizationPolicy"
_RULES = frozenset(
    {
        "VirtualService",
        "DestinationRule",
        "ServiceEntry",
        "Sidecar",
        "PeerAuthentication",
        "AuthorizationPolicy",
    }
)
"""Kinds of which one that could not be read may be about any host of its namespace."""


def refusals(
    facts: Facts, caller: Caller, host: str, routes: Iterable[Route], targets: Sequence[Target]
) -> tuple[Refusal, ...]:
    """Return the problems of every object that is involved, errors first."""
    hosts = {host, *(target.host for target in targets)}
    named = {route.object for route in routes} | {rule for target in targets for rule in target.rules}
    named |= {target.authorization.policy for target in targets}
    named |= {end.why for target in targets for end in (target.tls.client, *target.tls.server)}
    named |= {f"Sidecar {caller.shown.sidecar}", f"Pod {caller.namespace}/{caller.shown.pod}"}
    for one in hosts:
        named |= _about(facts, one)
    namespaces = {caller.namespace, facts.world.settings.root_namespace}
    namespaces |= {found[0] for found in map(service_of, hosts) if found}
    found = [
        problem
        for problem in facts.problems
        if problem.severity is not Severity.INFO
        and (problem.subject in named or _may_concern(facts, problem, namespaces))
    ]
    found.sort(key=lambda problem: (problem.severity is not Severity.ERROR, str(problem)))
    return tuple(_refusal(facts, problem) for problem in found)


def proxies(facts: Facts, caller: Caller) -> tuple[Proxy, ...]:
    """Return the connected proxies of the source, each with what it has rejected or not answered yet."""
    if caller.pod is None:
        return ()
    connected = facts.proxies((caller.namespace, caller.pod.meta.name))
    return tuple(
        Proxy(name, _said(rows, State.NACKED), tuple(row.name for row in rows if row.state is State.SENT))
        for name, rows in connected
    )


def _said(rows: Sequence[Row], state: State) -> tuple[str, ...]:
    return tuple(f"{row.name}: {row.error}" for row in rows if row.state is state)


def _about(facts: Facts, host: str) -> set[str]:
    """Return the objects that are written about a host, in force or not."""
    world, service = facts.world, service_of(host)
    found = {f"VirtualService {one.meta.namespace}/{one.meta.name}" for one in world.claims(host)}
    found |= {f"VirtualService {one.meta.namespace}/{one.meta.name}" for one in world.routes(host)}
    found |= {f"DestinationRule {one.meta.namespace}/{one.meta.name}" for one in world.rules(host)}
    found |= {f"ServiceEntry {one.meta.namespace}/{one.meta.name}" for one in world.entries.of(host)}
    return found | ({f"Service {service[0]}/{service[1]}"} if service else set())


def _may_concern(facts: Facts, problem: Problem, namespaces: set[str]) -> bool:
    """Tell whether an object that could never be read, so that nobody knows its hosts, may be about this request."""
    kind, _, rest = problem.subject.partition(" ")
    namespace, _, name = rest.partition("/")
    is_rule = kind in _RULES and namespace in namespaces and problem.severity is Severity.ERROR
    # Of a policy that could never be read something is in force that opens nothing.
    return is_rule and (kind == _POLICY or facts.stored(Key(kind, namespace, name)) is None)


def _refusal(facts: Facts, problem: Problem) -> Refusal:
    return Refusal(
        object=problem.subject,
        severity=problem.severity.value,
        field=problem.path,
        reason=problem.reason,
        where=problem.where,
        in_force="" if problem.severity is not Severity.ERROR else _in_force(facts, problem.subject),
    )


def _in_force(facts: Facts, subject: str) -> str:
    kind, _, rest = subject.partition(" ")
    namespace, _, name = rest.partition("/")
    written = facts.world.virtual_service((namespace, name)) if kind == "VirtualService" else None
    if written is not None:
        has_version = any(
            (one.meta.namespace, one.meta.name) == (namespace, name)
            for host in route_hosts(written)
            for one in facts.world.routes(host)
        )
    else:
        has_version = facts.stored(Key(kind, namespace, name)) is not None
    if kind == _POLICY:
        return "its last good version, else one that opens nothing"
    if has_version:
        return "its last good version"
    return "STRICT for its scope" if kind == "PeerAuthentication" else "no version of it"
