"""Install, check and uninstall against a real apiserver: what is applied, what is mended, what is left."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Final

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.mesh import verb as proa
from xds import install
from xds.demo.processes import wait_until

MESHED: Final = """
apiVersion: v1
kind: Node
metadata: {name: fake}
spec: {podCIDR: 10.9.0.0/24, podCIDRs: [10.9.0.0/24]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {proa.dev/inject: enabled, pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: https, appProtocol: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: x, ports: [{containerPort: 8080}]}]}
"""
"""A workload that is older than its label, in a namespace with everything wrong that a check knows."""

FOREIGN: Final = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: virtualservices.networking.istio.io, labels: {chart: istio}}
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {kind: VirtualService, plural: virtualservices, singular: virtualservice}
  versions:
    - name: v1beta1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def check(cluster: Cluster, *words: str) -> dict[str, Any]:
    """Return the results that are not ok, by check."""
    document = json.loads(proa(cluster, "check", "-o", "json", *words).stdout)
    return {one["check"]: one for one in document["results"] if one["severity"] != "ok"}


def run(cluster: Cluster, command: str) -> None:
    """Run a command as a user would paste it."""
    path = f"{cluster.kube.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": path}
    subprocess.run(
        ["/bin/bash", "-euc", command], env=env, check=True, capture_output=True, text=True, timeout=60
    )


def test_a_fresh_cluster_may_be_installed_on_and_a_stranger_may_not(own_api: Cluster) -> None:
    """`check --pre` is all ok for an administrator; the stranger gets the command that helps."""
    assert proa(own_api, "check", "--pre").exit_code == 0

    result = proa(own_api, "check", "--pre", "-o", "json", user="stranger")
    refused = next(
        one for one in json.loads(result.stdout)["results"] if one["check"] == "cluster.permissions"
    )
    run(own_api, refused["fix"])
    again = proa(own_api, "check", "--pre", user="stranger")

    assert (result.exit_code, again.exit_code) == (1, 0)


def test_one_apply_installs_everything_and_one_delete_leaves_only_the_kinds(own_api: Cluster) -> None:
    """Twice is an upgrade that changes nothing; the control plane's pods pass their namespace's standard."""
    text = proa(own_api, "install").stdout
    own_api.apply(text)
    again = own_api.kubectl("apply", "-f", "-", stdin=proa(own_api, "install").stdout)
    own_api.kubectl("-n", "proa-system", "wait", "--for=create", "pod", "-l", "app.kubernetes.io/name=proa")
    own_api.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=proa(own_api, "uninstall").stdout)

    left = {one.name for one in install.documents(text) if own_api.exists(one.resource, one.name)}
    assert left == {one.name for one in install.documents(text) if one.is_definition}
    assert "created" not in again


def test_a_kind_that_istio_brought_is_left_alone(own_api: Cluster) -> None:
    """It is named on stderr, stays as it was through install and uninstall, and is read by Proa."""
    own_api.apply(FOREIGN)
    before = own_api.get("crd", "virtualservices.networking.istio.io")["metadata"]["generation"]
    result = proa(own_api, "install")
    own_api.apply(result.stdout)
    after = own_api.get("crd", "virtualservices.networking.istio.io")

    assert "left out virtualservices.networking.istio.io" in result.stderr
    assert (after["metadata"]["generation"], after["metadata"]["labels"]) == (before, {"chart": "istio"})
    assert "cluster.kinds" not in check(own_api)


def test_each_fix_mends_what_the_check_found(own_api: Cluster) -> None:
    """The commands are pasted as they are printed; after each its check is ok."""
    own_api.apply(proa(own_api, "install").stdout)
    own_api.kubectl("delete", "mutatingwebhookconfiguration", "proa-injector")  # nobody answers it here
    own_api.apply(MESHED)
    wait_until("Pod", lambda: own_api.exists("pods", "-n", "shop", "-l", "app=web"), timeout_s=30)
    found = check(own_api)
    mended = ("namespaces.pod-security", "network.egress", "services.ports", "webhook.trust")
    for name in mended[:3]:
        run(own_api, found[name]["fix"])
    left = check(own_api)

    assert set(mended) <= set(found)
    assert not set(mended[:3]) & set(left)
    assert found["pods.meshed"]["fix"] == "kubectl -n shop rollout restart deployment/web"
    assert found["webhook.trust"]["message"] == "is missing: no pod gets a sidecar"


def test_uninstall_refuses_while_a_pod_is_meshed(own_api: Cluster) -> None:
    """It prints what ends the mesh, and after that has been done it prints the manifest."""
    own_api.apply(
        MESHED.replace(
            "containers: [",
            "initContainers: [{name: proa-proxy, image: x, restartPolicy: Always}], containers: [",
        )
    )
    wait_until("Pod", lambda: own_api.exists("pods", "-n", "shop", "-l", "app=web"), timeout_s=30)
    refused = proa(own_api, "uninstall")
    own_api.kubectl("-n", "shop", "delete", "deployment", "web", "--cascade=foreground")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "kubectl label namespace shop proa.dev/inject-" in refused.stderr
    assert "kubectl -n shop rollout restart deployment/web" in refused.stderr
    assert "kind: Deployment" in proa(own_api, "uninstall").stdout


@pytest.mark.parametrize(("words", "code"), [(("--pre",), 0), (("-o", "xml"), 2)])
def test_the_exit_code_says_how_it_went(api: Cluster, words: tuple[str, ...], code: int) -> None:
    """A pipeline needs no parser."""
    assert proa(api, "check", *words).exit_code == code
