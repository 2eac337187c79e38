"""What one Sidecar can only be told with the world at hand: an older one that holds, hosts that nobody has.

It must never change what a Pod sees: it only tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from xds.api.istio_sidecar import Sidecar
from xds.compile.lens import Lens
from xds.fields import Problem, Severity
from xds.hosts import Name, service_of


def check_sidecar(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a Sidecar has no effect in the present world, nothing when it is gone."""
    found = lens.sidecar(name)
    return () if found is None else (*_overruled(lens, found), *_unknown_hosts(lens, found))


def _overruled(lens: Lens, found: Sidecar) -> Iterator[Problem]:
    equals = [one for one in lens.sidecars(found.meta.namespace) if one.selector == found.selector]
    if equals[0].meta.name != found.meta.name:
        reason = f"has no effect: the older {_subject(equals[0])} holds for the same Pods; remove one of them"
        yield Problem(Severity.WARNING, _subject(found), "spec", reason)


def _unknown_hosts(lens: Lens, found: Sidecar) -> Iterator[Problem]:
    for wanted in found.egress or ():
        service = service_of(wanted.host)
        if service is not None and lens.service(service) is None and not lens.entries(wanted.host):
            path, reason = "spec.egress[].hosts", f"{wanted.host} is no Service and no ServiceEntry has it"
            yield Problem(Severity.WARNING, _subject(found), path, reason)


def _subject(found: Sidecar) -> str:
    return f"Sidecar {found.meta.namespace}/{found.meta.name}"
