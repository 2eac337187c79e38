"""Who does not answer a sidecar, by name: from counters and the manifests because of which it asks."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import endpoints, objects, pod, service
from xds.compile.lens import Lens
from xds.control import ControlPlane
from xds.report import SilentService
from xds.traffic.otlp import AUTHORIZER_ERRORS, KEY_ERRORS, LIMITER_ERRORS, PROVIDER_ERRORS
from xds.traffic.silences import Heard, Silence
from xds.unanswered import unanswered

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - {name: judge, envoyExtAuthzHttp: {service: judge.shop.svc.cluster.local, port: 8000}}
    - {name: other, envoyExtAuthzGrpc: {service: other.shop.svc.cluster.local, port: 9000}}
    - {name: spans, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}}
    - {name: limiter, ratelimit: {service: limits.shop.svc.cluster.local, port: 8081, domain: shop}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: judge}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-more, namespace: shop}
spec: {action: CUSTOM, provider: {name: other}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: a, jwksUri: "https://a.example.com/keys"}]}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: shared, namespace: shop}
spec:
  targetRef: {kind: Service, name: orders}
  global: {provider: limiter, descriptors: [{entries: [{key: a, value: b}]}]}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: of-others, namespace: shop}
spec:
  targetRef: {kind: Service, name: stock}
  global: {provider: limiter, descriptors: [{entries: [{key: a, value: b}]}]}
"""
JUDGE, OTHER = "judge (judge.shop.svc.cluster.local:8000)", "other (other.shop.svc.cluster.local:9000)"
ASKS = ("AuthorizationPolicy shop/ask", "AuthorizationPolicy shop/ask-more")


def cut_off(cluster: str) -> Heard:
    """Return the counter of connections that a cluster did not take."""
    return PROVIDER_ERRORS, cluster.replace(".", "_")


OF_JUDGE = cut_off("provider|http|8000|judge.shop.svc.cluster.local")


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ((), []),
        (((AUTHORIZER_ERRORS, ""),), [("external authorization service", f"{JUDGE} or {OTHER}", ASKS)]),
        (((AUTHORIZER_ERRORS, ""), OF_JUDGE), [("external authorization service", JUDGE, ASKS[:1])]),
        ((OF_JUDGE,), [("external authorization service", JUDGE, ASKS[:1])]),
        (
            ((KEY_ERRORS, ""), cut_off("jwks|443|a.example.com")),
            [("server of keys (JWKS)", "https://a.example.com/keys", ("RequestAuthentication shop/tokens",))],
        ),
        (
            ((LIMITER_ERRORS, ""),),
            [
                (
                    "rate limit service",
                    "limiter (limits.shop.svc.cluster.local:8081)",
                    ("RateLimit shop/shared",),
                )
            ],
        ),
        (
            (cut_off("provider|http|9411|zipkin.obs.svc.cluster.local"),),
            [
                (
                    "extension provider",
                    "spans (zipkin.obs.svc.cluster.local:9411)",
                    ("ConfigMap proa-system/proa",),
                )
            ],
        ),
        ((cut_off("provider|http|1|gone"),), [("extension provider", "provider|http|1|gone", ())]),
    ],
)
def test_who_does_not_answer_is_named_once(
    heard: tuple[Heard, ...], told: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    """With the provider, or the URL, and the objects that ask; of several, the one that takes no connection."""
    plane = ControlPlane()
    base = (
        service("orders"),
        pod("orders-1", "orders", "10.0.0.1"),
        endpoints("orders", "10.0.0.1=orders-1"),
    )
    plane.apply(objects(*base, MANIFESTS), at=0.0, now=0.0)

    found = unanswered(Lens(plane.plan.world), ("shop", "orders-1"), {one: Silence(3, 9.0) for one in heard})

    assert list(found) == [SilentService(kind, 3, 9.0, name, by) for kind, name, by in told]
