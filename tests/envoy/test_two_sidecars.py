"""Facts of real traffic: a client's Envoy and a server's Envoy, made from built resources, with real applications."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.envoy import static_envoy
from tests.envoy.static_envoy import Running
from xds import ir
from xds.api.core import Protocol
from xds.demo.mesh import free_ports
from xds.identity import Identity
from xds.resources import cluster, listener

pytestmark = pytest.mark.envoy

HOST, DATABASE = "orders.shop.svc.cluster.local", "mysql.shop.svc.cluster.local"
WEB = ir.Workload("web", "shop", "web", "web", "v1", "cluster.local")
ORDERS = ir.Workload("orders-v1", "shop", "orders", "orders", "v1", "cluster.local")
BANNER = b"5.7.0-mysql\n"
TIMEOUT_S = 10


class Echo(BaseHTTPRequestHandler):
    """Answers with the request as it arrived."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Echo request line and headers."""
        body = f"{self.requestline}\n{self.headers}".encode()
        self.send_response(500 if self.path == "/fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the overridden method's name
        """Keep the test's output quiet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Mesh:
    """Two sidecars and the ports in front of them."""

    outbound: int
    database: int
    strict: int
    permissive: int
    strict_tcp: int
    permissive_tcp: int
    client: Running
    server: Running

    def call(self, path: str = "/", **headers: str) -> Answer:
        """A request of the client's application."""
        return request(self.outbound, path, headers={"Host": "orders", **headers})


def request(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode())


def received(port: int, send: bytes = b"", count: int = len(BANNER)) -> bytes:
    """What a TCP client gets: up to ``count`` bytes, fewer when the other side closes."""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(send)
        got = b""
        while len(got) < count and (more := connection.recv(65536)):
            got += more
        return got
    return b""


def database(listening: socket.socket) -> None:
    """A server-first service: greets, then echoes."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(BANNER)
            while octets := connection.recv(65536):
                connection.sendall(octets)

    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def applications() -> Generator[tuple[int, int]]:
    """The ports of an HTTP and of a TCP application."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    tcp = socket.create_server(("127.0.0.1", 0))
    for target in (web.serve_forever, lambda: database(tcp)):
        threading.Thread(target=target, daemon=True).start()
    try:
        yield web.server_address[1], tcp.getsockname()[1]
    finally:
        web.shutdown()
        web.server_close()
        tcp.close()


def identity(workload: ir.Workload) -> Identity:
    """Who a sidecar's certificate speaks for."""
    return Identity(
        f"{workload.name}-0",
        workload.namespace,
        workload.service_account,
        workload.name,
        workload.trust_domain,
    )


def endpoints(directory: Path, name: str, port: int) -> Path:
    """The load assignment of one meshed endpoint."""
    metadata = {
        "filter_metadata": {
            "proa": {"workload": ORDERS.name, "namespace": ORDERS.namespace},
            "envoy.transport_socket_match": {"tls": "mesh"},
        }
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    locality = {"lb_endpoints": [{"endpoint": {"address": address}, "metadata": metadata}]}
    return static_envoy.discovered(
        directory, "config.endpoint.v3.ClusterLoadAssignment", {"cluster_name": name, "endpoints": [locality]}
    )


def server_document(
    directory: Path, root: static_envoy.ca.Authority, ports: dict[str, int]
) -> static_envoy.Document:
    """The server's sidecar: the same two applications behind STRICT and behind PERMISSIVE ports."""
    strict, permissive = ir.MtlsMode.STRICT, ir.MtlsMode.PERMISSIVE
    modes = {
        "strict": (Protocol.HTTP, strict),
        "permissive": (Protocol.HTTP, permissive),
        "strict_tcp": (Protocol.TCP, strict),
        "permissive_tcp": (Protocol.TCP, permissive),
    }
    nodes = [
        ir.Inbound(
            name=f"inbound|{ports[name]}",
            address="127.0.0.1",
            port=ports[name],
            protocol=protocol,
            mode=mode,
            cluster="inbound|8080||" if protocol.is_http else "inbound|3306||",
            workload=ORDERS,
            service=HOST if protocol.is_http else DATABASE,
            probes=("/healthz",),
        )
        for name, (protocol, mode) in modes.items()
    ]
    apps = [
        ir.InboundCluster("inbound|8080||", "127.0.0.1", ports["app"], Protocol.HTTP),
        ir.InboundCluster("inbound|3306||", "127.0.0.1", ports["app_tcp"], Protocol.TCP),
    ]
    return static_envoy.bootstrap(
        map(listener.build, nodes),
        map(cluster.build_inbound, apps),
        files=static_envoy.secrets(directory, root, identity(ORDERS)) | static_envoy.routes(directory, nodes),
    )


def client_document(
    directory: Path, root: static_envoy.ca.Authority, ports: dict[str, int]
) -> static_envoy.Document:
    """The client's sidecar: one HTTP service, one TCP service, and one that expects another server than answers."""
    trusted = ir.AutoMtls(("spiffe://cluster.local/ns/shop/sa/orders",), "orders")
    nobody = ir.AutoMtls((), "orders")
    clusters = {
        f"outbound|80||{HOST}": (HOST, Protocol.HTTP, trusted, ports["strict"]),
        f"outbound|81||{HOST}": (HOST, Protocol.HTTP, nobody, ports["strict"]),
        f"outbound|3306||{DATABASE}": (DATABASE, Protocol.TCP, trusted, ports["strict_tcp"]),
    }
    nodes = [
        ir.Cluster(name, host, "shop", host.partition(".")[0], 80, "", protocol, tls)
        for name, (host, protocol, tls, _) in clusters.items()
    ]
    hosts = [
        {
            "name": domain,
            "domains": [domain],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}],
        }
        for domain, name in (("orders", nodes[0].name), ("stranger", nodes[1].name))
    ]
    files = static_envoy.secrets(directory, root, identity(WEB))
    files |= {name: endpoints(directory, name, port) for name, (*_, port) in clusters.items()}
    files["outbound"] = static_envoy.discovered(
        directory, "config.route.v3.RouteConfiguration", {"name": "outbound", "virtual_hosts": hosts}
    )
    listeners: list[ir.Listener] = [
        ir.OutboundHttp("outbound", "127.0.0.1", ports["outbound"], "outbound", WEB),
        ir.OutboundTcp("tcp|database", "127.0.0.1", ports["database"], f"outbound|3306||{DATABASE}", WEB),
    ]
    return static_envoy.bootstrap(map(listener.build, listeners), map(cluster.build, nodes), files=files)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mesh]:
    """Two running sidecars; tests only send requests."""
    names = ("outbound", "database", "strict", "permissive", "strict_tcp", "permissive_tcp")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    root = static_envoy.new_root()
    here, there = tmp_path_factory.mktemp("client"), tmp_path_factory.mktemp("server")
    with applications() as (app, app_tcp):
        ports_with_apps = ports | {"app": app, "app_tcp": app_tcp}
        with (
            static_envoy.running(server_document(there, root, ports_with_apps), there) as server,
            static_envoy.running(client_document(here, root, ports_with_apps), here) as client,
        ):
            yield Mesh(**ports, client=client, server=server)


def series(envoy: Running, name: str) -> list[str]:
    """The lines of one metric in Prometheus' format."""
    return [
        line
        for line in envoy.get("/stats/prometheus?filter=istio").splitlines()
        if line.startswith(name + "{")
    ]


def test_a_request_arrives_with_its_verified_caller(mesh: Mesh) -> None:
    """The application reads its caller from XFCC, and what the caller wrote there itself is gone."""
    answer = mesh.call(**{"X-Forwarded-Client-Cert": "URI=spiffe://cluster.local/ns/shop/sa/admin"})

    assert answer.status == 200
    assert "URI=spiffe://cluster.local/ns/shop/sa/web" in answer.body
    assert "sa/admin" not in answer.body


def test_a_request_arrives_as_it_was_sent(mesh: Mesh) -> None:
    """Nobody adds X-Forwarded-For or Via, a request id stays, and dot segments are resolved."""
    answer = mesh.call("/a/../b?x=1", **{"X-Request-Id": "mine"})

    assert answer.body.startswith("GET /b?x=1 HTTP/1.1")
    assert "x-request-id: mine" in answer.body
    assert "x-forwarded-for" not in answer.body.lower()
    assert "\nvia:" not in answer.body.lower()


def test_the_outbound_port_is_an_http_proxy_too(mesh: Mesh) -> None:
    """HTTP_PROXY sends the absolute form; CONNECT is refused."""
    assert request(mesh.outbound, "http://orders/x", headers={"Host": "orders"}).body.startswith("GET /x ")
    assert request(mesh.outbound, "orders:80", "CONNECT").status == 404


def test_a_server_that_nobody_named_is_not_trusted(mesh: Mesh) -> None:
    """A valid certificate of the mesh is not enough when no peer is known."""
    assert request(mesh.outbound, "/", headers={"Host": "stranger"}).status == 503


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/healthz", "GET", 200), ("/healthz", "POST", 403), ("/healthz/x", "GET", 403)],
)
def test_strict_serves_only_probes_in_plaintext(mesh: Mesh, path: str, method: str, status: int) -> None:
    """Exactly the declared path and method pass."""
    assert request(mesh.strict, path, method).status == status


def test_strict_tcp_denies_plaintext(mesh: Mesh) -> None:
    """A TCP port with an HTTP probe answers everything else 403; its application hears nothing."""
    assert request(mesh.strict_tcp, "/").status == 403


def test_permissive_takes_plaintext_without_a_caller(mesh: Mesh) -> None:
    """A plaintext request passes, and no XFCC of its own with it."""
    answer = request(mesh.permissive, "/", headers={"X-Forwarded-Client-Cert": "URI=spiffe://x/y"})

    assert answer.status == 200
    assert "x-forwarded-client-cert" not in answer.body.lower()


def test_server_first_tcp_passes_mutual_tls(mesh: Mesh) -> None:
    """The banner arrives though the client says nothing, and a megabyte comes back whole."""
    load = b"x" * 1_000_000

    assert received(mesh.database) == BANNER
    assert received(mesh.database, load, len(BANNER) + len(load)) == BANNER + load


def test_server_first_tcp_passes_permissive_plaintext(mesh: Mesh) -> None:
    """Silence is taken for plaintext after the short wait."""
    assert received(mesh.permissive_tcp) == BANNER


def test_requests_are_counted_on_both_sides(mesh: Mesh) -> None:
    """The source names the destination's workload, the destination the authenticated caller."""
    mesh.call("/fail")
    seen = [
        line for line in series(mesh.client, "envoy_istio_requests_total") if 'response_code="500"' in line
    ]
    told = [
        line for line in series(mesh.server, "envoy_istio_requests_total") if 'response_code="500"' in line
    ]

    assert len(seen) == len(told) == 1
    assert 'source_workload="web"' in seen[0]
    assert 'destination_workload="orders-v1"' in seen[0]
    assert f'destination_service="{HOST}"' in seen[0]
    assert 'source_workload="web.shop"' in told[0]
    assert 'source_principal="spiffe://cluster.local/ns/shop/sa/web"' in told[0]
    assert 'connection_security_policy="mutual_tls"' in told[0]


def test_connections_are_counted_under_their_caller(mesh: Mesh) -> None:
    """The application is reached after the handshake, so no mutual TLS connection counts as unknown."""
    received(mesh.database)
    encrypted = [
        line
        for line in series(mesh.server, "envoy_istio_tcp_connections_opened_total")
        if 'connection_security_policy="mutual_tls"' in line
    ]

    assert len(encrypted) == 1
    assert 'source_workload="web.shop"' in encrypted[0]


def test_handshakes_are_counted_per_port(mesh: Mesh) -> None:
    """Whether hops are encrypted is read from the listener that took them."""
    mesh.call()
    counted = mesh.server.get(f"/stats?filter=^listener.inbound.{mesh.strict}.ssl.handshake")

    assert int(counted.rpartition(": ")[2]) >= 1
