"""Who is calling and what that caller may have: the SPIFFE grammar, authorize, and join-token claims.

Owns the facts about identity; it must never need a key or a clock.
"""

from __future__ import annotations

from typing import Any

import pytest

from xds import settings
from xds.identity import (
    GRANTS,
    SECRET_TYPE,
    TYPE_PREFIX,
    Identity,
    IdentityError,
    PodFacts,
    Proof,
    Refusal,
    Refused,
    SpiffeId,
    admit,
    authorize,
    bearer,
)

CLUSTER_TYPE = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER_TYPE = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
VERIFIED = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
CLAIMED = Identity("web-1", "shop", "web", "web", "cluster.local")
NOW = 1_800_000_000.0


# --- grammar ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://a_b-c.9/A/z.Z_-0",
        "spiffe://x/" + "a" * (2048 - len("spiffe://x/")),
    ],
)
def test_spiffe_id_is_read_and_written_unchanged(text: str) -> None:
    """A valid SPIFFE ID survives a round trip byte for byte: nothing is normalised."""
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe:///ns/a",
        "SPIFFE://td/a",
        "https://td/a",
        " spiffe://td/a",
        "spiffe://TD/a",
        "spiffe://td:80/a",
        "spiffe://user@td/a",
        "spiffe://td%41/a",
        "spiffe://tä/a",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/../a",
        "spiffe://td/a/..",
        "spiffe://td/a%2fb",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/a b",
        "spiffe://td/a\n",
        "spiffe://td\n",
        "spiffe://td/a\x00",
        "spiffe://td/ä",
        "spiffe://td/\u0661",
        "spiffe://" + "t" * 256,
        "spiffe://x/" + "a" * (2049 - len("spiffe://x/")),
    ],
)
def test_spiffe_id_off_the_grammar_is_refused(text: str) -> None:
    """What SPIFFE-ID §2 does not allow is refused, also where a lenient parser would repair it."""
    with pytest.raises(IdentityError):
        SpiffeId.parse(text)


def test_spiffe_id_cannot_be_constructed_off_the_grammar() -> None:
    """A service account with a slash cannot become a longer path, that is another identity."""
    with pytest.raises(IdentityError):
        SpiffeId.of_service_account("cluster.local", "shop", "web/sa/admin")


@pytest.mark.parametrize("namespace", ["", "Shop", "a.b", "-a", "a-", "a" * 64, "a\n", "a/b", "ä"])
def test_identity_refuses_a_namespace_that_is_no_dns_label(namespace: str) -> None:
    """A namespace is one DNS-1123 label, so that `workload.namespace` has one reading."""
    with pytest.raises(IdentityError):
        Identity("web-1", namespace, "web", "web", "cluster.local")


def test_dns_san_is_workload_dot_namespace() -> None:
    """The DNS SAN labels the caller in metrics."""
    assert VERIFIED.dns_san == "web.shop"


def test_dns_san_is_absent_where_it_would_be_no_dns_name() -> None:
    """A workload name that makes the DNS name too long costs the label, not the certificate."""
    long = ".".join(["a" * 63] * 3 + ["a" * 61])

    assert Identity("web-1", "shop", "web", long, "cluster.local").dns_san is None


def test_node_id_is_pod_dot_namespace() -> None:
    """node.id and the admin API name a pod the same way."""
    assert VERIFIED.node_id == "web-1.shop"


# --- authorize --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "ROOTCA"])
def test_a_verified_identity_has_its_own_secrets(name: str) -> None:
    """The own certificate and the trust bundle are all there is."""
    assert authorize(VERIFIED, SECRET_TYPE, name)


@pytest.mark.parametrize("identity", [None, CLAIMED])
@pytest.mark.parametrize("name", ["default", "ROOTCA", "*", ""])
def test_without_a_verified_identity_there_is_no_secret(identity: Identity | None, name: str) -> None:
    """In insecure mode a pod may be selected by its word, but no word ever yields a key."""
    assert not authorize(identity, SECRET_TYPE, name)


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "",
        "Default",
        "default ",
        " default",
        "default\n",
        "default/",
        "./default",
        "default%2e",
        "rootca",
        "sds://default",
        "stream/7",
        "shop/default",
        "kubernetes://shop/tls",
    ],
)
def test_secret_names_are_compared_exactly(name: str) -> None:
    """Neither a wildcard nor a name that resembles an own secret is one (CVE-2021-34824)."""
    assert not authorize(VERIFIED, SECRET_TYPE, name)


@pytest.mark.parametrize("url", sorted(GRANTS.keys() - {SECRET_TYPE}))
def test_an_anonymous_caller_has_no_inbound(url: str) -> None:
    """An unknown node sees the declared outbound view and nothing about any pod."""
    assert authorize(None, url, "outbound|80||orders.shop.svc.cluster.local")
    assert not authorize(None, url, "inbound|8080||")


@pytest.mark.parametrize("identity", [CLAIMED, VERIFIED])
def test_a_known_pod_has_its_own_inbound(identity: Identity) -> None:
    """Inbound listeners are found in the caller's own layer only, so asking for them is allowed."""
    assert authorize(identity, LISTENER_TYPE, "inbound|8080")


@pytest.mark.parametrize("identity", [None, CLAIMED, VERIFIED])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "*",
        "Secret",
        SECRET_TYPE + "/",
        SECRET_TYPE.upper(),
        "envoy.config.cluster.v3.Cluster",
        TYPE_PREFIX + "envoy.service.runtime.v3.Runtime",
    ],
)
def test_a_type_without_a_row_is_refused(identity: Identity | None, url: str) -> None:
    """Nothing is served because nobody thought of forbidding it."""
    assert not authorize(identity, url, "default")


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "a\x1bb", "a" * (settings.RESOURCE_NAME_MAX_CHARS + 1)])
def test_unprintable_and_endless_names_are_refused(name: str) -> None:
    """A NUL in a name has crashed Envoy, a newline forges a log line, length costs memory."""
    assert not authorize(VERIFIED, CLUSTER_TYPE, name)


# --- join tokens ------------------------------------------------------------------------------


def claims(**changed: object) -> dict[str, Any]:
    """The claims of a good token for shop/web-1, some of them changed; None takes one away."""
    good: dict[str, Any] = {
        "iss": "proa",
        "aud": "proa-xds",
        "sub": "spiffe://cluster.local/ns/shop/sa/web",
        "pod": "shop/web-1",
        "sa": "web",
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 3600,
        "jti": "00",
    }
    return {key: value for key, value in {**good, **changed}.items() if value is not None}


def admitted(
    payload: object,
    *,
    node_id: str = "web-1.shop",
    now: float = NOW,
    facts: PodFacts | None = PodFacts("web", "web"),  # noqa: B008  # frozen
) -> Identity:
    """What a verified payload proves to a control plane that knows `facts` about every pod."""
    return admit(
        "token",
        node_id=node_id,
        now=now,
        verify=lambda _: payload,
        pods=lambda _namespace, _pod: facts,
        trust_domain="cluster.local",
    )


def refusal(payload: object, **case: Any) -> Refusal:
    """Why `admitted` refuses."""
    with pytest.raises(Refused) as caught:
        admitted(payload, **case)
    return caught.value.reason


def test_a_good_token_proves_the_identity() -> None:
    """Token, pod and node.id agree: the caller is that pod."""
    assert admitted(claims()) == VERIFIED


def test_the_workload_is_what_we_know_of_the_pod() -> None:
    """A token without a workload does not choose one: the name is ours."""
    assert admitted(claims(), facts=PodFacts("web", "frontend")).workload == "frontend"


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        [claims()],
        "claims",
        1,
        float("nan"),
        {},
        claims(exp="9999999999"),
        claims(exp=1e308),
        claims(exp=True),
        claims(aud=["proa-xds"]),
        claims(sub=[]),
        claims(admin=True),
        *(claims(**{name: None}) for name in ("iss", "aud", "sub", "pod", "sa", "iat", "nbf", "exp", "jti")),
    ],
)
def test_claims_of_another_shape_are_refused(payload: object) -> None:
    """`null`, lists, wrong types, unknown and absent claims are no token (CVE-2022-23635 was a `null`)."""
    assert refusal(payload) is Refusal.CLAIMS


@pytest.mark.parametrize(
    "changed", [{"aud": "kubernetes"}, {"aud": ""}, {"iss": "other"}, {"aud": "PROA-XDS"}]
)
def test_a_token_for_another_audience_is_refused(changed: dict[str, str]) -> None:
    """A token that was made for something else opens nothing here."""
    assert refusal(claims(**changed)) is Refusal.AUDIENCE


def test_a_token_expires_to_the_second() -> None:
    """The second of `exp` is outside: no leeway for a thief."""
    assert admitted(claims(), now=NOW + 3599.9) == VERIFIED
    assert refusal(claims(), now=NOW + 3600) is Refusal.EXPIRED


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused_beyond_the_skew(claim: str) -> None:
    """Two minutes of skew between two machines are normal, more is not."""
    assert admitted(claims(**{claim: int(NOW) + 120})) == VERIFIED
    assert refusal(claims(**{claim: int(NOW) + 121})) is Refusal.NOT_YET


@pytest.mark.parametrize(
    "node_id",
    ["", "web-1", "web-2.shop", "web-1.other", "web-1.shop.", "WEB-1.shop", "web-1.shop\n", "shop/web-1"],
)
def test_the_node_id_must_name_the_pod_of_the_token(node_id: str) -> None:
    """A valid token of one pod is no way to another pod's configuration (kuma#2745)."""
    assert refusal(claims(), node_id=node_id) is Refusal.NODE


@pytest.mark.parametrize("facts", [None, PodFacts("other", "web")])
def test_our_own_view_of_the_pod_must_agree(facts: PodFacts | None) -> None:
    """A deleted pod, or one that changed its ServiceAccount, is not who the token says."""
    assert refusal(claims(), facts=facts) is Refusal.POD


def test_a_refusal_tells_the_log_which_pod_and_what_differs() -> None:
    """Whoever mints a token for the wrong ServiceAccount finds both names in our log."""
    with pytest.raises(Refused) as caught:
        admitted(claims(), facts=PodFacts("other", "web"))

    assert caught.value.why == (
        "pod is unknown or differs from the token: "
        "the token of shop/web-1 says ServiceAccount web, the Pod other"
    )


def test_a_claimed_workload_must_be_the_pods() -> None:
    """A token may name the workload, never choose it."""
    assert refusal(claims(workload="admin")) is Refusal.POD


@pytest.mark.parametrize(
    "sub", ["spiffe://cluster.local/ns/shop/sa/admin", "spiffe://other/ns/shop/sa/web", "web", ""]
)
def test_the_subject_must_be_the_pods_identity(sub: str) -> None:
    """A token of another trust domain or ServiceAccount does not become ours by naming our pod."""
    assert refusal(claims(sub=sub)) is Refusal.SUBJECT


@pytest.mark.parametrize("pod", ["web-1", "shop/web-1/x", "/", "shop/", "/web-1"])
def test_a_pod_claim_of_another_form_is_refused(pod: str) -> None:
    """`NAMESPACE/POD` has one reading."""
    namespace, _, name = pod.partition("/")

    assert refusal(claims(pod=pod), node_id=f"{name}.{namespace}") is Refusal.POD


def test_an_oversized_token_is_refused_before_it_is_verified() -> None:
    """A stranger's megabyte costs a comparison of its length."""

    def verify(_: str) -> object:
        message = "looked at"
        raise AssertionError(message)

    with pytest.raises(Refused) as caught:
        admit(
            "a" * (settings.JOIN_TOKEN_MAX_BYTES + 1),
            node_id="web-1.shop",
            now=NOW,
            verify=verify,
            pods=lambda _namespace, _pod: PodFacts("web", "web"),
            trust_domain="cluster.local",
        )

    assert caught.value.reason is Refusal.UNVERIFIED


@pytest.mark.parametrize("reason", list(Refusal))
def test_a_refusal_says_the_same_to_everybody(reason: Refusal) -> None:
    """The text for the caller is constant: no fact about the cluster or the check that failed."""
    assert str(Refused(reason)) == "authentication failed"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearerabc"])
def test_a_header_without_a_bearer_token_is_refused(header: str) -> None:
    """Only the Bearer scheme carries a token."""
    with pytest.raises(Refused):
        bearer(header)


def test_a_bearer_header_yields_its_token() -> None:
    """The scheme's case does not matter (RFC 7235 §2.1)."""
    assert bearer("bearer abc") == "abc"
