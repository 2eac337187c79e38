"""Checks of the control plane: its replicas, its leader, its webhook, its trust, and what its proxies say.

It must never judge a workload's own manifest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from xds import settings
from xds.checks.facts import INSTALL, NAME, NAMESPACE, Facts
from xds.checks.finding import Finding, error, warning
from xds.checks.objects import LeaseSpec
from xds.trust import RootStatus, RotationStatus

WEBHOOKS: Final = "proa-injector"

_SUBJECT: Final = f"Deployment {NAMESPACE}/{NAME}"
_RESTART: Final = f"kubectl -n {NAMESPACE} rollout restart deployment/{NAME}"

EXPIRY_S: Final = 30 * 24 * 3600
"""How long before its end a root is worth a warning: a rotation takes minutes, a change window weeks."""

LEADERLESS_S: Final = 2 * settings.LEASE_S
"""A Lease that is not renewed for so long has no holder: another replica had one whole period to take it."""

_BEAT_AGE_S: Final = 50.0
"""A node whose Lease stands still for longer is no longer Ready (controller manager, node-monitor-grace-period)."""


def deployment(facts: Facts) -> Iterator[Finding]:
    """Every replica that is wanted is available."""
    found = facts.deployment
    if found is None:
        yield error(_SUBJECT, "is missing", INSTALL)
    elif found.status.available_replicas < found.spec.replicas:
        message = f"{found.status.available_replicas} of {found.spec.replicas} replicas are available"
        yield error(
            _SUBJECT, message, f"kubectl -n {NAMESPACE} describe pods -l app.kubernetes.io/name={NAME}"
        )


def replicas(facts: Facts) -> Iterator[Finding]:
    """A node may go without the control plane going with it."""
    found = facts.deployment
    if found is not None and found.spec.replicas < 2:
        message = "one replica: while its node is drained no pod is injected and no proxy learns anything"
        yield warning(_SUBJECT, message, f"kubectl -n {NAMESPACE} scale deployment/{NAME} --replicas=2")


def leader(facts: Facts) -> Iterator[Finding]:
    """One replica holds the Lease, and renews it."""
    subject = f"Lease {NAMESPACE}/{NAME}"
    if facts.deployment is None:
        return
    spec = facts.lease.spec if facts.lease else LeaseSpec()
    renewed = seconds(spec.renew_time)
    if not spec.holder_identity or renewed is None:
        yield error(subject, "has no holder: nobody writes certificates, webhook or Events", _RESTART)
    elif facts.now - renewed > LEADERLESS_S:
        holder = spec.holder_identity
        message = f"was not renewed for {facts.now - renewed:.0f} s: its holder {holder} is gone"
        yield error(subject, message, _RESTART)


def reachable(facts: Facts) -> Iterator[Finding]:
    """Every replica answers on its admin port, which only a port-forward reaches."""
    for replica in facts.replicas:
        if replica.silence:
            message = f"its admin API does not answer: {replica.silence}"
            fix = f"kubectl -n {NAMESPACE} logs {replica.pod}"
            yield warning(f"Pod {NAMESPACE}/{replica.pod}", message, fix)


def webhook(facts: Facts) -> Iterator[Finding]:
    """The apiserver knows the injector and trusts the certificate that it shows."""
    subject = f"MutatingWebhookConfiguration {WEBHOOKS}"
    found = next((one for one in facts.webhooks if one.metadata.name == WEBHOOKS), None)
    if found is None:
        yield error(subject, "is missing: no pod gets a sidecar", INSTALL)
        return
    signer = _signer(facts)
    faults: dict[str, list[str]] = {}
    for one in found.webhooks:
        faults.setdefault(_bundle_fault(one.client_config.ca_bundle, signer, facts.now), []).append(one.name)
    for fault, names in faults.items():
        if fault:
            yield error(subject, f"{', '.join(names)}: {fault}", _RESTART)


def roots(facts: Facts) -> Iterator[Finding]:
    """No root certificate ends soon."""
    seen: set[str] = set()
    for replica in facts.replicas:
        if replica.trust is None:
            continue
        for name, rotation in (("workload", replica.trust.workload), ("channel", replica.trust.channel)):
            root = _signing(rotation)
            if root is None or root.fingerprint in seen or root.not_after - facts.now > EXPIRY_S:
                continue
            seen.add(root.fingerprint)
            fix = f"proa ca rotate --kubernetes{' --channel' if name == 'channel' else ''}"
            day = dt.datetime.fromtimestamp(root.not_after, dt.UTC).date().isoformat()
            judge = error if root.not_after <= facts.now else warning
            yield judge(f"Root {name} {root.fingerprint[:16]}", f"ends on {day}", fix)


def clocks(facts: Facts) -> Iterator[Finding]:
    """No node's clock is so far off that certificates made now are not valid there yet, or no more."""
    for beat in facts.heartbeats:
        ahead_s = beat.at - facts.now
        message = ""
        if ahead_s > settings.CLOCK_SKEW_S:
            message = f"its clock is {ahead_s:.0f} s ahead of the apiserver's"
        elif beat.is_ready and -ahead_s > settings.CLOCK_SKEW_S + _BEAT_AGE_S:
            message = f"its clock is about {-ahead_s:.0f} s behind the apiserver's"
        if message:
            yield error(f"Node {beat.node}", message, "timedatectl set-ntp true  # on that node")


def rejections(facts: Facts) -> Iterator[Finding]:
    """No proxy rejects what it is sent."""
    for replica in facts.replicas:
        for proxy in replica.proxies:
            rejected = sum(count.rejected for count in proxy.types)
            if rejected:
                message = f"its Envoy rejects {rejected} resource(s) and keeps their last good version"
                yield error(f"Proxy {proxy.id}", message, f"proa proxy config {proxy.id} --kubernetes")


def answers(facts: Facts) -> Iterator[Finding]:
    """Whoever is asked about requests answers."""
    for replica in facts.replicas:
        for proxy in replica.proxies:
            for one in proxy.silent:
                asking = f", which {' and '.join(one.objects)} asks" if one.objects else ""
                who = f"{one.service} {one.name}".strip()
                message = f"its {who}{asking} did not answer within the last minute, {one.times} times in all"
                yield warning(
                    f"Proxy {proxy.id}", message, f"proa proxy config {proxy.id} --type clusters --kubernetes"
                )


def problems(facts: Facts) -> Iterator[Finding]:
    """Every object that was read is in force."""
    for problem in sorted({one for replica in facts.replicas for one in replica.problems}, key=str):
        kind, _, name = problem.object.partition(" ")
        namespace, slash, short = name.rpartition("/")
        fix = f"kubectl{f' -n {namespace}' if slash else ''} edit {kind.lower()} {short}"
        message = f"{problem.field}: {problem.reason}" if problem.field else problem.reason
        if problem.severity == "error":
            yield error(problem.object, message, fix)
        elif problem.severity == "warning":
            yield warning(problem.object, message, fix)


def _signer(facts: Facts) -> str:
    """Return the fingerprint of the root that signs the webhook's certificate, empty where no replica told."""
    for replica in facts.replicas:
        root = _signing(replica.trust.channel) if replica.trust else None
        if root is not None:
            return root.fingerprint
    return ""


def _signing(rotation: RotationStatus) -> RootStatus | None:
    return next((root for root in rotation.roots if root.signs), None)


def _bundle_fault(bundle: bytes, signer: str, now: float) -> str:
    """Return what keeps the apiserver from trusting the webhook, empty if nothing does."""
    if not bundle:
        return "has no caBundle yet: the replica that holds the Lease writes it"
    try:
        certificates = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return "its caBundle is no PEM"
    alive = [one for one in certificates if one.not_valid_after_utc.timestamp() > now]
    if not alive:
        return "every certificate of its caBundle has expired"
    if signer and signer not in {one.fingerprint(hashes.SHA256()).hex() for one in alive}:
        return f"its caBundle lacks the root {signer[:16]} that signs the webhook's certificate"
    return ""


def seconds(text: str | None) -> float | None:
    """Return an RFC 3339 time in seconds since the epoch, None for none."""
    try:
        return dt.datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
