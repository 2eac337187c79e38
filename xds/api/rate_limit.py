"""Our own kind RateLimit, and the same as an annotation of a Service: what an instance of a workload takes.

They hold what the user wrote; which of them holds for a port is decided in ``compile``, never here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.api.core import Labels, Meta, Service, label
from xds.api.meta import check_dns_label, read_labels
from xds.features import rate_limit, shared_limit
from xds.fields import show

if TYPE_CHECKING:
    from xds.features.rate_limit import Rule
    from xds.features.shared_limit import Shared
    from xds.fields import Reader


class Target(enum.Enum):
    """Whom a RateLimit is for; the later in this list, the more specific."""

    NAMESPACE = "Namespace"
    SERVICE = "Service"
    PODS = "selector"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one object says of the limits of an instance; None leaves it to a wider one. Concurrency 0: no limit."""

    rules: tuple[Rule, ...] | None = None
    concurrency: int | None = None
    shared: Shared | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A RateLimit; ``service`` is the name of the Service that it targets, ``selector`` chooses Pods."""

    meta: Meta
    target: Target
    ceiling: Ceiling
    service: str = ""
    selector: Labels = ()


class _Kind(enum.Enum):
    NAMESPACE = "Namespace"
    SERVICE = "Service"


def read_rate_limit(spec: Reader, meta: Meta) -> RateLimit:
    """Return a RateLimit; raise ConfigError for the first field that is wrong."""
    target, selector = spec.object("targetRef"), spec.object("selector")
    ceiling = _ceiling(spec)
    spec.done()
    if target is not None and selector is None:
        return _targeted(target, meta, ceiling)
    if selector is not None and target is None:
        return _selecting(selector, meta, ceiling)
    raise spec.fail("targetRef", "must stand alone, or selector in its place: say whom the limit is for")


def _ceiling(spec: Reader) -> Ceiling:
    rules = rate_limit.read(spec)
    concurrency = (
        spec.integer("concurrency", low=0, high=rate_limit.MOST) if spec.has("concurrency") else None
    )
    spec.raw("concurrency")
    ceiling = Ceiling(rules, concurrency, shared_limit.read(spec))
    if ceiling == Ceiling():
        raise spec.fail("rules", "must be given, or concurrency, or global: without them nothing is limited")
    return ceiling


def _selecting(selector: Reader, meta: Meta, ceiling: Ceiling) -> RateLimit:
    labels = read_labels(selector, "matchLabels")
    selector.done()
    if not labels:
        reason = "must not be empty; use targetRef: {kind: Namespace} for all Pods"
        raise selector.fail("matchLabels", reason)
    return RateLimit(meta, Target.PODS, ceiling, selector=labels)


def _targeted(target: Reader, meta: Meta, ceiling: Ceiling) -> RateLimit:
    kind = target.choice("kind", _Kind)
    group = target.text("group", "")
    if group not in {"", "core"}:
        raise target.fail("group", f"must be empty: Namespace and Service are core kinds, got {show(group)}")
    if kind is _Kind.SERVICE:
        name = target.text("name")
        check_dns_label(name, target.at("name"))
        target.done()
        return RateLimit(meta, Target.SERVICE, ceiling, service=name)
    name = target.text("name", meta.namespace)
    target.done()
    if name != meta.namespace:
        raise target.fail("name", f"must be the object's own namespace {meta.namespace}, got {show(name)}")
    return RateLimit(meta, Target.NAMESPACE, ceiling)


def annotated(service: Service) -> Ceiling | None:
    """Return the limits of a Service's annotation, None where it has none; raise ConfigError for what is none."""
    text = label(service.meta.annotations, rate_limit.ANNOTATION)
    path = f"metadata.annotations[{rate_limit.ANNOTATION}]"
    return Ceiling(*rate_limit.read_text(text, path)) if text else None
