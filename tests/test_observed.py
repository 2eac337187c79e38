"""Which Telemetry holds for a workload, and what of it: the mesh, its namespace, the workload, rule by rule."""

from __future__ import annotations

import yaml

from tests.fakes.manifests import objects, pod, service
from xds import ir
from xds.api.mesh_telemetry import LINE
from xds.compile.lens import Lens
from xds.compile.observed import Observation, observation
from xds.observed import (
    Metric,
    MetricOverride,
    Observed,
    Otlp,
    OtlpTracer,
    Stream,
    Tag,
    TagSource,
    Tracing,
    ZipkinTracer,
)
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

LABELS = (("app", "web"),)

PROVIDERS = """
extensionProviders:
- {name: zipkin, zipkin: {service: zipkin.shop.svc.cluster.local, port: 80}}
- {name: otel, opentelemetry: {service: otel.shop.svc.cluster.local, port: 80, maxTagLength: 9}}
- {name: als, envoyOtelAls: {service: otel.shop.svc.cluster.local, port: 80}}
- {name: errors, envoyFileAccessLog: {path: /dev/stderr}}
"""


def settings(mesh: str) -> str:
    """Return the mesh settings with all providers."""
    meta = {"name": "proa", "namespace": "proa-system"}
    data = {"mesh": PROVIDERS + mesh}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})


def telemetry(
    spec: str, namespace: str = "shop", *, name: str = "default", created: str = "2026-01-01T00:00:00Z"
) -> str:
    """Return a Telemetry."""
    meta = {"name": name, "namespace": namespace, "creationTimestamp": created}
    kind = {"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry"}
    return yaml.safe_dump({**kind, "metadata": meta, "spec": yaml.safe_load(f"{{{spec}}}")})


def seen(*texts: str, mesh: str = "") -> Observation:
    """Return what is told of the workload ``web`` of the namespace ``shop``."""
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all(objects(settings(mesh), *texts)))
    lens = Lens(plan.world)
    return observation(lens, "shop", lens.telemetry_of("shop", LABELS))


def sinks(side: Observed) -> list[object]:
    """Return where a side is logged to."""
    return [log.sink for log in side.logs]


ROOT = "proa-system"
WEB = "selector: {matchLabels: {app: web}}"
OUT = Stream()


def test_nothing_is_told_where_nothing_is_said() -> None:
    """The bytes of such a listener are those of a mesh that has no telemetry."""
    assert seen() == Observation(Observed(), Observed(), ())


def test_the_meshs_own_log() -> None:
    """In the schema of the mesh, on both sides."""
    found = seen(mesh="accessLogFile: /dev/stdout")

    assert (sinks(found.client), sinks(found.server)) == ([OUT], [OUT])
    assert not found.client.logs[0].text and not found.client.logs[0].fields


def test_a_text_log_has_a_line() -> None:
    """Ours where none is given."""
    assert seen(mesh="accessLogFile: /dev/stdout\naccessLogEncoding: TEXT").client.logs[0].text == LINE
    assert (
        seen(mesh="accessLogFile: /dev/stdout\naccessLogFormat: '%PROTOCOL%'").client.logs[0].text
        == "%PROTOCOL%"
    )


def test_a_json_format_has_fields() -> None:
    """Istio writes them as a text."""
    mesh = 'accessLogFile: /dev/stdout\naccessLogEncoding: JSON\naccessLogFormat: \'{"a": "%PROTOCOL%"}\''

    assert seen(mesh=mesh).client.logs[0].fields == (("a", "%PROTOCOL%"),)


def test_a_telemetry_goes_before_the_meshs_log() -> None:
    """As in Istio: accessLogFile is for meshes without Telemetry."""
    rule = telemetry("accessLogging: [{providers: [{name: errors}]}]")

    assert sinks(seen(rule, mesh="accessLogFile: /dev/stdout").client) == [Stream(is_error=True)]


def test_the_narrower_names_all_providers() -> None:
    """What a namespace names replaces what the root namespace names."""
    root = telemetry("accessLogging: [{providers: [{name: als}]}]", ROOT)
    namespace = telemetry("accessLogging: [{providers: [{name: envoy}]}]")
    otlp = Otlp("provider|grpc|80|otel.shop.svc.cluster.local", "otel_envoy_accesslog")

    assert sinks(seen(root).client) == [otlp]
    assert [node.name for node in seen(root).clusters] == [otlp.cluster]
    assert sinks(seen(root, namespace).client) == [OUT]
    assert seen(root, namespace).clusters == ()


def test_a_rule_without_providers_is_for_the_inherited_ones() -> None:
    """Off, or with a filter."""
    root = telemetry("accessLogging: [{providers: [{name: envoy}]}]", ROOT)
    off = telemetry("accessLogging: [{disabled: true}]")
    narrow = telemetry(f"{WEB}, accessLogging: [{{filter: {{expression: response.code > 1}}}}]", name="web")

    assert seen(root, off).client.logs == ()
    assert [log.expression for log in seen(root, off, narrow).server.logs] == ["response.code > 1"]


def test_a_rule_is_for_its_side() -> None:
    """CLIENT is what the workload sends, SERVER what it takes."""
    rule = telemetry("accessLogging: [{providers: [{name: envoy}], match: {mode: SERVER}}]")

    assert (sinks(seen(rule).client), sinks(seen(rule).server)) == ([], [OUT])


def test_a_default_provider_logs_without_any_telemetry() -> None:
    """And an unknown one is none."""
    assert sinks(seen(mesh="defaultProviders: {accessLogging: [envoy, nobody, zipkin]}").client) == [OUT]


def test_traces_go_to_the_default_provider() -> None:
    """One per cent of what begins here, in both forms of headers."""
    found = seen(mesh="defaultProviders: {tracing: [zipkin, otel]}")
    cluster = "provider|http|80|zipkin.shop.svc.cluster.local"

    assert found.client.tracing == found.server.tracing
    assert found.client.tracing == Tracing(
        ZipkinTracer(cluster, "zipkin.shop.svc.cluster.local", "/api/v2/spans", w3c=True), 1.0
    )
    assert [node.name for node in found.clusters] == [cluster]
    assert found.clusters[0].discovery is ir.Discovery.STATIC  # nobody has such a Service


def test_each_field_of_traces_is_inherited_alone() -> None:
    """The last word on each; tags are one field."""
    root = telemetry(
        "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 5, customTags: {a: {literal: {value: x}}}}]",
        ROOT,
    )
    namespace = telemetry("tracing: [{randomSamplingPercentage: 50, match: {mode: CLIENT}}]")
    workload = telemetry(f"{WEB}, tracing: [{{customTags: {{b: {{header: {{name: h}}}}}}}}]", name="web")
    found = seen(root, namespace, workload)

    assert found.client.tracing == Tracing(
        OtlpTracer("provider|grpc|80|otel.shop.svc.cluster.local", "otel.shop.svc.cluster.local", 10_000),
        50,
        (Tag("b", TagSource.HEADER, "h"),),
        9,
    )
    assert found.server.tracing is not None and found.server.tracing.sampling == 5


def test_reporting_is_switched_off() -> None:
    """And on again by a narrower object."""
    mesh = "defaultProviders: {tracing: [zipkin]}"
    off = telemetry("tracing: [{disableSpanReporting: true}]")
    on = telemetry(f"{WEB}, tracing: [{{disableSpanReporting: false}}]", name="web")

    assert seen(off, mesh=mesh).client.tracing is None
    assert seen(off, on, mesh=mesh).client.tracing is not None


def test_istios_older_settings_trace_to_zipkin() -> None:
    """The switch with an address, and neither alone."""
    config = "defaultConfig: {tracing: {sampling: 10, zipkin: {address: 'zipkin.obs:9411'}}}"
    found = seen(mesh=f"enableTracing: true\n{config}").client.tracing

    assert found is not None and found.sampling == 10
    assert found.tracer.cluster == "provider|http|9411|zipkin.obs.svc.cluster.local"
    assert seen(mesh=config).client.tracing is None
    assert seen(mesh="enableTracing: true").client.tracing is None


def test_metrics_are_changed_one_by_one() -> None:
    """For the built-in provider, without being named."""
    root = telemetry(
        "metrics: [{overrides: [{tagOverrides: {a: {value: request.host}, b: {operation: REMOVE}}}]}]", ROOT
    )
    namespace = telemetry(
        "metrics: [{providers: [{name: prometheus}], overrides: ["
        "{match: {metric: REQUEST_SIZE}, disabled: true}, {match: {metric: REQUEST_COUNT, mode: CLIENT}, "
        "tagOverrides: {a: {value: request.method}}}]}]"
    )
    found = seen(root, namespace)
    client = {change.metric: change for change in found.client.metrics}

    assert client[Metric.REQUEST_SIZE] == MetricOverride(Metric.REQUEST_SIZE, disabled=True)
    assert client[Metric.REQUEST_COUNT].tags == (("a", "%REQ(:METHOD)%"), ("b", None))
    assert client[Metric.REQUEST_DURATION].tags == (("a", "%REQ(:AUTHORITY)%"), ("b", None))
    assert {c.metric: c for c in found.server.metrics}[Metric.REQUEST_COUNT].tags == (
        ("a", "%REQ(:AUTHORITY)%"),
        ("b", None),
    )


def test_the_oldest_of_two_holds() -> None:
    """For the namespace, and for Pods that both select."""
    first = telemetry("accessLogging: [{providers: [{name: envoy}]}]", name="z")
    second = telemetry(
        "accessLogging: [{providers: [{name: errors}]}]", name="a", created="2026-01-02T00:00:00Z"
    )

    assert sinks(seen(first, second).client) == [OUT]


def test_a_caller_with_redirected_traffic_changes_its_class() -> None:
    """A Telemetry that selects some Pods of a workload gives these a listener of their own, and takes it away."""
    store, plan = Store(), Plan(Snapshot())
    world = (
        service("web"),
        pod("web-1", "web", "10.0.0.1", version="v1"),
        pod("web-2", "web", "10.0.0.2", version="v2"),
    )
    plan.apply(store.apply_all(objects(*world)))
    before = plan.view(("shop", "web-1"), transparent=True)[0]
    rule = telemetry("selector: {matchLabels: {version: v1}}, accessLogging: [{providers: [{name: envoy}]}]")
    outcome = plan.apply(store.apply_all(objects(rule)))
    view = plan.view(("shop", "web-1"), transparent=True)[0]
    other = plan.view(("shop", "web-2"), transparent=True)[0]

    def is_logged(of: tuple[str, ...]) -> bool:
        found = plan.snapshot.resolve(of, ResourceType.LISTENER, "outbound")
        return found is not None and b"access_loggers.stdout" in found.body

    assert ("shop", "web-1") in outcome.review
    assert view != before
    assert (is_logged(view), is_logged(other)) == (True, False)
