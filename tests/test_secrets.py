"""Leaf secrets: one per stream, kept over an unchanged reconnect, renewed when due, gone on close.

Owns the facts about issuing over SDS; it must never need a server or a clock.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.entropy import counted_entropy
from xds import ca, settings
from xds.identity import Identity, Proof
from xds.keys import SecretBytes
from xds.pb.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from xds.resources import secret
from xds.rotation import Event, Slots, advance
from xds.rotation import Phase as RotationPhase
from xds.secrets import LeafVersions, SecretIssuer, SecretPut

NOW = 1_800_000_000.0
ENTROPY = counted_entropy("secrets")
VERSION_KEY = SecretBytes(b"k" * 32)
WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
STEADY = Slots(RotationPhase.STEADY, ca.new_root("cluster.local", now=NOW, entropy=ENTROPY), None, NOW)


def issuer(slots: Slots = STEADY) -> SecretIssuer:
    """An issuer as a process that has just started has it: the state directory is what it shares."""
    return SecretIssuer(slots, version_key=VERSION_KEY, entropy=ENTROPY)


def first_leaf(
    by: SecretIssuer,
    stream: str = "1",
    identity: Identity = WEB,
    *,
    claimed: str | None = None,
    now: float = NOW,
) -> SecretPut:
    """The leaf that a stream gets when it first asks."""
    put = by.subscribe(stream, identity, "default", claimed=claimed, now=now)
    assert put is not None
    return put


def decoded(put: SecretPut) -> Secret:
    """The message as Envoy reads it."""
    return Secret.FromString(put.body)


def activated() -> Slots:
    """The slots of STEADY two steps on: another root signs."""
    prepared = advance(
        STEADY, Event.ROTATE, now=NOW, new_root=lambda: ca.new_root("cluster.local", now=NOW, entropy=ENTROPY)
    )
    return advance(prepared, Event.BUNDLE_LIVE, now=NOW, new_root=lambda: STEADY.signer)


# --- who gets one -----------------------------------------------------------------------------


def test_a_verified_stream_gets_a_certificate_with_its_key() -> None:
    """The secret `default` lives in the stream's own layer and holds chain and key."""
    put = first_leaf(issuer(), "7")
    tls = decoded(put).tls_certificate

    assert (put.layer, put.name) == ("stream/7", "default")
    assert tls.certificate_chain.inline_bytes.startswith(b"-----BEGIN CERTIFICATE-----")
    assert tls.private_key.inline_bytes.startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("identity", [None, replace(WEB, proof=Proof.NODE_ID)])
def test_without_a_verified_identity_no_key_is_made(identity: Identity | None) -> None:
    """Insecure mode serves no secret, whatever it is asked."""
    by = issuer()

    assert by.subscribe("1", identity, "default", claimed=None, now=NOW) is None
    assert len(by) == 0


@pytest.mark.parametrize("name", ["*", "", "ROOTCA", "web-2", "stream/2"])
def test_only_the_own_certificate_is_issued(name: str) -> None:
    """No other name makes a key; the bundle is the mesh's, not the stream's."""
    assert issuer().subscribe("1", WEB, name, claimed=None, now=NOW) is None


def test_every_stream_has_a_key_of_its_own() -> None:
    """Two streams of one pod share no key."""
    by = issuer()
    keys = {decoded(first_leaf(by, stream)).tls_certificate.private_key.inline_bytes for stream in "12"}

    assert len(keys) == 2


def test_asking_again_makes_no_second_key() -> None:
    """The leaf of a stream is made once; the snapshot answers from then on."""
    by = issuer()
    first_leaf(by)

    assert by.subscribe("1", WEB, "default", claimed=None, now=NOW) is None


def test_a_put_prints_no_key() -> None:
    """What a traceback or a log line could contain holds no private key."""
    put = first_leaf(issuer())

    assert "PRIVATE" not in repr(put)
    assert "body" not in repr(put)


# --- unchanged reconnect ----------------------------------------------------------------------


def test_a_reconnect_with_a_current_version_keeps_it_over_a_restart() -> None:
    """Another process with the same state puts the same version: nothing is sent."""
    had = first_leaf(issuer())

    assert first_leaf(issuer(), "2", claimed=had.version, now=NOW + 60).version == had.version


def test_a_kept_leaf_is_renewed_when_it_was_due() -> None:
    """The reconnect does not extend the life of the key that the client has."""
    had = first_leaf(issuer())
    due = int(had.version.split(".")[1])
    after = issuer()
    first_leaf(after, claimed=had.version, now=NOW + 60)

    assert after.next_renewal() == due
    assert after.renew(due - 1) == ()
    assert after.renew(due)[0].version != had.version


def test_a_version_that_is_due_is_replaced() -> None:
    """A client that comes back after its half life gets a new leaf at once."""
    had = first_leaf(issuer())
    due = int(had.version.split(".")[1])

    assert first_leaf(issuer(), claimed=had.version, now=due).version != had.version


def test_a_version_of_a_former_root_is_replaced() -> None:
    """After activation a reconnecting client moves to the new root."""
    had = first_leaf(issuer())

    assert first_leaf(issuer(activated()), claimed=had.version).version != had.version


@pytest.mark.parametrize(
    "other",
    [
        replace(WEB, pod="web-2"),
        replace(WEB, service_account="admin"),
        replace(WEB, workload="other"),
        replace(WEB, namespace="other"),
    ],
)
def test_a_version_of_another_identity_is_replaced(other: Identity) -> None:
    """The version proves for whom the leaf is: a changed workload label is a changed certificate."""
    had = first_leaf(issuer())

    assert first_leaf(issuer(), identity=other, claimed=had.version).version != had.version


def forgeries(version: str) -> list[str]:
    """A version with one part changed, and what is no version at all."""
    root, due, mac = version.split(".")
    longer = str(int(due) + 10_000)
    return [
        f"{root}.{longer}.{mac}",
        f"{root}.0{due}.{mac}",
        f"{'0' * 16}.{due}.{mac}",
        f"{root}.{due}.{'0' * 32}",
        f"{root}.{due}.",
        f"{root}.-1.{mac}",
        f"{root}.{'9' * 5000}.{mac}",
        f"{root}.\u0661.{mac}",
        f"{root}.{due}.{mac}.x",
        version.upper(),
        "",
        "..",
        "1",
    ]


@pytest.mark.parametrize("index", range(13))
def test_a_forged_version_is_replaced(index: int) -> None:
    """A client cannot talk itself into a longer life, and nothing that it claims raises."""
    forged = forgeries(first_leaf(issuer()).version)[index]

    assert first_leaf(issuer(), claimed=forged).version != forged


def test_versions_of_another_state_directory_are_replaced() -> None:
    """A mesh that was set up anew recognises no version of the old one."""
    other = LeafVersions(SecretBytes(b"x" * 32))
    due = int(NOW) + 1000
    claimed = other.make(WEB, issuer=STEADY.signer.fingerprint, renew_at=due)

    assert LeafVersions(VERSION_KEY).due(claimed, WEB, issuer=STEADY.signer.fingerprint, now=NOW) is None


# --- renewal and close ------------------------------------------------------------------------


def test_a_due_leaf_is_renewed_with_a_new_key_in_its_layer() -> None:
    """Renewal replaces the stream's secret and plans the next one."""
    by = issuer()
    before = first_leaf(by)
    due = by.next_renewal()
    assert due is not None
    (after,) = by.renew(due)

    assert after.layer == before.layer
    assert decoded(after).tls_certificate.private_key != decoded(before).tls_certificate.private_key
    assert (by.next_renewal() or 0) > due


def test_renewal_is_bounded_and_goes_on() -> None:
    """A herd is served in batches, each leaf once."""
    by = issuer()
    for n in range(5):
        first_leaf(by, str(n))
    late = NOW + settings.LEAF_TTL_S
    batches = [[put.layer for put in by.renew(late, limit=2)] for _ in range(3)]

    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(layer for batch in batches for layer in batch) == [f"stream/{n}" for n in range(5)]


def test_a_failed_renewal_stays_due() -> None:
    """With an expired root nothing is issued, and nothing is forgotten."""
    by = issuer()
    first_leaf(by)
    end = STEADY.signer.certificate.not_valid_after_utc.timestamp()

    with pytest.raises(ca.CaError):
        by.renew(end)
    assert len(by) == 1
    assert (by.next_renewal() or end) < end


def test_a_closed_stream_is_forgotten() -> None:
    """Nothing of it is renewed, and its layer is named for the snapshot to drop."""
    by = issuer()
    first_leaf(by)

    assert by.close("1") == "stream/1"
    assert len(by) == 0
    assert by.next_renewal() is None


def test_streams_that_come_and_go_leave_nothing() -> None:
    """A thousand short streams beside one that stays cost no queue that grows."""
    by = issuer()
    first_leaf(by, "stays")
    for n in range(1000):
        first_leaf(by, str(n), now=NOW + 1 + n)  # due later: not at the head of the queue
        by.close(str(n))

    assert len(by._queue) <= 100  # pyright: ignore[reportPrivateUsage]


# --- rotation ---------------------------------------------------------------------------------


def test_the_bundle_has_every_trusted_root_and_a_version_of_its_own() -> None:
    """Equal roots have equal versions on every replica; another root is another version."""
    by = issuer()
    before = by.bundle()
    after = by.adopt(activated())

    assert before == issuer().bundle()
    assert before.version != after.version
    assert decoded(after).validation_context.trusted_ca.inline_bytes.count(b"BEGIN CERTIFICATE") == 2


def test_activation_makes_every_leaf_due() -> None:
    """Leaves of the old root are replaced now, not at their half life."""
    by = issuer()
    first_leaf(by, "1")
    first_leaf(by, "2")
    new = activated()
    by.adopt(new)

    assert {put.cause[1] for put in by.renew(NOW)} == {f"root {new.signer.fingerprint[:16]}"}
    assert by.renew(NOW) == ()


def test_a_rotation_waits_for_every_stream_to_ack_its_new_leaf() -> None:
    """Issued is not enough; the proxy must say that it uses it."""
    by = issuer()
    first_leaf(by)
    by.adopt(activated())
    not_issued = by.stale(lambda _stream, _version: True)
    (put,) = by.renew(NOW)

    assert not_issued == ("1",)
    assert by.stale(lambda _stream, _version: False) == ("1",)
    assert by.stale(lambda stream, version: (stream, version) == ("1", put.version)) == ()


def test_an_empty_trust_bundle_is_refused() -> None:
    """No root would make Envoy accept any chain."""
    with pytest.raises(ValueError, match="at least one root"):
        secret.build_trust_bundle(())
