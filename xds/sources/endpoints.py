"""Endpoint slices of Services that have none, derived from Pods as Kubernetes' EndpointSlice controller does.

It stands in for that controller where there is no Kubernetes, and recomputes only the Services that
a change touches. It must never derive anything for a Service whose slices somebody else writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from xds.api.core import (
    Endpoint,
    EndpointSlice,
    Key,
    Labels,
    Meta,
    Pod,
    Service,
    ServicePort,
    SlicePort,
    selects,
)
from xds.api.kubernetes import SERVICE_NAME_LABEL
from xds.api.manifest import Object
from xds.fields import Problem, Severity

SUFFIX = "derived"
"""A derived slice is named ``<service>-derived``: stable, and told apart from what users write."""

MANAGED_BY = (("endpointslice.kubernetes.io/managed-by", "proa.dev"),)
"""Kubernetes' label for whose slice it is (discovery/v1 LabelManagedBy)."""

Name = tuple[str, str]
Pair = tuple[str, str]


class Derivation:
    """Keeps what the derived slices depend on: Services, Pods by label, and who has slices of their own."""

    def __init__(self) -> None:
        self._services: dict[Name, Service] = {}
        self._pods: dict[Name, Pod] = {}
        self._labelled: defaultdict[tuple[str, Pair], set[Name]] = defaultdict(set)
        self._selecting: defaultdict[tuple[str, Pair], set[Name]] = defaultdict(set)
        self._own: dict[Key, Name] = {}
        self._own_count: defaultdict[Name, int] = defaultdict(int)
        self._derived: dict[Name, dict[Key, EndpointSlice]] = {}
        self._problems: dict[Name, tuple[Problem, ...]] = {}

    def apply(self, batch: Iterable[tuple[Key, Object | None]]) -> tuple[tuple[Key, Object | None], ...]:
        """Take in a batch of changes and return the slices that change with it (None: gone)."""
        touched: set[Name] = set()
        for key, new in batch:
            touched |= self._take(key, new)
        return tuple(change for name in sorted(touched) for change in self._derive(name))

    def problems(self) -> tuple[tuple[Key, Problem], ...]:
        """Return the Services whose ports no Pod serves, with the Service that each stands on."""
        return tuple(
            (Key("Service", *name), problem)
            for name, found in sorted(self._problems.items())
            for problem in found
        )

    def _take(self, key: Key, new: Object | None) -> set[Name]:
        """Update the indexes and return the Services that may have other endpoints now."""
        name = (key.namespace, key.name)
        match key.kind:
            case "Service":
                self._put_service(name, new if isinstance(new, Service) else None)
                return {name}
            case "Pod":
                return self._put_pod(name, new if isinstance(new, Pod) else None)
            case "EndpointSlice":
                return self._put_own(key, new if isinstance(new, EndpointSlice) else None)
            case _:
                return set()

    def _put_service(self, name: Name, new: Service | None) -> None:
        old = self._services.pop(name, None)
        if old is not None and old.selector:
            self._selecting[name[0], old.selector[0]].discard(name)
        if new is not None:
            self._services[name] = new
            if new.selector:
                self._selecting[name[0], new.selector[0]].add(name)

    def _put_pod(self, name: Name, new: Pod | None) -> set[Name]:
        old = self._pods.pop(name, None)
        touched: set[Name] = set()
        if old is not None:
            touched |= self._selecting_services(name[0], old.meta.labels)
            for pair in old.meta.labels:
                self._labelled[name[0], pair].discard(name)
        if new is not None:
            self._pods[name] = new
            touched |= self._selecting_services(name[0], new.meta.labels)
            for pair in new.meta.labels:
                self._labelled[name[0], pair].add(name)
        return touched

    def _put_own(self, key: Key, new: EndpointSlice | None) -> set[Name]:
        old = self._own.pop(key, None)
        if old is not None:
            self._own_count[old] -= 1
        if new is None:
            return {old} if old else set()
        name = (key.namespace, new.service)
        self._own[key] = name
        self._own_count[name] += 1
        return {name, old} if old else {name}

    def _selecting_services(self, namespace: str, labels: Labels) -> set[Name]:
        """Return the Services that select these labels; each stands under the first pair of its selector."""
        candidates = (self._selecting.get((namespace, pair), ()) for pair in labels)
        return {n for found in candidates for n in found if selects(self._services[n].selector, labels)}

    def _selected(self, service: Service) -> list[Pod]:
        """Return the Pods with an address that the Service selects, by name."""
        namespace, selector = service.meta.namespace, service.selector
        smallest = min((self._labelled.get((namespace, pair), set[Name]()) for pair in selector), key=len)
        pods = (self._pods[name] for name in sorted(smallest))
        return [pod for pod in pods if pod.ip and selects(selector, pod.meta.labels)]

    def _derive(self, name: Name) -> Iterator[tuple[Key, Object | None]]:
        service = self._services.get(name)
        old = self._derived.pop(name, {})
        self._problems.pop(name, None)
        new: dict[Key, EndpointSlice] = {}
        if service is not None and service.selector and not self._own_count.get(name):
            pods = self._selected(service)
            made = {Key("EndpointSlice", name[0], found.meta.name): found for found in _slices(service, pods)}
            new = {key: found for key, found in made.items() if key not in self._own}
            problems = tuple(_port_problems(service, pods))
            if problems:
                self._problems[name] = problems
        if new:
            self._derived[name] = new
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield key, new.get(key)


def _slices(service: Service, pods: list[Pod]) -> Iterator[EndpointSlice]:
    """Yield one slice for each set of port numbers: Pods may give one port name different numbers."""
    groups: defaultdict[tuple[SlicePort, ...], list[Pod]] = defaultdict(list)
    for pod in pods:
        ports = tuple(
            SlicePort(port.name, number)
            for port in service.ports
            if (number := target_port(port, pod)) is not None
        )
        if ports:
            groups[ports].append(pod)
    for index, ports in enumerate(sorted(groups, key=lambda found: [(p.name, p.port) for p in found])):
        suffix = SUFFIX if index == 0 else f"{SUFFIX}-{index + 1}"
        meta = Meta(
            namespace=service.meta.namespace,
            name=f"{service.meta.name}-{suffix}",
            labels=tuple(sorted((*MANAGED_BY, (SERVICE_NAME_LABEL, service.meta.name)))),
        )
        endpoints = tuple(_endpoint(service, pod) for pod in groups[ports])
        yield EndpointSlice(meta, service.meta.name, ports, endpoints)


def _endpoint(service: Service, pod: Pod) -> Endpoint:
    """Return a Pod's endpoint; the conditions are those of the controller (k8s.io/endpointslice podToEndpoint)."""
    return Endpoint(
        address=pod.ip,
        ready=service.publish_not_ready or (pod.ready and not pod.terminating),
        serving=pod.ready,
        terminating=pod.terminating,
        pod=pod.meta.name,
        zone=pod.zone,
    )


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """Return the number that a Service port has on this Pod; None when the Pod has no port of that name."""
    target = port.target or port.port
    if isinstance(target, int):
        return target
    return next((found.port for found in pod.ports if found.name == target), None)


def _port_problems(service: Service, pods: list[Pod]) -> Iterator[Problem]:
    """Yield a warning for each Service port that no container declares: nothing listens there for the mesh."""
    for index, port in enumerate(service.ports):
        missing = [pod for pod in pods if not _declares(pod, target_port(port, pod))]
        if not missing:
            continue
        more = f" (nor of {len(missing) - 1} more)" if len(missing) > 1 else ""
        reason = (
            f"Service port {_port_text(port.name, port.port)} targets {port.target or port.port}, which is no container"
            f" port of Pod {missing[0].meta.namespace}/{missing[0].meta.name}{more}; its container ports: "
            + (", ".join(_port_text(found.name, found.port) for found in missing[0].ports) or "none")
        )
        key = Key("Service", service.meta.namespace, service.meta.name)
        yield Problem(Severity.WARNING, str(key), f"spec.ports[{index}].targetPort", reason)


def _declares(pod: Pod, number: int | None) -> bool:
    return number is not None and any(found.port == number for found in pod.ports)


def _port_text(name: str, number: int) -> str:
    return f"{number} ({name})" if name else str(number)
