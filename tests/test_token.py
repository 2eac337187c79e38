"""Join tokens: the signed form, and the command that keeps one fresh.

Owns the facts about tokens as text; claims are judged in tests/test_identity.py.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ed25519

from xds import settings
from xds.cli.token import command, duration
from xds.identity import Identity, PodFacts, Proof, Refused, admit
from xds.state import StateDirectory
from xds.tokens import TokenKey

NOW = 1_800_000_000.0
SIGNING = ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32)
KEY = TokenKey(SIGNING)
WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)


def issue(key: TokenKey = KEY, *, now: float = NOW, ttl_s: int = 3600) -> str:
    """A token for shop/web-1."""
    return key.issue(
        namespace="shop",
        pod="web-1",
        service_account="web",
        trust_domain="cluster.local",
        now=now,
        octets=os.urandom,
        ttl_s=ttl_s,
    )


def admitted(token: str, key: TokenKey = KEY, *, now: float = NOW) -> Identity:
    """What a control plane with this key concludes from a token."""
    return admit(
        token,
        node_id="web-1.shop",
        now=now,
        verify=key.verify,
        pods=lambda _namespace, _pod: PodFacts("web", "web"),
        trust_domain="cluster.local",
    )


def part(value: object) -> str:
    """One segment of a compact token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_an_issued_token_is_admitted() -> None:
    """Issuing and admitting agree."""
    assert admitted(issue()) == WEB


def test_two_tokens_differ() -> None:
    """Each has an ID of its own."""
    assert issue() != issue()


def test_a_payload_that_is_null_is_refused_with_the_constant_text() -> None:
    """Also when it is signed by our own key (CVE-2022-23635)."""
    token = jwt.api_jws.encode(b"null", SIGNING, algorithm="EdDSA")

    with pytest.raises(Refused, match=r"^authentication failed$"):
        admitted(token)


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"1", b"", b"{", b"[" * 3000, b"\xff", b'{"exp":1e999}'])
def test_a_signed_payload_of_another_shape_is_refused(payload: bytes) -> None:
    """Nothing but an object of claims is one; nothing raises anything but Refused."""
    with pytest.raises(Refused):
        admitted(jwt.api_jws.encode(payload, SIGNING, algorithm="EdDSA"))


def test_a_header_that_is_not_ours_is_refused_though_our_key_signed_it() -> None:
    """The header is compared, never interpreted: no `kid`, `jku` or `crit` is ever followed."""
    payload = jwt.decode(issue(), options={"verify_signature": False})

    with pytest.raises(Refused):
        admitted(jwt.encode(payload, SIGNING, algorithm="EdDSA", headers={"kid": "x"}))


def test_another_key_is_refused() -> None:
    """A token of another mesh's control plane is worth nothing."""
    with pytest.raises(Refused):
        admitted(issue(TokenKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"x" * 32))))


CLAIMS = {"sub": "spiffe://cluster.local/ns/shop/sa/web", "pod": "shop/web-1"}


def forgeries(good: str) -> list[str]:
    """A good token with one thing wrong, and what is no token at all."""
    header, payload, signature = good.split(".")
    rest = f"{payload}.{signature}"
    return [
        "",
        ".",
        "..",
        ".bnVsbM.",  # the token that crashed Istio before authentication
        good[:-1],
        good + "A",
        good + "=",
        " " + good,
        good + "\n",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        part({"alg": "none", "typ": "JWT"}) + "." + part(CLAIMS) + ".",
        part({"alg": "none"}) + "." + rest,
        part({"alg": "HS256", "typ": "JWT"}) + "." + rest,
        part(None) + "." + rest,
        part([]) + "." + rest,
        "W" * 3000 + "." + rest,
        f"{header}.{part(CLAIMS)}.{signature}",
        good + "A" * settings.JOIN_TOKEN_MAX_BYTES,
        good + "." + good,
        good.replace("e", "\u0435"),
    ]


@pytest.mark.parametrize("index", range(21))
def test_a_forged_token_is_refused(index: int) -> None:
    """Alg none, other algorithms, other shapes and touched signatures: one answer for all of them."""
    with pytest.raises(Refused, match=r"^authentication failed$"):
        admitted(forgeries(issue())[index])


def test_an_hmac_with_the_public_key_is_refused() -> None:
    """The classic confusion of algorithms: a public key is no shared secret."""
    public = SIGNING.public_key().public_bytes_raw()
    token = jwt.encode(CLAIMS, public, algorithm="HS256")

    with pytest.raises(Refused):
        admitted(token)


# --- the command ------------------------------------------------------------------------------


def run(state: Path, *options: str) -> str:
    """Standard output of `proa token` for shop/web-1, which must succeed."""
    found = CliRunner().invoke(
        command, ["--workload", "shop/web-1", "--service-account", "web", "--state", str(state), *options]
    )
    assert found.exit_code == 0, found.output
    return found.output


def test_the_command_prints_a_token_that_the_server_admits(tmp_path: Path) -> None:
    """Both read the key of one state directory."""
    token = run(tmp_path / "state").strip()
    key = StateDirectory.open(tmp_path / "state").token_key()

    assert admitted(token, key, now=jwt.decode(token, options={"verify_signature": False})["iat"]) == WEB


def test_the_file_is_private_and_holds_the_token_alone(tmp_path: Path) -> None:
    """Envoy sends the file's bytes as a header: no newline; others may not read them."""
    out = tmp_path / "token"
    run(tmp_path / "state", "--out", str(out))

    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_bytes().strip() == out.read_bytes()


def test_a_renewed_token_is_admitted_by_a_restarted_control_plane_after_the_first_expired(
    tmp_path: Path,
) -> None:
    """`--renew` keeps the file fresh; the next process, with the state alone, admits who holds it."""
    out, state = tmp_path / "token", tmp_path / "state"
    arguments = [
        "--workload",
        "shop/web-1",
        "--service-account",
        "web",
        "--state",
        str(state),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from xds.cli.token import command; command()",
            *arguments,
            "--ttl",
            "2s",
            "--renew",
        ]
    )
    try:
        first = wait_for_another(out, "")
        second = wait_for_another(out, first)
    finally:
        process.terminate()
        process.wait(10)
    key = StateDirectory.open(state).token_key()
    expired = jwt.decode(first, options={"verify_signature": False})["exp"]

    with pytest.raises(Refused):
        admitted(first, key, now=expired)
    assert admitted(second, key, now=expired) == WEB


def wait_for_another(out: Path, known: str) -> str:
    """The first content of the file that differs from a known one; the test's own timeout bounds it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if out.exists() and (found := out.read_text()) != known:
            return found
        time.sleep(0.02)
    message = f"{out} did not change"
    raise AssertionError(message)


@pytest.mark.parametrize("text", ["", "0h", "24", "h", "-1h", "1.5h", "24h ", "1w", "\u0661h"])
def test_a_duration_off_the_grammar_is_a_usage_error(tmp_path: Path, text: str) -> None:
    """Exit code 2 and the form that is expected."""
    found = CliRunner().invoke(command, ["--workload", "a/b", "--state", str(tmp_path), "--ttl", text])

    assert found.exit_code == 2


def test_a_duration_is_read_in_seconds() -> None:
    """s, m, h and d."""
    assert [duration(text) for text in ("90s", "15m", "24h", "7d")] == [90, 900, 86400, 604800]


@pytest.mark.parametrize("pod", ["web", "shop/", "/web", "Shop/web", "shop/web/x"])
def test_a_workload_off_the_grammar_is_a_usage_error(tmp_path: Path, pod: str) -> None:
    """NAMESPACE/POD, or exit code 2."""
    found = CliRunner().invoke(command, ["--workload", pod, "--state", str(tmp_path)])

    assert found.exit_code == 2


def test_renewing_needs_a_file(tmp_path: Path) -> None:
    """A stream of tokens on stdout keeps nothing fresh."""
    found = CliRunner().invoke(command, ["--workload", "a/b", "--state", str(tmp_path), "--renew"])

    assert found.exit_code == 2
