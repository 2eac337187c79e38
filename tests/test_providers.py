"""Providers of the mesh settings: what is read of them, and the cluster by which a sidecar calls one."""

from __future__ import annotations

import pytest

from tests.fakes.manifests import endpoints, objects, pod, service
from tests.fakes.objects import raw
from xds import ir
from xds.api.core import Protocol
from xds.api.manifest import Parsed, read
from xds.api.mesh import MeshSettings
from xds.api.provider_fields import LogFormat, ProviderService, RequestBody
from xds.api.providers import (
    ExtAuthzGrpc,
    ExtAuthzHttp,
    FileAccessLog,
    OpenTelemetry,
    OtelAccessLog,
    Prometheus,
    RateLimitService,
    TraceContext,
    Zipkin,
)
from xds.compile.lens import Lens
from xds.compile.providers import provider_cluster, provider_name
from xds.fields import ConfigError
from xds.plan import Plan
from xds.snapshot import Snapshot
from xds.sources.store import Store

AT = "{service: orders.shop.svc.cluster.local, port: 80}"
ORDERS = ProviderService("orders.shop.svc.cluster.local", 80)
HOST = "orders.shop.svc.cluster.local"


def parsed(*providers: str) -> Parsed:
    """Read settings with these providers, each an element of the list."""
    mesh = "extensionProviders:\n" + "\n".join(f"- {provider}" for provider in providers)
    found = read(raw("ConfigMap", "proa", namespace="proa-system", data={"mesh": mesh}))
    assert isinstance(found, Parsed)
    return found


def settings(*providers: str) -> MeshSettings:
    """Read settings with these providers."""
    found = parsed(*providers).object
    assert isinstance(found, MeshSettings)
    return found


@pytest.mark.parametrize(
    ("text", "provider"),
    [
        ("{name: a, prometheus: {}}", Prometheus("a")),
        (f"{{name: a, zipkin: {AT}}}", Zipkin("a", ORDERS)),
        (
            (
                "{name: a, zipkin: {service: obs/zipkin.example.com, port: 9411, path: /spans, maxTagLength: 64, "
                "enable64bitTraceId: true, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}}"
            ),
            Zipkin(
                "a",
                ProviderService("zipkin.example.com", 9411, "obs"),
                "/spans",
                64,
                short_trace_ids=True,
                context=TraceContext.B3_WITH_W3C,
            ),
        ),
        (f"{{name: a, opentelemetry: {AT}}}", OpenTelemetry("a", ORDERS)),
        (
            (
                "{name: a, opentelemetry: {service: orders.shop.svc.cluster.local, port: 80, "
                "http: {path: /v1/traces, timeout: 1s, headers: [{name: X-Key, value: k}]}}}"
            ),
            OpenTelemetry("a", ORDERS, 0, 1000, "/v1/traces", (("x-key", "k"),)),
        ),
        (
            (
                "{name: a, opentelemetry: {service: orders.shop.svc.cluster.local, port: 80, "
                "grpc: {timeout: 2s, initialMetadata: [{name: k, value: v}]}}}"
            ),
            OpenTelemetry("a", ORDERS, 0, 2000, "", (("k", "v"),)),
        ),
        (
            "{name: a, envoyFileAccessLog: {path: /dev/stderr, logFormat: {text: x}, omitEmptyValues: true}}",
            FileAccessLog("a", "/dev/stderr", LogFormat("x"), omit_empty=True),
        ),
        (
            (
                "{name: a, envoyOtelAls: {service: orders.shop.svc.cluster.local, port: 80, logName: l, "
                "logFormat: {labels: {b: '%PROTOCOL%', a: x}}}}"
            ),
            OtelAccessLog("a", ORDERS, "l", LogFormat("", (("a", "x"), ("b", "%PROTOCOL%")))),
        ),
        (
            "{name: a, ratelimit: {service: orders.shop.svc.cluster.local, port: 80, domain: d}}",
            RateLimitService("a", ORDERS, "d", 20, fail_open=True),
        ),
        (
            (
                "{name: a, ratelimit: {service: orders.shop.svc.cluster.local, port: 80, domain: d, timeout: 1s, "
                "failOpen: false}}"
            ),
            RateLimitService("a", ORDERS, "d", 1000, fail_open=False),
        ),
        (f"{{name: a, envoyExtAuthzGrpc: {AT}}}", ExtAuthzGrpc("a", ORDERS)),
        (
            (
                "{name: a, envoyExtAuthzHttp: {service: orders.shop.svc.cluster.local, port: 80, timeout: 1s, "
                "failOpen: true, clearRouteCache: true, statusOnError: '503', pathPrefix: /check, "
                "includeRequestHeadersInCheck: [X-A, 'x-*'], includeAdditionalHeadersInCheck: {X-B: b}, "
                "includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}, "
                "headersToUpstreamOnAllow: [u], headersToDownstreamOnAllow: [a], headersToDownstreamOnDeny: [d]}}"
            ),
            ExtAuthzHttp(
                name="a",
                service=ORDERS,
                timeout_ms=1000,
                fail_open=True,
                clear_route_cache=True,
                status_on_error=503,
                path_prefix="/check",
                headers_in_check=("x-a", "x-*"),
                more_headers_in_check=(("x-b", "b"),),
                body=RequestBody(10, allow_partial=True, as_bytes=True),
                headers_upstream_on_allow=("u",),
                headers_downstream_on_allow=("a",),
                headers_downstream_on_deny=("d",),
            ),
        ),
    ],
)
def test_a_provider_is_read(text: str, provider: object) -> None:
    """Every field of Istio's that has a meaning here, and the default of those that are left out."""
    assert settings(text).providers == (provider,)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "{name: a, skywalking: {service: x, port: 1}}",
            "[0].skywalking: is no provider that Proa has: a was",
        ),
        ("{name: a, envoyFileAccessLog: {path: /var/log/a}}", "[0].envoyFileAccessLog.path: a was left out:"),
    ],
)
def test_a_provider_that_cannot_be_had_is_left_out(text: str, note: str) -> None:
    """With a warning, beside those that can: Istio's settings move over unchanged."""
    found = parsed(text, "{name: b, prometheus: {}}")

    assert isinstance(found.object, MeshSettings)
    assert found.object.providers == (Prometheus("b"),)
    assert [f"{n.path}: {n.reason}".startswith(f"data.mesh.extensionProviders{note}") for n in found.notes]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{name: a}", ": must have exactly one of envoyExtAuthzHttp,"),
        ("{name: a, prometheus: {}, zipkin: {}}", ": must have exactly one of"),
        ("{name: a b, prometheus: {}}", ".name: must be at most 128"),
        ("{prometheus: {}}", ".name: is required"),
        ("{name: a, prometheus: {x: 1}}", ".prometheus.x: unknown field"),
        ("{name: a, zipkin: {port: 1}}", ".zipkin.service: is required"),
        ("{name: a, zipkin: {service: a.b, port: 0}}", ".zipkin.port: must be 1..65535"),
        ("{name: a, zipkin: {service: A/b, port: 1}}", ".zipkin.service: must be at most 63"),
        ("{name: a, zipkin: {service: 'a b', port: 1}}", ".zipkin.service: must be lower-case"),
        ("{name: a, zipkin: {service: a, port: 1, path: x}}", ".zipkin.path: must be a path"),
        (
            "{name: a, opentelemetry: {service: a, port: 1, http: {}, grpc: {}}}",
            ".opentelemetry.grpc: cannot",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, statusOnError: '99'}}",
            ".envoyExtAuthzHttp.statusOnError: must be an HTTP status",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, headersToUpstreamOnAllow: ['a b']}}",
            ".envoyExtAuthzHttp.headersToUpstreamOnAllow[0]: must be a header's name",
        ),
        (
            '{name: a, opentelemetry: {service: a, port: 1, http: {headers: [{name: a, value: "b\\nc"}]}}}',
            ".opentelemetry.http.headers[0]: must have a printable value",
        ),
    ],
)
def test_a_provider_is_refused_by_field(text: str, error: str) -> None:
    """The settings before it stay in force."""
    with pytest.raises(ConfigError) as caught:
        parsed(text)

    assert str(caught.value).startswith(f"data.mesh.extensionProviders[0]{error}")


def test_a_name_is_given_once() -> None:
    """Whoever names a provider must mean one."""
    with pytest.raises(ConfigError, match="a is the name of"):
        parsed("{name: a, prometheus: {}}", "{name: a, prometheus: {}}")


# --- Clusters -----------------------------------------------------------------------------------

MESH = (service("orders"), pod("orders-1", "orders", "10.0.0.1"), endpoints("orders", "10.0.0.1=orders-1"))
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: zipkin, namespace: obs}
spec:
  hosts: [zipkin.example.com]
  ports: [{number: 9411, name: http, protocol: HTTP}]
  resolution: DNS
"""


def plan(*texts: str) -> Plan:
    """Return a plan over some objects."""
    found = Plan(Snapshot())
    found.apply(Store().apply_all(objects(*texts)))
    return found


def called(provider: str, *texts: str, namespace: str = "web") -> ir.Cluster:
    """Return the cluster by which proxies of a namespace call a provider."""
    (read_one,) = settings(provider).providers
    found = provider_cluster(Lens(plan(*texts).world), read_one, namespace)
    assert found is not None
    assert found.name == provider_name(read_one)
    return found


def test_a_service_is_called_in_the_providers_protocol() -> None:
    """Beside the cluster that applications use, whatever protocol its port declares; with the same endpoints."""
    found = called(f"{{name: a, opentelemetry: {AT}}}", *MESH)

    assert found.name == f"provider|grpc|80|{HOST}"
    assert found.protocol is Protocol.GRPC
    assert (found.discovery, found.assignment) == (ir.Discovery.EDS, f"outbound|80||{HOST}")
    assert found.tls == ir.AutoMtls(("spiffe://cluster.local/ns/shop/sa/orders",), f"outbound_.80_._.{HOST}")


def test_a_service_entry_is_called() -> None:
    """With its own endpoints, in plaintext unless something says otherwise."""
    found = called("{name: a, zipkin: {service: obs/zipkin.example.com, port: 9411}}", ENTRY)

    assert found.name == "provider|http|9411|zipkin.example.com"
    assert (found.discovery, found.assignment) == (ir.Discovery.STRICT_DNS, "")
    assert [endpoint.address for endpoint in found.endpoints] == ["zipkin.example.com"]
    assert found.tls == ir.Plaintext()


@pytest.mark.parametrize(
    "where",
    [
        "nobody.shop.svc.cluster.local, port: 80",
        f"{HOST}, port: 81",
        f"web/{HOST}, port: 80",
        "a.com, port: 80",
    ],
)
def test_what_does_not_exist_is_a_cluster_without_endpoints(where: str) -> None:
    """A listener that names it is good, and a call fails at once."""
    found = called(f"{{name: a, zipkin: {{service: {where}}}}}", *MESH, ENTRY)

    assert (found.discovery, found.endpoints) == (ir.Discovery.STATIC, ())


def test_an_unknown_service_is_told_of() -> None:
    """By provider, as the settings are what is wrong."""
    config = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - {name: good, zipkin: {service: orders.shop.svc.cluster.local, port: 80}}
    - {name: bad, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}}
"""
    (problem,) = plan(*MESH, config).problems()

    assert str(problem) == (
        "warning: ConfigMap proa-system/proa: data.mesh.extensionProviders[1]: zipkin.obs.svc.cluster.local port "
        "9411, of provider bad, is no port of a known Service or ServiceEntry"
    )
