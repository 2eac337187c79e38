"""The end of a cluster leaves this machine as it was, also when its parts or its owner were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import control_groups, full, images, namespaces, processes, removal
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until

SLEEPERS = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: sleepers}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: sleepers}}}}
  template:
    metadata: {{labels: {{app: sleepers}}}}
    spec:
      containers: [{{name: shop, image: {images.SHOP}, args: [echo, --listen, ":8080"]}}]
"""

FIXED_PLACES = (
    "/opt/containerd",
    "/run/containerd",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
"""Where these programs write by fixed names, if nobody stops them."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a cluster that is removed whatever the test does."""
    place = tmp_path / "c"
    try:
        yield place
    finally:
        removal.remove(place)


@dataclass(frozen=True)
class Seen:
    """What a cluster has on this machine while it runs."""

    namespaces: frozenset[str]
    """The kernel's names of those that its node and containers live in, and we do not."""
    processes: frozenset[tuple[int, str]]
    """Id and start time of every process in them."""


def seen(folder: Path) -> Seen:
    """Return what a running cluster has."""
    groups = (file for group in control_groups.of(folder) for file in group.rglob("cgroup.procs"))
    contained = {int(pid) for file in groups for pid in file.read_text("utf-8").split()}
    holder = namespaces.pid(folder)
    assert holder is not None
    lived_in = {name for pid in (*contained, holder) for name in _namespaces(pid)}
    lived_in -= set(_namespaces(os.getpid()))
    inside = {(pid, _started(pid)) for pid in _pids() if lived_in & set(_namespaces(pid))}
    return Seen(frozenset(lived_in), frozenset(inside))


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _namespaces(pid: int) -> Iterator[str]:
    for kind in ("mnt", "net", "pid"):
        try:
            yield str(Path(f"/proc/{pid}/ns/{kind}").readlink())
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # of this machine's first process
            return


def _started(pid: int) -> str:
    """Return when a process began, in the kernel's ticks: the kernel gives a number away again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def fixed_places() -> set[str]:
    """Return which of the fixed places exist; on a machine with a containerd of its own, some do."""
    return {place for place in FIXED_PLACES if Path(place).exists()}


def traces(folder: Path, before: Seen) -> list[str]:
    """Return everything on this machine that belongs to a cluster, in words.

    A namespace ends with its last process, unless a mount of this machine holds it.
    """
    mounts = Path("/proc/mounts").read_text("utf-8").splitlines()
    rules = subprocess.run(
        ["/usr/sbin/nft", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=20
    )
    return [
        *(f"process {pid} with its mark" for pid in processes.find(folder)),
        *(f"process {pid}" for pid, started in before.processes if started and _started(pid) == started),
        *(f"mount {line}" for line in mounts if str(folder) in line),
        *(f"control group {group}" for group in control_groups.of(folder)),
        *(f"rule {line}" for line in rules.stdout.splitlines() if "kube" in line),
        *(["folder"] if folder.exists() else []),
    ]


def held_by_mounts(before: Seen) -> list[str]:
    """Return the mounts of this machine that hold a cluster's namespaces; there is none even while it runs."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    held = {fields[1]: Path(fields[1]).stat().st_ino for fields in mounts if fields[2] == "nsfs"}
    return [place for place, inode in held.items() if any(f"[{inode}]" in name for name in before.namespaces)]


def test_nothing_is_left_of_a_cluster_whose_parts_were_killed(folder: Path) -> None:
    """SIGKILL of containerd, kubelet and the apiserver, with Pods running, and then `down`."""
    places = fixed_places()
    running = full.up(folder, is_bound=True)
    running.apply(SLEEPERS)
    running.kubectl("rollout", "status", "deployment/sleepers", timeout_s=120)
    before = seen(folder)
    lively = traces(folder, before)
    mounts = held_by_mounts(before)

    for component in ("containerd", "kubelet", "kube-apiserver"):
        running.kill(component)
    removal.remove(folder)

    assert len(before.namespaces) >= 3 + 4 * 3, "a node, and four Pods with three namespaces each"
    assert {trace.split()[0] for trace in lively} == {"process", "control", "folder"}
    assert (traces(folder, before), mounts) == ([], [])
    assert fixed_places() <= places


def test_the_end_of_a_node_is_the_end_of_all_in_it(folder: Path) -> None:
    """Also of a process that has no mark of ours, and takes its time: the kernel takes back its memory first."""
    folder.mkdir()
    namespaces.start(folder, is_bound=True)
    slow = f"x = bytearray(b'1') * 1_000_000_000; open('{folder}/runs', 'w'); import time; time.sleep(99)"
    apart = ("env", "--ignore-environment", "setsid", "--fork", sys.executable, "-c", slow)
    subprocess.run([*namespaces.enter(folder), *apart], check=True, timeout=20)
    wait_until("its memory is in use", (folder / "runs").exists, timeout_s=60)
    inside = seen(folder).processes

    processes.end(folder, "node")

    assert len(inside) >= 2
    assert [pid for pid, started in inside if _started(pid) == started] == []
    removal.remove(folder)


def test_nothing_is_left_of_a_cluster_whose_starter_was_killed(folder: Path) -> None:
    """SIGKILL of `make cluster-up` when kubelet has just started, and then `make cluster-down`."""
    argv = [sys.executable, "-m", "tests.cluster"]
    with subprocess.Popen([*argv, "up", str(folder)], stdout=subprocess.DEVNULL) as starter:
        wait_until("kubelet", lambda: bool(processes.find(folder, "kubelet")), timeout_s=120)
        starter.kill()
    before = seen(folder)

    survivors = processes.find(folder)
    subprocess.run([*argv, "down", str(folder)], check=True, timeout=60)

    assert survivors != []
    assert traces(folder, before) == []


def test_a_temporary_cluster_ends_with_its_owner() -> None:
    """SIGKILL of a test run: the kernel ends its processes, and `make cluster-down` finds the folder."""
    argv = [sys.executable, "-m", "tests.cluster", "api"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        said = owner.stdout.readline()
        folder = Path(said.partition("KUBECONFIG=")[2].partition(" ")[0]).parent
        is_owned = folder not in set(removal.orphans())
        owner.send_signal(signal.SIGKILL)

    wait_until("the end of its processes", lambda: processes.find(folder) == [], timeout_s=20)
    is_orphan = folder in set(removal.orphans())
    removal.remove(folder)

    assert (is_owned, is_orphan, folder.exists()) == (True, True, False)


def test_killed_components_come_back(own_cluster: Cluster) -> None:
    """A test may kill containerd and kubelet; Pods run on, and new ones start when both are back."""
    own_cluster.apply(SLEEPERS)
    own_cluster.kubectl("rollout", "status", "deployment/sleepers", timeout_s=120)
    before = {pod["metadata"]["name"] for pod in own_cluster.get("pods")["items"]}

    for component in ("containerd", "kubelet"):
        own_cluster.kill(component)
        own_cluster.start(component)
    own_cluster.kubectl("scale", "deployment/sleepers", "--replicas", "4")

    own_cluster.kubectl("rollout", "status", "deployment/sleepers", timeout_s=100)

    after = own_cluster.get("pods")["items"]
    assert before < {pod["metadata"]["name"] for pod in after}
    assert {status["restartCount"] for pod in after for status in pod["status"]["containerStatuses"]} == {0}


def test_up_starts_what_is_missing(own_cluster: Cluster) -> None:
    """A second `make cluster-up` keeps the objects and starts only what has ended."""
    own_cluster.kubectl("create", "namespace", "kept")
    apiserver = processes.find(own_cluster.folder, "kube-apiserver")
    own_cluster.kill("kubelet")

    argv = [sys.executable, "-m", "tests.cluster", "up", str(own_cluster.folder)]
    subprocess.run(argv, check=True, timeout=120, stdout=subprocess.DEVNULL)

    assert processes.find(own_cluster.folder, "kubelet") != []
    assert processes.find(own_cluster.folder, "kube-apiserver") == apiserver
    assert own_cluster.exists("namespace", "kept")
