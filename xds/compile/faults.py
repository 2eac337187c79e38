"""Faults that end by themselves: what they make of a Service's routes, and what of one has no effect.

A Fault takes the place of the fault of a rule for as long as it lasts; it must never reach a route of another host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from xds import ir
from xds.compile.lens import Lens
from xds.features import fault
from xds.features.redirect import Redirect
from xds.fields import Problem, Severity
from xds.hosts import Name


def faulted(lens: Lens, service: Name, routes: tuple[ir.Route, ...]) -> tuple[ir.Route, ...]:
    """Return a Service's routes with the Fault that is in force for it, the same routes where none is."""
    found = next(iter(lens.faults(service)), None)
    return routes if found is None else tuple(_with(route, found.fault) for route in routes)


def _with(route: ir.Route, found: fault.Fault) -> ir.Route:
    if isinstance(route.action, Redirect):
        return route  # answered before any fault, as a rule's own is refused there
    kept = tuple(one for one in route.features if not isinstance(one, fault.Fault))
    return replace(route, features=(*kept, found))


def check_fault(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a Fault has no effect now, nothing when it is gone."""
    return tuple(_told(lens, name))


def _told(lens: Lens, name: Name) -> Iterator[Problem]:
    found = lens.fault(name)
    if found is None:
        return
    subject, target = f"Fault {name[0]}/{name[1]}", (name[0], found.service)
    if lens.is_over(found):
        yield Problem(
            Severity.INFO, subject, "spec.expiresAt", "is over, and holds no more; remove the object"
        )
        return
    service = lens.service(target)
    if service is None:
        reason = f"there is no Service {target[0]}/{target[1]}"
        yield Problem(Severity.WARNING, subject, "spec.targetRef.name", reason)
    elif not any(port.protocol.is_http for port in service.ports):
        reason = f"has no effect: no port of Service {target[0]}/{target[1]} speaks HTTP"
        yield Problem(Severity.WARNING, subject, "spec.targetRef.name", reason)
    rivals = lens.faults(target)
    if rivals and rivals[0].meta.name != name[1]:
        older = f"Fault {rivals[0].meta.namespace}/{rivals[0].meta.name}"
        yield Problem(Severity.WARNING, subject, "spec", f"has no effect while the older {older} holds")
