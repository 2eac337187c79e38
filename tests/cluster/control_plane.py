"""The control plane of a cluster: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and their flags.

It owns where they listen and whom they trust; it must never know of nodes, containers or images.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from tests.cluster import pki
from tests.cluster.cluster import READY_S, Cluster
from xds.demo.processes import wait_until

API_PORT: Final = 6443
_ETCD_PORT: Final = 2379
_PEER_PORT: Final = 2380
_CONTROLLERS_PORT: Final = 10257
_SCHEDULER_PORT: Final = 10259

_ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
_SERVICE_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

# Far above what tests ask for: a benchmark that creates 1,000 Services must not measure a client's own brake.
_QPS: Final = ("--kube-api-qps", "500", "--kube-api-burst", "1000")


_AUDIT: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, users: ["system:serviceaccount:proa-system:proa"]}
  - {level: None}
"""
"""What the control plane asks for, and nothing else: `tests/cluster/rights.py` compares it with its rights."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a control plane lives."""

    address: str
    """Its components listen here; in the light form a loopback address of its own."""
    url: str
    """How clients on this machine reach the apiserver."""
    service_range: str = "10.96.0.0/16"
    service_address: str = "10.96.0.1"
    """The first of the range, which Kubernetes gives to its own Service."""
    enter: Sequence[str] = ()
    """The command that enters the node's network namespace."""
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Further flags of a component."""


def loopback(folder: Path) -> Site:
    """Return a loopback address for a cluster that no node belongs to: fixed ports, as 127.0.0.0/8 is this machine's.

    Outgoing connections of other programs use 127.0.0.1, so a port there could be taken at any time; here it cannot.
    """
    digest = hashlib.sha256(str(folder).encode()).digest()
    for low in (*digest[1:], digest[0]):
        address = f"127.83.{digest[0]}.{1 + low % 250}"
        with socket.socket() as probe:
            try:
                probe.bind((address, API_PORT))
            except OSError:
                continue
        return Site(
            address,
            f"https://{address}:{API_PORT}",
            flags={
                # The apiserver refuses to publish a loopback address as an endpoint.
                "kube-apiserver": ("--endpoint-reconciler-type", "none"),
                # Nodes are objects that tests make; nothing reports for them.
                "kube-controller-manager": ("--controllers", "*,-node-lifecycle-controller"),
            },
        )
    message = "no free loopback address below 127.83.0.0/16"
    raise RuntimeError(message)


def write_identity(folder: Path, site: Site) -> None:
    """Write keys, certificates, tokens and a kubeconfig for each user."""
    authority = pki.Authority.create(folder / "pki")
    outside = site.url.removeprefix("https://").partition(":")[0]
    addresses = {"127.0.0.1", site.address, site.service_address, outside}
    authority.issue("apiserver", "kube-apiserver", names=(*sorted(addresses), "localhost", *_SERVICE_NAMES))
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", group="system:masters")
    pki.write_service_account_key(folder / "pki")
    tokens = pki.write_tokens(folder / "pki" / "tokens.csv")
    (folder / "audit.yaml").write_text(_AUDIT, "utf-8")
    (folder / "tokens.json").write_text(json.dumps(dict(tokens)), encoding="utf-8")
    inside = f"https://{site.address}:{API_PORT}"
    for user, token in tokens.items():
        is_client = user in {"admin", "stranger"}
        text = _kubeconfig(folder, site.url if is_client else inside, token)
        (folder / f"{user}.kubeconfig").write_text(text, encoding="utf-8")


def start(cluster: Cluster, site: Site, *, has_scheduler: bool, is_bound: bool) -> None:
    """Start the components and wait until objects can be made in the namespace ``default``."""

    def define(component: str, *argv: str) -> None:
        whole = [*site.enter, str(cluster.kube.with_name(component)), *argv, *site.flags.get(component, ())]
        cluster.define(component, whole, is_bound=is_bound)

    define("etcd", *_etcd(cluster.folder, site.address))
    define("kube-apiserver", *_apiserver(cluster.folder, site))
    cluster.wait_ready()
    define("kube-controller-manager", *_controllers(cluster.folder, site))
    if has_scheduler:
        define("kube-scheduler", *_scheduler(cluster.folder, site))
    wait_until(
        "ServiceAccount default/default",
        lambda: cluster.ask("/api/v1/namespaces/default/serviceaccounts/default") == 200,
        timeout_s=READY_S,
    )


def _kubeconfig(folder: Path, url: str, token: str) -> str:
    cluster = {"server": url, "certificate-authority": str(folder / "pki" / "ca.crt")}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proa", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "proa", "context": {"cluster": "proa", "user": "user"}}],
            "current-context": "proa",
        }
    )


def _etcd(folder: Path, address: str) -> list[str]:
    clients, peers = f"http://{address}:{_ETCD_PORT}", f"http://{address}:{_PEER_PORT}"
    return [
        *("--data-dir", str(folder / "etcd")),
        *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        *("--initial-cluster", f"default={peers}"),
        *("--unsafe-no-fsync", "--log-level", "warn"),
    ]


def _apiserver(folder: Path, site: Site) -> list[str]:
    pki_folder = folder / "pki"
    return [
        *("--etcd-servers", f"http://{site.address}:{_ETCD_PORT}"),
        *("--bind-address", site.address, "--advertise-address", site.address),
        *("--secure-port", str(API_PORT)),
        *("--tls-cert-file", str(pki_folder / "apiserver.crt")),
        *("--tls-private-key-file", str(pki_folder / "apiserver.key")),
        *("--client-ca-file", str(pki_folder / "ca.crt")),
        *("--token-auth-file", str(pki_folder / "tokens.csv")),
        *("--authorization-mode", "Node,RBAC"),
        *("--enable-admission-plugins", "NodeRestriction"),
        *("--service-cluster-ip-range", site.service_range),
        *("--service-account-issuer", _ISSUER, "--api-audiences", _ISSUER),
        *("--service-account-key-file", str(pki_folder / "sa.pub")),
        *("--service-account-signing-key-file", str(pki_folder / "sa.key")),
        *("--kubelet-client-certificate", str(pki_folder / "kubelet-client.crt")),
        *("--kubelet-client-key", str(pki_folder / "kubelet-client.key")),
        # Otherwise `kubectl logs` and `exec` resolve the node's name, which no DNS server knows.
        *("--kubelet-preferred-address-types", "InternalIP"),
        *("--audit-policy-file", str(folder / "audit.yaml"), "--audit-log-path", str(folder / "audit.log")),
        "--allow-privileged",
        "--profiling=false",
    ]


def _controllers(folder: Path, site: Site) -> list[str]:
    pki_folder = folder / "pki"
    return [
        *_client(folder, site, "controller-manager", _CONTROLLERS_PORT),
        *("--service-account-private-key-file", str(pki_folder / "sa.key")),
        *("--root-ca-file", str(pki_folder / "ca.crt"), "--use-service-account-credentials"),
        *("--cluster-signing-cert-file", str(pki_folder / "ca.crt")),
        *("--cluster-signing-key-file", str(pki_folder / "ca.key")),
        *("--service-cluster-ip-range", site.service_range, *_QPS),
        *(
            "--flex-volume-plugin-dir",
            str(folder / "volume-plugins"),
        ),  # it makes the directory, below /usr else
    ]


def _scheduler(folder: Path, site: Site) -> list[str]:
    return [*_client(folder, site, "scheduler", _SCHEDULER_PORT), *_QPS]


def _client(folder: Path, site: Site, user: str, port: int) -> list[str]:
    kubeconfig = str(folder / f"{user}.kubeconfig")
    return [
        *("--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig),
        *("--authorization-kubeconfig", kubeconfig),
        *("--bind-address", site.address, "--secure-port", str(port), "--leader-elect=false"),
    ]
