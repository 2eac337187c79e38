"""Injected Pods in a real kubelet: rules loaded without root, a token of their own, and patience without a mesh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import images, node
from tests.cluster.cluster import Cluster
from tests.fakes.pods import ON, Raw, injected
from xds import bootstrap, settings
from xds.bootstrap.probes import watch
from xds.demo.processes import wait_until
from xds.injection.names import TOKEN_FILE
from xds.injection.template import Template, token_secret

READY_S = 120.0

APP = {
    "name": "app",
    "image": images.SHOP,
    "args": ["echo", "--listen", ":8080"],
    "ports": [{"containerPort": 8080, "name": "http"}],
    "readinessProbe": {"tcpSocket": {"port": "http"}},
}


def template(roots: str) -> Template:
    """Return a template whose control plane does not exist: what a Pod does before any answers is what is asked."""
    channel = bootstrap.tls_of_roots(roots, bootstrap.Path(TOKEN_FILE))
    document = bootstrap.build(
        bootstrap.template(xds_host="proa.proa-system.svc", xds_port=15010, channel=channel)
    )
    return Template(image=settings.PROXY_IMAGE, bootstrap=document, watch=watch, pull_policy="IfNotPresent")


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Iterator[Raw]:
    """Yield an injected Pod whose sidecar runs."""
    node.import_image(cluster.folder, images.proa("proxy"))
    with cluster.namespace("injected") as namespace:
        raw: Raw = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "containers": [APP],
                "initContainers": [{"name": "later", "image": images.SHOP}],
                "securityContext": {"fsGroup": 7},
            },
        }
        cluster.apply(json.dumps(injected(raw, ON, template(cluster.ca.read_text("utf-8")))))

        def is_running() -> bool:
            return "running" in status(now(), "proa-proxy").get("state", {})

        def now() -> Raw:
            found: Raw = cluster.get("pod", "web", "-n", namespace)
            return found

        wait_until("the sidecar runs", is_running, timeout_s=READY_S)
        yield now()


def status(pod: Raw, name: str) -> Raw:
    """Return the status of one container."""
    lists: Any = (
        *pod["status"].get("initContainerStatuses", ()),
        *pod["status"].get("containerStatuses", ()),
    )
    found: list[Raw] = [each for each in lists if each["name"] == name]
    return found[0] if found else {}


def test_an_unprivileged_user_loads_the_rules(cluster: Cluster, pod: Raw) -> None:
    """User 65534 with two capabilities of nft's file, and without new privileges: the proof that root is not needed."""
    ended = status(pod, "proa-init")["state"]["terminated"]
    spaces = cluster.run("ip", "netns", "list").split("\n")
    names = [line.split()[0] for line in spaces if line]
    ip = pod["status"]["podIP"]
    own = [
        name
        for name in names
        if f"inet {ip}/" in cluster.run("ip", "netns", "exec", name, "ip", "-o", "addr")
    ]

    assert (ended["exitCode"], ended.get("message")) == (0, None)
    rules = cluster.run("ip", "netns", "exec", own[0], "nft", "list", "table", "inet", "proa")
    assert "redirect to :15001" in rules
    assert "redirect to :15006" in rules


def test_without_a_control_plane_nothing_starts(cluster: Cluster, pod: Raw) -> None:
    """Envoy runs and does not answer yet; later init containers and the application wait, and nothing is restarted."""
    namespace = pod["metadata"]["namespace"]

    def says_no() -> bool:
        events: Any = cluster.get(
            "events", "-n", namespace, "--field-selector", "involvedObject.name=web,reason=Unhealthy"
        )
        return sum(each.get("count") or 1 for each in events["items"]) >= 3

    wait_until("the startup probe fails", says_no, timeout_s=READY_S)
    later: Raw = cluster.get("pod", "web", "-n", namespace)

    assert status(later, "proa-proxy")["started"] is False
    assert status(later, "proa-proxy")["restartCount"] == 0
    assert status(later, "later")["state"]["waiting"]["reason"] == "PodInitializing"
    assert status(later, "app")["state"]["waiting"]["reason"] == "PodInitializing"


def test_the_sidecar_reads_its_token_and_the_file_that_names_it(cluster: Cluster, pod: Raw) -> None:
    """Beside each other in one volume, with another user and a group of the Pod's own.

    Only our containers have it, and only the others have the token for the API.
    """
    uid = pod["metadata"]["uid"]
    volume = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/proa-token"
    named = cluster.run("cat", f"{volume}/token.sds.json")
    token = cluster.run("cat", f"{volume}/token")
    mounted = {
        each["name"]: {mount["name"].partition("-")[0] for mount in each.get("volumeMounts", [])}
        for each in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])
    }

    assert named == token_secret()
    assert token.count(".") == 2
    assert mounted == {"proa-init": {"proa"}, "proa-proxy": {"proa"}, "later": {"kube"}, "app": {"kube"}}
    log = cluster.kubectl("logs", "web", "-n", pod["metadata"]["namespace"], "-c", "proa-proxy")
    assert "ermission denied" not in log
