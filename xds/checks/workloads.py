"""Checks of meshed workloads: may they start with a sidecar, do they have one, does their Service reach them.

It must never judge the control plane.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from xds.api.core import Pod, Service, ServicePort, label, selects
from xds.api.kubernetes import SIDECAR_CONTAINER
from xds.checks.facts import INSTALL, NAMESPACE, Facts, Running
from xds.checks.finding import Finding, error, warning
from xds.releases import TODAY

_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_TOO_STRICT: Final = frozenset({"baseline", "restricted"})
"""Both refuse NET_ADMIN (Pod Security Standards, Capabilities), which the init container's rules need."""

_SHOWN: Final = 3
"""How many Pods or addresses a message names before it only counts them."""


def pod_security(facts: Facts) -> Iterator[Finding]:
    """The Pod Security level of a meshed namespace lets the init container in."""
    for name in sorted({running.pod.meta.namespace for running in facts.wanted()} | _labelled(facts)):
        namespace = facts.namespace(name)
        level = label(namespace.meta.labels, _ENFORCE) if namespace else ""
        if level in _TOO_STRICT:
            message = f"enforces {level}: the init container, which needs NET_ADMIN and NET_RAW, is refused"
            fix = f"kubectl label namespace {name} {_ENFORCE}=privileged --overwrite"
            yield error(f"Namespace {name}", message, fix)


def not_meshed(facts: Facts) -> Iterator[Finding]:
    """Every Pod that should have a sidecar has one: labels act when a Pod is made."""
    old = [running for running in facts.wanted() if not running.pod.has_sidecar]
    for fix, found in _by_restart(old):
        message = f"{_names(found)} older than the label that meshes it: no sidecar yet"
        yield warning(_workload(found[0]), message, fix)


def images(facts: Facts) -> Iterator[Finding]:
    """Every sidecar runs the image that is injected now."""
    if not facts.proxy_image:
        return
    old = [
        running
        for running in facts.wanted()
        if dict(running.images).get(SIDECAR_CONTAINER, facts.proxy_image) != facts.proxy_image
    ]
    for fix, found in _by_restart(old):
        image = dict(found[0].images)[SIDECAR_CONTAINER]
        message = f"{_names(found)} with the sidecar {image}; {facts.proxy_image} is injected now"
        yield warning(_workload(found[0]), message, fix)


def releases(facts: Facts) -> Iterator[Finding]:
    """No sidecar is an older Envoy, which lacks a part of what today's does."""
    proxies = {proxy.id: proxy for replica in facts.replicas for proxy in replica.proxies if proxy.lacks}
    of_pods = {f"{one.pod.meta.name}.{one.pod.meta.namespace}": one for one in facts.pods if not one.is_over}
    older = [(proxies[name], of_pods[name]) for name in sorted(proxies.keys() & of_pods.keys())]
    for fix, found in _by_restart(running for _, running in older):
        proxy = next(proxy for proxy, running in older if running is found[0])
        today = ".".join(map(str, TODAY))
        message = (
            f"{_names(found)} with Envoy {proxy.version}, which lacks of {today}: {'; '.join(proxy.lacks)}"
        )
        is_due = dict(found[0].images).get(SIDECAR_CONTAINER) != facts.proxy_image
        yield warning(_workload(found[0]), message, fix if is_due else f"{INSTALL} && {fix}")


def ports(facts: Facts) -> Iterator[Finding]:
    """Every port of a Service leads to a port that its Pods' containers declare."""
    meshed = {running.pod.meta.namespace for running in facts.wanted()}
    for service in facts.services:
        namespace = service.meta.namespace
        if namespace not in meshed or not service.selector:
            continue
        behind = [
            running.pod
            for running in facts.pods
            if running.pod.meta.namespace == namespace
            and not running.is_over
            and selects(service.selector, running.pod.meta.labels)
        ]
        for port in service.ports:
            yield from _mismatch(service, port, behind)


def addresses(facts: Facts) -> Iterator[Finding]:
    """Every address in use lies in the ranges that sidecars ask about; what lies outside is a stranger's to them."""
    known = facts.settings
    services = known.service_cidrs or tuple({cidr for found in facts.ranges for cidr in found.cidrs})
    pods = known.pod_cidrs or tuple({cidr for node in facts.nodes for cidr in node.pod_cidrs})
    running = (r.pod for r in facts.pods if not r.is_over and not r.pod.host_network)
    yield from _outside(
        "serviceCidrs", services, (ip for found in facts.services for ip in found.cluster_ips)
    )
    yield from _outside("podCidrs", pods, (ip for pod in running for ip in pod.ips))


def _labelled(facts: Facts) -> set[str]:
    """Return the namespaces whose label meshes their Pods, also while there is none."""
    found = {
        namespace.meta.name
        for namespace in facts.namespaces
        if (
            label(namespace.meta.labels, "proa.dev/inject") or label(namespace.meta.labels, "istio-injection")
        )
        == "enabled"
    }
    return found - {"kube-system", NAMESPACE}


def _mismatch(service: Service, port: ServicePort, behind: list[Pod]) -> Iterator[Finding]:
    if not behind:
        return
    meta = service.meta
    subject = f"Service {meta.namespace}/{meta.name}"
    declared = Counter(found for pod in behind for found in {(one.port, one.name) for one in pod.ports})
    every = [number for (number, _), count in declared.items() if count == len(behind)]
    if any(port.target in {number, name} for number, name in declared) or not declared:
        return
    if len(every) == 1:
        patch = f'{{"spec":{{"ports":[{{"port":{port.port},"targetPort":{every[0]}}}]}}}}'
        fix = f"kubectl -n {meta.namespace} patch service {meta.name} -p '{patch}'"
    else:
        fix = f"kubectl -n {meta.namespace} edit service {meta.name}"
    have = ", ".join(sorted(f"{number}{f' ({name})' if name else ''}" for number, name in declared))
    message = f"port {port.port} leads to {port.target}, which no container declares; declared: {have}"
    # A container may listen on a port that it does not declare; a name that nobody declares leads nowhere.
    yield (error if isinstance(port.target, str) else warning)(subject, message, fix)


def _outside(setting: str, ranges: tuple[str, ...], seen: Iterable[str]) -> Iterator[Finding]:
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in ranges]
    strays = [ip for ip in sorted(set(seen)) if not _within(ip, networks)]
    if strays:
        where = f"outside {', '.join(sorted(ranges))}" if ranges else "and no range is known"
        message = f"{_some(strays)} in use, {where}: sidecars take them for strangers; set {setting}"
        fix = f"kubectl -n {NAMESPACE} edit configmap proa  # mesh: {setting}: [RANGE, …]"
        yield error("ConfigMap proa-system/proa", message, fix)


def _within(ip: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address.version == network.version and address in network for network in networks)


def _by_restart(found: Iterable[Running]) -> list[tuple[str, list[Running]]]:
    """Return Pods grouped by the command that replaces them."""
    groups: dict[str, list[Running]] = {}
    for running in found:
        groups.setdefault(running.restart(), []).append(running)
    return sorted(groups.items())


def _workload(running: Running) -> str:
    return f"Workload {running.pod.meta.namespace}/{running.pod.workload or running.pod.meta.name}"


def _names(found: list[Running]) -> str:
    names = [running.pod.meta.name for running in found]
    return f"{_some(names)} {'is' if len(names) == 1 else 'are'}"


def _some(words: list[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
