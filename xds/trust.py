"""Everything that the control plane vouches for, in one place: both roots, the leaves, their next step.

Owns the order of a rotation's effects (persisted, then published); it must never do I/O or read a clock:
each method takes the time and returns what the snapshot must learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from xds import ca, settings
from xds.ca import Leaf
from xds.keys import Entropy, SecretBytes
from xds.replicas import Report
from xds.rotation import ChannelRotation, Phase, Root, Slots, WorkloadRotation
from xds.secrets import SecretIssuer, SecretPut


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the connected proxies have said, as three questions that the ledger answers."""

    bundle_acked: Callable[[str], bool]
    """Whether every connected proxy has ACKed this version of `ROOTCA` (or reconnected with it)."""
    leaf_acked: Callable[[str, str], bool]
    """Whether this stream has ACKed this version of its `default` (or reconnected with it)."""
    channel_roots: Callable[[], frozenset[str | None]]
    """The channel root that each connected proxy reports in its node metadata; None: it reports none."""
    signer_live: Callable[[str], bool] = lambda _signer: True
    """Whether the proxies of every other replica present leaves of the root with this fingerprint."""


def joined(own: Fleet, others: Callable[[], Sequence[Report] | None]) -> Fleet:
    """The fleet of all replicas: our own proxies, and what the others have published of theirs.

    `others` gives None while nobody knows who the others are: then no barrier holds.
    """

    def all_say(said: Callable[[Report], bool]) -> bool:
        reports = others()
        return reports is not None and all(said(report) for report in reports)

    def channel_roots() -> frozenset[str | None]:
        reports = others()
        if reports is None:
            return frozenset((None,))
        return own.channel_roots() | {root or None for report in reports for root in report.channel_roots}

    return Fleet(
        lambda version: own.bundle_acked(version) and all_say(lambda report: report.bundle == version),
        own.leaf_acked,
        channel_roots,
        lambda signer: all_say(lambda report: report.signer == signer),
    )


OFFLINE: Final = Fleet(lambda _version: False, lambda _stream, _version: False, frozenset)
"""The fleet of a control plane that does not run: nobody has said anything."""


class RootStatus(msgspec.Struct, frozen=True):
    """One root certificate, for `proa ca status`."""

    fingerprint: str
    not_after: int
    """Seconds since the epoch."""
    signs: bool


class RotationStatus(msgspec.Struct, frozen=True):
    """Where one rotation stands, and what it waits for."""

    phase: Phase
    entered: float
    roots: tuple[RootStatus, ...]
    waiting_for: str


class Status(msgspec.Struct, frozen=True):
    """What `GET /api/v1/ca` answers."""

    workload: RotationStatus
    channel: RotationStatus
    leaves: int
    """Leaves that connected proxies hold."""
    stale_streams: tuple[str, ...] = ()
    """Streams whose leaf a workload rotation waits for."""


@dataclass(slots=True)
class Trust:
    """The composition of both rotations and the issuer."""

    workload: WorkloadRotation
    channel: ChannelRotation
    issuer: SecretIssuer
    entropy: Entropy = field(repr=False)
    _channel_leaf: Leaf | None = field(default=None, init=False, repr=False)

    @classmethod
    def assemble(  # noqa: PLR0913  # what the state directory holds, and how to write it back
        cls,
        workload: Slots,
        channel: Slots,
        *,
        trust_domain: str,
        version_key: SecretBytes,
        entropy: Entropy,
        save: Callable[[Root, Slots], None],
        started: float,
        leaf_ttl_s: int = settings.LEAF_TTL_S,
    ) -> Trust:
        """Put together what a state directory holds; `started` is when this process began to serve."""
        return cls(
            WorkloadRotation(
                workload,
                trust_domain=trust_domain,
                entropy=entropy,
                save=lambda slots: save(Root.WORKLOAD, slots),
                started=started,
            ),
            ChannelRotation(
                channel,
                entropy=entropy,
                save=lambda slots: save(Root.CHANNEL, slots),
                started=started,
            ),
            SecretIssuer(workload, version_key=version_key, entropy=entropy, ttl_s=leaf_ttl_s),
            entropy,
        )

    def rotate(self, root: Root, now: float) -> tuple[SecretPut, ...]:
        """Begin a rotation (`proa ca rotate`), or let one that is under way go on."""
        match root:
            case Root.WORKLOAD:
                return self._adopt(self.workload.rotate(now))
            case Root.CHANNEL:
                self.channel.rotate(now)
                return ()

    def retire(self, root: Root, now: float) -> tuple[SecretPut, ...]:
        """Drop the old root at once (`proa ca retire`), at the price of proxies that still need it.

        Raises CaError where that would leave no working signer: there is no old root yet.
        """
        match root, self.workload.slots.phase, self.channel.slots.phase:
            case Root.WORKLOAD, Phase.ACTIVATED, _:
                return self._adopt(self.workload.retire(now))
            case Root.CHANNEL, _, Phase.PREPARED | Phase.ACTIVATED:
                self.channel.retire(now)
                return ()
            case _:
                message = f"nothing to retire: the {root.value} root that signs has no predecessor"
                raise ca.CaError(message)

    def follow(self, root: Root, slots: Slots) -> tuple[SecretPut, ...]:
        """Take over what the home of the roots says now: a step of another replica's, or one that we handed it."""
        match root:
            case Root.WORKLOAD:
                self.workload.slots = slots
                return self._adopt(slots)
            case Root.CHANNEL:
                self.channel.slots = slots
                return ()

    def report(self, fleet: Fleet) -> Report:
        """What this replica tells the others of its own proxies (`fleet`), for the barriers of the one that leads."""
        bundle = self.issuer.bundle().version
        return Report(
            bundle if fleet.bundle_acked(bundle) else "",
            "" if self.issuer.stale(fleet.leaf_acked) else self.workload.slots.signer.fingerprint,
            tuple(sorted(root or "" for root in fleet.channel_roots())),
        )

    def tick(self, now: float, fleet: Fleet, *, leads: bool = True) -> tuple[SecretPut, ...]:
        """One step of whatever is due: rotations whose barrier holds, then a batch of leaf renewals.

        Call it each second and at every ACK of a secret. Who does not lead renews, and follows the rotations.
        Raises CaError if the signing root is expired.
        """
        if not leads:
            return self.issuer.renew(now)
        self.channel.tick(now, fleet.channel_roots)
        version = self.issuer.bundle().version
        stepped = self.workload.tick(
            now,
            bundle_live=lambda: fleet.bundle_acked(version),
            leaves_live=lambda: (
                not self.issuer.stale(fleet.leaf_acked)
                and fleet.signer_live(self.workload.slots.signer.fingerprint)
            ),
        )
        return (*(self._adopt(stepped) if stepped else ()), *self.issuer.renew(now))

    def channel_leaf(self, now: float) -> Leaf:
        """The xDS server's certificate: the same object until it is due or the channel's signer changes."""
        signer = self.channel.slots.signer
        leaf = self._channel_leaf
        if leaf is None or leaf.issuer != signer.fingerprint or now >= leaf.renew_at:
            leaf = ca.issue_channel_leaf(signer, now=now, entropy=self.entropy)
            self._channel_leaf = leaf
        return leaf

    def status(self, fleet: Fleet) -> Status:
        """Where both rotations stand."""
        in_rotation = self.workload.slots.phase is Phase.ACTIVATED
        return Status(
            describe(Root.WORKLOAD, self.workload.slots),
            describe(Root.CHANNEL, self.channel.slots),
            len(self.issuer),
            self.issuer.stale(fleet.leaf_acked) if in_rotation else (),
        )

    def _adopt(self, slots: Slots) -> tuple[SecretPut, ...]:
        return (self.issuer.adopt(slots),)


_WAITING_FOR: Final = {
    (Root.WORKLOAD, Phase.STEADY): "",
    (Root.WORKLOAD, Phase.PREPARED): "every connected proxy to acknowledge the bundle with both roots",
    (Root.WORKLOAD, Phase.ACTIVATED): "every connected proxy to acknowledge a leaf of the new root",
    (Root.CHANNEL, Phase.STEADY): "",
    (
        Root.CHANNEL,
        Phase.PREPARED,
    ): "every connected proxy to be restarted with a new bootstrap",
    (Root.CHANNEL, Phase.ACTIVATED): "the next step of the server",
}


def describe(root: Root, slots: Slots) -> RotationStatus:
    """What `proa ca status` shows of one rotation."""
    roots = tuple(
        RootStatus(
            authority.fingerprint,
            int(authority.certificate.not_valid_after_utc.timestamp()),
            authority is slots.signer,
        )
        for authority in slots.trusted
    )
    return RotationStatus(slots.phase, slots.entered, roots, _WAITING_FOR[root, slots.phase])


def bootstrap_roots(channel: Slots) -> tuple[tuple[str, ...], str]:
    """What a bootstrap inlines: the PEM of every current channel root, and the fingerprint that it reports.

    The newest root's fingerprint says enough: who reports it trusts the root that signs next.
    """
    return tuple(root.pem.decode("ascii") for root in channel.trusted), channel.newest.fingerprint
