"""Istio's Telemetry: which traces, access logs and metrics some workloads give, as frozen values and their reader.

It holds what the user wrote, rule by rule; which of several objects holds for a Pod, and what a rule inherits, is
decided in ``telemetries`` and ``compile``, never here.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from xds.api.core import Labels, Meta
from xds.api.meta import read_labels
from xds.api.metering import read_label_name, read_label_value
from xds.cel import check_expression
from xds.fields import ConfigError, Reader, show
from xds.formats import check_format
from xds.grammar import check_header_name
from xds.observed import Metric, Tag, TagSource

if TYPE_CHECKING:
    from collections.abc import Callable

SUPPORT: Final = (
    ("selector.matchLabels", "", "without it: the namespace; in the root namespace: the mesh"),
    ("tracing[].match.mode", "", "CLIENT, SERVER, CLIENT_AND_SERVER"),
    (
        "tracing[].providers[].name",
        "HttpConnectionManager.tracing.provider",
        "the first of the list, as in Istio",
    ),
    ("tracing[].randomSamplingPercentage", "HttpConnectionManager.tracing.random_sampling", "default 1"),
    ("tracing[].disableSpanReporting", "HttpConnectionManager.tracing", "the headers pass as they came"),
    (
        "tracing[].customTags",
        "HttpConnectionManager.tracing.custom_tags",
        "literal, header, environment, formatter",
    ),
    ("tracing[].useRequestIdForTraceSampling", "HttpConnectionManager.request_id_extension", ""),
    ("accessLogging[].match.mode", "", "CLIENT, SERVER, CLIENT_AND_SERVER"),
    (
        "accessLogging[].providers[].name",
        "access_log",
        "envoyFileAccessLog and envoyOtelAls; envoy is built in",
    ),
    ("accessLogging[].disabled", "access_log", ""),
    ("accessLogging[].filter.expression", "access_log.filter", "CEL, checked before it is sent"),
    ("metrics[].providers[].name", "", "prometheus is built in"),
    ("metrics[].overrides[].match", "", "metric and mode"),
    ("metrics[].overrides[].disabled", "access_loggers.stats", ""),
    (
        "metrics[].overrides[].tagOverrides",
        "access_loggers.stats",
        "UPSERT and REMOVE; a text, a header or an attribute that Envoy has a operator for; others are left out",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_TAG = re.compile(r"[!-~]{1,256}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_ALL_METRICS: Final = "ALL_METRICS"


class Mode(enum.Enum):
    """Which side of a workload's traffic a rule is for."""

    BOTH = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class TracingRule(msgspec.Struct, frozen=True, gc=False):
    """One element of ``tracing``; None: not said, so inherited. ``provider`` is empty for the inherited one."""

    mode: Mode = Mode.BOTH
    provider: str = ""
    disabled: bool | None = None
    sampling: float | None = None
    tags: tuple[Tag, ...] | None = None
    use_request_id: bool | None = None


class LoggingRule(msgspec.Struct, frozen=True, gc=False):
    """One element of ``accessLogging``; ``providers`` are empty for the inherited ones."""

    mode: Mode = Mode.BOTH
    providers: tuple[str, ...] = ()
    disabled: bool = False
    expression: str = ""


class Override(msgspec.Struct, frozen=True, gc=False):
    """A change to some metrics; a tag of None is taken away."""

    metrics: tuple[Metric, ...] = tuple(Metric)
    mode: Mode = Mode.BOTH
    disabled: bool | None = None
    tags: tuple[tuple[str, str | None], ...] = ()


class MetricsRule(msgspec.Struct, frozen=True, gc=False):
    """One element of ``metrics``; ``providers`` are empty for the inherited ones."""

    providers: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()


class Telemetry(msgspec.Struct, frozen=True, gc=False):
    """A Telemetry; ``selector`` is empty for the whole namespace (the whole mesh in the root namespace).

    ``is_for_gateways``: it names objects that are no sidecars, and no sidecar goes by it.
    """

    meta: Meta
    selector: Labels = ()
    tracing: tuple[TracingRule, ...] = ()
    logging: tuple[LoggingRule, ...] = ()
    metrics: tuple[MetricsRule, ...] = ()
    is_for_gateways: bool = False


def read_telemetry(spec: Reader, meta: Meta) -> Telemetry:
    """Return a Telemetry; raise ConfigError for the first field that is wrong."""
    selector, is_for_gateways = _selector(spec), _targets(spec)
    if selector and is_for_gateways:
        raise spec.fail("targetRefs", "cannot stand beside selector")
    found = Telemetry(
        meta=meta,
        selector=selector,
        tracing=_rules(spec, "tracing", _tracing),
        logging=_rules(spec, "accessLogging", _logging),
        metrics=_rules(spec, "metrics", _metrics),
        is_for_gateways=is_for_gateways,
    )
    spec.done()
    return found


def _selector(spec: Reader) -> Labels:
    reader = spec.object("selector")
    if reader is None:
        return ()
    labels = read_labels(reader, "matchLabels")
    reader.done()
    return labels


def _targets(spec: Reader) -> bool:
    """Tell whether the object names gateways or waypoints, which is all that ``targetRefs`` can name in Istio."""
    one = spec.object("targetRef")
    targets = (*((one,) if one else ()), *spec.objects("targetRefs"))
    for target in targets:
        target.text("kind")
        target.text("name")
        target.text("group", "")
        target.text("namespace", "")
        target.done()
    if targets:
        name = "targetRef" if one else "targetRefs"
        spec.warn(name, "names gateways and waypoints, so the object was left out: sidecars go by selector")
    return bool(targets)


Rule = TypeVar("Rule")


def _rules(spec: Reader, name: str, read: Callable[[Reader], Rule]) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for reader in spec.objects(name):
        found.append(read(reader))
        reader.done()
    return tuple(found)


def _providers(reader: Reader) -> tuple[str, ...]:
    found: list[str] = []
    for provider in reader.objects("providers"):
        found.append(provider.text("name"))
        provider.done()
    return tuple(dict.fromkeys(found))


def _mode(reader: Reader) -> Mode:
    match = reader.object("match")
    if match is None:
        return Mode.BOTH
    mode = match.choice("mode", Mode, Mode.BOTH)
    match.done()
    return mode


def _switch(reader: Reader, name: str) -> bool | None:
    return reader.boolean(name) if reader.has(name) else None


# --- Traces -------------------------------------------------------------------------------------


def _tracing(reader: Reader) -> TracingRule:
    providers = _providers(reader)
    if len(providers) > 1:
        reader.warn("providers", f"spans go to one provider: {providers[0]} is taken, as in Istio")
    percent = "randomSamplingPercentage"
    reader.leave("enableIstioTags", "spans have Envoy's own tags and those of customTags")
    reader.leave("disableContextPropagation", "the headers of a trace are sent on")
    return TracingRule(
        mode=_mode(reader),
        provider=providers[0] if providers else "",
        disabled=_switch(reader, "disableSpanReporting"),
        sampling=reader.number(percent, low=0, high=100) if reader.has(percent) else None,
        tags=_tags(reader) if reader.has("customTags") else None,
        use_request_id=_switch(reader, "useRequestIdForTraceSampling"),
    )


def _tags(reader: Reader) -> tuple[Tag, ...]:
    tags = reader.object("customTags")
    return tuple(read_tag(tags, name) for name in sorted(tags.present())) if tags else ()


def read_tag(tags: Reader, name: str) -> Tag:
    """Return one of a map of tags, in Istio's form."""
    if not _TAG.fullmatch(name):
        raise ConfigError(tags.path, f"has a name that is empty, too long or not printable: {show(name)}")
    reader = Reader(tags.raw(name), tags.at(name), tags.notes)
    sources = sorted(reader.present())
    if len(sources) != 1 or sources[0] not in {source.value for source in TagSource}:
        listed = ", ".join(sources) or "none"
        raise ConfigError(
            reader.path, f"must have exactly one of literal, header, environment and formatter, got {listed}"
        )
    source = TagSource(sources[0])
    inner = Reader(reader.raw(source.value), reader.at(source.value), reader.notes)
    tag = _tag(inner, name, source)
    inner.done()
    return tag


def _tag(reader: Reader, name: str, source: TagSource) -> Tag:
    match source:
        case TagSource.LITERAL:
            return Tag(name, source, _plain(reader, "value"))
        case TagSource.FORMATTER:
            return Tag(name, source, check_format(reader.text("value"), reader.at("value")))
        case TagSource.HEADER:
            header = check_header_name(reader.at("name"), reader.text("name"))
            return Tag(name, source, header, _plain(reader, "defaultValue", ""))
        case TagSource.ENVIRONMENT:
            variable = reader.text("name")
            if not _VARIABLE.fullmatch(variable):
                raise reader.fail("name", f"must be the name of a variable, got {show(variable)}")
            return Tag(name, source, variable, _plain(reader, "defaultValue", ""))


def _plain(reader: Reader, name: str, default: str | None = None) -> str:
    text = reader.text(name, default)
    if default is None and not text:
        raise reader.fail(name, "must not be empty")
    if not text.isprintable():
        raise reader.fail(name, f"must be printable, got {show(text)}")
    return text


# --- Access logs ----------------------------------------------------------------------------------


def _logging(reader: Reader) -> LoggingRule:
    mode, providers, disabled = _mode(reader), _providers(reader), reader.boolean("disabled")
    chosen = reader.object("filter")
    if chosen is None:
        return LoggingRule(mode, providers, disabled)
    expression = check_expression(chosen.text("expression", ""), chosen.at("expression"))
    chosen.done()
    return LoggingRule(mode, providers, disabled, expression)


# --- Metrics --------------------------------------------------------------------------------------


def _metrics(reader: Reader) -> MetricsRule:
    reader.leave("reportingInterval", "metrics of TCP connections are written when these open and end")
    found = _rules(reader, "overrides", _override)
    return MetricsRule(_providers(reader), tuple(override for override in found if override.metrics))


def _override(reader: Reader) -> Override:
    metrics, mode = _matched(reader.object("match"))
    return Override(metrics, mode, _switch(reader, "disabled"), _tag_overrides(reader))


def _matched(reader: Reader | None) -> tuple[tuple[Metric, ...], Mode]:
    """Return the metrics that an override is for, none for one that Proa does not write."""
    if reader is None:
        return tuple(Metric), Mode.BOTH
    if reader.has("customMetric"):
        if reader.has("metric"):
            raise reader.fail("customMetric", "excludes metric; keep one of them")
        reader.leave("customMetric", "the override is about a metric that no sidecar writes")
        reader.choice("mode", Mode, Mode.BOTH)
        reader.done()
        return (), Mode.BOTH
    reader.raw("customMetric")
    mode, name = reader.choice("mode", Mode, Mode.BOTH), reader.text("metric", _ALL_METRICS)
    metrics = tuple(Metric) if name == _ALL_METRICS else (reader.choice("metric", Metric),)
    reader.done()
    return metrics, mode


class _Operation(enum.Enum):
    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


def _tag_overrides(reader: Reader) -> tuple[tuple[str, str | None], ...]:
    tags = reader.object("tagOverrides")
    out: list[tuple[str, str | None]] = []
    for name in sorted(tags.present()) if tags else ():
        read_label_name(name, f"{reader.at('tagOverrides')}.{show(name)}")
        tag = Reader(tags.raw(name), tags.at(name), tags.notes) if tags else reader
        operation, value = tag.choice("operation", _Operation, _Operation.UPSERT), tag.text("value", "")
        if operation is _Operation.UPSERT and not value:
            raise tag.fail("value", "is required by UPSERT")
        if operation is _Operation.REMOVE and value:
            raise tag.fail("value", "must not be set with REMOVE")
        tag.done()
        if operation is _Operation.REMOVE:
            out.append((name, None))
            continue
        try:
            out.append((name, read_label_value(value, tag.at("value"))))
        except ConfigError as error:
            tag.warn("value", f"is not supported yet, and the label was left out: {error.reason}")
    return tuple(out)
