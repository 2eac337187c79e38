"""A chain of applications whose last one fails: each copies trace headers and calls the next through its sidecar.

It owns the servers, what they count, and what they forget to copy; it must never retry or assert: tests do.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from rig import App, Container, MeshUnderTest

from xds.demo.manifests import OUTBOUND_PORT

PORT: Final = 9000
TIMEOUT_S: Final = 60
COPIED: Final = ("x-request-id", "traceparent", "tracestate", "baggage", "x-case")
"""What a service must copy; ``x-case`` is the test's own and names what the client asked for once."""

NAMES: Final = ("hop-a", "hop-b", "hop-c")


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


@dataclass(slots=True)
class Hop:
    """One application; without ``calls`` it is the backend, which always answers 503."""

    name: str
    calls: str = ""
    copied: tuple[str, ...] = COPIED
    sidecar: str = ""
    hits: Counter[str] = field(default_factory=Counter[str])
    """Requests that arrived, by case."""
    seen: list[list[tuple[str, str]]] = field(default_factory=list[list[tuple[str, str]]])
    """The headers of each."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self, host: str, port: int) -> object:
        """Serve in the background, as long as the test runs."""
        hop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Answer as the next one does."""
                length = int(self.headers.get("content-length", "0"))
                body = self.rfile.read(length)
                status = hop.take(self.command, list(self.headers.items()), body)
                is_grpc = self.headers.get("content-type", "").startswith("application/grpc")
                self.send_response(200 if is_grpc else status)
                if is_grpc:  # in the headers, as a server answers that has nothing else to say
                    self.send_header("content-type", "application/grpc")
                    self.send_header("grpc-status", "14")
                self.send_header("content-length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815  # the name that http.server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        server = _Server((host, port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def take(self, method: str, headers: list[tuple[str, str]], body: bytes) -> int:
        """Count a request and return the status of its answer."""
        lower = [(name.lower(), value) for name, value in headers]
        with self.lock:
            self.hits[dict(lower).get("x-case", "")] += 1
            self.seen.append(lower)
        if not self.calls:
            return 503
        return call(
            self.sidecar, self.calls, [pair for pair in lower if pair[0] in self.copied], method, body
        )


def call(
    sidecar: str, host: str, headers: Iterable[tuple[str, str]], method: str = "GET", body: bytes = b""
) -> int:
    """Send one request to a sidecar, the headers line by line; return the status."""
    with closing(http.client.HTTPConnection(sidecar, OUTBOUND_PORT, timeout=TIMEOUT_S)) as connection:
        connection.putrequest(method, "/work", skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", host)
        for name, value in headers:
            connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        return connection.getresponse().status


def apps(hops: Iterable[Hop]) -> list[App]:
    """Return the Pods of a chain, and its client."""
    return [App("web"), *(App(hop.name, more=(Container("chain", PORT, listen=hop.listen),)) for hop in hops)]


def chain(*, copied: tuple[str, ...] = COPIED) -> list[Hop]:
    """Return three hops; the first two call the next."""
    return [Hop("a", "hop-b", copied), Hop("b", "hop-c", copied), Hop("c")]


def services(retries: str) -> str:
    """Return a Service for each hop, and these retries of the calls to each."""
    return "---".join(
        f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name[-1]}}}
  ports: [{{name: http, port: 80, targetPort: {PORT}, appProtocol: http}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{name}]
  http:
  - retries: {retries}
    route: [{{destination: {{host: {name}}}}}]
"""
        for name in NAMES
    )


def tell_sidecars(mesh: MeshUnderTest, hops: Iterable[Hop]) -> None:
    """Tell each application where its sidecar is."""
    for hop in hops:
        hop.sidecar = mesh.pods[hop.name].pod_ip


def ask(
    mesh: MeshUnderTest, cases: Iterable[str], *, tries: int, concurrency: int, method: str = "GET"
) -> list[int]:
    """Let the client ask for each case, again while it fails and may; return the last statuses."""
    sidecar = mesh.pods["web"].pod_ip

    def one(case: str) -> int:
        status, left = 503, tries
        while status >= 500 and left:
            left -= 1
            body = b"order" if method == "POST" else b""
            status = call(sidecar, "hop-a", [("x-case", case), ("x-request-id", case)], method, body)
        return status

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, cases))
