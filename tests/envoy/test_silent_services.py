"""Services that do not answer a real sidecar: each is told once, with its provider or URL and the objects that ask."""

from __future__ import annotations

import pytest
from rig import STRICT, App, MeshUnderTest, StartMesh, address

from tests import access_tokens as tokens

NOBODY = address()
"""An address that is there, and on which nothing listens."""

MANIFESTS = f"""
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: proa, namespace: proa-system}}
data:
  mesh: |
    defaultProviders: {{tracing: [spans]}}
    extensionProviders:
    - {{name: judge, envoyExtAuthzHttp: {{service: away.example.com, port: 8000, timeout: 1s}}}}
    - {{name: spans, zipkin: {{service: away.example.com, port: 9411}}}}
    - {{name: limiter, ratelimit: {{service: away.example.com, port: 8081, domain: shop}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: away, namespace: shop}}
spec:
  hosts: [away.example.com]
  ports:
  - {{number: 8000, name: http, protocol: HTTP}}
  - {{number: 9411, name: http-spans, protocol: HTTP}}
  - {{number: 8081, name: grpc, protocol: GRPC}}
  resolution: STATIC
  endpoints: [{{address: {NOBODY}}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: all, namespace: shop}}
spec: {{tracing: [{{randomSamplingPercentage: 100}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask, namespace: shop}}
spec:
  action: CUSTOM
  provider: {{name: judge}}
  selector: {{matchLabels: {{app: asked}}}}
  rules: [{{}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: keyed}}}}
  jwtRules: [{{issuer: us, jwksUri: "http://{NOBODY}:8888/keys", timeout: 1s}}]
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {{name: shared, namespace: shop}}
spec:
  targetRef: {{kind: Service, name: limited}}
  global: {{provider: limiter, failOpen: false, descriptors: [{{entries: [{{key: a, value: b}}]}}]}}
"""
SPANS = (
    "extension provider",
    "spans (away.example.com:9411)",
    ("ConfigMap proa-system/proa",),
)
EXPECTED = {
    "client": {SPANS},
    "asked": {
        SPANS,
        (
            "external authorization service",
            "judge (away.example.com:8000)",
            ("AuthorizationPolicy shop/ask",),
        ),
    },
    "keyed": {
        SPANS,
        ("server of keys (JWKS)", f"http://{NOBODY}:8888/keys", ("RequestAuthentication shop/tokens",)),
    },
    "limited": {
        SPANS,
        ("rate limit service", "limiter (away.example.com:8081)", ("RateLimit shop/shared",)),
    },
}


def told(mesh: MeshUnderTest) -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
    """Return what is said to give no answer, by Pod."""
    return {
        proxy.id.partition(".")[0]: sorted((one.service, one.name, one.objects) for one in proxy.silent)
        for proxy in mesh.mesh.api.proxies()
    }


@pytest.mark.timeout(180)
def test_each_is_told_once_by_name(start_mesh: StartMesh) -> None:
    """Requests are decided by the fail modes meanwhile; nobody is told under two names."""
    mesh = start_mesh(App("client"), App("asked"), App("keyed"), App("limited"), manifests=STRICT + MANIFESTS)
    bearer = {"authorization": f"Bearer {tokens.sign({'iss': 'us', 'sub': 'a'}, 1)}"}
    statuses: dict[str, int] = {}

    def is_told() -> bool:
        for pod in ("asked", "keyed", "limited"):
            headers = bearer if pod == "keyed" else None
            statuses[pod] = mesh.get("client", f"http://{pod}/echo", headers).status
        return told(mesh) == {pod: sorted(found) for pod, found in EXPECTED.items()}

    mesh.wait("all of them are told", is_told, timeout_s=60)
    assert statuses == {"asked": 403, "keyed": 401, "limited": 500}
