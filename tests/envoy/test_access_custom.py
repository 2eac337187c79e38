"""Somebody else decides: CUSTOM policies, asked over HTTP and gRPC, in front of real sidecars."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from rig import STRICT, App, MeshUnderTest, address

LINES: Final = (address(), 7000)
OK, DENIED = b"\x0a\x00", b"\x0a\x02\x08\x07"
"""CheckResponse{status{}} and CheckResponse{status{code: PERMISSION_DENIED}}."""


class Judges:
    """Two authorization services: requests with `x-letter: please`, and connections while `opens`, may pass."""

    def __init__(self) -> None:
        self.http, self.grpc = (address(), 8000), (address(), 9000)
        self.opens = True
        self.asked: list[str] = []
        judges = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                judges.asked.append(self.path)
                may = self.headers.get("x-letter") == "please" and "x-secret" not in self.headers
                self.send_response(200 if may else 403)
                self.send_header("x-judge", "seen")
                self.send_header("x-more", self.headers.get("x-added", "nothing"))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
                del format, args

        self._http = http.server.ThreadingHTTPServer(self.http, Handler)
        threading.Thread(target=self._http.serve_forever, name="judge", daemon=True).start()
        self._grpc: Any = None

    def start(self) -> None:
        """Start the one that speaks gRPC, after whatever else is started: its library does not outlive a fork."""
        library: Any = grpc  # its stubs leave the types of a request and its answer open
        self._grpc = library.server(futures.ThreadPoolExecutor(2))
        check = library.unary_unary_rpc_method_handler(self._check)
        service = "envoy.service.auth.v3.Authorization"
        self._grpc.add_generic_rpc_handlers(
            (library.method_handlers_generic_handler(service, {"Check": check}),)
        )
        self._grpc.add_insecure_port(f"{self.grpc[0]}:{self.grpc[1]}")
        self._grpc.start()

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        del context
        self.asked.append("grpc")
        return (
            OK
            if (self.opens and b"please" in request) or (self.opens and b"x-letter" not in request)
            else DENIED
        )

    def close(self) -> None:
        """End them."""
        self._http.shutdown()
        self._http.server_close()
        if self._grpc:
            self._grpc.stop(None)


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    """Both services, outside the mesh."""
    found = Judges()
    yield found
    found.close()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, judges: Judges) -> Iterator[MeshUnderTest]:
    """A client, the orders, and a service of bytes, with providers for both judges."""
    work: Path = tmp_path_factory.mktemp("custom") / "mesh"
    client = App("web", annotations={"proa.dev/upstreams": f"{LINES[0]}:{LINES[1]}=lines:7000"})
    lines = App("lines", serves="tcp", protocol="tcp", service_port=7000, port=7000)
    mesh = MeshUnderTest(work, (client, App("orders"), lines), base(judges), is_insecure=False)
    try:
        mesh.start()
        judges.start()
        yield mesh
    finally:
        mesh.stop()


def base(judges: Judges) -> str:
    """Mesh settings with the providers, and the entries that say where they are."""
    return f"""{STRICT}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: proa, namespace: proa-system}}
data:
  mesh: |
    extensionProviders:
    - name: letters
      envoyExtAuthzHttp:
        service: http.judge.example.com
        port: 8000
        timeout: 2s
        pathPrefix: /judge
        includeRequestHeadersInCheck: [x-letter]
        includeAdditionalHeadersInCheck: {{x-added: by-us}}
        headersToUpstreamOnAllow: [x-judge]
        headersToDownstreamOnDeny: [x-more]
    - name: calls
      envoyExtAuthzGrpc: {{service: grpc.judge.example.com, port: 9000, timeout: 2s}}
    - name: away
      envoyExtAuthzHttp: {{service: nowhere.example.com, port: 8000, timeout: 1s, statusOnError: "503"}}
    - name: away-but-open
      envoyExtAuthzHttp: {{service: nowhere.example.com, port: 8000, timeout: 1s, failOpen: true}}
---
{entry("http", judges.http, "HTTP")}
---
{entry("grpc", judges.grpc, "GRPC")}
"""


def entry(name: str, at: tuple[str, int], protocol: str) -> str:
    """A ServiceEntry of one judge."""
    return f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}-judge, namespace: shop}}
spec:
  hosts: [{name}.judge.example.com]
  resolution: STATIC
  ports: [{{number: {at[1]}, name: {name}, protocol: {protocol}}}]
  endpoints: [{{address: {at[0]}}}]
"""


def custom(provider: str, rule: str = "{}", app: str = "orders") -> str:
    """A CUSTOM policy."""
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {provider}, namespace: shop}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, selector: {{matchLabels: {{app: {app}}}}}, rules: [{rule}]}}
"""


@pytest.fixture
def put(mesh: MeshUnderTest, judges: Judges) -> Callable[..., None]:
    """Put policies in force and wait until every proxy has them."""
    return lambda *policies: mesh.edit("manifests.yaml", base(judges) + "".join(policies))


PLEASE: Final = {"x-letter": "please"}


def test_only_matching_requests_are_asked_about(
    mesh: MeshUnderTest, judges: Judges, put: Callable[..., None]
) -> None:
    """What the provider is told, what it answers, and that nobody else is asked about."""
    put(custom("letters", "{to: [{operation: {paths: [/echo]}}]}"))
    judges.asked.clear()
    allowed = mesh.get("web", "http://orders/echo", PLEASE | {"x-secret": "1"})
    denied = mesh.get("web", "http://orders/echo")
    other = mesh.get("web", "http://orders/call?url=x&n=0")

    assert (allowed.status, denied.status) == (200, 403)
    assert allowed.json["headers"]["x-judge"] == ["seen"]
    assert denied.headers["x-more"] == "by-us"
    assert other.status != 403
    assert judges.asked == ["/judge/echo", "/judge/echo"]


def test_custom_goes_before_deny_and_allow(mesh: MeshUnderTest, put: Callable[..., None]) -> None:
    """What the provider lets through is still denied by a rule that denies."""
    deny = custom("letters").replace("CUSTOM, provider: {name: letters}", "DENY").replace("letters", "deny")
    put(custom("letters"), deny)

    assert mesh.get("web", "http://orders/echo", PLEASE).status == 403


def test_two_providers_are_both_asked(mesh: MeshUnderTest, judges: Judges, put: Callable[..., None]) -> None:
    """Each about what its own policies match."""
    put(custom("letters", "{to: [{operation: {paths: [/echo]}}]}"), custom("calls"))
    judges.asked.clear()
    both = mesh.get("web", "http://orders/echo", PLEASE).status
    asked = sorted(judges.asked)
    judges.opens = False
    try:
        one = mesh.get("web", "http://orders/echo", PLEASE).status
    finally:
        judges.opens = True

    assert (both, asked, one) == (200, ["/judge/echo", "grpc"], 403)


@pytest.mark.parametrize(("provider", "status"), [("away", 503), ("away-but-open", 200), ("unknown", 403)])
def test_nobody_to_ask(mesh: MeshUnderTest, put: Callable[..., None], provider: str, status: int) -> None:
    """One that is away denies, unless its own word is failOpen; one that nobody knows denies what matches."""
    put(custom(provider))

    assert mesh.get("web", "http://orders/echo", PLEASE).status == status


def said() -> bytes:
    """What comes back of a line sent to the service of bytes."""
    with contextlib.closing(socket.create_connection(LINES, 10)) as raw:
        raw.settimeout(10)
        raw.sendall(b"knock\n")
        got = b""
        with contextlib.suppress(OSError):
            while b"knock" not in got and (chunk := raw.recv(4096)):
                got += chunk
    return b"knock" if b"knock" in got else b""


def test_bytes_are_asked_about_over_grpc_only(judges: Judges, put: Callable[..., None]) -> None:
    """GRPC decides about connections; a provider that only knows requests denies them."""
    put(custom("calls", app="lines"))
    allowed = said()
    judges.opens = False
    try:
        denied = said()
    finally:
        judges.opens = True
    put(custom("letters", app="lines"))

    assert (allowed, denied, said()) == (b"knock", b"", b"")
