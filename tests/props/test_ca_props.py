"""Properties of the trust: what holds for any identity, any time and any order of events.

Owns the laws of issuing and rotating; it must never depend on an example.
"""

from __future__ import annotations

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.entropy import counted_entropy
from xds import ca, svid
from xds.identity import GRANTS, SECRET_TYPE, Identity, IdentityError, Proof, SpiffeId, authorize
from xds.rotation import Event, Phase, Slots, advance

NOW = 1_800_000_000
ENTROPY = counted_entropy("props")
ROOT = ca.new_root("cluster.local", now=NOW, entropy=ENTROPY)
END = int(ROOT.certificate.not_valid_after_utc.timestamp())
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda name: len(name) <= 253)


@given(st.text(max_size=60) | st.text("spife:/abAB.%_-", max_size=30).map(lambda tail: "spiffe://" + tail))
def test_a_spiffe_id_is_read_unchanged_or_refused(text: str) -> None:
    """Parsing is the identity on what it accepts and raises nothing but IdentityError."""
    try:
        found = SpiffeId.parse(text)
    except IdentityError:
        return

    assert str(found) == text


@settings(deadline=None, max_examples=60)
@given(NAME, LABEL, NAME, NAME, st.integers(NOW, END - 1), st.integers(2, 90 * 86400))
def test_every_leaf_is_by_the_book(  # noqa: PLR0913, PLR0917  # one strategy an argument
    pod: str, namespace: str, account: str, workload: str, now: int, ttl_s: int
) -> None:
    """Any identity, any moment of the root's life: valid, its own name, renewed while it is good."""
    identity = Identity(pod, namespace, account, workload, "cluster.local", Proof.TOKEN)
    leaf = ca.issue_leaf(ROOT, identity, now=now, entropy=ENTROPY, ttl_s=ttl_s)
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem)
    svid.check(certificate, svid.LEAF, issuer=ROOT.certificate)

    assert svid.spiffe_id(certificate) == identity.spiffe_id
    assert now <= leaf.renew_at <= leaf.not_after <= min(END, now + ttl_s)


@given(st.sampled_from([*GRANTS, ""]), st.text(max_size=40))
def test_nobody_unverified_is_ever_granted_a_secret(url: str, name: str) -> None:
    """For any type and name: what the anonymous may have the verified may too, and secrets need proof."""
    verified = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
    claimed = Identity("web-1", "shop", "web", "web", "cluster.local")

    assert not (url == SECRET_TYPE and (authorize(None, url, name) or authorize(claimed, url, name)))
    assert authorize(None, url, name) <= authorize(claimed, url, name) or url == SECRET_TYPE
    assert authorize(claimed, url, name) <= authorize(verified, url, name)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(Event), max_size=12))
def test_no_order_of_events_breaks_trust(events: list[Event]) -> None:
    """After any event the root that signs is trusted, and so was it before: no leaf is ever a stranger's."""
    slots = Slots(Phase.STEADY, ROOT, None, NOW)
    for event in events:
        before = slots
        slots = advance(
            before, event, now=NOW, new_root=lambda: ca.new_root("cluster.local", now=NOW, entropy=ENTROPY)
        )

        assert slots.signer in slots.trusted
        assert slots.signer in before.trusted
        assert len(slots.trusted) <= 2
