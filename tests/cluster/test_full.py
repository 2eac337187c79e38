"""The full form: pods run, find each other by name over both IP families, and are held to production's rules."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster, KubectlError
from xds.demo import programs
from xds.demo.processes import wait_until

SERVER = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      initContainers:
        - name: sidecar
          image: {images.SHOP}
          args: [echo, --listen, ":9000", --workload, sidecar]
          restartPolicy: Always
          startupProbe: {{httpGet: {{path: /healthz, port: 9000}}, periodSeconds: 1}}
      containers:
        - name: echo
          image: {images.SHOP}
          args: [web, --listen, ":8080", --workload, echo]
          readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
          volumeMounts: [{{name: token, mountPath: /var/run/secrets/proa}}]
      volumes:
        - name: token
          projected:
            sources: [{{serviceAccountToken: {{path: token, audience: proa, expirationSeconds: 3600}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: echo}}
  ports: [{{port: 80, targetPort: 8080}}]
"""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """Yield a Namespace with an echo server."""
    with cluster.namespace("full") as name:
        cluster.apply(SERVER, name)
        cluster.kubectl("rollout", "status", "deployment/echo", "-n", name, timeout_s=120)
        wait_until("the Service has its endpoint", lambda: _is_served(cluster, name), timeout_s=90)
        yield name


def _is_served(cluster: Cluster, namespace: str) -> bool:
    """Tell whether the apiserver reaches the Pod by its Service: a Pod is Ready before its EndpointSlice is."""
    try:
        return call(cluster, namespace, "http://localhost:9000/echo") == {"sidecar": 1}
    except KubectlError:
        return False


def call(cluster: Cluster, namespace: str, url: str) -> object:
    """Return which workloads answered the echo pod's call of a URL, and how often."""
    raw = f"/api/v1/namespaces/{namespace}/services/echo:80/proxy/call?url={url}&timeout=5s"
    return json.loads(cluster.kubectl("get", "--raw", raw))["by_workload"]


def test_a_pod_reaches_a_service_by_its_name(cluster: Cluster, namespace: str) -> None:
    """DNS, kube-proxy and the bridge work: the answer of http://echo comes through a ClusterIP."""
    # A DNS server that has lost its apiserver a moment ago learns of new Services with its next list.
    wait_until(
        "http://echo answers",
        lambda: call(cluster, namespace, "http://echo/echo") == {"echo": 1},
        timeout_s=90,
    )


@pytest.mark.parametrize("family", [0, 1])
def test_both_ip_families_reach_a_service(cluster: Cluster, namespace: str, family: int) -> None:
    """A dual-stack Service has two ClusterIPs, and a pod gets an answer from each."""
    address = cluster.get("service", "echo", "-n", namespace)["spec"]["clusterIPs"][family]
    url = f"http://[{address}]/echo" if family else f"http://{address}/echo"

    # kube-proxy writes its rules a moment after the EndpointSlice.
    wait_until(f"{url} answers", lambda: call(cluster, namespace, url) == {"echo": 1}, timeout_s=90)


def test_a_pod_reaches_a_server_outside_the_cluster(cluster: Cluster, namespace: str) -> None:
    """A test may add an address beyond the cluster's, a server there and its name."""
    cluster.run("ip", "address", "replace", "198.51.100.7/32", "dev", "lo")
    cluster.resolve("outside.example", "198.51.100.7")
    words = ("--listen", "198.51.100.7:80", "--workload", "outside")
    with cluster.serving("outside", str(programs.shop()), "echo", *words):
        wait_until(
            "answer of http://outside.example",
            lambda: call(cluster, namespace, "http://outside.example/echo") == {"outside": 1},
            timeout_s=30,
        )

    assert call(cluster, namespace, "http://outside.example/echo") != {"outside": 1}


def test_a_native_sidecar_serves_beside_the_container(cluster: Cluster, namespace: str) -> None:
    """A container of initContainers with restartPolicy Always runs on."""
    assert call(cluster, namespace, "http://localhost:9000/echo") == {"sidecar": 1}


def test_a_projected_token_is_for_its_audience(cluster: Cluster, namespace: str) -> None:
    """Kubelet mounts a token that names its audience, its Pod and its node."""
    pod = cluster.get("pods", "-n", namespace, "-l", "app=echo")["items"][0]
    path = f"own/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~projected/token/token"
    claims = cluster.run("cat", str(cluster.folder / path)).split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))

    assert said["aud"] == ["proa"]
    assert said["kubernetes.io"]["pod"]["uid"] == pod["metadata"]["uid"]
    assert said["kubernetes.io"]["node"]["name"] == "node1"


def test_logs_and_exec_reach_the_container(cluster: Cluster, namespace: str) -> None:
    """The apiserver proves itself to kubelet, which asks it who may do what."""
    assert "listening" in cluster.kubectl("logs", "-n", namespace, "deployment/echo", "-c", "echo")
    with pytest.raises(KubectlError, match="usage: shop"):
        cluster.kubectl("exec", "-n", namespace, "deployment/echo", "-c", "echo", "--", "/shop")


def test_pod_security_is_on(cluster: Cluster) -> None:
    """A privileged Pod is refused where the Namespace is restricted."""
    container = {"name": "c", "image": "i", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    with (
        cluster.namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"}) as name,
        pytest.raises(KubectlError, match="violates PodSecurity"),
    ):
        cluster.kubectl("create", "-n", name, "-f", "-", stdin=json.dumps(pod))


def test_node_restriction_is_on(cluster: Cluster) -> None:
    """A node's own identity may not read a Secret of which no Pod of the node knows."""
    with pytest.raises(KubectlError, match="no relationship found between node"):
        cluster.kubectl("get", "secret", "any", "-n", "kube-system", user="node")
    with pytest.raises(KubectlError, match="is not allowed to modify taints"):
        cluster.kubectl("taint", "node", "node1", "a=b:NoSchedule", user="node")
