"""Whether Istio's own words are ours to honour: a decision over the list of mutating webhooks in the cluster.

It owns the reading of label selectors and of what counts as an Istio injector; it must never fetch the list.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from xds.api.core import Labels
from xds.fields import ConfigError, Reader

_INJECTORS = ("istio-sidecar-injector", "istio-revision-tag-")
"""How Istio's MutatingWebhookConfigurations begin (manifests/charts/istio-control and base/revision-tags)."""

_INJECTOR_LABEL = ("app", "sidecar-injector")
"""What every release of Istio since 1.0 puts on them, whatever their names."""


class IstioLabels(enum.Enum):
    """The setting ``injection.istioLabels``."""

    AUTO = "auto"
    """Honoured for what no Istio injector selects."""
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement of a label selector (meta/v1 LabelSelectorRequirement)."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Labels) -> bool:
        """Tell whether the labels meet it; an operator that nobody knows counts as met."""
        value = dict(labels).get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Injector:
    """One webhook of an Istio injector: its configuration's name and whom it selects."""

    name: str
    namespaces: tuple[Expression, ...] = ()
    objects: tuple[Expression, ...] = ()

    def selects(self, namespace: Labels, pod: Labels) -> bool:
        """Tell whether the apiserver would ask it about a Pod with these labels; no requirement selects all."""
        return all(each.holds(namespace) for each in self.namespaces) and all(
            each.holds(pod) for each in self.objects
        )


@dataclass(frozen=True, slots=True)
class IstioRule:
    """The setting and, for ``auto``, what is installed."""

    mode: IstioLabels = IstioLabels.AUTO
    injectors: tuple[Injector, ...] = ()

    def objection(self, namespace: Labels, pod: Labels) -> str:
        """Say why Istio's words do not count for this Pod; empty where they do."""
        if self.mode is IstioLabels.OFF:
            return "injection.istioLabels is off: use the label proa.dev/inject"
        if self.mode is IstioLabels.ON:
            return ""
        for injector in self.injectors:
            if injector.selects(namespace, pod):
                return f"Istio's {injector.name} selects it: use the label proa.dev/inject, or remove that injector"
        return ""


UNKNOWN: Final = IstioRule()
"""Where nobody has looked yet, and where there is no cluster to look at: no injector is known."""


def read_injectors(raw: object) -> tuple[Injector, ...]:
    """Return the Istio injectors of a MutatingWebhookConfigurationList; ConfigError where it is none.

    What cannot be read counts as selecting everything: two sidecars in a Pod are worse than none of ours.
    """
    top = Reader(raw, "", [])
    found: list[Injector] = []
    for item in top.objects("items"):
        meta = item.object("metadata")
        name = "" if meta is None else meta.text("name", "")
        labels = () if meta is None else meta.labels("labels")
        if name.startswith(_INJECTORS) or _INJECTOR_LABEL in labels:
            found.extend(_injector(name, webhook) for webhook in item.objects("webhooks"))
    return tuple(found)


def _injector(name: str, webhook: Reader) -> Injector:
    try:
        return Injector(name, _selector(webhook, "namespaceSelector"), _selector(webhook, "objectSelector"))
    except ConfigError:
        return Injector(name)


def _selector(webhook: Reader, name: str) -> tuple[Expression, ...]:
    selector = webhook.object(name)
    if selector is None:
        return ()
    equal = (Expression(key, "In", frozenset({value})) for key, value in selector.labels("matchLabels"))
    return (*equal, *(_expression(reader) for reader in selector.objects("matchExpressions")))


def _expression(reader: Reader) -> Expression:
    return Expression(reader.text("key"), reader.text("operator"), frozenset(reader.texts("values")))
