"""What one PeerAuthentication can only be told with the world at hand: rivals that are older, ports that nobody has.

The oldest policy wins wherever two hold for a Pod, and this module must never change that: it only tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from xds.api.core import selects
from xds.api.istio_security import PeerAuthentication
from xds.compile.lens import Lens
from xds.fields import Problem, Severity
from xds.hosts import Name


def check_policy(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a PeerAuthentication has no effect in the present world, nothing when it is gone."""
    policies = lens.policies(name[0])
    position = next((i for i, found in enumerate(policies) if found.meta.name == name[1]), None)
    if position is None:
        return ()
    found, older = policies[position], policies[:position]
    if not found.selector:
        return tuple(_overruled(found, older))
    return (*_shared(lens, found, older), *_unknown_ports(lens, found))


def _overruled(found: PeerAuthentication, older: list[PeerAuthentication]) -> Iterator[Problem]:
    first = next((policy for policy in older if not policy.selector), None)
    if first is not None:
        reason = f"has no effect: the older {_subject(first)} holds for the namespace; remove one of them"
        yield Problem(Severity.ERROR, _subject(found), "spec", reason)


def _shared(lens: Lens, found: PeerAuthentication, older: list[PeerAuthentication]) -> Iterator[Problem]:
    rivals = [policy for policy in older if policy.selector]
    if not rivals:
        return
    mine = [labels for labels, _ in lens.pod_forms(found.meta.namespace) if selects(found.selector, labels)]
    for rival in rivals:
        if any(selects(rival.selector, labels) for labels in mine):
            reason = f"takes Pods that the older {_subject(rival)} takes too; for those the older one holds"
            yield Problem(Severity.WARNING, _subject(found), "spec.selector.matchLabels", reason)


def _unknown_ports(lens: Lens, found: PeerAuthentication) -> Iterator[Problem]:
    if not found.ports:
        return
    forms = [
        ports for labels, ports in lens.pod_forms(found.meta.namespace) if selects(found.selector, labels)
    ]
    known = sorted({port for ports in forms for port in ports})
    for number, _ in found.ports if forms else ():
        if number not in known:
            listed = ", ".join(map(str, known)) or "none"
            reason = f"no container of the selected Pods has port {number}; they have {listed}"
            yield Problem(Severity.WARNING, _subject(found), f"spec.portLevelMtls.{number}", reason)


def _subject(policy: PeerAuthentication) -> str:
    return f"PeerAuthentication {policy.meta.namespace}/{policy.meta.name}"
