"""What a security policy can only be told with the world at hand: that it holds for nobody, or cannot do what it says.

It must never change what holds: it only tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from xds import ir
from xds.access import Access, Named, reads_requests
from xds.api.conditions import Attribute
from xds.api.core import selects
from xds.api.istio_authorization import Action, Alternative, AuthorizationPolicy, Rule
from xds.api.istio_jwt import RequestAuthentication
from xds.api.providers import ExtAuthzGrpc, ExtAuthzHttp
from xds.api.targets import SERVICE
from xds.compile.lens import Lens
from xds.fields import Problem, Severity
from xds.hosts import Name
from xds.indexes.guards import Guard

G = TypeVar("G", AuthorizationPolicy, RequestAuthentication)


def check_authorization(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of an AuthorizationPolicy has no effect in the present world, nothing when it is gone."""
    found = next(
        (one for one in _of_kind(lens, name[0], AuthorizationPolicy) if one.meta.name == name[1]), None
    )
    return () if found is None else (*_nobody(lens, found), *_unasked(lens, found))


def check_authentication(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a RequestAuthentication has no effect in the present world, nothing when it is gone."""
    found = next(
        (one for one in _of_kind(lens, name[0], RequestAuthentication) if one.meta.name == name[1]), None
    )
    return () if found is None else tuple(_nobody(lens, found))


def check_bytes(access: Access | None, ports: Iterable[ir.Inbound]) -> Iterator[Problem]:
    """Yield the rules that ask for parts of requests where only bytes are seen."""
    if access is None:
        return
    for port in ports:
        if port.protocol.is_http:
            continue
        for rules, effect in (
            (access.allow or (), "never matches there"),
            (access.deny, "denies there without that part"),
        ):
            for named in rules:
                if reads_requests(named.rule) and _is_about(named.rule, port.port):
                    reason = f"asks for parts of requests, and {effect}: port {port.port} is TCP"
                    yield _of_rule(named, reason)


def _of_kind(lens: Lens, namespace: str, kind: type[G]) -> Iterator[G]:
    return (one for one in lens.guards(namespace) if isinstance(one, kind))


def _nobody(lens: Lens, found: Guard) -> Iterator[Problem]:
    """Tell of a selector that selects no Pod, and of a Service that nobody knows."""
    namespace = found.meta.namespace
    for i, target in enumerate(found.targets):
        if target.kind == SERVICE and lens.service((namespace, target.name)) is None:
            yield _problem(
                found, f"spec.targetRefs[{i}].name", f"there is no Service {namespace}/{target.name}"
            )
    if not found.selector or namespace == lens.root_namespace:
        return
    if not any(selects(found.selector, labels) for labels, _ in lens.pod_forms(namespace)):
        yield _problem(found, "spec.selector.matchLabels", f"selects no Pod of namespace {namespace}")


def _unasked(lens: Lens, found: AuthorizationPolicy) -> Iterator[Problem]:
    """Tell of a provider that cannot be asked."""
    if found.action is not Action.CUSTOM:
        return
    provider = lens.settings.provider(found.provider)
    if not isinstance(provider, ExtAuthzHttp | ExtAuthzGrpc):
        known = sorted(p.name for p in lens.settings.providers if isinstance(p, ExtAuthzHttp | ExtAuthzGrpc))
        reason = f"no provider {found.provider} can be asked, so that what the rules match is denied; known: "
        yield _problem(found, "spec.provider.name", reason + (", ".join(known) or "none"))


def _is_about(rule: Rule, port: int) -> bool:
    """Tell whether a rule's operations leave a port in."""
    return not rule.operations or any(_leaves_in(part, port) for part in rule.operations)


def _leaves_in(part: Alternative, port: int) -> bool:
    asked = [found for found in part if found.attribute is Attribute.PORT]
    return all((not c.values or str(port) in c.values) and str(port) not in c.not_values for c in asked)


def _of_rule(named: Named, reason: str) -> Problem:
    kind, namespace, name, index = named.name.split("/")
    return Problem(Severity.WARNING, f"{kind} {namespace}/{name}", f"spec.rules[{index}]", reason)


def _problem(found: Guard, path: str, reason: str) -> Problem:
    kind = type(found).__name__
    return Problem(Severity.WARNING, f"{kind} {found.meta.namespace}/{found.meta.name}", path, reason)
