"""Pods with ServiceAccounts on a real apiserver, and the tokens that a kubelet would project for them.

It owns how they are made; it must never assert: tests do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.cluster.cluster import Cluster
from xds import settings
from xds.identity import PodFacts


@dataclass(frozen=True, slots=True)
class Pods:
    """The Pods of one Namespace, as our own cache would show them if it lagged by nothing."""

    cluster: Cluster
    namespace: str

    def make(self, name: str, account: str = "web", *, sidecar: bool = False) -> str:
        """Make a Pod of a ServiceAccount, with a sidecar's container if it is to be meshed; return its uid."""
        if not self.cluster.exists("serviceaccount", account, "-n", self.namespace):
            self.cluster.kubectl("create", "serviceaccount", account, "-n", self.namespace)
        spec: dict[str, object] = {
            "serviceAccountName": account,
            "containers": [{"name": "app", "image": "none"}],
        }
        if sidecar:
            spec["initContainers"] = [{"name": "proa-proxy", "image": "none", "restartPolicy": "Always"}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.cluster.apply(json.dumps(pod), self.namespace)
        return str(self.cluster.get("pod", name, "-n", self.namespace)["metadata"]["uid"])

    def delete(self, name: str) -> None:
        """Delete a Pod; it is gone when this returns, as no kubelet runs it."""
        self.cluster.kubectl("delete", "pod", name, "-n", self.namespace, "--grace-period=0", "--force")

    def token(self, pod: str, account: str = "web", audience: str = settings.JOIN_TOKEN_AUDIENCE) -> str:
        """Return a token bound to a Pod ("" to none), as the kubelet asks for it."""
        bound = ("--bound-object-kind", "Pod", "--bound-object-name", pod) if pod else ()
        words = ("create", "token", account, "-n", self.namespace, "--audience", audience, "--duration", "1h")
        return self.cluster.kubectl(*words, *bound).strip()

    def facts(self, namespace: str, pod: str) -> PodFacts | None:
        """What there is now; None if there is no such Pod."""
        if not self.cluster.exists("pod", pod, "-n", namespace):
            return None
        found = self.cluster.get("pod", pod, "-n", namespace)
        account = found["spec"]["serviceAccountName"]
        return PodFacts(account, account, found["metadata"]["uid"])
