"""Whether a Pod gets a sidecar, and the patch that gives it one.

It owns the reasons why a Pod is left alone, and the order of what is added; it must never look anything up: Pod,
namespace, template and what Istio does are arguments.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from xds import settings
from xds.api.core import Meta, Namespace, Pod
from xds.api.kubernetes import INIT_CONTAINER, SIDECAR_CONTAINER, WORKLOAD_NAME
from xds.api.scraping import PATH, PORT, SCRAPE
from xds.fields import ConfigError
from xds.inject import INJECT, wants_sidecar
from xds.injection.hooks import hooks
from xds.injection.istio import UNKNOWN, IstioRule
from xds.injection.names import (
    TOKEN_SECRET,
    TOKEN_VOLUME,
    Arrival,
    fields,
    items,
    read_arrival,
)
from xds.injection.patch import Json, Operation, pointer
from xds.injection.probes import rewrite
from xds.injection.sidecar import init_container, sidecar_container, token_volume
from xds.injection.template import Template, token_secret
from xds.injection.wishes import read_wishes

_ISTIO_NAMESPACE: Final = "istio-injection"
_ISTIO_POD: Final = "sidecar.istio.io/inject"


class Reason(enum.Enum):
    """Why a Pod has no sidecar from us: the reason of its Event, and the message, where a user must know."""

    NOT_SELECTED = "NotSelected"
    ALREADY_INJECTED = "AlreadyInjected"
    OPTED_OUT = "OptedOut"
    RESERVED_NAMESPACE = "ReservedNamespace"
    HOST_NETWORK = "HostNetwork"
    WINDOWS = "Windows"
    ISTIO_PROXY = "IstioProxy"
    ISTIO_INJECTOR = "IstioInjector"
    INVALID = "InvalidForInjection"


_QUIET: Final = frozenset({Reason.NOT_SELECTED, Reason.ALREADY_INJECTED})

MESSAGES: Final = {
    Reason.NOT_SELECTED: "neither the Pod nor its namespace asks for a sidecar",
    Reason.ALREADY_INJECTED: f"the Pod has a container {SIDECAR_CONTAINER} already",
    Reason.OPTED_OUT: f"the Pod says no: {INJECT} or sidecar.istio.io/inject is false",
    Reason.RESERVED_NAMESPACE: f"this namespace never gets sidecars: remove its label {INJECT}",
    Reason.HOST_NETWORK: "the Pod is on its node's network: a sidecar there would intercept the whole node",
    Reason.WINDOWS: "the Pod is for Windows nodes: the sidecar runs on Linux",
    Reason.ISTIO_PROXY: "the Pod has Istio's sidecar: two would intercept each other",
}


@dataclass(frozen=True, slots=True)
class Untouched:
    """The Pod stays as it is, or is refused: its creator asked for something that cannot be."""

    reason: Reason
    message: str
    is_refusal: bool = False

    @property
    def is_told(self) -> bool:
        """Tell whether a user would wonder: then it becomes an Event."""
        return self.reason not in _QUIET


@dataclass(frozen=True, slots=True)
class Patched:
    """What makes the Pod a meshed one, in order, and what its creator should know."""

    operations: tuple[Operation, ...]
    warnings: tuple[str, ...] = field(default=())


Outcome: TypeAlias = Patched | Untouched


def inject(
    pod: Json,
    namespace: Namespace,
    template: Template,
    *,
    istio: IstioRule = UNKNOWN,
    workload: str = "",
) -> Outcome:
    """Return the patch of a Pod that is being created in a namespace, or why it gets none.

    ``workload`` is the name of what the Pod is the template of, where there is no owner yet to tell. Raises
    ConfigError for JSON that is no Pod; what a Pod's annotations ask for wrongly is a refusal.
    """
    arrival = read_arrival(pod)
    untouched = _leave(arrival, namespace, template, istio)
    if untouched is not None:
        return untouched
    try:
        return _patch(pod, arrival, template, workload)
    except ConfigError as error:
        return Untouched(Reason.INVALID, str(error), is_refusal=True)


def _leave(arrival: Arrival, namespace: Namespace, template: Template, istio: IstioRule) -> Untouched | None:
    if arrival.is_injected:
        return _because(Reason.ALREADY_INJECTED)
    if not _wants(arrival, namespace):
        return _because(_silence(arrival, namespace, istio))
    for reason, holds in (
        (Reason.RESERVED_NAMESPACE, namespace.meta.name in template.reserved),
        (Reason.HOST_NETWORK, arrival.host_network),
        (Reason.WINDOWS, arrival.is_windows),
        (Reason.ISTIO_PROXY, arrival.has_istio),
    ):
        if holds:
            return _because(reason)
    objection = _objection(arrival, namespace, istio)
    return Untouched(Reason.ISTIO_INJECTOR, objection) if objection else None


def _silence(arrival: Arrival, namespace: Namespace, istio: IstioRule) -> Reason:
    """Tell a Pod that opted out of what would have meshed it from one that nobody asked about."""
    would = _without(arrival, pod=(INJECT, _ISTIO_POD))
    is_ours = _wants(would, namespace) and not _objection(would, namespace, istio)
    return Reason.OPTED_OUT if is_ours else Reason.NOT_SELECTED


def _objection(arrival: Arrival, namespace: Namespace, istio: IstioRule) -> str:
    """Say why Istio's words do not count, where only they ask for a sidecar."""
    own = Namespace(
        Meta("", namespace.meta.name, tuple(p for p in namespace.meta.labels if p[0] != _ISTIO_NAMESPACE))
    )
    if _wants(_without(arrival, pod=(_ISTIO_POD,)), own):
        return ""
    return istio.objection(namespace.meta.labels, arrival.labels)


def _because(reason: Reason) -> Untouched:
    return Untouched(reason, MESSAGES[reason])


def _wants(arrival: Arrival, namespace: Namespace) -> bool:
    """Ask the rule that a directory of manifests asks; the host's network has a reason of its own here."""
    meta = Meta(namespace.meta.name, arrival.name, arrival.labels, arrival.annotations)
    return wants_sidecar(Pod(meta), namespace)


def _without(arrival: Arrival, *, pod: tuple[str, ...]) -> Arrival:
    return replace(
        arrival,
        labels=tuple(pair for pair in arrival.labels if pair[0] not in pod),
        annotations=tuple(pair for pair in arrival.annotations if pair[0] not in pod),
    )


def _patch(pod: Json, arrival: Arrival, template: Template, workload: str) -> Patched:
    """Return everything that is added; ConfigError names what the Pod has that cannot be."""
    if TOKEN_VOLUME in arrival.volumes:
        raise ConfigError("spec.volumes", f"the name {TOKEN_VOLUME} is taken by the sidecar: choose another")
    if INIT_CONTAINER in arrival.containers:
        raise ConfigError("spec.initContainers", f"the name {INIT_CONTAINER} is taken: choose another")
    spec = fields(pod.get("spec"))
    wishes = read_wishes(dict(arrival.annotations))
    name = arrival.workload(workload)
    excluded = wishes.exclusions.excluded_inbound_ports
    probes = rewrite(spec, excluded)
    added = (
        init_container(template, wishes),
        sidecar_container(template, wishes, name, arrival.labels, template.argument(probes.watched)),
    )
    return Patched(
        (
            *probes.operations,
            *_annotate(pod, {WORKLOAD_NAME: name, TOKEN_SECRET: token_secret(), **_scrape(arrival)}),
            *_insert(spec, "initContainers", added, at_start=True),
            *_insert(spec, "volumes", (token_volume(),), at_start=False),
        ),
        (*wishes.warnings, *(hook.said for hook in hooks(spec, excluded)), *_shared_uid(spec)),
    )


def _scrape(arrival: Arrival) -> Mapping[str, str]:
    """Return where Prometheus reads the sidecar, unless the Pod says where it is read itself, or that it is not."""
    if any(name.startswith("prometheus.io/") for name, _ in arrival.annotations):
        return {}
    return {SCRAPE: "true", PORT: str(settings.METRICS_PORT), PATH: settings.METRICS_PATH}


def _annotate(pod: Json, annotations: Mapping[str, str]) -> Iterator[Operation]:
    if not isinstance(pod.get("metadata"), dict):
        yield Operation("add", "/metadata", {"annotations": dict(annotations)})
    elif not isinstance(fields(pod["metadata"]).get("annotations"), dict):
        yield Operation("add", "/metadata/annotations", dict(annotations))
    else:
        for name, value in annotations.items():
            yield Operation("add", pointer("metadata", "annotations", name), value)


def _insert(
    spec: Mapping[str, object], name: str, added: tuple[Json, ...], *, at_start: bool
) -> Iterator[Operation]:
    """Add items to a list of the spec, which may be absent or null."""
    if not isinstance(spec.get(name), list):
        yield Operation("add", pointer("spec", name), list(added))
        return
    for index, item in enumerate(added):
        yield Operation("add", pointer("spec", name, index if at_start else "-"), item)


def _shared_uid(spec: Mapping[str, object]) -> Iterator[str]:
    """Warn of an application whose connections would pass for the sidecar's own, and leave the mesh."""
    uid = settings.SIDECAR_UID
    everybody = fields(spec.get("securityContext")).get("runAsUser")
    for item in items(spec.get("containers")):
        container = fields(item)
        own = fields(container.get("securityContext")).get("runAsUser", everybody)
        if own == uid:
            yield f"container {container.get('name')}: user {uid} is the sidecar's: its connections are not intercepted"
