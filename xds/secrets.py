"""Leaf secrets: one key and certificate per stream, made on first use, renewed when due, forgotten on close.

Owns who holds which leaf until when; it must never read a clock, talk to a stream, or keep a private key
after it has handed the secret to the snapshot.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from xds import ca, settings
from xds.ca import Leaf
from xds.identity import OWN_CERTIFICATE, SECRET_TYPE, TRUST_BUNDLE, Identity, authorize
from xds.keys import Entropy, SecretBytes
from xds.resources import secret
from xds.rotation import Slots

TRUST_LAYER: Final = "trust"
_MAC_HEX_DIGITS: Final = 32  # 128 bits: a forger has one guess a reconnect, and wins only its own old leaf
_VERSION_MAX_CHARS: Final = 80  # ours have 60; more is not worth a MAC
_QUEUE_SLACK: Final = 64  # stale heap entries that are not worth a rebuild
_ISSUER_HEX_DIGITS: Final = 16  # tells our own two roots apart; nothing is proved by it


@dataclass(frozen=True, slots=True)
class SecretPut:
    """One secret to put into the snapshot, in the words of ``Snapshot.put``; the body never prints."""

    layer: str
    name: str
    body: bytes = field(repr=False)
    version: str
    cause: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    identity: Identity
    issuer: str
    renew_at: int
    version: str


class LeafVersions:
    """Versions of the secret `default` that prove themselves: ``<issuer>.<renew at>.<mac>``.

    A key differs at every issue, so a hash of the body would change with every restart. This version says
    instead until when, and for whom, the leaf is good; a client that reconnects with one keeps its leaf.
    """

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    def make(self, identity: Identity, *, issuer: str, renew_at: int) -> str:
        """The version of a leaf for this identity, signed by this root, due at this second."""
        short = issuer[:_ISSUER_HEX_DIGITS]
        # One field a line: no name of the grammar has a newline, so no two leaves have one text.
        names = (identity.node_id, str(identity.spiffe_id), identity.dns_san or "")
        text = "\n".join((*names, issuer, str(renew_at)))
        mac = hmac.new(self._key.reveal(), text.encode(), hashlib.sha256).hexdigest()
        return f"{short}.{renew_at}.{mac[:_MAC_HEX_DIGITS]}"

    def due(self, claimed: str, identity: Identity, *, issuer: str, now: float) -> int | None:
        """When the leaf of a claimed version is to be renewed; None if it is not ours, not theirs, or due."""
        match claimed.split("."):
            case [_, seconds, _] if len(claimed) <= _VERSION_MAX_CHARS and _is_number(seconds):
                renew_at = int(seconds)
            case _:
                return None
        expected = self.make(identity, issuer=issuer, renew_at=renew_at)
        genuine = hmac.compare_digest(expected.encode(), claimed.encode())
        return renew_at if genuine and now < renew_at else None


class SecretIssuer:
    """Issues, renews and forgets the leaves of all streams; it returns what the snapshot must learn."""

    def __init__(
        self, slots: Slots, *, version_key: SecretBytes, entropy: Entropy, ttl_s: int = settings.LEAF_TTL_S
    ) -> None:
        self._slots = slots
        self._versions = LeafVersions(version_key)
        self._entropy = entropy
        self._ttl_s = ttl_s
        self._held: dict[str, _Held] = {}
        # A heap of (when, stream); entries that `_held` contradicts are stale and skipped.
        self._queue: list[tuple[float, str]] = []

    def bundle(self) -> SecretPut:
        """The trust bundle `ROOTCA` of the mesh; its version is a hash of the roots, equal everywhere."""
        roots = tuple(dict.fromkeys(root.pem for root in self._slots.trusted))
        version = hashlib.sha256(b"".join(sorted(roots))).hexdigest()[:_ISSUER_HEX_DIGITS]
        cause = tuple(f"root {root.fingerprint[:_ISSUER_HEX_DIGITS]}" for root in self._slots.trusted)
        return SecretPut(TRUST_LAYER, TRUST_BUNDLE, secret.build_trust_bundle(roots), version, cause)

    def adopt(self, slots: Slots) -> SecretPut:
        """Take over a rotation's next slots: returns the bundle; leaves of another root become due now."""
        self._slots = slots
        for stream, held in self._held.items():
            if held.issuer != slots.signer.fingerprint:
                heapq.heappush(self._queue, (0, stream))
        return self.bundle()

    def subscribe(
        self, stream: str, identity: Identity | None, name: str, *, claimed: str | None, now: float
    ) -> SecretPut | None:
        """The secret to put when a stream first asks for `name`; None if there is nothing to put.

        `claimed` is the version that the client says it has (`initial_resource_versions`). If that leaf is
        still good, the put carries the same version, so that an unchanged reconnect sends nothing; the body
        is a fresh leaf, for the case that the client insists. Raises CaError if the root cannot sign now.
        """
        if identity is None or not authorize(identity, SECRET_TYPE, name):
            return None
        if name != OWN_CERTIFICATE or stream in self._held:
            return None
        return self._issue(stream, identity, claimed=claimed, now=now)

    def renew(self, now: float, *, limit: int = settings.LEAF_RENEW_BATCH) -> tuple[SecretPut, ...]:
        """The leaves that are due, at most `limit` of them; call again while :meth:`next_renewal` is due.

        Raises CaError if the root cannot sign now; the leaf stays in force and stays due.
        """
        puts: list[SecretPut] = []
        while len(puts) < limit and self._is_due(now):
            _, stream = self._queue[0]
            puts.append(self._issue(stream, self._held[stream].identity, claimed=None, now=now))
        return tuple(puts)

    def next_renewal(self) -> float | None:
        """When the next leaf is due, seconds since the epoch; None without leaves. The past means now."""
        self._drop_stale()
        return self._queue[0][0] if self._queue else None

    def stale(self, acked: Callable[[str, str], bool]) -> tuple[str, ...]:
        """The streams that keep a rotation from going on: no ACK yet for a leaf of the root that signs.

        `acked(stream, version)`: whether that stream has ACKed that version of its secret `default`.
        """
        signer = self._slots.signer.fingerprint
        return tuple(
            stream
            for stream, held in self._held.items()
            if held.issuer != signer or not acked(stream, held.version)
        )

    def close(self, stream: str) -> str:
        """Forget a stream; returns the layer that the snapshot drops with it."""
        self._held.pop(stream, None)
        self._drop_stale()
        return layer_of(stream)

    def __len__(self) -> int:
        return len(self._held)

    def _issue(self, stream: str, identity: Identity, *, claimed: str | None, now: float) -> SecretPut:
        leaf = ca.issue_leaf(self._slots.signer, identity, now=now, entropy=self._entropy, ttl_s=self._ttl_s)
        kept = self._versions.due(claimed, identity, issuer=leaf.issuer, now=now) if claimed else None
        renew_at = leaf.renew_at if kept is None else kept
        version = self._versions.make(identity, issuer=leaf.issuer, renew_at=renew_at)
        self._held[stream] = _Held(identity, leaf.issuer, renew_at, version)
        heapq.heappush(self._queue, (renew_at, stream))
        self._drop_stale()
        body = secret.build_own_certificate(leaf)
        return SecretPut(layer_of(stream), OWN_CERTIFICATE, body, version, _cause(identity, leaf))

    def _is_due(self, now: float) -> bool:
        self._drop_stale()
        return bool(self._queue) and self._queue[0][0] <= now

    def _drop_stale(self) -> None:
        """Pop entries of closed streams and of leaves that were replaced since."""
        if len(self._queue) > _QUEUE_SLACK + 2 * len(self._held):
            # Streams that come and go would leave an entry each for half a day: keep those that count.
            self._queue = [entry for entry in self._queue if self._counts(*entry)]
            heapq.heapify(self._queue)
        while self._queue and not self._counts(*self._queue[0]):
            heapq.heappop(self._queue)

    def _counts(self, when: float, stream: str) -> bool:
        held = self._held.get(stream)
        return held is not None and (when == held.renew_at or held.issuer != self._slots.signer.fingerprint)


def layer_of(stream: str) -> str:
    """The snapshot layer that holds one stream's own secrets."""
    return f"stream/{stream}"


def _cause(identity: Identity, leaf: Leaf) -> tuple[str, ...]:
    account = f"ServiceAccount {identity.namespace}/{identity.service_account}"
    return (account, f"root {leaf.issuer[:_ISSUER_HEX_DIGITS]}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
