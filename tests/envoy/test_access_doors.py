"""The doors that open in plaintext past every policy, and upgrades: nothing but what was declared comes through.

A server of the test's own stands behind, which takes every request on a connection and agrees to every upgrade that
it is asked for below ``/up``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from rig import STRICT, App, Container, MeshUnderTest

from tests.envoy.access_h2 import Conversation

PORT, FIRST_PORT = 8090, 8091
GREETING: Final = b"who is there?\n"
DOORS: Final = ("/ready", "/up", "/metrics")
"""What a readiness probe, a liveness probe and a scraper ask for."""

PERMISSIVE: Final = STRICT.replace("STRICT", "PERMISSIVE")
POLICY: Final = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: shop}}
spec: {spec}
"""
NOBODY: Final = PERMISSIVE + POLICY.format(spec="{}")

_AGREED: Final = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


class Server:
    """An application that tells what it was sent: the first line of each request, and bytes after an upgrade."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def listen(self, host: str, port: int) -> None:
        """Answer there until the process ends."""
        listener = socket.create_server((host, port))
        serve = self._greet if port == FIRST_PORT else self._serve
        threading.Thread(target=self._accept, args=(listener, serve), name="raw", daemon=True).start()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            wire, _ = listener.accept()
            threading.Thread(target=serve, args=(wire,), name="raw", daemon=True).start()

    def _greet(self, wire: socket.socket) -> None:
        with contextlib.suppress(OSError), wire:
            wire.sendall(GREETING)
            while words := wire.recv(100):
                self.seen.append(words.decode())

    def _serve(self, wire: socket.socket) -> None:
        with contextlib.suppress(OSError), wire, wire.makefile("rb") as stream:
            while first := stream.readline():
                self.seen.append(first.decode("latin-1").rpartition(" ")[0])
                head = list(iter(stream.readline, b"\r\n"))
                if b" /up" in first and any(line.startswith(b"upgrade:") for line in head):
                    wire.sendall(_AGREED)
                    self.seen.extend(line.decode("latin-1") for line in stream)
                    return
                wire.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture(scope="module")
def server() -> Server:
    """The application."""
    return Server()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[MeshUnderTest]:
    """One Pod with a port that has probes and is scraped."""
    work: Path = tmp_path_factory.mktemp("doors") / "mesh"
    probes = {
        name: {"httpGet": {"path": path, "port": PORT}}
        for name, path in (("readinessProbe", DOORS[0]), ("livenessProbe", DOORS[1]))
    }
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)}
    raw = Container("http-raw", PORT, listen=server.listen, probes=probes)
    first = Container("tcp-first", FIRST_PORT, listen=server.listen)
    app = App("orders", more=(raw, first), annotations=scraped)
    mesh = MeshUnderTest(work, (app,), STRICT, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.fixture(params=["STRICT", "PERMISSIVE and a policy that lets nobody in"])
def closed(request: pytest.FixtureRequest, mesh: MeshUnderTest) -> MeshUnderTest:
    """The mesh under what lets no stranger in."""
    put(mesh, STRICT if request.param == "STRICT" else NOBODY)
    return mesh


def put(mesh: MeshUnderTest, text: str) -> None:
    """Put these manifests in force; the same again is no change that could be waited for."""
    if (mesh.mesh.manifests / "manifests.yaml").read_text("utf-8") != text:
        mesh.edit("manifests.yaml", text)


def send(mesh: MeshUnderTest, octets: bytes, *, answers: int = 1) -> bytes:
    """What a stranger gets for these bytes: so many answers, less if the other side closes or says no more."""
    got = b""
    with socket.create_connection((mesh.pods["orders"].pod_ip, PORT), 10) as wire:
        wire.sendall(octets)
        wire.settimeout(1)
        with contextlib.suppress(OSError):
            while got.count(b"\r\n\r\n") < answers and (chunk := wire.recv(65_536)):
                got += chunk
    return got


def request(line: str, *headers: str) -> bytes:
    """A request of this line."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


UPGRADE: Final = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


@pytest.mark.parametrize("path", DOORS)
def test_a_declared_path_passes(closed: MeshUnderTest, server: Server, path: str) -> None:
    """GET of it, with any query; what is behind a dot segment is that path as well, as the application sees it."""
    server.seen.clear()
    for target in (path, f"{path}?x=/admin", f"/x/..{path}"):
        assert send(closed, request(f"GET {target}")).startswith(b"HTTP/1.1 200")

    assert server.seen == [f"GET {path}", f"GET {path}?x=/admin", f"GET {path}"]


TRICKS: Final = (
    "//metrics", "/metrics/", "/metrics/..", "/metrics/../admin", "/metrics/%2e%2e/admin", "/metrics%2e", "/metrics.",
    "/metrics%2F..%2Fadmin", "/metrics;x", "/metrics;/../admin", "/metrics/..;/admin", "/Metrics", "/metrics%00",
    "/metrics%20", "/metrics#", "/admin#/metrics", "/admin?/metrics", "/metrics\\..\\admin", "/%2fmetrics", "metrics",
    "*", "http://x/admin", "http://x/metrics/../admin",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT", "get"])
def test_nothing_else_passes_as_one(closed: MeshUnderTest, server: Server, method: str) -> None:
    """No other path, however near, and no method but GET, reaches the application."""
    server.seen.clear()
    targets = TRICKS if method == "GET" else (*TRICKS, "/metrics")
    answers = {target: send(closed, request(f"{method} {target}")).split(b"\r\n")[0] for target in targets}

    assert server.seen == []
    assert {target: answer for target, answer in answers.items() if b" 200 " in answer} == {}


def test_a_declared_path_is_no_tunnel(closed: MeshUnderTest, server: Server) -> None:
    """The application would agree to an upgrade at the path of its probe; a stranger gets none."""
    server.seen.clear()
    answer = send(closed, request("GET /up", *UPGRADE) + b"bytes\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 403")
    assert server.seen == []


@pytest.mark.parametrize(
    "upgrade",
    [
        UPGRADE,
        (*UPGRADE[:1], "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        (*UPGRADE[:1], "Upgrade: tcp"),
    ],
)
def test_no_request_hides_behind_an_upgrade(
    mesh: MeshUnderTest, server: Server, upgrade: tuple[str, ...]
) -> None:
    """Bytes behind a request to upgrade that the application does not agree to are no request that nobody judges."""
    text = PERMISSIVE + POLICY.format(spec="{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}")
    put(mesh, text)
    server.seen.clear()
    answer = send(mesh, request("GET /ok", *upgrade) + request("GET /admin"), answers=2)

    assert "GET /admin" not in server.seen
    assert b"101" not in answer.split(b"\r\n")[0]


def test_http2_opens_no_more(closed: MeshUnderTest) -> None:
    """GET of a declared path passes (to an application without HTTP/2), another does not, nor does a WebSocket."""
    wire = socket.create_connection((closed.pods["orders"].pod_ip, PORT), 10)
    rest = [(b":scheme", b"http"), (b":authority", b"x")]
    get, connect = [(b":method", b"GET"), *rest], [(b":method", b"CONNECT"), *rest]
    with wire:
        talk = Conversation(wire)
        declared, other = (talk.ask([*get, (b":path", path)]) for path in (b"/up", b"/up/../admin"))
        tunnel = talk.ask([*connect, (b":path", b"/up"), (b":protocol", b"websocket")])

    assert (declared.headers[b":status"], other.headers[b":status"]) == (b"502", b"403")
    assert tunnel.headers.get(b":status") != b"200"


def test_a_server_that_speaks_first_hears_nobody_who_is_refused(mesh: MeshUnderTest, server: Server) -> None:
    """Its greeting is gone before Envoy asks who is there; what they say then ends the connection, and stays here."""
    put(mesh, NOBODY)
    server.seen.clear()
    with socket.create_connection((mesh.pods["orders"].pod_ip, FIRST_PORT), 10) as wire:
        greeting = wire.recv(100)
        wire.sendall(b"me\n")
        with contextlib.suppress(ConnectionError):
            assert wire.recv(100) == b""

    assert greeting == GREETING
    assert server.seen == []
