"""Checks of NetworkPolicies: whether a sidecar can reach the control plane, and whether that lets it in.

It owns the reading of policies as Kubernetes means them; it must never judge the traffic between workloads.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Sequence
from typing import Final

from xds.api.core import Labels, Pod, label
from xds.checks.facts import LABELS, NAMESPACE, Facts
from xds.checks.finding import Finding, error
from xds.checks.objects import NetworkPolicy, Peer, PolicyPort

XDS_PORT: Final = 15010
_XDS_NAME: Final = "grpc-xds"
_NS_NAME: Final = "kubernetes.io/metadata.name"


def reach(facts: Facts) -> Iterator[Finding]:
    """No NetworkPolicy keeps a sidecar from the control plane."""
    control = [running.pod for running in facts.control_plane()]
    said: set[tuple[str, str]] = set()
    for running in facts.wanted():
        pod = running.pod
        policies = _of(facts.policies, pod, "Egress")
        if policies and not any(_lets_out(facts, policy, control) for policy in policies):
            names = ", ".join(policy.metadata.name for policy in policies)
            if (pod.meta.namespace, names) in said:
                continue
            said.add((pod.meta.namespace, names))
            message = f"lets no sidecar of {pod.workload or pod.meta.name} reach {NAMESPACE}:{XDS_PORT}"
            subject = f"NetworkPolicy {pod.meta.namespace}/{names}"
            yield error(subject, message, f"echo '{_opening(pod.meta.namespace)}' | kubectl apply -f -")


def admission(facts: Facts) -> Iterator[Finding]:
    """The control plane's own namespace lets sidecars in."""
    meshed = {running.pod.meta.namespace: running.pod for running in facts.wanted()}
    for control in facts.control_plane()[:1]:
        policies = _of(facts.policies, control.pod, "Ingress")
        for namespace, pod in sorted(meshed.items()):
            if policies and not any(_lets_in(facts, policy, pod) for policy in policies):
                names = ", ".join(policy.metadata.name for policy in policies)
                message = f"lets nobody of {namespace} reach port {XDS_PORT}"
                fix = "helm upgrade proa … --set networkPolicy.enabled=true"
                yield error(f"NetworkPolicy {NAMESPACE}/{names}", message, fix)
                return


def _of(policies: Sequence[NetworkPolicy], pod: Pod, direction: str) -> list[NetworkPolicy]:
    """Return the policies that restrict one direction of a Pod; without one everything is let through.

    Without ``policyTypes`` the apiserver fills in Ingress, and Egress where there are egress rules.
    """
    return [
        policy
        for policy in policies
        if policy.metadata.namespace == pod.meta.namespace
        and direction in policy.spec.policy_types
        and policy.spec.pod_selector.selects(pod.meta.labels)
    ]


def _lets_out(facts: Facts, policy: NetworkPolicy, control: list[Pod]) -> bool:
    """Tell whether a policy lets its Pods reach the control plane, or what will be it where none runs yet."""
    home = _labels(facts, NAMESPACE)
    targets = [(pod.meta.labels, pod.ips) for pod in control] or [(LABELS, ())]
    return any(
        _has_port(rule.ports)
        and (
            not rule.to
            or any(
                _means(peer, policy.metadata.namespace, NAMESPACE, home, labels, ips)
                for peer in rule.to
                for labels, ips in targets
            )
        )
        for rule in policy.spec.egress
    )


def _lets_in(facts: Facts, policy: NetworkPolicy, pod: Pod) -> bool:
    namespace = pod.meta.namespace
    home = _labels(facts, namespace)
    return any(
        _has_port(rule.ports)
        and (
            not rule.sources
            or any(
                _means(peer, NAMESPACE, namespace, home, pod.meta.labels, pod.ips) for peer in rule.sources
            )
        )
        for rule in policy.spec.ingress
    )


def _means(  # noqa: PLR0913, PLR0917  # both ends of one connection
    peer: Peer, own: str, namespace: str, namespace_labels: Labels, labels: Labels, ips: tuple[str, ...]
) -> bool:
    """Tell whether a rule's peer, written in the namespace `own`, means a Pod."""
    if peer.ip_block is not None:
        return any(_in_block(ip, peer.ip_block.cidr, peer.ip_block.exclude) for ip in ips)
    if peer.namespace_selector is None:
        is_namespace = namespace == own
    else:
        is_namespace = peer.namespace_selector.selects(namespace_labels)
    return is_namespace and (peer.pod_selector is None or peer.pod_selector.selects(labels))


def _in_block(ip: str, cidr: str, exclude: tuple[str, ...]) -> bool:
    address = ipaddress.ip_address(ip)

    def holds(text: str) -> bool:
        network = ipaddress.ip_network(text, strict=False)
        return address.version == network.version and address in network

    return holds(cidr) and not any(map(holds, exclude))


def _has_port(ports: tuple[PolicyPort, ...]) -> bool:
    """Tell whether the xDS port is among the ports of a rule; no port means every port."""
    return not ports or any(
        one.protocol == "TCP"
        and (
            one.port in {None, XDS_PORT, _XDS_NAME}
            or (
                isinstance(one.port, int)
                and one.end_port is not None
                and one.port <= XDS_PORT <= one.end_port
            )
        )
        for one in ports
    )


def _labels(facts: Facts, name: str) -> Labels:
    found = facts.namespace(name)
    labels = found.meta.labels if found else ()
    return labels if label(labels, _NS_NAME) else (*labels, (_NS_NAME, name))


def _opening(namespace: str) -> str:
    """Return the NetworkPolicy that lets every Pod of a namespace reach the control plane, and ask for its name."""
    control = {
        "namespaceSelector": {"matchLabels": {_NS_NAME: NAMESPACE}},
        "podSelector": {"matchLabels": dict(LABELS)},
    }
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return json.dumps(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "proa-sidecars", "namespace": namespace},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [
                    {"to": [control], "ports": [{"port": XDS_PORT, "protocol": "TCP"}]},
                    {"ports": dns},
                ],
            },
        }
    )
