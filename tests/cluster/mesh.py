"""Proa in a cluster, installed as a user does it: the images, the printed manifest, kubectl.

It owns the installation and what to say when it fails; it must never configure what a user could not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import yaml
from click.testing import CliRunner, Result

from tests.cluster import images, node
from tests.cluster.cluster import Cluster, KubectlError
from xds.__main__ import main
from xds.demo.processes import wait_until

NAMESPACE: Final = "proa-system"
SIDECAR: Final = "proa-proxy"
LABEL: Final = {"proa.dev/inject": "enabled"}

# The control plane starts in 3 s on an idle machine; a first Lease and the CA's key come before readiness.
_ROLLOUT_S: Final = 120
_CA_S: Final = 60.0


def install(cluster: Cluster) -> None:
    """Install Proa, or again if its code has changed, and wait until it injects and serves."""
    for image in ("control", "proxy"):
        node.import_image(cluster.folder, images.proa(image))
    is_new = not cluster.exists("deployment", "proa", "-n", NAMESPACE)
    argv = [sys.executable, "-m", "xds", "install", "--kubeconfig", str(cluster.kubeconfig)]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    cluster.kubectl("apply", "-f", "-", stdin=printed, timeout_s=120)
    if not is_new:
        cluster.kubectl("rollout", "restart", "deployment/proa", "-n", NAMESPACE)
    wait_ready(cluster)


def wait_ready(cluster: Cluster) -> None:
    """Wait until the control plane has rolled out and its webhook is trusted; what it said, when it does not."""
    words = ("rollout", "status", "deployment/proa", "-n", NAMESPACE, f"--timeout={_ROLLOUT_S}s")
    try:
        cluster.kubectl(*words, timeout_s=_ROLLOUT_S + 10)
    except KubectlError as error:
        message = f"{error}\n{state(cluster)}"
        raise RuntimeError(message) from None
    wait_until("caBundle of the webhook", lambda: _is_trusted(cluster), timeout_s=_CA_S)


def scale(cluster: Cluster, replicas: int) -> None:
    """Let so many control planes run."""
    cluster.kubectl("scale", "deployment/proa", "-n", NAMESPACE, f"--replicas={replicas}")
    wait_ready(cluster)
    wait_until(
        f"{replicas} control planes",
        lambda: len(pods(cluster, NAMESPACE)) == replicas,
        timeout_s=_ROLLOUT_S,
    )


def verb(cluster: Cluster, *words: str, user: str = "admin") -> Result:
    """Run `proa WORDS` against the cluster, as a user of it would."""
    return CliRunner().invoke(main, [*words, "--kubeconfig", str(cluster.kubeconfig_of(user))])


@contextmanager
def settings(cluster: Cluster, **more: object) -> Generator[None]:
    """Let the mesh settings have further fields as long as the block runs."""
    own = ("-n", NAMESPACE, "configmap", "proa")
    before = cluster.get(*own)["data"]["mesh"]

    def put(text: str) -> None:
        patch = json.dumps({"data": {"mesh": text}})
        cluster.kubectl("patch", *own, "--type=merge", "--patch", patch)

    put(yaml.safe_dump({**yaml.safe_load(before), **more}))
    try:
        yield
    finally:
        put(before)


def state(cluster: Cluster) -> str:
    """Return what a person would ask for: the control plane's Pods, their Events and their last words."""
    questions = (
        ("get", "pods", "-n", NAMESPACE, "-o", "wide"),
        ("get", "events", "-n", NAMESPACE),
        ("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=proa", "--tail", "40"),
    )
    answers: list[str] = []
    for question in questions:
        try:
            answers.append(cluster.kubectl(*question))
        except KubectlError as error:
            answers.append(str(error))
    return "\n".join(answers)


def containers(pod: dict[str, Any]) -> list[str]:
    """Return the names of a Pod's containers in the order of their start, init containers first."""
    spec = pod["spec"]
    return [container["name"] for container in (*spec.get("initContainers", ()), *spec["containers"])]


def pods(cluster: Cluster, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    """Return the Pods of a Namespace that are not on their way out."""
    found = cluster.get("pods", "-n", namespace, *(("-l", selector) if selector else ()))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _is_trusted(cluster: Cluster) -> bool:
    hooks = cluster.get("mutatingwebhookconfiguration", "proa-injector")["webhooks"]
    return all(hook["clientConfig"].get("caBundle") for hook in hooks)
