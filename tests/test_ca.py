"""Certificates by the book: what the CA issues, and what its own validator refuses.

Owns the X509-SVID facts; it must never depend on the wall clock or on real randomness.
"""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fakes.entropy import counted_entropy
from xds import ca, settings, svid
from xds.ca import Authority, CaError, Leaf
from xds.identity import Identity, Proof, SpiffeId
from xds.keys import Entropy, SecretBytes

NOW = 1_800_000_000.0
DAY_S = 24 * 3600
WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)


@pytest.fixture
def entropy() -> Entropy:
    """Keys and serials that are equal in every run."""
    return counted_entropy()


@pytest.fixture
def root(entropy: Entropy) -> Authority:
    """A workload root made at NOW."""
    return ca.new_root("cluster.local", now=NOW, entropy=entropy)


def certificate_of(leaf: Leaf) -> x509.Certificate:
    """The leaf's certificate, read back from what is served."""
    return x509.load_pem_x509_certificate(leaf.certificate_pem)


def seconds(moment: dt.datetime) -> int:
    """Seconds since the epoch."""
    return int(moment.timestamp())


# --- leaves -----------------------------------------------------------------------------------


def test_a_leaf_has_one_spiffe_id_and_the_workloads_name(root: Authority, entropy: Entropy) -> None:
    """The SAN is critical (the subject is empty) and holds exactly the URI and the DNS name."""
    certificate = certificate_of(ca.issue_leaf(root, WEB, now=NOW, entropy=entropy))
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert san.critical
    assert not certificate.subject.rdns
    assert list(san.value) == [
        x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web"),
        x509.DNSName("web.shop"),
    ]


def test_a_leaf_without_a_valid_dns_name_has_only_its_spiffe_id(root: Authority, entropy: Entropy) -> None:
    """A label that cannot be written is left out, never cut."""
    identity = replace(WEB, workload=".".join(["a" * 63] * 3 + ["a" * 61]))
    certificate = certificate_of(ca.issue_leaf(root, identity, now=NOW, entropy=entropy))
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert list(san.value) == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web")]


def test_a_leaf_lives_a_day_and_began_two_minutes_ago(root: Authority, entropy: Entropy) -> None:
    """NotBefore is backdated for peers whose clock is behind; the life counts from now."""
    certificate = certificate_of(ca.issue_leaf(root, WEB, now=NOW, entropy=entropy))

    assert seconds(certificate.not_valid_before_utc) == NOW - 120
    assert seconds(certificate.not_valid_after_utc) == NOW + DAY_S


def test_a_leaf_never_outlives_its_signer(root: Authority, entropy: Entropy) -> None:
    """Near the root's end the leaf ends with the root, and is renewed at half of what is left."""
    end = seconds(root.certificate.not_valid_after_utc)
    leaf = ca.issue_leaf(root, WEB, now=end - 100, entropy=entropy)

    assert seconds(certificate_of(leaf).not_valid_after_utc) == end
    assert end - 55 <= leaf.renew_at <= end - 45


@pytest.mark.parametrize("offset", [0, 1, DAY_S])
def test_an_expired_root_issues_nothing(root: Authority, entropy: Entropy, offset: int) -> None:
    """At its last second the authority refuses, and says what to do."""
    end = seconds(root.certificate.not_valid_after_utc)

    with pytest.raises(CaError, match="proa ca rotate"):
        ca.issue_leaf(root, WEB, now=end + offset, entropy=entropy)


def test_a_root_of_the_future_issues_nothing(root: Authority, entropy: Entropy) -> None:
    """A clock that jumped back a year does not make certificates that nobody accepts."""
    with pytest.raises(CaError):
        ca.issue_leaf(root, WEB, now=NOW - 365 * DAY_S, entropy=entropy)


def test_every_leaf_has_a_key_and_a_serial_of_its_own(root: Authority, entropy: Entropy) -> None:
    """The same identity twice: two keys, two serials of more than 64 bits."""
    first, second = (certificate_of(ca.issue_leaf(root, WEB, now=NOW, entropy=entropy)) for _ in range(2))

    assert first.public_key() != second.public_key()
    assert first.serial_number != second.serial_number
    assert min(first.serial_number, second.serial_number).bit_length() == 127


def test_the_key_served_is_the_certificates(root: Authority, entropy: Entropy) -> None:
    """Envoy refuses a pair that does not match."""
    leaf = ca.issue_leaf(root, WEB, now=NOW, entropy=entropy)
    key = serialization.load_pem_private_key(leaf.key_pem.reveal(), None)

    assert key.public_key() == certificate_of(leaf).public_key()


def test_renewal_is_half_life_jittered_by_the_pods_name() -> None:
    """The jitter is a hash: equal for one pod at every issue, within ±10 % of half life, spread over pods."""
    due = [ca.renew_at(f"web-{n}.shop", now=0, not_after=1000) for n in range(500)]

    assert due[7] == ca.renew_at("web-7.shop", now=0, not_after=1000)
    assert 450 <= min(due) < 460
    assert 540 < max(due) <= 550


def test_openssl_accepts_a_leaf_for_both_purposes(root: Authority, entropy: Entropy, tmp_path: Path) -> None:
    """An implementation that is not ours verifies the chain as a server's and as a client's."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "leaf.pem").write_bytes(ca.issue_leaf(root, WEB, now=NOW, entropy=entropy).certificate_pem)

    for purpose in ("sslserver", "sslclient"):
        command = ["verify", "-x509_strict", "-attime", str(int(NOW)), "-purpose", purpose]
        files = ["-CAfile", str(tmp_path / "root.pem"), str(tmp_path / "leaf.pem")]
        found = subprocess.run([openssl, *command, *files], capture_output=True, text=True, check=False)

        assert found.returncode == 0, found.stdout + found.stderr


# --- roots ------------------------------------------------------------------------------------


def test_a_root_has_a_spiffe_id_without_a_path(root: Authority) -> None:
    """The signer's ID is the trust domain alone: it can be nobody's identity."""
    assert svid.spiffe_id(root.certificate) == SpiffeId("cluster.local")


def test_a_root_lives_ten_years(root: Authority) -> None:
    """Rotation is an act of will, not a deadline."""
    assert seconds(root.certificate.not_valid_after_utc) == NOW + 3650 * DAY_S


def test_a_root_of_another_trust_domain_is_refused(root: Authority) -> None:
    """A changed trust domain with an old state directory is an error, not a mesh that trusts nobody."""
    with pytest.raises(svid.InvalidCertificate, match="not other"):
        ca.check_root(root, "other.example")


def test_a_root_with_a_foreign_key_is_refused(root: Authority, entropy: Entropy) -> None:
    """A torn pair never becomes a signer."""
    with pytest.raises(CaError):
        Authority(root.certificate, entropy.new_key())


def test_the_channel_leaf_names_the_service_and_loopback_and_no_identity(entropy: Entropy) -> None:
    """The xDS server's certificate is for serverAuth, and for no SPIFFE ID."""
    channel = ca.new_channel_root(now=NOW, entropy=entropy)
    certificate = certificate_of(ca.issue_channel_leaf(channel, now=NOW, entropy=entropy))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["proa.proa-system.svc", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert not names.get_values_for_type(x509.UniformResourceIdentifier)


# --- secrets never print ----------------------------------------------------------------------


def test_a_secret_prints_as_redacted() -> None:
    """Neither repr, str, format nor an f-string shows it."""
    secret = SecretBytes(b"-----BEGIN PRIVATE KEY-----")

    assert {repr(secret), str(secret), f"{secret}", f"{secret!r:>3}", f"{secret!s}"} == {"[redacted]"}


def test_an_authority_and_a_leaf_print_no_key(root: Authority, entropy: Entropy) -> None:
    """What a traceback or a log line could contain holds no private key."""
    leaf = ca.issue_leaf(root, WEB, now=NOW, entropy=entropy)

    assert "PRIVATE" not in repr(leaf) + repr(root)
    assert leaf.key_pem.reveal().hex() not in repr(leaf)


# --- the validator ----------------------------------------------------------------------------

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def forged(  # noqa: PLR0913  # one argument a part that a test breaks
    root: Authority,
    entropy: Entropy,
    *,
    uris: tuple[str, ...] = ("spiffe://cluster.local/ns/shop/sa/web",),
    dns: tuple[str, ...] = (),
    san_critical: bool = True,
    is_ca: bool = False,
    usages: frozenset[str] = frozenset({"digital_signature"}),
    usage_critical: bool = True,
    purposes: tuple[x509.ObjectIdentifier, ...] = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ),
    serial: int = 1 << 126,
    key: ec.EllipticCurvePrivateKey | None = None,
    not_after: float = NOW + DAY_S,
    signer: ec.EllipticCurvePrivateKey | None = None,
    issuer: str | None = None,
) -> x509.Certificate:
    """A leaf of the root with one part that the rules forbid."""
    flags = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    name = root.certificate.subject
    if issuer is not None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    sans = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key((key or entropy.new_key()).public_key())
        .serial_number(serial)
        .not_valid_before(dt.datetime.fromtimestamp(NOW, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(not_after, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{flag: flag in usages for flag in flags}), critical=usage_critical)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=san_critical)
    return builder.sign(signer or root.key, hashes.SHA256())


def broken_by(certificate: x509.Certificate, root: Authority) -> tuple[str, ...]:
    """The sentences that the leaf breaks."""
    try:
        svid.check(certificate, svid.LEAF, issuer=root.certificate)
    except svid.InvalidCertificate as error:
        return error.broken
    return ()


def test_the_forger_makes_a_good_leaf_by_default(root: Authority, entropy: Entropy) -> None:
    """The tests below break one part each of a leaf that passes."""
    assert broken_by(forged(root, entropy), root) == ()


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/admin"),
        ("https://cluster.local/ns/shop/sa/web",),
        ("spiffe://CLUSTER.local/ns/shop/sa/web",),
        ("spiffe://cluster.local/ns/shop/sa/web/",),
        ("spiffe://cluster.local/ns/../sa/web",),
        ("spiffe://cluster.local",),
    ],
)
def test_a_leaf_needs_exactly_one_spiffe_id_with_a_path(
    root: Authority, entropy: Entropy, uris: tuple[str, ...]
) -> None:
    """X509-SVID §2: none, two, malformed and root IDs are refused."""
    assert any("SPIFFE ID" in sentence for sentence in broken_by(forged(root, entropy, uris=uris), root))


def test_a_leaf_with_two_dns_names_is_refused(root: Authority, entropy: Entropy) -> None:
    """The metrics label must have one reading."""
    assert broken_by(forged(root, entropy, dns=("web.shop", "admin.shop")), root)


def test_a_leaf_that_is_a_ca_is_refused(root: Authority, entropy: Entropy) -> None:
    """X509-SVID §4.1."""
    assert broken_by(forged(root, entropy, is_ca=True), root) == ("X509-SVID §4.1: a leaf is no CA",)


@pytest.mark.parametrize("extra", ["key_cert_sign", "crl_sign", "key_encipherment"])
def test_a_leaf_that_may_sign_is_refused(root: Authority, entropy: Entropy, extra: str) -> None:
    """X509-SVID §4.3: digitalSignature and nothing else."""
    assert broken_by(forged(root, entropy, usages=frozenset({"digital_signature", extra})), root)


def test_key_usage_must_be_critical(root: Authority, entropy: Entropy) -> None:
    """X509-SVID §4.3."""
    assert broken_by(forged(root, entropy, usage_critical=False), root)


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_a_leaf_for_one_side_only_is_refused(
    root: Authority, entropy: Entropy, purpose: x509.ObjectIdentifier
) -> None:
    """X509-SVID §4.4: a sidecar is client and server with the same certificate."""
    assert broken_by(forged(root, entropy, purposes=(purpose,)), root)


def test_the_san_must_be_critical_without_a_subject(root: Authority, entropy: Entropy) -> None:
    """RFC 5280 §4.2.1.6."""
    assert broken_by(forged(root, entropy, san_critical=False), root)


@pytest.mark.parametrize("serial", [1, 2**63 - 1])
def test_a_short_serial_is_refused(root: Authority, entropy: Entropy, serial: int) -> None:
    """A serial below 64 bits is a counter, or a generator that has failed."""
    assert broken_by(forged(root, entropy, serial=serial), root)


def test_a_key_on_another_curve_is_refused(root: Authority, entropy: Entropy) -> None:
    """P-256 alone: what every Envoy accepts without settings."""
    key = ec.generate_private_key(ec.SECP384R1())

    assert broken_by(forged(root, entropy, key=key), root) == ("Proa: the key is P-256",)


def test_a_leaf_that_outlives_the_root_is_refused(root: Authority, entropy: Entropy) -> None:
    """Not even by a second."""
    end = root.certificate.not_valid_after_utc.timestamp()

    assert broken_by(forged(root, entropy, not_after=end), root) == ()
    assert broken_by(forged(root, entropy, not_after=end + 1), root)


def test_a_leaf_of_another_key_is_refused(root: Authority, entropy: Entropy) -> None:
    """The right issuer's name and a foreign signature are no chain."""
    assert broken_by(forged(root, entropy, signer=entropy.new_key()), root)


def test_a_leaf_that_names_another_issuer_is_refused(root: Authority, entropy: Entropy) -> None:
    """The right signature under another name is none either."""
    assert broken_by(forged(root, entropy, issuer="somebody"), root)


def test_a_leaf_is_no_root(root: Authority, entropy: Entropy) -> None:
    """The rules of a root refuse a leaf: one can never be stored as the other."""
    with pytest.raises(svid.InvalidCertificate) as caught:
        svid.check(forged(root, entropy), svid.ROOT, issuer=root.certificate)

    assert "X509-SVID §4.1: a signing certificate is a CA" in caught.value.broken


def test_the_ca_withholds_a_certificate_that_its_validator_refuses(root: Authority) -> None:
    """A broken generator of serials stops issuance; nothing that breaks a rule leaves the CA."""
    keys = counted_entropy()
    weak = Entropy(new_key=lambda: ec.generate_private_key(ec.SECP384R1()), octets=keys.octets)

    with pytest.raises(svid.InvalidCertificate):
        ca.issue_leaf(root, WEB, now=NOW, entropy=weak)


def test_settings_fit_together() -> None:
    """The backdate is far below the earliest renewal: a fresh certificate is never already due."""
    assert settings.CLOCK_SKEW_S < settings.LEAF_TTL_S / 4
