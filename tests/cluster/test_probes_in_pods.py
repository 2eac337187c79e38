"""Every kind of probe of injected Pods under STRICT, broken and mended, and what becomes of a hook: by the kubelet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest

from tests.cluster import images, node, shop
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster
from tests.fakes.objects import Raw
from xds.demo.processes import wait_until

SEEN_S: Final = 120.0
"""A probe a second, a sidecar that asks every 2 s, a restarted container: 5 s on an idle machine."""

OFTEN: Final = {"periodSeconds": 1, "failureThreshold": 1}
READY: Final = {
    "path": "/ready?full=1",
    "port": "tls",
    "scheme": "HTTPS",
    "httpHeaders": [{"name": "X-Probe", "value": "100%"}],
}


PROBED: Final[Raw] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probed", "labels": {"app": "probed"}},
    "spec": {
        "terminationGracePeriodSeconds": 5,
        "containers": [
            {
                "name": "app",
                "image": images.PROBED,
                "args": ["serve"],
                "ports": [{"name": "tls", "containerPort": 8443}, {"name": "bytes", "containerPort": 9000}],
                "startupProbe": {
                    "exec": {"command": ["/probed", "ask", "cmd"]},
                    "periodSeconds": 1,
                    "failureThreshold": 60,
                },
                "readinessProbe": {"httpGet": READY, **OFTEN},
                "livenessProbe": {"httpGet": {"path": "/alive", "port": 8443, "scheme": "HTTPS"}, **OFTEN},
            },
        ],
    },
}


def pod(name: str, probe: Raw, port: int = 8080) -> Raw:
    """Return a Pod with another readiness probe, of the same program."""
    app = PROBED["spec"]["containers"][0]
    kept = {key: app[key] for key in ("name", "image", "args")}
    ports = [{"containerPort": port}]
    container = {**kept, "ports": ports, "readinessProbe": {**probe, **OFTEN}}
    spec = {**PROBED["spec"], "containers": [container]}
    return {**PROBED, "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


TCP: Final = pod("tcp", {"tcpSocket": {"port": 9000}}, 9000)
CMD: Final = pod("cmd", {"exec": {"command": ["/probed", "ask", "cmd"]}})


@pytest.fixture(scope="module")
def strict(mesh: Cluster) -> Iterator[str]:
    """Yield a meshed Namespace under STRICT with a Pod for each kind of probe."""
    node.import_image(mesh.folder, images.probed())
    with mesh.namespace("probed", proa.LABEL) as namespace:
        mesh.apply(shop.STRICT, namespace)
        for one in (PROBED, TCP, CMD, rpc("rpc"), rpc("rpc-unknown", service="nobody")):
            mesh.apply(json.dumps(one), namespace)
        yield namespace


def rpc(name: str, **probe: str) -> Raw:
    """Return a Pod of a gRPC service with a gRPC probe."""
    container = {
        "name": "app",
        "image": images.SHOP,
        "args": ["payments", "--listen", ":9090"],
        "ports": [{"containerPort": 9090}],
        "readinessProbe": {"grpc": {"port": 9090, **probe}, **OFTEN},
    }
    metadata = {"name": name, "labels": {"app": name}}
    return {**PROBED, "metadata": metadata, "spec": {**PROBED["spec"], "containers": [container]}}


def app(mesh: Cluster, namespace: str, name: str) -> Raw:
    """Return the status of a Pod's application, empty while it has none."""
    found = mesh.get("pod", name, "-n", namespace)["status"].get("containerStatuses", ())
    return next((one for one in found if one["name"] == "app"), cast("Raw", {}))


def wait_ready(mesh: Cluster, namespace: str, name: str, *, is_ready: bool = True) -> None:
    """Wait until the kubelet says so."""
    words = f"{name} is {'ready' if is_ready else 'not ready'}"
    wait_until(words, lambda: app(mesh, namespace, name).get("ready") is is_ready, timeout_s=SEEN_S)


def tell(mesh: Cluster, namespace: str, name: str, *words: str) -> str:
    """Run the program's other verbs in its container."""
    return mesh.kubectl("exec", name, "-n", namespace, "-c", "app", "--", "/probed", *words)


@pytest.mark.parametrize(("name", "probe"), [("probed", "ready"), ("tcp", "tcp"), ("cmd", "cmd")])
def test_a_readiness_probe_follows_the_application(mesh: Cluster, strict: str, name: str, probe: str) -> None:
    """HTTPS with path, query and header on a named port; a connection; a command: broken, mended, never restarted."""
    wait_ready(mesh, strict, name)
    restarts = app(mesh, strict, name)["restartCount"]
    tell(mesh, strict, name, "break", probe)
    wait_ready(mesh, strict, name, is_ready=False)
    tell(mesh, strict, name, "mend", probe)
    wait_ready(mesh, strict, name)

    assert app(mesh, strict, name)["restartCount"] == restarts


def test_a_liveness_probe_in_tls_restarts_the_application(mesh: Cluster, strict: str) -> None:
    """Only when the application says that it is dead; then it is ready again."""
    wait_ready(mesh, strict, "probed")
    before = app(mesh, strict, "probed")["restartCount"]
    tell(mesh, strict, "probed", "break", "alive")
    wait_until(
        "a restart", lambda: app(mesh, strict, "probed").get("restartCount", 0) > before, timeout_s=SEEN_S
    )
    wait_ready(mesh, strict, "probed")


def test_a_grpc_probe_asks_the_application(mesh: Cluster, strict: str) -> None:
    """Of a service that it does not know the application says so, and the Pod is not ready."""
    wait_ready(mesh, strict, "rpc")

    def is_refused() -> bool:
        words = ("--field-selector", "involvedObject.name=rpc-unknown,reason=Unhealthy")
        events: Any = mesh.get("events", "-n", strict, *words)["items"]
        return any("Readiness" in one["message"] for one in events)

    wait_until("an answer of the application", is_refused, timeout_s=SEEN_S)
    assert app(mesh, strict, "rpc-unknown")["ready"] is False


HOOK: Final = {"httpGet": {"path": "/hook", "port": 8080}}


def test_a_hook_by_http_is_told_and_never_let_in(mesh: Cluster, strict: str) -> None:
    """As an Event on what creates the Pod, by `proa check`; the kubelet says that it failed; a stranger is refused."""
    container = {**CMD["spec"]["containers"][0], "lifecycle": {"preStop": HOOK}}
    template = {"metadata": {"labels": {"app": "hooked"}}, "spec": {**CMD["spec"], "containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hooked"},
        "spec": {"selector": {"matchLabels": {"app": "hooked"}}, "template": template},
    }
    mesh.apply(json.dumps(deployment), strict)
    words = ("rollout", "status", "deployment/hooked", "-n", strict, f"--timeout={SEEN_S:.0f}s")
    mesh.kubectl(*words, timeout_s=SEEN_S + 10)
    (running,) = proa.pods(mesh, strict, "app=hooked")
    name, ip = running["metadata"]["name"], running["status"]["podIP"]

    def said(reason: str) -> list[tuple[str, str]]:
        found = mesh.get("events", "-n", strict, "--field-selector", f"reason={reason}")["items"]
        return [(one["involvedObject"]["kind"], one["message"]) for one in found]

    wait_until("the Event", lambda: said("InjectedWithWarnings") != [], timeout_s=SEEN_S)
    asked = f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' http://{ip}:8080/hook"
    stranger = mesh.run("sh", "-c", f"{asked} || true")
    hooks = tell(mesh, strict, name, "ask", "hooks")
    checked = json.loads(proa.verb(mesh, "check", "-o", "json").stdout)["results"]
    mesh.kubectl("delete", "pod", name, "-n", strict, "--wait=false")
    wait_until("the kubelet's word", lambda: said("FailedPreStopHook") != [], timeout_s=SEEN_S)

    expected = "container app: lifecycle.preStop.httpGet: the kubelet's request to port 8080"
    assert [(kind, note.partition(" is a stranger's")[0]) for kind, note in said("InjectedWithWarnings")] == [
        ("ReplicaSet", expected)
    ]
    assert (stranger, hooks) == ("000", "0\n")  # the connection is closed without an answer
    found = [one for one in checked if one["check"] == "pods.hooks"]
    assert [(one["severity"], one["subject"], one["fix"]) for one in found] == [
        ("warning", f"Workload {strict}/hooked", f"kubectl -n {strict} edit deployment/hooked")
    ]
