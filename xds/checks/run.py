"""The table of checks, and the run over it: one result at least for each.

Owns ids, order and phase; ids are stable, because scripts match them. It must never look at a fact itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from xds.checks import cluster, control, hooks, network, workloads
from xds.checks.facts import Facts
from xds.checks.finding import Finding, Result, Severity


class Phase(enum.Flag):
    """When a check makes sense: before the installation, after it, or both."""

    BEFORE = enum.auto()
    AFTER = enum.auto()
    EVER = BEFORE | AFTER


@dataclass(frozen=True, slots=True)
class Check:
    """One check; ``needs`` names the sources of ``Facts`` without which it says nothing."""

    id: str
    phase: Phase
    needs: tuple[str, ...]
    judge: Callable[[Facts], Iterator[Finding]]

    @property
    def claim(self) -> str:
        """What holds when nothing is found: the first line of the function's docstring."""
        return (self.judge.__doc__ or "").partition("\n")[0]


CHECKS: Final = (
    Check("cluster.version", Phase.EVER, (), cluster.version),
    Check("cluster.permissions", Phase.BEFORE, ("grants",), cluster.permissions),
    Check("cluster.foreign-kinds", Phase.BEFORE, ("crds",), cluster.foreign_kinds),
    Check("cluster.kinds", Phase.AFTER, ("crds",), cluster.kinds),
    Check("cluster.injectors", Phase.EVER, ("webhooks",), cluster.injectors),
    Check("cluster.clocks", Phase.EVER, ("heartbeats",), control.clocks),
    Check("control.deployment", Phase.AFTER, ("deployment",), control.deployment),
    Check("control.replicas", Phase.AFTER, ("deployment",), control.replicas),
    Check("control.leader", Phase.AFTER, ("deployment", "lease"), control.leader),
    Check("control.reachable", Phase.AFTER, ("pods",), control.reachable),
    Check("webhook.trust", Phase.AFTER, ("webhooks",), control.webhook),
    Check("trust.roots", Phase.AFTER, ("pods", "replicas"), control.roots),
    Check("proxies.accept", Phase.AFTER, ("pods", "replicas"), control.rejections),
    Check("proxies.answered", Phase.AFTER, ("pods", "replicas"), control.answers),
    Check("proxies.release", Phase.AFTER, ("pods", "replicas"), workloads.releases),
    Check("objects.in-force", Phase.AFTER, ("pods", "replicas"), control.problems),
    Check("namespaces.pod-security", Phase.EVER, ("namespaces", "pods"), workloads.pod_security),
    Check("network.egress", Phase.EVER, ("namespaces", "pods", "policies"), network.reach),
    Check("network.ingress", Phase.AFTER, ("namespaces", "pods", "policies"), network.admission),
    Check("network.addresses", Phase.AFTER, ("pods", "services", "nodes", "ranges", "settings"),
          workloads.addresses),
    Check("pods.meshed", Phase.AFTER, ("namespaces", "pods"), workloads.not_meshed),
    Check("pods.current", Phase.AFTER, ("namespaces", "pods"), workloads.images),
    Check("pods.hooks", Phase.EVER, ("namespaces", "pods", "authentications", "settings"), hooks.refused),
    Check("services.ports", Phase.EVER, ("namespaces", "pods", "services"), workloads.ports),
)  # fmt: skip


_SILENT: Final = "kubectl -n proa-system logs deployment/proa"
_FORBIDDEN: Final = "kubectl auth can-i --list  # and check as somebody who may read it"


def run(facts: Facts, *, pre: bool) -> tuple[Result, ...]:
    """Return the results of every check of a phase, in the order of the table."""
    phase = Phase.BEFORE if pre else Phase.AFTER
    return tuple(result for check in CHECKS if phase & check.phase for result in _results(check, facts))


def _results(check: Check, facts: Facts) -> Iterator[Result]:
    missing = [source for source in check.needs if source in facts.unread]
    if missing:
        why = "; ".join(f"{source}: {facts.unread[source]}" for source in missing)
        message = f"cannot be judged: {why}"
        yield Result(
            check.id, Severity.WARNING, "", message, "kubectl auth can-i --list  # as somebody who may"
        )
        return
    found = list(check.judge(facts))
    if not found:
        yield Result(check.id, Severity.OK, "", check.claim, "")
    for one in found:
        yield Result(check.id, one.severity, one.subject, one.message, one.fix)
