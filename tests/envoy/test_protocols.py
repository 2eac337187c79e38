"""Every protocol and every form of a name, through two real Envoys with mutual TLS STRICT between them."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest
from rig import STRICT, App, Container, MeshUnderTest, address, at_once

from tests.fakes import websocket
from xds.demo.manifests import OUTBOUND_PORT

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
MYSQL, MULTI_TCP = address(), address()

SERVICES = """
---
apiVersion: v1
kind: Service
metadata: {name: multi, namespace: shop}
spec:
  selector: {app: backend}
  ports:
    - {name: http-web, port: 8081, targetPort: main}
    - {name: grpc-stock, port: 9090, targetPort: stock}
    - {name: tcp-lines, port: 7000, targetPort: lines}
---
apiVersion: v1
kind: Service
metadata: {name: solo, namespace: shop}
spec:
  selector: {app: backend}
  ports: [{name: http, port: 8088, targetPort: main}]
---
apiVersion: v1
kind: Service
metadata: {name: mysql, namespace: shop}
spec:
  selector: {app: backend}
  ports: [{name: mysql, port: 3306, targetPort: lines}]
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: shop}
spec:
  selector: {app: backend}
  ports: [{name: http, port: 80, targetPort: chat}]
"""

BACKEND = App(
    "backend",
    app="backend",
    probes={"readinessProbe": {"httpGet": {"path": "/healthz", "port": "main"}}},
    more=(
        Container("stock", 9090, "stock", probes={"readinessProbe": {"grpc": {"port": 9090}}}),
        Container("lines", 7000, "tcp", ("--banner", "5.7.0-mysql")),
        Container("chat", 8090, listen=websocket.listen),
    ),
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """One client, and one pod that serves HTTP, gRPC, TCP and WebSockets on four ports."""
    work: Path = tmp_path_factory.mktemp("protocols") / "mesh"
    upstreams = f"{MYSQL}:3306=mysql:3306,{MULTI_TCP}:7000=multi.shop:7000"
    client = App("client", annotations={"proa.dev/upstreams": upstreams})
    mesh = MeshUnderTest(work, (client, BACKEND), STRICT + SERVICES, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


# --- HTTP ---------------------------------------------------------------------------------------


def test_http1(mesh: MeshUnderTest) -> None:
    """HTTP/1.1 in, and the application sees the method, path, query and Host that the client wrote."""
    seen = mesh.get("client", "http://backend/echo/a?b=c", {"x-one": "1"}, "PUT").json

    assert (seen["method"], seen["path"], seen["query"]) == ("PUT", "/echo/a", "b=c")
    assert seen["host"] == "backend"
    assert seen["headers"]["x-one"] in ("1", ["1"])


def test_http2_with_prior_knowledge(mesh: MeshUnderTest) -> None:
    """An application that speaks HTTP/2 without TLS gets HTTP/2 back."""
    found = mesh.call("client", "http://backend/echo", n=20, query="proto=h2")

    assert found["by_status"] == {"200": 20}
    assert found["by_workload"] == {"backend": 20}
    assert found["proto"] == "HTTP/2.0"


def test_absolute_form_of_a_forward_proxy(mesh: MeshUnderTest) -> None:
    """HTTP_PROXY=http://podIP:15001 works: the request line holds the whole URL."""
    proxies = urllib.request.ProxyHandler({"http": f"http://{mesh.pods['client'].outbound}"})
    with urllib.request.build_opener(proxies).open("http://backend.shop/echo/x", timeout=10) as answer:
        workload, status = answer.headers["x-shop-workload"], answer.status

    assert (status, workload) == (200, "backend")


@pytest.mark.parametrize("port", ["", ":80"])
@pytest.mark.parametrize(
    "name", ["backend", "backend.shop", "backend.shop.svc", "backend.shop.svc.cluster.local"]
)
def test_forms_of_a_host(mesh: MeshUnderTest, name: str, port: str) -> None:
    """Every qualification of a name, with its port and without it, is the same service."""
    assert mesh.get("client", f"http://{name}{port}/echo").workload == "backend"


@pytest.mark.parametrize("port", ["", ":80"])
def test_a_host_written_out_with_its_last_dot(mesh: MeshUnderTest, port: str) -> None:
    """It is the same service and port, and the application is told the name without the dot."""
    found = mesh.get("client", f"http://backend.shop.svc.cluster.local.{port}/echo")

    assert found.workload == "backend"
    assert found.json["host"] == f"backend.shop.svc.cluster.local{port}"


@pytest.mark.parametrize(
    "host",
    ["nobody", "backend.elsewhere", "backend:81", "backend.example.com", "backend.shop.s", "backend.shop.."],
)
def test_unknown_host_is_404(mesh: MeshUnderTest, host: str) -> None:
    """A Host that names no port of no service is answered 404, by the sidecar."""
    found = mesh.get("client", f"http://{host}/echo")

    assert (found.status, found.workload) == (404, "")


def test_only_port_needs_no_number(mesh: MeshUnderTest) -> None:
    """A service whose only port is not 80 is reached without it, and with it."""
    assert mesh.get("client", "http://solo/echo").workload == "backend"
    assert mesh.get("client", "http://solo:8088/echo").workload == "backend"


def test_one_port_of_several_needs_its_number(mesh: MeshUnderTest) -> None:
    """With several ports and none of them 80, a Host without a number says too little."""
    assert mesh.get("client", "http://multi/echo").status == 404
    assert mesh.get("client", "http://multi:8081/echo").workload == "backend"


def test_large_body_arrives_whole(mesh: MeshUnderTest) -> None:
    """A POST of 2 MB reaches the application to the last byte."""
    size = 2_000_000
    found = mesh.call("client", "http://backend/echo", query=f"method=POST&body_bytes={size}")

    assert found["status"] == 200
    assert found["body"]["body_bytes"] == size


def test_websocket_passes(mesh: MeshUnderTest) -> None:
    """The upgrade is passed on, and frames flow both ways."""
    pod = mesh.pods["client"]
    with contextlib.closing(websocket.Client(pod.pod_ip, OUTBOUND_PORT, "chat")) as chat:
        answers = [chat.ask(text) for text in (b"one", b"two")]
        status, is_accepted = chat.status, chat.is_accepted

    assert (status, is_accepted) == (101, True)
    assert answers == [b"one", b"two"]


# --- gRPC ---------------------------------------------------------------------------------------


def test_grpc_unary_and_stream(mesh: MeshUnderTest) -> None:
    """Unary calls and a server's stream arrive with their status."""
    unary = mesh.call_grpc("client", "multi:9090", n=10)
    stream = mesh.call_grpc("client", "multi.shop:9090", query="watch=5")

    assert (unary["by_code"], unary["by_workload"]) == ({"OK": 10}, {"backend": 10})
    assert (stream["by_code"], stream["messages"]) == ({"OK": 1}, 5)


def test_grpc_status_arrives(mesh: MeshUnderTest) -> None:
    """A code that the server chose is the code that the client sees."""
    found = mesh.call_grpc("client", "multi:9090", query="h=x-shop-grpc-code:FAILED_PRECONDITION")

    assert found["by_code"] in ({"FailedPrecondition": 1}, {"FAILED_PRECONDITION": 1})


def test_grpc_deadline(mesh: MeshUnderTest) -> None:
    """A call ends at its own deadline, whatever the server does.

    The sidecar counts the same deadline (grpc-timeout); when it is the first to notice, it answers Unavailable.
    """
    began = time.monotonic()
    found = mesh.call_grpc("client", "multi:9090", query="timeout=300ms&h=x-shop-delay:40s")
    took_s = time.monotonic() - began

    assert found["by_code"] in ({"DeadlineExceeded": 1}, {"Unavailable": 1})
    assert 0.25 <= took_s < 20  # half of what the server takes


# --- TCP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [(MYSQL, 3306), (MULTI_TCP, 7000)])
def test_server_that_speaks_first(mesh: MeshUnderTest, local: tuple[str, int]) -> None:
    """Through mutual TLS the banner is there within a second, and lines flow both ways."""
    before = mesh.stats("backend", r"^listener\.inbound.7000\.ssl\.handshake$")

    def greeted() -> bytes:
        with socket.create_connection(local, timeout=10) as connection, connection.makefile("rb") as lines:
            return lines.readline()

    banner = at_once(greeted)
    with socket.create_connection(local, timeout=10) as connection, connection.makefile("rwb") as lines:
        lines.readline()
        lines.write(b"still there\n")
        lines.flush()
        answer = lines.readline()
    after = mesh.stats("backend", r"^listener\.inbound.7000\.ssl\.handshake$")

    assert (banner, answer) == (b"5.7.0-mysql\n", b"echo still there\n")
    assert sum(after.values()) > sum(before.values())


# --- Probes under STRICT --------------------------------------------------------------------------


def test_http_probe_passes_in_plaintext_on_its_path_alone(mesh: MeshUnderTest) -> None:
    """The kubelet has no certificate: the declared path answers it, every other one is 403."""
    pod = mesh.pods["backend"]

    def status(path: str, method: str = "GET") -> int:
        return mesh.request(pod.pod_ip, 8080, f"http://backend{path}", None, method).status

    assert status("/healthz") == 200
    found = [
        status(path) for path in ("/echo", "/", "/healthz/x", "/healthz/../echo", "/HEALTHZ", "//healthz")
    ]
    assert set(found) <= {403, 400}
    assert status("/healthz", "POST") == 403


def test_grpc_probe_passes_in_plaintext_on_its_method_alone(mesh: MeshUnderTest) -> None:
    """The health service answers without a certificate, the business does not."""
    with grpc.insecure_channel(f"{mesh.pods['backend'].pod_ip}:9090") as channel:
        call = cast("Callable[[str], Callable[..., bytes]]", channel.unary_unary)  # pyright: ignore[reportUnknownMemberType]
        health = call(HEALTH_CHECK)(b"", timeout=10)
        with pytest.raises(grpc.RpcError) as refused:
            call("/shop.v1.Echo/Echo")(b"", timeout=10)

    assert health == SERVING
    assert cast("grpc.Call", refused.value).code() is grpc.StatusCode.PERMISSION_DENIED


def test_port_without_a_probe_is_closed_to_plaintext(mesh: MeshUnderTest) -> None:
    """A port that declares none answers nothing at all without a certificate."""
    pod = mesh.pods["backend"]
    with socket.create_connection((pod.pod_ip, 7000), timeout=10) as connection:
        connection.sendall(b"hello\n")
        try:
            said = connection.recv(100)
        except ConnectionResetError:
            said = b""

    assert said == b""
