"""The one node of the full form: namespaces of its own, containerd, kubelet, kube-proxy.

It owns everything between the apiserver and a container; it must never touch this machine's own network, mounts or
processes. All of it runs in the namespaces of `namespaces.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import control_groups, control_plane, namespaces
from tests.cluster.cluster import READY_S, Cluster
from xds.demo.processes import wait_until

NAME: Final = "node1"
ZONE: Final = "zone-a"
DNS: Final = "10.96.0.10"
SERVICES: Final = "10.96.0.0/16,fd00:10:96::/108"
PODS: Final = "10.244.0.0/16,fd00:10:244::/56"
_OWN_PODS: Final = ("10.244.0.0/24", "fd00:10:244::/64")  # what the controller gives to the first node

CNI: Final = "/usr/lib/cni"

# Steps inside the namespaces take milliseconds; an image of 200 MB takes seconds to import.
_STEP_S: Final = 60.0
_IMPORT_S: Final = 300.0


def site(folder: Path) -> control_plane.Site:
    """Return where the control plane of a cluster with a node lives: on the node, and outside through a relay."""
    cidrs = ("--allocate-node-cidrs", "--cluster-cidr", PODS)
    return control_plane.Site(
        namespaces.ADDRESS,
        control_plane.loopback(folder).url,
        service_range=SERVICES,
        enter=namespaces.enter(folder),
        flags={"kube-controller-manager": cidrs},
    )


def start_relay(cluster: Cluster, *, is_bound: bool) -> None:
    """Make the apiserver reachable from outside, at the cluster's URL."""
    listen = cluster.url.removeprefix("https://")
    relay = Path(__file__).with_name("relay.py")
    namespace = f"/proc/{namespaces.pid(cluster.folder)}/ns/net"
    argv = [sys.executable, str(relay), listen, namespace, f"{namespaces.ADDRESS}:{control_plane.API_PORT}"]
    cluster.define("relay", argv, is_bound=is_bound)


def start_containerd(cluster: Cluster, archives: Sequence[Path], *, is_bound: bool) -> None:
    """Start the container runtime and import images from their archives."""
    folder = cluster.folder
    control_groups.prefer_containers()
    _write_containerd(folder)
    argv = [*namespaces.enter(folder), "containerd", "--config", str(folder / "containerd.toml")]
    cluster.define("containerd", argv, is_bound=is_bound)
    wait_until(
        "containerd",
        lambda: subprocess.run([*_ctr(folder), "version"], capture_output=True, check=False).returncode == 0,
        timeout_s=_STEP_S,
    )
    for archive in archives:
        import_image(folder, archive)


def import_image(folder: Path, archive: Path) -> None:
    """Make the images of an archive (docker or OCI) available to pods; their pullPolicy must not be Always."""
    argv = [*_ctr(folder), "--namespace", "k8s.io", "images", "import", str(archive)]
    subprocess.run(argv, check=True, capture_output=True, timeout=_IMPORT_S)


def kill_container(folder: Path, name: str) -> None:
    """Kill what runs in a container, by the name that a Pod's status gives it: kubelet starts another one."""
    task = name.removeprefix("containerd://")
    argv = [*_ctr(folder), "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", task]
    subprocess.run(argv, check=True, capture_output=True, timeout=_STEP_S)


def start_kubelet(cluster: Cluster, *, is_bound: bool) -> None:
    """Start kubelet and kube-proxy, and wait until the node is Ready."""
    folder = cluster.folder
    kubelet, proxy = folder / "kubelet.yaml", folder / "proxy.yaml"
    kubelet.write_text(yaml.safe_dump(_kubelet(folder)), encoding="utf-8")
    proxy.write_text(yaml.safe_dump(_proxy(folder)), encoding="utf-8")
    inside = namespaces.enter(folder)
    argv = [*inside, str(cluster.kube.with_name("kube-proxy")), "--config", str(proxy)]
    cluster.define("kube-proxy", argv, is_bound=is_bound)
    # It ends where the container runtime does not answer yet, and here is no service manager that starts it again.
    waiting = f'until {" ".join(_ctr(folder))} version; do sleep 0.2; done >/dev/null 2>&1; exec "$@"'
    argv = [
        *(*inside, "sh", "-c", waiting, "kubelet"),
        *(str(cluster.kube.with_name("kubelet")), "--config", str(kubelet)),
        *("--kubeconfig", str(folder / "node.kubeconfig"), "--hostname-override", NAME),
        *(
            "--node-ip",
            f"{namespaces.ADDRESS},{namespaces.ADDRESS_6}",
            "--node-labels",
            f"topology.kubernetes.io/zone={ZONE}",
        ),
    ]
    cluster.define("kubelet", argv, is_bound=is_bound)
    wait_until(f"node {NAME} Ready", lambda: _is_ready(cluster), timeout_s=READY_S)


def _is_ready(cluster: Cluster) -> bool:
    if not cluster.exists("node", NAME):
        return False
    conditions: list[Mapping[str, Any]] = cluster.get("node", NAME)["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _ctr(folder: Path) -> list[str]:
    return ["ctr", "--address", str(folder / "containerd.sock")]


def _write_containerd(folder: Path) -> None:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}] for subnet in _OWN_PODS],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    network = {"cniVersion": "0.4.0", "name": "proa", "plugins": [bridge]}
    (folder / "cni").mkdir()
    (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(network), encoding="utf-8")
    (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder, cni=CNI), encoding="utf-8")


_CONTAINERD: Final = """
version = 2
root = "{folder}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/cluster/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true # without CAP_SYS_RESOURCE no sandbox starts otherwise
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
"""


def _kubelet(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(folder / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(_resolver(folder)),
        "volumePluginDir": str(folder / "volume-plugins"),
        # Version 1 of control groups is what some machines have; limits of a container work, those of a Pod do not.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        # A test machine that is nearly full is no reason to evict Pods or to remove images that nothing can pull.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageMinimumGCAge": "24h",
        "imageGCHighThresholdPercent": 100,
        "maxPods": 240,
        "serializeImagePulls": False,
    }


def _resolver(folder: Path) -> Path:
    """Return the node's resolv.conf: nobody beyond the cluster is asked."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    return file


def _proxy(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(folder / "proxy.kubeconfig")},
        "hostnameOverride": NAME,
        "conntrack": {"maxPerCore": 0, "min": 0},  # this machine's limits, which are not ours to raise
    }
