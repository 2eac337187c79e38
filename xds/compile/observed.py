"""What is told of a workload's traffic: Telemetry objects over the mesh settings, rule by rule, as Istio merges them.

It owns that order (istio/istio, pilot/pkg/model/telemetry.go) and the clusters of the providers that come out of it;
it must never build a log or a tracer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from xds import ir
from xds.api.istio_telemetry import Mode, Telemetry, TracingRule
from xds.api.mesh import MeshSettings
from xds.api.providers import (
    FileAccessLog,
    OpenTelemetry,
    OtelAccessLog,
    Prometheus,
    Provider,
    TraceContext,
    Zipkin,
)
from xds.compile.lens import Lens
from xds.compile.providers import provider_cluster, provider_name
from xds.fields import Problem, Severity
from xds.hosts import Name
from xds.indexes.telemetries import Chain
from xds.observed import (
    AccessLog,
    Metric,
    MetricOverride,
    Observed,
    Otlp,
    OtlpTracer,
    Stream,
    Tracing,
    ZipkinTracer,
)

_LINE = "accessLogFile"
"""Name of the provider that the setting of this name stands for; it is used where nobody configures access logs."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is told of both sides of a workload's traffic, and the clusters by which it is sent."""

    client: Observed
    server: Observed
    clusters: tuple[ir.Cluster, ...]


def observation(lens: Lens, namespace: str, chain: Chain) -> Observation:
    """Return what is told of the workloads for which these objects hold, the widest object first."""
    settings = lens.settings
    client, server = (_observed(settings, chain, mode) for mode in (Mode.CLIENT, Mode.SERVER))
    called = {name: None for side in (client, server) for name in _called(side)}
    providers = (*settings.providers, *_legacy(settings))
    found = [provider_cluster(lens, p, namespace) for p in providers if provider_name(p) in called]
    return Observation(client, server, tuple({node.name: node for node in found if node}.values()))


def check_telemetry(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a Telemetry has no effect in the present world, nothing when it is gone."""
    found = lens.telemetry(name)
    if found is None or found.is_for_gateways:
        return ()
    return (*_rivals(lens, found), *_unknown(lens.settings, found))


def _observed(settings: MeshSettings, chain: Chain, mode: Mode) -> Observed:
    return Observed(
        logs=tuple(_logs(settings, chain, mode)),
        tracing=_tracing(settings, chain, mode),
        metrics=tuple(_metrics(settings, chain, mode)),
        evidence=settings.evidence,
    )


def _called(side: Observed) -> Iterator[str]:
    if side.tracing is not None:
        yield side.tracing.tracer.cluster
    yield from (log.sink.cluster for log in side.logs if isinstance(log.sink, Otlp))


def _is_for(rule: Mode, mode: Mode) -> bool:
    return rule in {Mode.BOTH, mode}


# --- Access logs ----------------------------------------------------------------------------------


def _logs(settings: MeshSettings, chain: Chain, mode: Mode) -> Iterator[AccessLog]:
    """Yield the logs of one side: by provider the last word on its filter, or that it is off."""
    for name, expression in sorted(_chosen_logs(settings, chain, mode).items()):
        provider = _file(settings) if name == _LINE else settings.provider(name)
        if isinstance(provider, FileAccessLog | OtelAccessLog):
            yield replace(_log(settings, provider), expression=expression)


def _chosen_logs(settings: MeshSettings, chain: Chain, mode: Mode) -> dict[str, str]:
    """Return the names of the providers that log one side, each with its filter.

    What names providers last names all of them; a rule without any is for those of the rule before it.
    """
    rules = [rule for found in chain for rule in found.logging]
    parents = settings.telemetry.defaults.logging
    if not rules:
        return dict.fromkeys(parents or ((_LINE,) if settings.telemetry.log_file else ()), "")
    scope = set(parents)
    for found in chain:
        named = {name for rule in found.logging if _is_for(rule.mode, mode) for name in rule.providers}
        scope = named or scope
    filters: dict[str, str] = {}
    chosen: dict[str, bool] = {}
    for rule in rules:
        parents = rule.providers or parents
        for name in parents if _is_for(rule.mode, mode) else ():
            if rule.providers or rule.expression:
                filters[name] = rule.expression
            chosen[name] = name in scope and not rule.disabled
    return {name: filters.get(name, "") for name, is_on in chosen.items() if is_on}


def _log(settings: MeshSettings, provider: FileAccessLog | OtelAccessLog) -> AccessLog:
    mesh = settings.telemetry
    if isinstance(provider, FileAccessLog):
        sink: Stream | Otlp = Stream(is_error=provider.path == "/dev/stderr")
        omit_empty = provider.omit_empty
    else:
        sink, omit_empty = Otlp(provider_name(provider), provider.log_name), False
    form = provider.form if provider.form.text or provider.form.labels else mesh.log_form
    return AccessLog(sink, form.text, form.labels, "", omit_empty, mesh.redaction)


def _file(settings: MeshSettings) -> FileAccessLog:
    return FileAccessLog(_LINE, settings.telemetry.log_file)


# --- Traces ---------------------------------------------------------------------------------------


def _tracing(settings: MeshSettings, chain: Chain, mode: Mode) -> Tracing | None:
    """Return the spans of one side; of each field the last word holds, None where no provider can be had."""
    mesh = settings.telemetry
    said = TracingRule(sampling=mesh.sampling, tags=mesh.tags, use_request_id=True, disabled=False)
    provider = _default_tracer(settings)
    for rule in (rule for found in chain for rule in found.tracing if _is_for(rule.mode, mode)):
        if rule.provider:
            provider = settings.provider(rule.provider)
        said = _refine(said, rule)
    if said.disabled or not isinstance(provider, Zipkin | OpenTelemetry):
        return None
    return Tracing(
        tracer=_tracer(provider),
        sampling=mesh.sampling if said.sampling is None else said.sampling,
        tags=said.tags or (),
        max_tag_length=provider.max_tag_length or mesh.max_tag_length,
        use_request_id=said.use_request_id is not False,
    )


def _default_tracer(settings: MeshSettings) -> Provider | None:
    """Return the first of the default providers, as in Istio, else what ``enableTracing`` stands for."""
    for name in settings.telemetry.defaults.tracing[:1]:
        return settings.provider(name)
    return next(iter(_legacy(settings)), None)


def _legacy(settings: MeshSettings) -> tuple[Provider, ...]:
    at = settings.telemetry.zipkin
    return (Zipkin("enableTracing", at),) if at and settings.telemetry.is_tracing else ()


def _refine(said: TracingRule, rule: TracingRule) -> TracingRule:
    return TracingRule(
        disabled=said.disabled if rule.disabled is None else rule.disabled,
        sampling=said.sampling if rule.sampling is None else rule.sampling,
        tags=said.tags if rule.tags is None else rule.tags,
        use_request_id=said.use_request_id if rule.use_request_id is None else rule.use_request_id,
    )


def _tracer(provider: Zipkin | OpenTelemetry) -> ZipkinTracer | OtlpTracer:
    cluster, host = provider_name(provider), provider.service.host
    if isinstance(provider, Zipkin):
        w3c = provider.context is not TraceContext.B3
        return ZipkinTracer(cluster, host, provider.path, w3c, provider.short_trace_ids)
    return OtlpTracer(cluster, host, provider.timeout_ms, provider.http_path, provider.headers)


# --- Metrics --------------------------------------------------------------------------------------


def _metrics(settings: MeshSettings, chain: Chain, mode: Mode) -> Iterator[MetricOverride]:
    """Yield the changes to one side's metrics; of each metric and label the last word holds."""
    rules = [rule for found in chain for rule in found.metrics]
    parents = settings.telemetry.defaults.metrics or ("prometheus",)
    disabled: dict[Metric, bool] = {}
    tags: dict[Metric, dict[str, str | None]] = {}
    for rule in rules:
        parents = rule.providers or parents
        if not any(isinstance(settings.provider(name), Prometheus) for name in parents):
            continue
        for override in (found for found in rule.overrides if _is_for(found.mode, mode)):
            for metric in override.metrics:
                if override.disabled is not None:
                    disabled[metric] = override.disabled
                tags.setdefault(metric, {}).update(override.tags)
    for metric in Metric:
        off, changed = disabled.get(metric, False), tags.get(metric, {})
        if off or changed:
            yield MetricOverride(metric, off, () if off else tuple(sorted(changed.items())))


# --- What has no effect ---------------------------------------------------------------------------


def _rivals(lens: Lens, found: Telemetry) -> Iterator[Problem]:
    older = [t for t in lens.telemetries(found.meta.namespace) if t.selector == found.selector][:1]
    for first in older:
        if first.meta.name != found.meta.name and not first.is_for_gateways:
            what = "these Pods" if found.selector else "the namespace"
            reason = f"has no effect: the older {_subject(first)} holds for {what}; merge them"
            yield Problem(Severity.WARNING, _subject(found), "spec", reason)


def _unknown(settings: MeshSettings, found: Telemetry) -> Iterator[Problem]:
    for path, name, kinds in _named(found):
        provider = settings.provider(name)
        if isinstance(provider, kinds):
            continue
        wanted = " or ".join(kind.__name__ for kind in kinds)
        known = ", ".join(sorted(p.name for p in settings.providers if isinstance(p, kinds))) or "none"
        reason = f"no provider {name} of this kind ({wanted}) is in extensionProviders, which has {known}"
        yield Problem(Severity.WARNING, _subject(found), path, reason)


def _named(found: Telemetry) -> Iterable[tuple[str, str, tuple[type[Provider], ...]]]:
    for index, rule in enumerate(found.tracing):
        if rule.provider:
            yield f"spec.tracing[{index}].providers[0].name", rule.provider, (Zipkin, OpenTelemetry)
    for index, rule in enumerate(found.logging):
        for i, name in enumerate(rule.providers):
            path = f"spec.accessLogging[{index}].providers[{i}].name"
            yield path, name, (FileAccessLog, OtelAccessLog)
    for index, rule in enumerate(found.metrics):
        for i, name in enumerate(rule.providers):
            yield f"spec.metrics[{index}].providers[{i}].name", name, (Prometheus,)


def _subject(found: Telemetry) -> str:
    return f"Telemetry {found.meta.namespace}/{found.meta.name}"
