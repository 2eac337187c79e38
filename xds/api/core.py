"""Kubernetes' own kinds, reduced to what a mesh reads: Services and Pods, and where and as whom Pods run.

These are frozen values without behaviour of the cluster; this module must never look anything up.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec


class Key(NamedTuple):
    """What names an object: kind, namespace (empty for cluster-scoped kinds) and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return ``Kind namespace/name``, the form used in every message."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


Labels = tuple[tuple[str, str], ...]
"""Labels as pairs sorted by key, so that equal maps are equal and hashable."""

EVERYWHERE = ("*",)
"""The default of exportTo: every namespace."""


class Protocol(enum.Enum):
    """What a Service port speaks, as far as a proxy must know."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"

    @property
    def is_http(self) -> bool:
        """Tell whether requests can be routed one by one."""
        return self is not Protocol.TCP


class Meta(msgspec.Struct, frozen=True, gc=False):
    """The metadata that a mesh reads; ``created`` is the RFC 3339 text, which sorts by time."""

    namespace: str
    name: str
    labels: Labels = ()
    annotations: Labels = ()
    created: str = ""
    generation: int = 0


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A namespace with its labels."""

    meta: Meta


class ServiceAccount(msgspec.Struct, frozen=True, gc=False):
    """A service account: the name that an identity is made of."""

    meta: Meta


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node of the cluster: its zone (empty: none known) and the ranges that its Pods' addresses come from."""

    meta: Meta
    zone: str = ""
    pod_cidrs: tuple[str, ...] = ()


class ServiceCIDR(msgspec.Struct, frozen=True, gc=False):
    """The ranges that cluster IPs come from (networking.k8s.io/v1)."""

    meta: Meta
    cidrs: tuple[str, ...] = ()


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service; ``target`` is a container port's number or name (empty: same number)."""

    port: int
    name: str
    protocol: Protocol
    target: int | str


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service; ``selector`` is empty when its endpoints are kept by somebody else."""

    meta: Meta
    ports: tuple[ServicePort, ...]
    selector: Labels = ()
    cluster_ips: tuple[str, ...] = ()
    external_name: str = ""
    headless: bool = False
    publish_not_ready: bool = False
    """Unready Pods are endpoints as well (``publishNotReadyAddresses``)."""
    export_to: tuple[str, ...] = EVERYWHERE
    """The namespaces that see it (annotation ``networking.istio.io/exportTo``); ``.`` is its own, ``~`` none."""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address of a slice; ``pod`` is the name of the Pod behind it (empty: none)."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    pod: str = ""
    zone: str = ""


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """A port that every endpoint of a slice has, matched to the Service's port by name."""

    name: str
    port: int


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """Addresses behind a Service; ``service`` is the label ``kubernetes.io/service-name``."""

    meta: Meta
    service: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """A declared port of one of the Pod's containers."""

    port: int
    name: str = ""


class ProbeKind(enum.Enum):
    """How a kubelet asks: a GET, a call of gRPC's health service, or a connection and nothing more."""

    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


class Probe(msgspec.Struct, frozen=True, gc=False):
    """An HTTP or gRPC probe that must go on working under STRICT: exactly this path on this port."""

    port: int
    path: str
    kind: ProbeKind = ProbeKind.HTTP


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A Pod: its address, identity, labels and what its application listens on.

    ``ports`` and ``probes`` are the application's: those of our own sidecar are left out.
    """

    meta: Meta
    ip: str = ""
    service_account: str = "default"
    ports: tuple[ContainerPort, ...] = ()
    probes: tuple[Probe, ...] = ()
    workload: str = ""
    """The controller's name without its template hash, else the Pod's own."""
    ready: bool = True
    terminating: bool = False
    has_sidecar: bool = False
    """The pod spec holds our sidecar container (Kubernetes only)."""
    host_network: bool = False
    zone: str = ""
    """As the Pod's own labels say; ``World.zone`` asks its Node too."""
    uid: str = ""
    """Tells a Pod from a later one of the same name; empty in a directory."""
    node: str = ""
    """The Node it runs on, empty before it is scheduled."""
    finished: bool = False
    """Every container has ended for good: it has no address, and nobody may speak for it any more."""
    is_redirected: bool = False
    """The pod spec holds our init container, which redirects the Pod's traffic into its sidecar."""
    bypassed: tuple[int, ...] = ()
    """Ports whose connections that redirection leaves alone: they reach the application without its sidecar."""
    ips: tuple[str, ...] = ()
    """Every address (``status.podIPs``), ``ip`` first."""
    tcp_probes: tuple[int, ...] = ()
    """Ports that are probed by a connection, or in TLS that the application ends (``scheme: HTTPS``)."""


def label(labels: Labels, name: str, default: str = "") -> str:
    """Return one label's value."""
    for key, value in labels:
        if key == name:
            return value
    return default


def selects(selector: Labels, labels: Labels) -> bool:
    """Tell whether every pair of the selector is among the labels; an empty selector selects all."""
    return not selector or set(selector) <= set(labels)
