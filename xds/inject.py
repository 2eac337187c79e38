"""Who belongs to the mesh: the rule by which a Pod gets a sidecar.

Pure and without Kubernetes: the webhook and a directory of manifests ask the same function, which must never
look anything up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.api.core import label

if TYPE_CHECKING:
    from xds.api.core import Namespace, Pod

INJECT = "proa.dev/inject"
"""Label of a namespace (``enabled``, ``disabled``), and label or annotation of a Pod (``true``, ``false``)."""

_ISTIO_NAMESPACE = "istio-injection"
_ISTIO_POD = "sidecar.istio.io/inject"


def wants_sidecar(pod: Pod, namespace: Namespace | None) -> bool:
    """Tell whether the Pod gets a sidecar: its own word, else its namespace's; never on the host's network.

    The order is Istio's (pkg/kube/inject injectRequired): host network, the Pod's label, the Pod's annotation,
    the namespace's label. ``proa.dev/inject`` is asked before ``sidecar.istio.io/inject``.
    """
    if pod.host_network:
        return False
    for name in (INJECT, _ISTIO_POD):
        said = (label(pod.meta.labels, name) or label(pod.meta.annotations, name)).lower()
        if said in {"true", "false"}:
            return said == "true"
    return namespace is not None and _selected(namespace)


def _selected(namespace: Namespace) -> bool:
    own = label(namespace.meta.labels, INJECT)
    return (own or label(namespace.meta.labels, _ISTIO_NAMESPACE)) == "enabled"
