"""Checks of the cluster itself: its version, what the user may do, the kinds that Proa reads.

It must never judge a workload.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from xds.checks.facts import INSTALL, Facts
from xds.checks.finding import Finding, error, warning
from xds.checks.objects import Crd

OLDEST: Final = (1, 29)
"""The first Kubernetes with native sidecars in force by default (KEP-753, beta)."""

OURS: Final = ("app.kubernetes.io/part-of", "proa")
"""Label of the kinds that our manifest brought."""

KINDS: Final = {
    "authorizationpolicies.security.istio.io": frozenset({"v1", "v1beta1"}),
    "destinationrules.networking.istio.io": frozenset({"v1", "v1beta1", "v1alpha3"}),
    "faults.proa.dev": frozenset({"v1alpha1"}),
    "peerauthentications.security.istio.io": frozenset({"v1", "v1beta1"}),
    "ratelimits.proa.dev": frozenset({"v1alpha1"}),
    "requestauthentications.security.istio.io": frozenset({"v1", "v1beta1"}),
    "serviceentries.networking.istio.io": frozenset({"v1", "v1beta1", "v1alpha3"}),
    "sidecars.networking.istio.io": frozenset({"v1", "v1beta1", "v1alpha3"}),
    "telemetries.telemetry.istio.io": frozenset({"v1", "v1alpha1"}),
    "virtualservices.networking.istio.io": frozenset({"v1", "v1beta1", "v1alpha3"}),
}
"""The custom kinds that Proa reads, and the versions of them that it can."""


def is_ours(crd: Crd) -> bool:
    """Tell whether a kind came with Proa; what somebody else brought is left alone."""
    return crd.metadata.labels.get(OURS[0]) == OURS[1]


def version(facts: Facts) -> Iterator[Finding]:
    """The apiserver runs init containers that stay: native sidecars."""
    if facts.version < OLDEST:
        have, need = ".".join(map(str, facts.version)), ".".join(map(str, OLDEST))
        message = f"Kubernetes {have} has no native sidecars; Proa needs {need}"
        yield error("Cluster", message, "kubectl version  # upgrade the cluster")


def permissions(facts: Facts) -> Iterator[Finding]:
    """The user may create and change what the manifest holds."""
    missing: dict[str, list[str]] = {}
    for grant in facts.grants:
        if not grant.is_allowed:
            what = grant.resource + (f" in {grant.namespace}" if grant.namespace else "")
            missing.setdefault(what, []).append(grant.verb)
    if missing:
        words = ", ".join(f"{'/'.join(verbs)} {what}" for what, verbs in missing.items())
        user = facts.user or "USER"
        fix = f"kubectl create clusterrolebinding proa-install --clusterrole=cluster-admin --user={user}"
        yield error(f"User {user}", f"may not: {words}", fix)


def foreign_kinds(facts: Facts) -> Iterator[Finding]:
    """Kinds that somebody else brought can be read by Proa; installing leaves them as they are."""
    for crd in facts.crds:
        name = crd.metadata.name
        if name in KINDS and not is_ours(crd) and not _served(crd) & KINDS[name]:
            yield _unreadable(crd)


def kinds(facts: Facts) -> Iterator[Finding]:
    """The kinds that Proa reads exist, and are served in a version that it can read."""
    known = {crd.metadata.name: crd for crd in facts.crds}
    for name, readable in KINDS.items():
        crd = known.get(name)
        subject = f"CustomResourceDefinition {name}"
        if crd is None:
            yield error(subject, "is missing: nobody can write this kind", INSTALL)
        elif not crd.status.hold("Established"):
            yield error(
                subject, "is not established: the apiserver does not serve it", f"kubectl describe crd {name}"
            )
        elif not _served(crd) & readable:
            yield _unreadable(crd)


def injectors(facts: Facts) -> Iterator[Finding]:
    """No other mesh would put its own sidecar into the same Pods."""
    for found in facts.webhooks:
        name = found.metadata.name
        if (
            name.startswith("istio-sidecar-injector")
            or found.metadata.labels.get("app") == "sidecar-injector"
        ):
            message = "Istio injects here too: a namespace that both select is left to Istio"
            fix = "kubectl label namespace NAMESPACE istio-injection- proa.dev/inject=enabled  # to move one over"
            yield warning(f"MutatingWebhookConfiguration {name}", message, fix)


def _served(crd: Crd) -> set[str]:
    return {one.name for one in crd.spec.versions if one.served}


def _unreadable(crd: Crd) -> Finding:
    name = crd.metadata.name
    served, readable = (", ".join(sorted(found)) or "nothing" for found in (_served(crd), KINDS[name]))
    message = f"is served as {served}; Proa reads {readable}"
    return error(f"CustomResourceDefinition {name}", message, f"kubectl get crd {name} -o yaml")
