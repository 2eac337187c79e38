"""A user's own CA: what a Secret of cert-manager's shape must hold, and what is said of one that does not.

Owns the facts about xds.issuer; it must never need an apiserver.
"""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.fakes.authorities import Authorities, Key, certificate, key_pem, pem
from tests.fakes.entropy import counted_entropy
from xds import ca, stored
from xds.ca import Authority
from xds.fields import ConfigError
from xds.identity import Identity, Proof
from xds.issuer import read_issuer
from xds.keys import SecretBytes
from xds.rotation import Phase, Slots

WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
THEIRS = Authorities("theirs")


def issuer(files: dict[str, bytes], now: float | None = None) -> Authority:
    """Read a Secret, as it is at `now`, or at the moment of the call: certificates are made as tests ask for them."""
    kept = {name: SecretBytes(octets) for name, octets in files.items()}
    return read_issuer(kept, trust_domain="cluster.local", now=time.time() if now is None else now)


def refusal(files: dict[str, bytes], now: float | None = None) -> str:
    """What is said of a Secret that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        issuer(files, now)
    return str(caught.value)


@pytest.mark.parametrize(
    "key", [None, ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)]
)
def test_an_intermediate_signs_leaves_that_come_with_it(key: Key | None) -> None:
    """The leaf is sent with its signer, peers trust the root, and the Secret's key may be of another kind."""
    authority = issuer(THEIRS.secret("one", key=key))
    leaf = ca.issue_leaf(authority, WEB, now=time.time(), entropy=counted_entropy())
    sent = x509.load_pem_x509_certificates(leaf.certificate_pem)

    assert [one.subject for one in sent[1:]] == [authority.certificate.subject]
    sent[0].verify_directly_issued_by(sent[1])
    sent[1].verify_directly_issued_by(THEIRS.root)
    assert authority.pem == pem(THEIRS.root)
    assert not authority.is_ours


def test_a_root_signs_by_itself() -> None:
    """A self-signed CA needs no `ca.crt`, and no chain is sent."""
    files = {"tls.crt": pem(THEIRS.root), "tls.key": key_pem(THEIRS.key)}
    for found in (issuer(files), issuer({**files, "ca.crt": pem(THEIRS.root)})):
        assert (found.chain, found.anchors) == ((), (THEIRS.root,))


def two_deep(path_length: int | None = 1) -> dict[str, bytes]:
    """A signer below an intermediate below the root."""
    upper, lower = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    above = certificate("upper", upper.public_key(), "theirs root", THEIRS.key, path_length=path_length)
    signer = certificate("lower", lower.public_key(), "upper", upper)
    return {"tls.crt": pem(signer, above), "tls.key": key_pem(lower), "ca.crt": pem(THEIRS.root)}


def test_a_chain_of_two_is_sent_whole() -> None:
    """Everything between the leaf and the root travels with the leaf."""
    assert len(issuer(two_deep()).chain) == 2


def test_a_leaf_ends_with_the_first_of_its_chain() -> None:
    """No leaf outlives what signed it."""
    authority = issuer(THEIRS.secret("one", days=1))
    leaf = ca.issue_leaf(authority, WEB, now=time.time(), entropy=counted_entropy(), ttl_s=10 * 24 * 3600)

    assert leaf.not_after == authority.not_after < time.time() + 2 * 24 * 3600


def test_a_users_ca_survives_being_stored() -> None:
    """Chain and roots come back, so that every replica signs and sends the same."""
    slots = Slots(Phase.STEADY, issuer(two_deep()), None, time.time())
    again = stored.unpack(stored.pack(slots).reveal())

    assert (again.signer.fingerprint, again.signer.chain, again.signer.anchors) == (
        slots.signer.fingerprint, slots.signer.chain, slots.signer.anchors)  # fmt: skip


def _renamed(files: dict[str, bytes], **changes: bytes | None) -> dict[str, bytes]:
    merged = {**files, **{name.replace("_", "."): octets for name, octets in changes.items()}}
    return {name: octets for name, octets in merged.items() if octets is not None}


GOOD = THEIRS.secret("one")
OTHER = Authorities("other")
SPIFFE = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://elsewhere")])
NAMES = x509.NameConstraints([x509.DNSName("shop")], None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "data[tls.crt]: is required"),
        (_renamed(GOOD, tls_key=None), "data[tls.key]: is required"),
        (_renamed(GOOD, ca_crt=None), "data[ca.crt]: is required"),
        (_renamed(GOOD, tls_crt=b""), "data[tls.crt]: must be PEM"),
        (_renamed(GOOD, tls_crt=b"\xff"), "data[tls.crt]: must be PEM"),
        (_renamed(GOOD, ca_crt=b"nonsense"), "data[ca.crt]: must be PEM"),
        (_renamed(GOOD, tls_key=b"nonsense"), "data[tls.key]: must be PEM"),
        (_renamed(GOOD, tls_key=OTHER.secret("x")["tls.key"]), "data[tls.key]: is not the key"),
        (_renamed(GOOD, ca_crt=pem(OTHER.root)), "nothing here or in ca.crt has issued CN=theirs one"),
        (_renamed(GOOD, tls_crt=GOOD["tls.crt"] * 11), "at most 10 certificates"),
        (THEIRS.secret("leaf", is_ca=False), "is no CA: issue it with isCA: true"),
        (THEIRS.secret("old", days=-1), "is not valid now"),
        (THEIRS.secret("weak", key=rsa.generate_private_key(65537, 1024)), "or RSA of 2048 bits"),  # noqa: S505  # refused
        (THEIRS.secret("td", extra=SPIFFE), "is the CA of spiffe://elsewhere, not of spiffe://cluster.local"),
        (THEIRS.secret("names", extra=NAMES), "has name constraints"),
        (two_deep(path_length=0), "allows 0 authorities below it, and there are 1"),
    ],
)
def test_what_peers_would_refuse_is_refused_first(files: dict[str, bytes], said: str) -> None:
    """The error names the field and the fix."""
    assert said in refusal(files)


def test_no_error_tells_the_key() -> None:
    """What is wrong is said without what is secret."""
    key = OTHER.secret("x")["tls.key"]

    assert key.splitlines()[1].decode() not in refusal(_renamed(GOOD, tls_key=key))
