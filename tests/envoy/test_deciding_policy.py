"""The access log's word on who decided about a request: every kind of policy and limit, with real traffic."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rig import STRICT, App, MeshUnderTest, address

from tests import access_tokens as tokens

LINES = (address(), 7000)
SERVER = App("lines", serves="tcp", protocol="tcp", service_port=7000, port=7000)
FIELDS = {"policy", "refused_by", "asked_policy", "audit_policy", "dry_run_deny", "dry_run_allow"}
_MARKS = itertools.count()
MANIFESTS = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - {name: judge, envoyExtAuthzHttp: {service: nowhere.example.com, port: 80, timeout: 1s}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - to: [{operation: {methods: [GET]}}]
  - to: [{operation: {methods: [PUT]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {paths: [/admin*]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec:
  action: CUSTOM
  provider: {name: judge}
  selector: {matchLabels: {app: orders}}
  rules: [{to: [{operation: {paths: [/echo/asked]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: look, namespace: shop}
spec: {action: AUDIT, rules: [{to: [{operation: {paths: [/echo/watched]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try-deny, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {paths: [/echo/tried]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try-allow, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {paths: [/echo, /echo/limited]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-lines, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: lines}}, rules: [{to: [{operation: {ports: ["7000"]}}]}]}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: few, namespace: shop}
spec:
  targetRef: {kind: Service, name: orders}
  rules: [{match: {path: {prefix: /echo/limited}}, requests: 1, interval: 1h}]
"""
AUTHENTICATION = {
    "apiVersion": "security.istio.io/v1",
    "kind": "RequestAuthentication",
    "metadata": {"name": "ours", "namespace": "shop"},
    "spec": {
        "selector": {"matchLabels": {"app": "orders"}},
        "jwtRules": [{"issuer": "us", "jwks": tokens.jwks(1)}],
    },
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client and the orders, with one policy of each action, tokens and a limit."""
    work: Path = tmp_path_factory.mktemp("deciding") / "mesh"
    manifests = f"{STRICT}{MANIFESTS}---\n{json.dumps(AUTHENTICATION)}\n"
    client = App("client", annotations={"proa.dev/upstreams": f"{LINES[0]}:{LINES[1]}=lines:7000"})
    made = MeshUnderTest(work, (client, App("orders"), SERVER), manifests, is_insecure=False)
    try:
        yield made.start()
    finally:
        made.stop()


def lines(mesh: MeshUnderTest, pod: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first line of a Pod's sidecar that is meant, once it is written."""
    found: list[dict[str, Any]] = []

    def is_written() -> bool:
        text = mesh.sidecars[pod].log.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        written = [json.loads(one) for one in whole.splitlines() if one.startswith("{")]
        found[:] = filter(is_it, written)
        return bool(found)

    mesh.wait("the line is written", is_written)
    return found[0]


def sent(
    mesh: MeshUnderTest, method: str, path: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Send a request to the orders; return the line of their sidecar."""
    mark = f"{method} {path} {next(_MARKS)}"
    mesh.get("client", f"http://orders{path}", {**(headers or {}), "user-agent": mark}, method)
    return lines(mesh, "orders", lambda one: one.get("user_agent") == mark)


READERS = "AuthorizationPolicy/shop/readers"


@pytest.mark.parametrize(
    ("method", "path", "status", "details", "said"),
    [
        ("GET", "/echo", 200, "via_upstream", {"policy": f"{READERS}/0", "dry_run_allow": "allowed"}),
        ("PUT", "/echo", 200, "via_upstream", {"policy": f"{READERS}/1", "dry_run_allow": "allowed"}),
        (
            "GET",
            "/admin",
            403,
            "rbac_access_denied_matched_policy[AuthorizationPolicy/shop/no-admin/0]",
            {"policy": "AuthorizationPolicy/shop/no-admin/0"},
        ),
        ("POST", "/echo", 403, "rbac_access_denied_matched_policy[none]", {"dry_run_allow": "allowed"}),
        ("GET", "/echo/asked", 403, "ext_authz_error", {"asked_policy": "AuthorizationPolicy/shop/ask/0"}),
        (
            "GET",
            "/echo/watched",
            200,
            "via_upstream",
            {
                "policy": f"{READERS}/0",
                "audit_policy": "AuthorizationPolicy/shop/look/0",
                "dry_run_allow": "denied",
            },
        ),
        (
            "GET",
            "/echo/tried",
            200,
            "via_upstream",
            {
                "policy": f"{READERS}/0",
                "dry_run_deny": "AuthorizationPolicy/shop/try-deny/0",
                "dry_run_allow": "denied",
            },
        ),
    ],
)
def test_a_line_names_what_decided(  # noqa: PLR0913, PLR0917 -- a table
    mesh: MeshUnderTest, method: str, path: str, status: int, details: str, said: dict[str, str]
) -> None:
    """The rule that allowed or denied, the one that asked somebody, and those that only watch; nothing else."""
    found = sent(mesh, method, path)

    assert (found["response_code"], found["response_code_details"]) == (status, details)
    assert {name: found[name] for name in FIELDS if name in found} == said


def test_a_token_that_is_refused_says_why(mesh: MeshUnderTest) -> None:
    """No policy has decided: what was wrong with the token stands in the details, whose it is in a field of its own."""
    found = sent(mesh, "GET", "/echo", {"authorization": "Bearer a.b.c"})

    assert found["response_code"] == 401
    assert found["response_code_details"].startswith("jwt_authn_access_denied{")
    assert found["refused_by"] == "RequestAuthentication/shop/ours"
    assert FIELDS & found.keys() == {"refused_by"}


def test_a_limit_is_told_beside_the_rule_that_let_the_request_in(mesh: MeshUnderTest) -> None:
    """The policy allowed it, the limit behind it did not."""
    first, second = (sent(mesh, "GET", "/echo/limited") for _ in range(2))

    assert (first["response_code"], second["response_code"]) == (200, 429)
    assert (second["response_flags"], second["response_code_details"]) == (
        "RateLimited",
        "local_rate_limited",
    )
    assert second["policy"] == f"{READERS}/0"
    assert (first.get("refused_by"), second["refused_by"]) == (None, "RateLimit/shop/few")


def test_a_connection_of_bytes_says_it_as_it_ends(mesh: MeshUnderTest) -> None:
    """Envoy tells the rule that denied in the reason of the end, and of rules that only watch as for requests."""
    with contextlib.suppress(ConnectionError), socket.create_connection(LINES, 10) as connection:
        connection.sendall(b"x")
        while connection.recv(100):  # the server's greeting, then the end
            pass

    found = lines(mesh, "lines", lambda one: one["reporter"] == "destination")
    decided = "rbac_access_denied_matched_policy[AuthorizationPolicy/shop/no-lines/0]"
    assert (found["connection_termination_details"], found["audit_policy"]) == (
        decided,
        "AuthorizationPolicy/shop/look/0",
    )
    assert "policy" not in found
