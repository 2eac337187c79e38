"""The processes of a measurement: the servers, and the client that is many proxies at once.

It owns starting, commands and stopping; it must never decide what is measured.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import clock, worlds
from xds import settings
from xds.demo import admin, programs
from xds.demo.mesh import free_ports
from xds.demo.processes import Child, Family, wait_until
from xds.state import StateDirectory, load_trust, system_entropy

BASELINE = Path(__file__).resolve().parent / "baseline"
START_S = 120.0
"""A directory of thousands of manifests is read before the port opens, on two cores shared with others."""


@dataclass(slots=True)
class Lab:
    """One working directory and everything that runs in it."""

    work: Path
    family: Family = field(init=False)

    def __post_init__(self) -> None:
        self.family = Family(self.work / "logs")
        self.binaries = self.work / "bin"

    binaries: Path = field(init=False)

    def build(self) -> None:
        """Build the Go programs of `baseline/`."""
        self.binaries.mkdir(exist_ok=True)
        argv = [str(programs.go(BASELINE)), "build", "-trimpath", "-o", f"{self.binaries}/", "./cmd/..."]
        subprocess.run(argv, cwd=BASELINE, check=True)

    def certificate(self) -> tuple[Path, Path, Path]:
        """Write the root, the certificate and the key of a server as Proa's own channel has them."""
        place = self.work / "certificate"
        with StateDirectory.open(place / "state") as state:
            trust = load_trust(state, settings.TRUST_DOMAIN, now=time.time())
            leaf = trust.channel_leaf(time.time())
        root, cert, key = (place / name for name in ("root.pem", "cert.pem", "key.pem"))
        root.write_bytes(_root(place / "state"))
        cert.write_bytes(leaf.certificate_pem)
        key.write_bytes(leaf.key_pem.reveal())
        return root, cert, key

    def proa(self, name: str, manifests: Iterable[worlds.Manifest], *, is_insecure: bool) -> Proa:
        """Start Proa over a directory of these manifests and wait until it has read them."""
        home = self.work / name
        directory = home / "manifests"
        directory.mkdir(parents=True)
        (directory / "world.yaml").write_text(worlds.documents(manifests), "utf-8")
        xds, control, admin_port = free_ports(3)
        argv = [
            sys.executable,
            "-m",
            "benchmarks.plane",
            "--from",
            str(directory),
            "--state",
            str(home / "state"),
        ]
        argv += ["--xds", str(xds), "--admin", str(admin_port), "--control", str(control)]
        argv += ["--insecure"] if is_insecure else []
        child = self.family.start(name, argv)
        api = admin.ControlPlane("127.0.0.1", admin_port)
        wait_until(f"{name} is ready", api.is_ready, timeout_s=START_S, child=child)
        state = None if is_insecure else home / "state"
        root = None if state is None else _root(state)
        return Proa(child, f"127.0.0.1:{xds}", f"127.0.0.1:{control}", root, state=state)

    def echo(self, name: str, certificate: tuple[Path, Path, Path] | None) -> Server:
        """Start the bare grpc.aio server."""
        xds, control = free_ports(2)
        argv = [sys.executable, "-m", "benchmarks.echo", "--xds", str(xds), "--control", str(control)]
        root = None
        if certificate is not None:
            argv += ["--cert", str(certificate[1]), "--key", str(certificate[2])]
            root = certificate[0].read_bytes()
        child = self.family.start(name, argv)
        found = Server(child, f"127.0.0.1:{xds}", f"127.0.0.1:{control}", root)
        wait_until(f"{name} listens", lambda: _answers(control), timeout_s=START_S, child=child)
        return found

    def grpc_go(self, name: str, certificate: tuple[Path, Path, Path] | None) -> Go:
        """Start the bare grpc-go server."""
        argv = [str(self.binaries / "adsserver"), "--resource", worlds.cluster("bench")]
        root = None
        if certificate is not None:
            argv += ["--cert", str(certificate[1]), "--key", str(certificate[2])]
            root = certificate[0].read_bytes()
        child = self.family.start(name, argv, stdout=subprocess.PIPE)
        first = _first_line(child)
        return Go(child, first["xds"], first["control"], root)

    def load(self, server: Server, streams: int, *subscriptions: str, flags: tuple[str, ...] = ()) -> Load:
        """Connect so many proxies to a server and wait until all of them are settled."""
        self._loads += 1
        name = f"load-{self._loads}"
        argv = [str(self.binaries / "xdsload"), "--address", server.address, "--streams", str(streams)]
        argv += ["--timeout", "120s", "--connect-timeout", "60s", "--base-port", str(worlds.BASE_PORT)]
        argv += ["--watch", worlds.cluster("bench"), *flags]
        for subscription in subscriptions:
            argv += ["--subscribe", subscription]
        if server.root is not None:
            root = self.work / f"{name}.pem"
            root.write_bytes(server.root)
            argv += ["--ca", str(root), "--server-name", settings.CHANNEL_SERVER_NAME]
        argv += self._nodes(server, name, streams)
        child = self.family.start(name, argv, stdout=subprocess.PIPE)
        first = _first_line(child)
        return Load(self, child, first["control"], first)

    _loads: int = 0

    def _nodes(self, server: Server, name: str, streams: int) -> list[str]:
        """Give each stream a Pod of its own, and its token where the server asks for one."""
        if not isinstance(server, Proa) or server.state is None:
            return ["--node", f"p%d.{worlds.NAMESPACE}"]
        key = StateDirectory.open(server.state).token_key()
        tokens = self.work / f"{name}.tokens"
        with tokens.open("w", encoding="utf-8") as file:
            tokens.chmod(0o600)
            for number in range(streams):
                token = key.issue(
                    namespace=worlds.NAMESPACE,
                    pod=f"p{number}",
                    service_account="default",
                    trust_domain=settings.TRUST_DOMAIN,
                    now=time.time(),
                    octets=os.urandom,
                )
                file.write(f"p{number}.{worlds.NAMESPACE} {token}\n")
        return ["--tokens", str(tokens)]

    def stop(self, *children: Child) -> None:
        """Stop some children, in this order."""
        for child in children:
            self.family.stop_one(child)


@dataclass(slots=True)
class Server:
    """One measured server; `root` is the certificate to trust, None for plaintext."""

    child: Child
    address: str
    control: str
    root: bytes | None = field(repr=False, default=None)
    changes: int = 0

    @property
    def pid(self) -> int:
        """The process whose CPU counts."""
        return self.child.process.pid

    def cpu_s(self) -> float:
        """Return what the process has used so far."""
        return clock.process_cpu_s(self.pid)

    def rss_mib(self) -> float:
        """Return what the process holds now."""
        return clock.rss_mib(self.pid)

    def push(self, count: int, interval_ms: float = 0) -> dict[str, Any]:
        """Change the marked endpoint so often; without an interval each change waits for the ACKs of the last."""
        first = self.changes + 1
        self.changes += count
        steps = [[worlds.marked(number)] for number in range(first, self.changes + 1)]
        return self.apply(steps, first=first, interval_ms=interval_ms)

    def apply(
        self, steps: list[list[worlds.Manifest]], *, first: int = 1, interval_ms: float = 0
    ) -> dict[str, Any]:
        """Make changes, each a list of manifests; return what they cost when every ACK is there."""
        path = f"/push?first={first}&interval_ms={interval_ms}"
        return post(self.control, path, json.dumps(steps).encode())


@dataclass(slots=True)
class Proa(Server):
    """Proa itself; `state` is its state directory, None with --insecure."""

    state: Path | None = None


@dataclass(slots=True)
class Go(Server):
    """The grpc-go server, whose changes are made by itself."""

    def push(self, count: int, interval_ms: float = 0) -> dict[str, Any]:
        """Change the marked endpoint so often; without an interval each change waits for the ACKs of the last."""
        self.changes += count
        if interval_ms:
            return post(self.control, f"/push?count={count}&interval_ms={interval_ms}")
        answers = [post(self.control, "/push") for _ in range(count)]
        pushes = sum(answer["pushes"] for answer in answers)
        cpu_s = sum(answer["cpu_seconds"] for answer in answers)
        return {
            **answers[-1],
            "pushes": pushes,
            "cpu_seconds": cpu_s,
            "cpu_us_per_push": cpu_s / pushes * 1e6,
        }


@dataclass(slots=True)
class Load:
    """Many proxies in one process."""

    lab: Lab
    child: Child
    control: str
    connected: dict[str, Any]

    def command(self, line: str, body: bytes = b"") -> dict[str, Any]:
        """Give a command and return its answer."""
        return post(self.control, f"/{line}", body)

    def stop(self) -> None:
        """Close every stream."""
        self.lab.stop(self.child)


def post(address: str, path: str, body: bytes = b"") -> dict[str, Any]:
    """POST and return the answer's document."""
    connection = http.client.HTTPConnection(address, timeout=300)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    assert response.status == http.client.OK, (response.status, text)
    return json.loads(text)


@contextmanager
def laboratory() -> Generator[Lab]:
    """Start processes below a directory of its own and stop all of them in the end."""
    work = Path(tempfile.mkdtemp(prefix="proa-bench-"))
    lab = Lab(work)
    try:
        yield lab
    finally:
        lab.family.stop()
        shutil.rmtree(work)


def _first_line(child: Child) -> dict[str, Any]:
    assert child.process.stdout is not None
    with child.process.stdout as words:
        line = words.readline()
    assert line, f"{child.name} ended: {child.tail()}"
    return json.loads(line)


def _root(state: Path) -> bytes:
    slots = StateDirectory.open(state).channel_roots(now=time.time(), entropy=system_entropy())
    return b"".join(root.pem for root in slots.trusted)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except OSError:
        return False
    finally:
        connection.close()
    return True
