"""What a ServiceAccount token must prove: TokenReview answers, JWT claims, signatures, and our own view of the Pod.

Owns the facts about xds.reviews; it must never need an apiserver or a clock.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.accounts import BOUND, EC, FACTS, ISSUER, NOW, RSA, UID, claims, keys, signed
from xds import settings
from xds.identity import PodFacts, Proof, Refusal, Refused
from xds.reviews import POD_NAME, POD_UID, Bound, Keys, UnknownKey, admit, read_claims, read_review, review_of


def status(**changes: Any) -> dict[str, Any]:
    """The status of an answer that proves everything."""
    good: dict[str, Any] = {
        "authenticated": True,
        "audiences": [settings.JOIN_TOKEN_AUDIENCE],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "uid": "v",
            "groups": ["system:serviceaccounts"],
            "extra": {POD_NAME: ["web-1"], POD_UID: [UID]},
        },
    }
    good.update(changes)
    return {name: value for name, value in good.items() if value is not None}


def user(**changes: Any) -> dict[str, Any]:
    """The status with another user."""
    return status(user={**status()["user"], **changes})


def answer(found: Any) -> bytes:
    """An answer with this status."""
    return json.dumps({"kind": "TokenReview", "spec": {"token": "x"}, "status": found}).encode()


def refusal(attempt: Callable[[], object]) -> Refusal:
    """Why an attempt was refused."""
    with pytest.raises(Refused) as caught:
        attempt()
    return caught.value.reason


# --- TokenReview ------------------------------------------------------------------------------


def test_a_full_review_proves_the_pod() -> None:
    """Namespace and account from the name, Pod and uid from `extra`, the expiry from the token itself."""
    assert read_review(answer(status()), signed()) == BOUND


def test_a_review_asks_for_our_audience() -> None:
    """Without it the apiserver would accept its own tokens, which every Pod has."""
    assert review_of("t")["spec"] == {"token": "t", "audiences": [settings.JOIN_TOKEN_AUDIENCE]}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (status(authenticated=False), Refusal.UNVERIFIED),
        (status(authenticated=None), Refusal.UNVERIFIED),
        (status(error="expired"), Refusal.UNVERIFIED),
        (status(audiences=None), Refusal.AUDIENCE),
        (status(audiences=[]), Refusal.AUDIENCE),
        (status(audiences=["https://kubernetes.default.svc"]), Refusal.AUDIENCE),
        (status(user=None), Refusal.CLAIMS),
        (user(username="admin"), Refusal.CLAIMS),
        (user(username="system:serviceaccount:shop"), Refusal.CLAIMS),
        (user(username="system:serviceaccount:shop:web:x"), Refusal.CLAIMS),
        (user(username="system:node:shop:web"), Refusal.CLAIMS),
        (user(username="system:serviceaccount:Shop:web"), Refusal.CLAIMS),
        (user(username="system:serviceaccount:a.b:web"), Refusal.CLAIMS),
        (user(username="system:serviceaccount:shop:"), Refusal.CLAIMS),
        (user(extra={}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1"]}), Refusal.CLAIMS),
        (user(extra={POD_UID: [UID]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1", "web-2"], POD_UID: [UID]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1"], POD_UID: [UID, UID]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: [], POD_UID: [UID]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1/x"], POD_UID: [UID]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1"], POD_UID: [""]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: ["web-1"], POD_UID: ["a\nb"]}), Refusal.CLAIMS),
        (user(extra={POD_NAME: "web-1", POD_UID: [UID]}), Refusal.UNVERIFIED),
        (None, Refusal.UNVERIFIED),
        ([], Refusal.UNVERIFIED),
        ("authenticated", Refusal.UNVERIFIED),
    ],
)
def test_a_review_with_a_part_missing_proves_nothing(found: Any, reason: Refusal) -> None:
    """Every part is checked; the one that Istio and Kuma leave out, `status.audiences`, as well."""
    assert refusal(lambda: read_review(answer(found), signed())) is reason


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_none_proves_nothing(body: bytes) -> None:
    """A proxy in between may say anything."""
    assert refusal(lambda: read_review(body, signed())) is Refusal.UNVERIFIED


@pytest.mark.parametrize("payload", [{}, {"exp": None}, {"exp": "soon"}, {"exp": 1.5}])
def test_a_reviewed_token_without_an_expiry_is_refused(payload: dict[str, Any]) -> None:
    """A stream lives no longer than its token, so a token has an end."""
    assert refusal(lambda: read_review(answer(status()), signed(payload))) is Refusal.CLAIMS


# --- our own verification -----------------------------------------------------------------------


@pytest.mark.parametrize(("key", "kid", "alg"), [(RSA, "r", "RS256"), (EC, "e", "ES256")])
def test_the_apiservers_keys_prove_the_same(key: Any, kid: str, alg: str) -> None:
    """What TokenReview says of a token, its signature and claims say too."""
    assert keys().verify(signed(None, key, kid, alg), NOW) == BOUND


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://elsewhere"}, Refusal.AUDIENCE),
        ({"aud": ["https://kubernetes.default.svc"]}, Refusal.AUDIENCE),
        ({"aud": []}, Refusal.AUDIENCE),
        ({"aud": None}, Refusal.CLAIMS),
        ({"exp": int(NOW)}, Refusal.EXPIRED),
        ({"exp": None}, Refusal.CLAIMS),
        ({"nbf": int(NOW) + settings.CLOCK_SKEW_S + 1}, Refusal.NOT_YET),
        ({"sub": "system:serviceaccount:shop:other"}, Refusal.SUBJECT),
        ({"sub": "system:serviceaccount:other:web"}, Refusal.SUBJECT),
        ({"sub": "web"}, Refusal.CLAIMS),
        ({"sub": None}, Refusal.CLAIMS),
        ({"kubernetes.io": None}, Refusal.CLAIMS),
        ({"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "v"}}}, Refusal.CLAIMS),
        ({"kubernetes.io": {"namespace": "shop", "pod": {"name": "web-1", "uid": UID}}}, Refusal.CLAIMS),
        ({"kubernetes.io": []}, Refusal.CLAIMS),
    ],
)  # fmt: skip
def test_claims_that_do_not_agree_are_refused(changes: dict[str, Any], reason: Refusal) -> None:
    """A genuine signature is not enough."""
    assert refusal(lambda: keys().verify(signed(claims(**changes)), NOW)) is reason


@pytest.mark.parametrize("payload", [None, 1, "x", [], True])
def test_claims_that_are_no_object_are_refused(payload: object) -> None:
    """CVE-2022-23635 was a `null`."""
    assert refusal(lambda: read_claims(payload, issuer=ISSUER, now=NOW)) is Refusal.CLAIMS


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _forged(alg: str, kid: str = "r") -> str:
    return f"{_part({'alg': alg, 'kid': kid})}.{_part(claims())}.c2ln"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "null",
        "a.b",
        "a.b.c.d",
        "..",
        ".bnVsbA.",
        _forged("none"),
        _forged("none", "new"),
        _forged("HS256", "new"),
        f"{_part({'alg': 'RS256', 'kid': 'new', 'x': 'y' * 500})}.{_part(claims())}.c2ln",
        _forged("None"),
        _forged("HS256"),
        _forged("RS256"),
        _forged("ES256"),
        _forged("ES256", "e"),
        f"{_part(None)}.{_part(None)}.c2ln",
        f"{_part([])}.{_part([])}.c2ln",
        f"{_part({'alg': None, 'kid': 'r'})}.{_part(claims())}.c2ln",
        f"{_part({'alg': 'RS256', 'kid': ['r']})}.{_part(claims())}.c2ln",
        f"{_part({'alg': 'RS256', 'kid': 'r', 'crit': ['b64'], 'b64': False})}.{_part(claims())}.c2ln",
        f"{_part({'alg': 'RS256', 'kid': 'r', 'x': 'y' * 500})}.{_part(claims())}.c2ln",
        base64.urlsafe_b64encode(b"[" * 180).decode() + ".e30.c2ln",
        signed(claims(padding="y" * settings.ACCOUNT_TOKEN_MAX_BYTES)),
        signed() + "\n",
        signed() + "ä",
        signed()[:-9],
        signed().rpartition(".")[0] + ".",
        jwt.encode(claims(), "r" * 64, algorithm="HS256", headers={"kid": "r"}),
        signed(None, rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        signed(None, EC, "r", "ES256"),
    ],
)
def test_a_token_that_the_apiserver_has_not_signed_is_refused(token: str) -> None:
    """Unsigned, truncated, `null`, another algorithm, another key under a known name: none gets to its claims."""
    assert refusal(lambda: keys().verify(token, NOW)) is Refusal.UNVERIFIED


def test_a_key_that_we_have_no_copy_of_is_for_the_apiserver_to_judge() -> None:
    """The apiserver's key may have been replaced a second ago."""
    with pytest.raises(UnknownKey):
        keys().verify(signed(kid="new"), NOW)


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_.-]{0,200}", fullmatch=True)))
def test_no_text_is_a_token(text: str) -> None:
    """Whatever a stranger sends is refused or unknown, and raises nothing else."""
    with pytest.raises((Refused, UnknownKey)):
        keys().verify(text, NOW)


@given(
    st.sampled_from(["RS256", "ES256"]),
    st.sampled_from(["r", "e"]),
    st.from_regex(r"[A-Za-z0-9_-]{1,120}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_-]{1,400}", fullmatch=True),
)
def test_nothing_behind_a_known_keys_name_is_a_token(
    alg: str, kid: str, payload: str, signature: str
) -> None:
    """The header is right, the rest is a stranger's: refused, whatever a decoder or a curve makes of it."""
    token = f"{_part({'alg': alg, 'kid': kid})}.{payload}.{signature}"

    assert refusal(lambda: keys().verify(token, NOW)) is Refusal.UNVERIFIED


@pytest.mark.parametrize(
    "jwks", [b"", b"null", b"[]", b"{}", b'{"keys":null}', b'{"keys":[]}', b'{"keys":[null]}', b'{"keys":[{}]}',
             b'{"keys":[{"kty":"oct","k":"AA","kid":"r","alg":"HS256"}]}', b"\xff"],
)  # fmt: skip
def test_keys_that_cannot_be_read_are_no_keys(jwks: bytes) -> None:
    """Symmetric ones neither: who can verify with them could sign."""
    with pytest.raises(ValueError, match="apiserver"):
        Keys.read(json.dumps({"issuer": ISSUER}).encode(), jwks)


# --- the decision -----------------------------------------------------------------------------


def admitted(bound: Bound = BOUND, facts: PodFacts | None = FACTS, node_id: str | None = "web-1.shop") -> Any:
    """The decision about a token and what our cache says of its Pod."""
    return admit(bound, node_id=node_id, now=NOW, pods=lambda _ns, _pod: facts, trust_domain="cluster.local")


def test_the_pod_that_we_know_is_admitted() -> None:
    """The identity is what our cache says of the Pod, and good until the token ends."""
    identity = admitted(facts=PodFacts("web", "frontend", UID))

    assert str(identity.spiffe_id) == "spiffe://cluster.local/ns/shop/sa/web"
    assert (identity.workload, identity.proof, identity.valid_until) == ("frontend", Proof.TOKEN, NOW + 3600)
    assert admitted(node_id=None) == admitted()


@pytest.mark.parametrize(
    ("bound", "facts", "reason"),
    [
        (BOUND, None, Refusal.POD),
        (BOUND, PodFacts("web", "web", "another-uid"), Refusal.POD),
        (BOUND, PodFacts("web", "web"), Refusal.POD),
        (replace(BOUND, uid=""), PodFacts("web", "web", ""), Refusal.POD),
        (BOUND, PodFacts("other", "web", UID), Refusal.POD),
        (BOUND, PodFacts("web", "web", UID, is_over=True), Refusal.POD),
        (replace(BOUND, expires_at=NOW), FACTS, Refusal.EXPIRED),
    ],
)
def test_our_own_view_of_the_pod_has_the_last_word(
    bound: Bound, facts: PodFacts | None, reason: Refusal
) -> None:
    """A deleted Pod, its successor of the same name, one that has ended: the apiserver still says yes to some."""
    assert refusal(lambda: admitted(bound, facts)) is reason


@pytest.mark.parametrize("node_id", ["", "web-2.shop", "web-1.other", "web-1", "web-1.shop.x", "WEB-1.shop"])
def test_a_token_opens_no_other_pods_configuration(node_id: str) -> None:
    """kuma#2745: the namespace alone let Pods impersonate each other."""
    assert refusal(lambda: admitted(node_id=node_id)) is Refusal.NODE


@pytest.mark.parametrize(
    ("facts", "holds"),
    [
        (FACTS, True),
        (None, False),
        (replace(FACTS, uid="another"), False),
        (replace(FACTS, is_over=True), False),
    ],
)
def test_an_identity_holds_as_long_as_its_pod(facts: PodFacts | None, holds: bool) -> None:  # noqa: FBT001
    """Deleted, replaced by a namesake, ended: an open stream is not the Pod's any more."""

    def pods(_namespace: str, _pod: str) -> PodFacts | None:
        return facts

    assert admitted().holds(pods) is holds


def test_an_identity_that_is_bound_to_a_name_alone_always_holds() -> None:
    """A directory's join token: Pods come and go with edits, and have no uid."""

    def pods(_namespace: str, _pod: str) -> PodFacts | None:
        return None

    assert replace(admitted(), pod_uid="").holds(pods)
