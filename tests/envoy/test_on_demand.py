"""What leaves an intercepted application: clusters on demand, rules of Services, and nothing by the Host.

Each test sends traffic through real Envoys in network namespaces; nothing here reads a configuration to pass.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import netns
import pytest
import yaml
from rig import STRICT, App, grpc
from transparent import OUTSIDE, STRANGER, TransparentMesh

NEEDS = netns.NEEDS

BANNER = "5.7.0-mysql"

ABORT = {"fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}}

FIRST = ("get", "post", "stream", "h2")
"""Services that each are called once, and whose rule must hold for that first request."""


def ruled(name: str, address: str, rule: Mapping[str, object], app: str = "orders") -> str:
    """Return a Service of its own address before an application, and a VirtualService of one rule for it."""
    meta = {"name": name, "namespace": "shop"}
    port = {"name": "main", "port": 80, "targetPort": 8080, "appProtocol": "http"}
    spec = {"selector": {"app": app}, "clusterIP": address, "clusterIPs": [address], "ports": [port]}
    route = {"route": [{"destination": {"host": name}}], **rule}
    return yaml.safe_dump_all(
        [
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": meta,
                "spec": {"hosts": [name], "http": [route]},
            },
        ]
    )


def first(name: str) -> str:
    """Return the address of a Service that is called once."""
    return f"10.96.7.{FIRST.index(name) + 1}"


MANIFESTS = "\n---\n".join((STRICT, *(ruled(f"first-{name}", first(name), ABORT) for name in FIRST)))

CLIENT = App("client")
ORDERS = App("orders")
LINES = App("lines", serves="tcp", protocol="tcp", service_port=3306, port=3306, args=("--banner", BANNER))
LINES80 = App("lines80", serves="tcp", protocol="tcp", service_port=80, port=7000, args=("--banner", BANNER))
PLAIN = App("plain", labels=OUTSIDE)

FAMILIES = pytest.mark.parametrize("family", ["ip", "ip6"])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransparentMesh]:
    """A client, services of HTTP, gRPC and bytes, one of bytes on a port that is HTTP elsewhere, and one outside."""
    work: Path = tmp_path_factory.mktemp("outbound") / "mesh"
    apps = (CLIENT, ORDERS, grpc("stock"), LINES, LINES80, PLAIN)
    mesh = TransparentMesh(work, apps, MANIFESTS)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def vip(mesh: TransparentMesh, service: str, family: str) -> str:
    """Return a Service's address of a family."""
    return mesh.vip(service) if family == "ip" else mesh.vip6(service)


# --- Where a connection goes ----------------------------------------------------------------------


@FAMILIES
def test_service_is_called_by_its_address(mesh: TransparentMesh, family: str) -> None:
    """The first request to a Service's address is answered over mutual TLS, and so is the next."""
    replies = [mesh.ask("client", vip(mesh, "orders", family), 80, "http://orders/echo") for _ in range(3)]

    assert [(reply.status, reply.workload) for reply in replies] == [(200, "orders")] * 3
    assert mesh.stats("orders", r"listener\.inbound\.ssl\.handshake$")


@FAMILIES
def test_pod_is_called_by_its_own_address(mesh: TransparentMesh, family: str) -> None:
    """A STRICT Pod answers who dials it: the client speaks mutual TLS to it, and to it alone."""
    reply = mesh.ask("client", getattr(mesh.at("orders"), family), 8080, "http://whoever/echo")

    assert (reply.status, reply.workload) == (200, "orders")


def test_host_does_not_choose_the_service(mesh: TransparentMesh) -> None:
    """Whatever the Host says, and whatever header a client forges, the dialled address decides."""
    forged = {"x-proa-destination": f"o|{mesh.vip('plain')}:80"}
    reply = mesh.ask("client", mesh.vip("orders"), 80, "http://plain.shop.svc.cluster.local/echo", forged)

    assert (reply.status, reply.workload) == (200, "orders")
    assert "x-proa-destination" not in reply.json["headers"]


@FAMILIES
def test_service_outside_the_mesh_is_called_in_plaintext(mesh: TransparentMesh, family: str) -> None:
    """Endpoints without a sidecar are reached as they are."""
    reply = mesh.ask("client", vip(mesh, "plain", family), 80, "http://plain/echo")

    assert (reply.status, reply.workload) == (200, "plain")


def test_pod_outside_the_mesh_is_called_in_plaintext(mesh: TransparentMesh) -> None:
    """So is such a Pod by its own address."""
    reply = mesh.ask("client", mesh.at("plain").ip, 8080, "http://x/echo")

    assert (reply.status, reply.workload) == (200, "plain")


@FAMILIES
def test_server_may_speak_first(mesh: TransparentMesh, family: str) -> None:
    """A Service of bytes is reached at once, though its client says nothing."""
    with mesh.connect("client", vip(mesh, "lines", family), 3306) as raw:
        assert words(raw) == BANNER


def test_pod_of_bytes_is_called_by_its_own_address(mesh: TransparentMesh) -> None:
    """So is one of its Pods."""
    with mesh.connect("client", mesh.at("lines").ip, 3306) as raw:
        assert words(raw) == BANNER


def test_port_number_means_what_the_service_says(mesh: TransparentMesh) -> None:
    """Port 80 is HTTP for one Service and bytes for another, whose server speaks first."""
    with mesh.connect("client", mesh.vip("lines80"), 80) as raw:
        assert words(raw) == BANNER
    assert mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo").status == 200


def test_grpc_is_called_by_address(mesh: TransparentMesh) -> None:
    """Calls of gRPC through an HTTP port are counted one by one."""
    outcome = mesh.call_grpc("client", f"{mesh.vip('stock')}:9090", n=5)

    assert outcome["by_code"] == {"OK": 5}


def test_own_service_answers_its_own_pod(mesh: TransparentMesh) -> None:
    """A Pod that calls its own Service gets its own answer."""
    reply = mesh.ask("orders", mesh.vip("orders"), 80, "http://orders/echo")

    assert (reply.status, reply.workload) == (200, "orders")


def test_large_body_waits_for_its_cluster(mesh: TransparentMesh) -> None:
    """A first request with 2 MB of body arrives whole."""
    status, body = send(mesh, mesh.at("orders").ip6, 8080, body=b"x" * 2_000_000)

    assert status == 200
    assert b"2000000" in body


# --- What nobody has ------------------------------------------------------------------------------


def test_stranger_is_passed_through(mesh: TransparentMesh) -> None:
    """An address of the Pods' range that is no Pod's is reached as it is, whoever has it."""
    with bridge_server(mesh) as (address, port), mesh.connect("client", address, port) as raw:
        assert words(raw) == "hello"


def test_port_that_a_service_lacks_leads_nowhere(mesh: TransparentMesh) -> None:
    """A Service's address on another port is closed, for HTTP 503."""
    with mesh.connect("client", mesh.vip("orders"), 5555) as raw:
        assert words(raw) == ""
    assert mesh.ask("client", mesh.vip("lines"), 80, "http://lines/").status == 503


@pytest.mark.parametrize("port", [15001, 15006])
def test_own_listeners_are_no_destination(mesh: TransparentMesh, port: int) -> None:
    """Who dials the sidecar's own ports, here or elsewhere, is closed and not sent in a circle."""
    for address in ("127.0.0.1", mesh.vip("orders"), mesh.at("orders").ip):
        with contextlib.suppress(ConnectionError), mesh.connect("client", address, port) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert words(raw) == ""


# --- The first request ----------------------------------------------------------------------------


def test_rule_holds_for_the_first_get(mesh: TransparentMesh) -> None:
    """The very first request to a service with a 100 % abort is aborted."""
    assert mesh.ask("client", first("get"), 80, "http://first-get/echo").status == 418


def test_rule_holds_for_the_first_post(mesh: TransparentMesh) -> None:
    """So is the first that has a body, complete before anything is known."""
    assert send(mesh, first("post"), 80, body=b"x" * 100_000)[0] == 418


def test_rule_holds_for_the_first_stream(mesh: TransparentMesh) -> None:
    """So is the first whose body is not complete yet."""
    with mesh.connect("client", first("stream"), 80) as raw:
        raw.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
        assert words(raw).startswith("HTTP/1.1 418")


def test_rule_holds_for_the_first_grpc_call(mesh: TransparentMesh) -> None:
    """So is the first over HTTP/2."""
    outcome = mesh.call_grpc("client", f"{first('h2')}:80")

    assert "OK" not in outcome["by_code"]


# --- Pieces ---------------------------------------------------------------------------------------


def words(raw: socket.socket) -> str:
    """Return what comes first over a connection, "" if it is closed."""
    raw.settimeout(10)
    try:
        return raw.recv(4096).decode().strip()
    except ConnectionError:
        return ""


def send(mesh: TransparentMesh, address: str, port: int, *, body: bytes) -> tuple[int, bytes]:
    """Send a POST with a body from the client; return status and body of the answer."""
    with mesh.inside("client"):
        connection = http.client.HTTPConnection(address, port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/echo", body)
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextlib.contextmanager
def bridge_server(mesh: TransparentMesh) -> Generator[tuple[str, int]]:
    """Serve "hello" on the bridge, which is no Pod."""
    with mesh.inside(STRANGER), socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104
        address = mesh.mesh.xds_host

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"hello")

        threading.Thread(target=serve, name="bridge-server", daemon=True).start()
        yield address, server.getsockname()[1]
