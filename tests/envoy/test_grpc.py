"""gRPC to the last trailer, and gRPC-Web as it came: through two real Envoys, into their logs and counters."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Final, cast

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import STRICT, App, Container, MeshUnderTest

from xds.demo.manifests import OUTBOUND_PORT

MANIFESTS: Final = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data: {mesh: "accessLogFile: /dev/stdout"}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec:
  selector: {app: backend}
  ports:
  - {name: grpc, port: 9090, targetPort: ledger}
  - {name: grpc-web, port: 8091, targetPort: web}
"""
TRAILERS: Final = (("x-cost", "7"), ("x-cost", "8"), ("x-trace-bin", b"\x00\xff"))
REQUEST: Final = b"\x00\x00\x00\x00\x05hello"
ANSWER: Final = b"\x00\x00\x00\x00\x02ok\x80\x00\x00\x00\x0fgrpc-status:0\r\n"
"""A message, and the trailers in the body, as gRPC-Web has them."""


_grpc: Final = cast("Any", grpc)
"""The stubs leave the types of requests and answers open."""


class _Ledger(_grpc.GenericRpcHandler):
    """Every method answers what it was sent, with trailers, and with the code that is its name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the behaviour of one call."""
        name = handler_call_details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.set_trailing_metadata(TRAILERS)
            if name != "OK":
                context.abort(grpc.StatusCode[name], "as asked")
            return request

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from (request, request)
            yield answer(request, context)

        is_stream = "/Stream" in handler_call_details.method
        if is_stream:
            return _grpc.unary_stream_rpc_method_handler(stream)
        return _grpc.unary_unary_rpc_method_handler(answer)


class _Web(http.server.BaseHTTPRequestHandler):
    """A server that speaks gRPC-Web itself: one message, whatever it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer with the type that came, and tell the body that came in a header."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        for name, value in (
            ("content-type", self.headers["content-type"]),
            ("x-body", body.hex()),
            ("content-length", str(len(ANSWER))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the base class
        """Say nothing."""


def _ledger(address: str, port: int) -> grpc.Server:
    server = _grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_Ledger(),))
    server.add_insecure_port(f"{address}:{port}")
    server.start()
    return server


def _web(address: str, port: int) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer((address, port), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """One client, and one Pod that serves gRPC on one port and gRPC-Web on another."""
    work: Path = tmp_path_factory.mktemp("grpc") / "mesh"
    kept: list[object] = []
    ledger = Container("ledger", 9090, listen=lambda address, port: kept.append(_ledger(address, port)))
    web = Container("web", 8091, listen=lambda address, port: kept.append(_web(address, port)))
    backend = App("backend", more=(ledger, web))
    mesh = MeshUnderTest(work, (App("client"), backend), STRICT + MANIFESTS, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def _channel(mesh: MeshUnderTest) -> grpc.Channel:
    target = f"{mesh.pods['client'].pod_ip}:{OUTBOUND_PORT}"
    return grpc.insecure_channel(target, options=[("grpc.default_authority", "ledger:9090")])


def _call(channel: grpc.Channel, method: str) -> tuple[bytes, grpc.Call]:
    """Make a call; return its answer, empty where it failed, and what came with it."""
    unary = cast("Any", channel).unary_unary(method)
    try:
        answer, call = unary.with_call(b"hello", timeout=20)
    except grpc.RpcError as error:
        return b"", cast("grpc.Call", error)
    return answer, call


def _trailers(call: grpc.Call) -> list[tuple[str, str | bytes]]:
    found = cast("Any", call.trailing_metadata())
    return [(key, value) for key, value in found if key in {"x-cost", "x-trace-bin"}]


def _lines(mesh: MeshUnderTest, pod: str, path: str) -> list[dict[str, Any]]:
    text = mesh.sidecars[pod].log.read_text("utf-8", errors="replace")
    lines = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("path") == path]


def _counted(mesh: MeshUnderTest, pod: str) -> set[str]:
    """Return the gRPC statuses that a sidecar has counted requests under."""
    text = mesh.admin(pod, "/stats/prometheus?filter=^istio.requests")
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {one.labels.get("grpc_response_status", "") for one in samples if one.value}


@pytest.mark.parametrize(("code", "said"), [("OK", "OK"), ("NOT_FOUND", "NotFound")])
def test_trailers_of_a_call_pass_both_sidecars(mesh: MeshUnderTest, code: str, said: str) -> None:
    """The status, its words, repeated and binary trailers; both logs and both counters have the status."""
    path = f"/shop.Ledger/{code}"
    with _channel(mesh) as channel:
        answer, call = _call(channel, path)

    assert (answer, call.code()) == (b"hello" if code == "OK" else b"", grpc.StatusCode[code])
    assert call.details() == ("" if code == "OK" else "as asked")
    assert _trailers(call) == list(TRAILERS)
    number = str(grpc.StatusCode[code].value[0])
    for pod in ("client", "backend"):
        mesh.wait("the line is written", lambda pod=pod: bool(_lines(mesh, pod, path)))
        (line,) = _lines(mesh, pod, path)
        assert (line["response_code"], line["grpc_status"]) == (200, said)
        mesh.wait("it is counted", lambda pod=pod: number in _counted(mesh, pod))


def test_trailers_follow_the_messages_of_a_stream(mesh: MeshUnderTest) -> None:
    """They come behind the last message."""
    with _channel(mesh) as channel:
        call = cast("Any", channel).unary_stream("/shop.Streams/Stream/OK")(b"hello", timeout=20)
        messages = list(call)

    assert messages == [b"hello"] * 3
    assert _trailers(call) == list(TRAILERS)


def _post(
    mesh: MeshUnderTest, authority: str, path: str, kind: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request of gRPC-Web from the client; return the answer and its body."""
    connection = http.client.HTTPConnection(mesh.pods["client"].pod_ip, OUTBOUND_PORT, timeout=20)
    with contextlib.closing(connection):
        connection.request(
            "POST", path, REQUEST, {"Host": authority, "content-type": kind, "x-grpc-web": "1"}
        )
        answer = connection.getresponse()
        return answer, answer.read()


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text"])
def test_grpc_web_is_left_as_it_came(mesh: MeshUnderTest, kind: str) -> None:
    """A service that speaks it gets its frames, and the client the answer's, trailers in the body and all."""
    path = f"/shop.Ledger/{kind.rpartition('/')[2]}"
    answer, body = _post(mesh, "ledger:8091", path, kind)

    assert (answer.status, answer.headers["content-type"], body) == (200, kind, ANSWER)
    assert bytes.fromhex(answer.headers["x-body"]) == REQUEST
    mesh.wait("the line is written", lambda: bool(_lines(mesh, "backend", path)))
    assert "grpc_status" not in _lines(mesh, "backend", path)[0]


def test_a_service_of_grpc_alone_refuses_grpc_web_itself(mesh: MeshUnderTest) -> None:
    """No sidecar translates: the request reaches the service as it came, and its answer is the service's own."""
    path = "/shop.Ledger/Web"
    answer, _ = _post(mesh, "ledger:9090", path, "application/grpc-web+proto")

    mesh.wait("the line is written", lambda: bool(_lines(mesh, "backend", path)))
    (line, *_) = _lines(mesh, "backend", path)
    assert line["upstream_host"].endswith(":9090")
    assert answer.status == line["response_code"] != 200
