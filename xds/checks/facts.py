"""What the checks judge: a cluster as one person could read it, at one moment.

Owns the shape of these facts and the words for a Pod's restart; it must never fetch one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from xds.api.core import Namespace, Node, Pod, Service, ServiceCIDR
from xds.api.istio_security import PeerAuthentication
from xds.api.mesh import MeshSettings
from xds.checks.objects import Crd, Deployment, Lease, NetworkPolicy, WebhookConfiguration
from xds.inject import wants_sidecar
from xds.injection.hooks import Hook
from xds.report import ProblemRecord, Proxy
from xds.trust import Status

NAMESPACE: Final = "proa-system"
NAME: Final = "proa"
LABELS: Final = (("app.kubernetes.io/name", "proa"),)
"""What selects the control plane's pods."""

INSTALL: Final = "proa install | kubectl apply -f -"

_RESTARTED: Final = {"ReplicaSet": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}


@dataclass(frozen=True, slots=True)
class Running:
    """A Pod, the kind of its controller (empty: none), the image of each container by name, and its hooks."""

    pod: Pod
    controller: str = ""
    images: tuple[tuple[str, str], ...] = ()
    hooks: tuple[Hook, ...] = ()
    """Its lifecycle hooks whose requests are intercepted, or will be."""

    @property
    def is_over(self) -> bool:
        """Tell whether nothing of it runs any more, or soon will not."""
        return self.pod.finished or self.pod.terminating

    def restart(self) -> str:
        """Return the command that makes its controller replace it; what has none is only deleted."""
        kind = _RESTARTED.get(self.controller)
        meta = self.pod.meta
        if kind is None:
            return f"kubectl -n {meta.namespace} delete pod {meta.name}"
        return f"kubectl -n {meta.namespace} rollout restart {kind}/{self.pod.workload}"

    def edit(self) -> str:
        """Return the command that edits what the Pod is made from; for one without a controller, that shows it."""
        kind = _RESTARTED.get(self.controller)
        meta = self.pod.meta
        if kind is None:
            return f"kubectl -n {meta.namespace} get pod {meta.name} -o yaml  # change it where it is made"
        return f"kubectl -n {meta.namespace} edit {kind}/{self.pod.workload}"


@dataclass(frozen=True, slots=True)
class Grant:
    """Whether the user may do something, as the apiserver answered."""

    verb: str
    resource: str
    namespace: str
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of the control plane; ``silence`` is why it could not be asked, and then nothing else is known."""

    pod: str
    silence: str = ""
    trust: Status | None = None
    problems: tuple[ProblemRecord, ...] = ()
    proxies: tuple[Proxy, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a kubelet last renewed its node's Lease, by its own clock, and whether the cluster believes it alive."""

    node: str
    at: float
    is_ready: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything at once; ``unread`` says of a source why it is missing (its field is then empty)."""

    now: float
    """The apiserver's clock, seconds since the epoch."""
    version: tuple[int, int]
    user: str = ""
    proxy_image: str = ""
    """The sidecar's image that the control plane injects, empty if unknown."""
    namespaces: tuple[Namespace, ...] = ()
    pods: tuple[Running, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    authentications: tuple[PeerAuthentication, ...] = ()
    """The PeerAuthentications; one that cannot be read stands as what is in force for it: STRICT."""
    crds: tuple[Crd, ...] = ()
    nodes: tuple[Node, ...] = ()
    ranges: tuple[ServiceCIDR, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    settings: MeshSettings = field(default_factory=MeshSettings)
    webhooks: tuple[WebhookConfiguration, ...] = ()
    deployment: Deployment | None = None
    lease: Lease | None = None
    grants: tuple[Grant, ...] = ()
    replicas: tuple[Replica, ...] = ()
    unread: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def namespace(self, name: str) -> Namespace | None:
        """Return a namespace by its name."""
        return next((found for found in self.namespaces if found.meta.name == name), None)

    def wanted(self) -> tuple[Running, ...]:
        """Return the Pods that are meshed, or would be if they were made now."""
        reserved = {"kube-system", NAMESPACE}
        by_name = {found.meta.name: found for found in self.namespaces}
        return tuple(
            running
            for running in self.pods
            if not running.is_over
            and running.pod.meta.namespace not in reserved
            and (
                running.pod.has_sidecar or wants_sidecar(running.pod, by_name.get(running.pod.meta.namespace))
            )
        )

    def control_plane(self) -> tuple[Running, ...]:
        """Return the control plane's own Pods."""
        return tuple(
            running
            for running in self.pods
            if running.pod.meta.namespace == NAMESPACE
            and set(LABELS) <= set(running.pod.meta.labels)
            and not running.is_over
        )
