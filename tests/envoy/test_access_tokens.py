"""Tokens in front of real sidecars: who is let in by what an issuer has signed, and what nobody can verify."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from rig import STRICT, App, MeshUnderTest, Reply, address

ISSUER: Final = "https://issuer.example.com/a"
KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGE: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks() -> str:
    """The issuer's public key, as a set."""
    public = RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    return json.dumps({"keys": [public | {"kid": "one", "alg": "RS256"}]})


def token(key: rsa.RSAPrivateKey = KEY, *, life_s: float = 600, **claims: Any) -> str:
    """A token of the issuer for the subject `alice`."""
    body = {"iss": ISSUER, "sub": "alice", "exp": time.time() + life_s} | claims
    return jwt.encode(body, key, algorithm="RS256", headers={"kid": "one"})


def bearer(*args: Any, **claims: Any) -> dict[str, str]:
    """The header that carries a token."""
    return {"authorization": f"Bearer {token(*args, **claims)}"}


class KeyServer:
    """Serves the keys over HTTP, as long as it may."""

    def __init__(self) -> None:
        self.at = (address(), 8000)
        self.asked = 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(jwks().encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
                del format, args

        self._server = http.server.ThreadingHTTPServer(self.at, Handler)
        threading.Thread(target=self._server.serve_forever, name="keys", daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def keys() -> Iterator[KeyServer]:
    """A server of keys outside the mesh."""
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client and the orders under STRICT."""
    work: Path = tmp_path_factory.mktemp("tokens") / "mesh"
    mesh = MeshUnderTest(work, (App("web"), App("orders")), STRICT, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def authentication(**rule: Any) -> str:
    """A manifest of one RequestAuthentication with the issuer's inline keys, unless the rule says otherwise."""
    keys = {} if "jwksUri" in rule else {"jwks": jwks()}
    spec = {"selector": {"matchLabels": {"app": "orders"}}, "jwtRules": [{"issuer": ISSUER, **keys, **rule}]}
    meta = {"name": "tokens", "namespace": "shop"}
    return "---\n" + json.dumps(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": meta,
            "spec": spec,
        }
    )


def policy(rule: str, action: str = "ALLOW") -> str:
    """A manifest of one policy for the orders."""
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: shop}}
spec: {{action: {action}, selector: {{matchLabels: {{app: orders}}}}, rules: [{rule}]}}
"""


def put(mesh: MeshUnderTest, *manifests: str) -> None:
    """Put these in force and wait until every proxy has them."""
    mesh.edit("manifests.yaml", STRICT + "\n".join(manifests))


def get(mesh: MeshUnderTest, headers: dict[str, str] | None = None, path: str = "/echo") -> Reply:
    """Ask the orders."""
    return mesh.get("web", f"http://orders{path}", headers=headers)


def test_a_token_is_verified_and_none_is_no_error(mesh: MeshUnderTest) -> None:
    """A request without a token passes; one with a token that cannot be verified is refused with 401."""
    put(mesh, authentication())
    answers = {
        "none": get(mesh).status,
        "good": get(mesh, bearer()).status,
        "old": get(mesh, bearer(life_s=-3600)).status,
        "forged": get(mesh, bearer(STRANGE)).status,
        "garbage": get(mesh, {"authorization": "Bearer x.y.z"}).status,
        "other issuer": get(mesh, bearer(iss="https://other.example.com")).status,
        "parameter": get(mesh, path=f"/echo?access_token={token()}").status,
        "bad parameter": get(mesh, path="/echo?access_token=x.y.z").status,
        "unsigned": get(
            mesh, {"authorization": f"Bearer {jwt.encode({'iss': ISSUER}, '', algorithm='none')}"}
        ).status,
    }

    assert answers == {
        "none": 200,
        "good": 200,
        "old": 401,
        "forged": 401,
        "garbage": 401,
        "other issuer": 401,
        "parameter": 200,
        "bad parameter": 401,
        "unsigned": 401,
    }


CLAIMS: Final = (
    ("{from: [{source: {requestPrincipals: ['*']}}]}", (403, 200, 200)),
    (f"{{from: [{{source: {{requestPrincipals: ['{ISSUER}/alice']}}}}]}}", (403, 200, 403)),
    (f"{{from: [{{source: {{requestPrincipals: ['{ISSUER}/*']}}}}]}}", (403, 200, 200)),
    ("{from: [{source: {requestPrincipals: ['https://iss*']}}]}", (403, 200, 200)),
    ("{from: [{source: {requestPrincipals: ['*/alice']}}]}", (403, 200, 403)),
    ("{from: [{source: {requestPrincipals: ['*/a/alice']}}]}", (403, 200, 403)),
    ("{from: [{source: {notRequestPrincipals: ['*/alice']}}]}", (200, 403, 200)),
    ("{when: [{key: request.auth.principal, values: ['*/bob']}]}", (403, 403, 200)),
    ("{when: [{key: request.auth.audiences, values: [one]}]}", (403, 200, 200)),
    ("{when: [{key: request.auth.audiences, values: [two]}]}", (403, 403, 200)),
    ("{when: [{key: request.auth.presenter, values: ['app*']}]}", (403, 403, 200)),
    ("{when: [{key: 'request.auth.claims[groups]', values: [admin]}]}", (403, 403, 200)),
    ("{when: [{key: 'request.auth.claims[realm][roles]', values: [x]}]}", (403, 200, 403)),
    ("{when: [{key: 'request.auth.claims[scope]', values: ['write:*']}]}", (403, 403, 200)),
    ("{when: [{key: 'request.auth.claims[groups]', notValues: [admin]}]}", (200, 200, 403)),
)
"""Rules, and what nobody, alice and bob get under them."""


@pytest.mark.parametrize(("rule", "expected"), CLAIMS)
def test_claims_decide(mesh: MeshUnderTest, rule: str, expected: tuple[int, int, int]) -> None:
    """Nobody, alice and bob: only what a verified token says counts, in texts, lists and nested objects."""
    put(mesh, authentication(), policy(rule))
    alice = bearer(aud="one", realm={"roles": ["x", "y"]}, groups="user")
    bob = bearer(sub="bob", aud=["one", "two"], azp="app-1", groups=["user", "admin"], scope="read:a write:a")

    assert (get(mesh).status, get(mesh, alice).status, get(mesh, bob).status) == expected


def test_audiences_and_places(mesh: MeshUnderTest) -> None:
    """Only tokens for these audiences count, and only where the rule says that they stand."""
    places = {"fromHeaders": [{"name": "X-Token", "prefix": "T "}], "fromParams": ["t"], "fromCookies": ["c"]}
    put(
        mesh,
        authentication(audiences=["here"], **places),
        policy("{from: [{source: {requestPrincipals: ['*']}}]}"),
    )
    good, other = token(aud="here"), token(aud="there")

    assert get(mesh, {"x-token": f"T {good}"}).status == 200
    assert get(mesh, path=f"/echo?t={good}").status == 200
    assert get(mesh, {"cookie": f"a=b; c={good}"}).status == 200
    assert get(mesh, {"authorization": f"Bearer {good}"}).status == 403
    assert get(mesh, {"x-token": f"T {other}"}).status == 403
    assert get(mesh, {"x-token": "T nonsense"}).status == 401


def test_what_the_application_sees(mesh: MeshUnderTest) -> None:
    """Claims and payload arrive in headers of our own; what a client writes there itself does not."""
    outputs = {
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    }
    put(mesh, authentication(**outputs))
    seen = get(mesh, bearer()).json["headers"]
    forged = get(mesh, {"x-user": "root", "x-payload": "e30="}).json["headers"]
    put(mesh, authentication(forwardOriginalToken=True))
    kept = get(mesh, bearer()).json["headers"]

    assert seen["x-user"] == ["alice"]
    assert "x-payload" in seen
    assert "authorization" not in seen
    assert "x-user" not in forged
    assert "x-payload" not in forged
    assert "authorization" in kept


def test_keys_are_fetched_by_the_sidecar(mesh: MeshUnderTest, keys: KeyServer) -> None:
    """Keys behind a URL let tokens in; where they cannot be fetched, a token is refused, and none is no error."""
    host, port = keys.at
    put(mesh, authentication(jwksUri=f"http://{host}:{port}/keys"))
    mesh.wait("the keys are there", lambda: get(mesh, bearer()).status == 200)
    assert get(mesh, bearer(STRANGE)).status == 401
    assert keys.asked

    put(mesh, authentication(jwksUri=f"http://{address()}:{port}/keys", timeout="1s"))
    assert (get(mesh).status, get(mesh, bearer()).status) == (200, 401)


def test_one_that_cannot_be_read_lets_no_request_in(mesh: MeshUnderTest) -> None:
    """Keys that do not parse: the last good version stays; without one, no request passes."""
    put(mesh, authentication())
    mesh.write("manifests.yaml", STRICT + authentication(jwks="{}").replace("tokens", "other"))
    mesh.wait("nothing passes", lambda: get(mesh).status == 403)

    assert [problem.field for problem in mesh.mesh.api.problems()] == ["spec.jwtRules[0].jwks"]
