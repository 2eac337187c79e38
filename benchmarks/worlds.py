"""The worlds that benchmarks load: manifests as Kubernetes sends them, and the objects they are read as.

It owns names and sizes; it must never measure anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from xds.api.core import Key
from xds.api.manifest import Object, Parsed, read

NAMESPACE = "bench"
BASE_PORT = 10_000
"""Change K gives one endpoint the port BASE_PORT + K: the load client reads from it how new its copy is."""

Manifest = dict[str, Any]


def cluster(service: str) -> str:
    """Return the name of a service's cluster, which is that of its endpoints."""
    return f"outbound|80||{service}.{NAMESPACE}.svc.cluster.local"


def namespace() -> Manifest:
    """Return the namespace, whose Pods get a sidecar."""
    labels = {"proa.dev/inject": "enabled"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def service(name: str) -> Manifest:
    """Return a Service with one HTTP port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name),
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }


def endpoint_slice(
    service_name: str, addresses: Iterable[str], *, part: str = "a", port: int = 8080
) -> Manifest:
    """Return an EndpointSlice with all that Kubernetes writes into one."""
    meta = _meta(f"{service_name}-{part}") | {
        "labels": {
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": service_name,
        },
        "ownerReferences": [_owner("v1", "Service", service_name)],
    }
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [_endpoint(service_name, address) for address in addresses],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def pod(name: str, app: str, ip: str) -> Manifest:
    """Return a Pod of the workload `app` with one container port."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _meta(name) | {"labels": {"app": app, "proa.dev/workload": app}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]}]},
        "status": {"podIP": ip},
    }


def split(service_name: str, weight: int) -> list[Manifest]:
    """Return two subsets of a service and the routes that share its calls between them."""
    subsets = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    weights = {"v1": weight, "v2": 100 - weight}
    routes = [
        {"destination": {"host": service_name, "subset": name}, "weight": share}
        for name, share in weights.items()
    ]
    return [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": _meta(service_name),
            "spec": {"host": service_name, "subsets": subsets},
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": _meta(service_name),
            "spec": {"hosts": [service_name], "http": [{"route": routes}]},
        },
    ]


def services(count: int, endpoints: int) -> Iterator[Manifest]:
    """Yield services s0, s1, …, each with one slice of so many addresses."""
    for number in range(count):
        yield service(f"s{number}")
        yield endpoint_slice(f"s{number}", addresses(number, endpoints))


def addresses(service_number: int, count: int, *, first: int = 0) -> list[str]:
    """Return addresses that no other service has."""
    start = (10 << 24) + service_number * 1024 + first
    return [_ip(start + offset) for offset in range(count)]


def pods(count: int) -> Iterator[Manifest]:
    """Yield the Pods of the proxies: p0, p1, … of the workload `web`."""
    for number in range(count):
        yield pod(f"p{number}", "web", _ip((127 << 24) + (64 << 16) + number))


def pods_of(service_name: str, listed: Iterable[str]) -> Iterator[Manifest]:
    """Yield the Pods behind addresses of a service."""
    for address in listed:
        yield pod(pod_name(service_name, address), service_name, address)


def pod_name(service_name: str, address: str) -> str:
    """Return the name of the Pod behind an address."""
    return f"{service_name}-{address.replace('.', '-')}"


def marked(change: int) -> Manifest:
    """Return the slice of the service `bench` whose one endpoint says which change this is.

    The other endpoints stand in a slice of their own, because all endpoints of a slice share its ports.
    """
    return endpoint_slice("bench", ["10.255.255.1"], part="mark", port=BASE_PORT + change)


def bench_service(endpoints: int) -> Iterator[Manifest]:
    """Yield the service that is changed: one marked endpoint, and the others."""
    yield service("bench")
    yield marked(0)
    yield endpoint_slice(
        "bench", [_ip((10 << 24) + (255 << 16) + n) for n in range(endpoints - 1)], part="rest"
    )


def objects(manifests: Iterable[Manifest]) -> list[tuple[Key, Object | None]]:
    """Return the objects that a source would hand on."""
    out: list[tuple[Key, Object | None]] = []
    for manifest in manifests:
        found = read(manifest)
        assert isinstance(found, Parsed), found
        out.append((found.key, found.object))
    return out


def event(manifest: Manifest) -> bytes:
    """Return the watch event of a changed object, as the Kubernetes API sends it."""
    return msgspec.json.encode({"type": "MODIFIED", "object": manifest})


def documents(manifests: Iterable[Manifest]) -> str:
    """Return manifests as one file of YAML documents; JSON is YAML, and quicker to write."""
    return "\n---\n".join(msgspec.json.encode(manifest).decode() for manifest in manifests) + "\n"


def _meta(name: str) -> Manifest:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": "5d1f1b8e-6d0c-4c9e-9f3a-2f8b8f0c1f4e",
        "resourceVersion": "184467",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


def _owner(version: str, kind: str, name: str) -> Manifest:
    uid = "0b6ff5f5-1f1c-4b51-9f55-3d5f0a4c2a11"
    return {"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": True}


def _endpoint(service_name: str, address: str) -> Manifest:
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node-17",
        "targetRef": {
            "kind": "Pod",
            "name": pod_name(service_name, address),
            "namespace": NAMESPACE,
            "uid": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        },
        "zone": "zone-a",
    }


def _ip(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
