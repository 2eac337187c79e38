"""The light form: a real API that answers, controllers that act, and an end that leaves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.cluster import light, processes, removal
from tests.cluster.cluster import Cluster, KubectlError
from xds.demo.processes import wait_until

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: light}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def test_the_apiserver_and_its_controllers_work(api: Cluster) -> None:
    """A Service becomes an EndpointSlice, which only a controller writes."""
    api.kubectl("create", "namespace", "light")
    api.apply(SERVICE)

    wait_until(
        "EndpointSlice of web",
        lambda: bool(api.get("endpointslices", "-n", "light")["items"]),
        timeout_s=30,
    )


def test_a_stranger_is_authenticated_and_may_nothing(api: Cluster) -> None:
    """Static tokens prove who asks; RBAC decides."""
    try:
        words = api.kubectl("get", "pods", user="stranger")
    except KubectlError as error:
        words = str(error)

    assert 'User "stranger" cannot list resource "pods"' in words


def test_an_apiserver_that_was_killed_comes_back_with_its_objects(own_api: Cluster) -> None:
    """A test may end any component and start it again."""
    own_api.kubectl("create", "namespace", "kept")

    own_api.kill("kube-apiserver", signal.SIGKILL)
    is_down = own_api.ask("/readyz") == 0
    own_api.start("kube-apiserver")
    own_api.wait_ready()

    assert is_down and own_api.exists("namespace", "kept")


def test_the_end_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """Everything that started carries the folder's mark, and goes with it."""
    folder = tmp_path / "c"
    light.up(folder, is_bound=True)

    before = len(processes.find(folder))
    removal.remove(folder)

    assert (before, processes.find(folder), folder.exists()) == (3, [], False)
