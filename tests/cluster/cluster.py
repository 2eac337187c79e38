"""A running cluster as tests and people use it: its kubeconfig, kubectl, tokens, and its components' life and death.

It owns what is known of a cluster once it runs, which its folder records; it must never start or remove a whole one.

    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kill("kube-apiserver"); cluster.start("kube-apiserver"); cluster.wait_ready()
"""

from __future__ import annotations

import json
import secrets
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.cluster import namespaces, processes
from xds.demo.processes import DemoError, wait_until

READY_S: Final = 120.0
"""The apiserver is ready after 4 s on an idle machine; beside two Go builds it took 50 s."""

_ANSWER_S: Final = 10.0
_EXEC_S: Final = 10.0
"""Within this a started program has become the one that it was started as, also when its file comes from the disk."""

_AFTER_API: Final = frozenset({"kube-controller-manager", "kube-scheduler"})
"""They end when the apiserver does not answer for 10 s."""

_RECORD: Final = "cluster.json"


class KubectlError(Exception):
    """Kubectl ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One running cluster; equal for everybody who opens the same folder."""

    folder: Path
    kube: Path
    """The binary with all components; beside it stands ``kubectl``."""
    url: str
    """The apiserver's, reachable from this machine's own network namespace."""

    @classmethod
    def open(cls, folder: Path) -> Cluster:
        """Return the cluster that a folder records; FileNotFoundError when there is none."""
        record = json.loads((folder / _RECORD).read_text("utf-8"))
        return cls(folder, Path(record["kube"]), record["url"])

    def record(self) -> None:
        """Write what `open` reads."""
        words = {"kube": str(self.kube), "url": self.url}
        (self.folder / _RECORD).write_text(json.dumps(words), encoding="utf-8")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.kubeconfig_of("admin")

    def kubeconfig_of(self, user: str) -> Path:
        """Return the kubeconfig of a user of `pki.USERS`."""
        return self.folder / f"{user}.kubeconfig"

    def token(self, user: str = "admin") -> str:
        """Return the static bearer token of a user of `pki.USERS`."""
        return str(json.loads((self.folder / "tokens.json").read_text("utf-8"))[user])

    @property
    def ca(self) -> Path:
        """The certificate that the apiserver's is signed with."""
        return self.folder / "pki" / "ca.crt"

    def kubectl(self, *args: str, stdin: str = "", user: str = "admin", timeout_s: float = 60.0) -> str:
        """Return what kubectl printed; KubectlError with its words when it failed."""
        kubectl = str(self.kube.with_name("kubectl"))
        # Components' kubeconfigs name the address that only the node knows.
        argv = [kubectl, "--kubeconfig", str(self.kubeconfig_of(user)), "--server", self.url, *args]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        if done.returncode:
            message = f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}"
            raise KubectlError(message)
        return done.stdout

    def get(self, *args: str) -> Any:
        """Return the parsed answer of ``kubectl get ARGS -o json``."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, manifest: str, namespace: str = "") -> None:
        """Apply YAML or JSON documents; with a namespace, none of them may name another."""
        self.kubectl("apply", "-f", "-", *(("--namespace", namespace) if namespace else ()), stdin=manifest)

    @contextmanager
    def namespace(self, prefix: str, labels: Mapping[str, str] = MappingProxyType({})) -> Generator[str]:
        """Yield the name of a new Namespace that Pods can be made in; it is deleted without waiting for its end."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        metadata = {"name": name, "labels": dict(labels)}
        self.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
        try:
            account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            wait_until(f"ServiceAccount {name}/default", lambda: self.ask(account) == 200, timeout_s=READY_S)
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def exists(self, *args: str) -> bool:
        """Tell whether ``kubectl get ARGS`` finds anything."""
        return bool(self.kubectl("get", *args, "--ignore-not-found", "-o", "name").strip())

    def ask(self, path: str) -> int:
        """Return the status of a GET as administrator, 0 when nobody answered."""
        request = urllib.request.Request(  # noqa: S310 (the URL is our own apiserver's)
            self.url + path, headers={"Authorization": f"Bearer {self.token()}"}
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S, context=context) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, urllib.error.URLError):
            return 0

    def wait_ready(self, *components: str, timeout_s: float = READY_S) -> None:
        """Wait until the apiserver says that it is ready; DemoError with a log's end when a component died."""

        def is_ready() -> bool:
            for component in ("etcd", "kube-apiserver", *components):
                self._must_live(component)
            return self.ask("/readyz") == 200

        wait_until(f"apiserver of {self.folder} ready", is_ready, timeout_s=timeout_s)

    def define(self, component: str, argv: Sequence[str], *, is_bound: bool) -> None:
        """Record how a component is started, and start it."""
        place = self._definition(component)
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({"argv": list(argv), "is_bound": is_bound}), encoding="utf-8")
        self.start(component)

    def inside(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` on the node, where ClusterIPs and pod IPs can be reached."""
        return [*namespaces.enter(self.folder), *argv]

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        """Run a command on the node and return what it printed; RuntimeError with its words when it failed."""
        return namespaces.run(self.folder, *argv, timeout_s=timeout_s)

    def resolve(self, host: str, address: str) -> None:
        """Let the cluster's DNS answer for a name outside it, within about 2 s; it is forgotten with the cluster."""
        file = (
            self.folder / "own/run/outside/hosts"
        )  # where the node's /run is; CoreDNS reads it again each second
        with file.open("a", encoding="utf-8") as hosts:
            hosts.write(f"{address} {host}\n")

    @contextmanager
    def serving(self, name: str, *argv: str) -> Generator[None]:
        """Run a program of a test's own on the node, as long as the block runs; `words` has what it said."""
        self.define(name, self.inside(*argv), is_bound=True)
        try:
            yield
        finally:
            self._definition(name).unlink()
            self.kill(name)

    def start(self, component: str) -> None:
        """Start a component as it was started first, unless it runs."""
        if not processes.find(self.folder, component):
            known = json.loads(self._definition(component).read_text("utf-8"))
            processes.start(self.folder, component, known["argv"], is_bound=known["is_bound"])

    def start_dead(self) -> None:
        """Start every component that has ended, and wait for the apiserver; RuntimeError when the node is gone."""
        namespaces.enter(self.folder)
        components = [definition.stem for definition in sorted((self.folder / "components").iterdir())]
        for component in components:
            if component not in _AFTER_API:
                self.start(component)
        self.wait_ready()
        for component in _AFTER_API & set(components):
            self.start(component)

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a component: SIGKILL and SIGTERM return when it is gone, SIGSTOP and SIGCONT at once."""
        processes.end(self.folder, component, number=number)

    def words(self, component: str) -> str:
        """Return the end of a component's log."""
        return processes.log_of(self.folder, component).read_text("utf-8", "replace")[-4_000:]

    def _definition(self, component: str) -> Path:
        return self.folder / "components" / f"{component}.json"

    def _must_live(self, component: str) -> None:
        # A process in the middle of execve shows an empty environment, so one look that finds none proves nothing.
        try:
            wait_until(component, lambda: bool(processes.find(self.folder, component)), timeout_s=_EXEC_S)
        except DemoError:
            message = f"{component} of {self.folder} has ended:\n{self.words(component)}"
            raise RuntimeError(message) from None
