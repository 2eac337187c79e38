"""Whose an address is: Services by their cluster IPs and Pods by their own, each found in one step.

It owns the index and the order among several owners of one address; it must never know who asks.
"""

from __future__ import annotations

from collections.abc import Mapping

from xds.api.core import Pod, Service
from xds.hosts import Name
from xds.topics import Topic


class Owners:
    """Names of Services and Pods by address, over the objects themselves, which their owner keeps."""

    def __init__(self, services: Mapping[Name, Service], pods: Mapping[Name, Pod]) -> None:
        self._services = services
        self._pods = pods
        self._service_names: dict[str, set[Name]] = {}
        self._pod_names: dict[str, set[Name]] = {}

    def of(self, ip: str) -> Service | Pod | None:
        """Return whose an address is, None for a stranger's. A Service goes before a Pod.

        Two Services of one address cannot be in a cluster; in a directory the older one has it. Of
        several Pods it is one that is not on its way out, and the newest of those: an address is
        given away before the object of its last Pod is gone.
        """
        services = self._service_names.get(ip)
        if services:
            return min((self._services[name] for name in services), key=_seniority)
        pods = self._pod_names.get(ip)
        return max((self._pods[name] for name in pods), key=_claim) if pods else None

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of a Service or a Pod; return the topics of the addresses whose owner may differ."""
        is_service = isinstance(old, Service) or isinstance(new, Service)
        index = self._service_names if is_service else self._pod_names
        before, after = _addresses(old), _addresses(new)
        for ip in before:
            if ip not in after:
                index[ip].discard(name)
                if not index[ip]:
                    del index[ip]
        for ip in after:
            if ip not in before:
                index.setdefault(ip, set()).add(name)
        # Where several have one address, any change of one may decide anew which of them it is.
        shared = {ip for ip in after if len(index[ip]) > 1}
        return {
            ("address", ip) for ip in shared.union(before).union(after) if ip in shared or before != after
        }


def _addresses(found: object) -> tuple[str, ...]:
    """Return the addresses of an object; Pods on their node's network share the node's, which is nobody's here."""
    match found:
        case Service():
            return found.cluster_ips
        case Pod():
            return () if found.host_network else found.ips
        case _:
            return ()


def _seniority(service: Service) -> tuple[str, str, str]:
    return (service.meta.created or "9999", service.meta.namespace, service.meta.name)


def _claim(pod: Pod) -> tuple[bool, str, str, str]:
    return (not pod.terminating, pod.meta.created, pod.meta.namespace, pod.meta.name)
