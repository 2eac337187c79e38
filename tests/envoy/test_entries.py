"""What leaves an intercepted application for hosts outside: ServiceEntries by address, Host and server name.

Nothing but an entry is open here (REGISTRY_ONLY); the addresses that are dialled are from TEST-NET-3 (RFC 5737), and
most of them lead nowhere: what answers stands in the entries.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import netns
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from netns import HOST
from rig import STRICT, App
from transparent import OUTSIDE, StartPods, TransparentMesh

NEEDS = netns.NEEDS

NOWHERE = "203.0.113.5"
"""An address at which nobody answers."""

FAR = "203.0.113.9"
"""An address outside the pods' ranges at which the servers of this file answer."""

DATABASE = "203.0.113.50"
"""The address of an entry; nobody answers there either."""

BANNER = "5.7.0-mysql"
TLS_PORT, FREE_PORT, DIRECT_PORT = 26443, 26700, 26081

REGISTRY_ONLY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data: {mesh: "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}
"""


def entry(name: str, hosts: list[str], port: int, protocol: str, **spec: object) -> str:
    """Return a ServiceEntry of one port."""
    ports = [{"number": port, "name": protocol.lower(), "protocol": protocol}]
    meta = {"name": name, "namespace": spec.pop("namespace", "shop")}
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": meta}
    return yaml.safe_dump({**kind, "spec": {"hosts": hosts, "ports": ports, **spec}})


def at(address: str, port: int, protocol: str) -> dict[str, object]:
    """Return the fields of an entry whose one endpoint is here."""
    return {
        "resolution": "STATIC",
        "endpoints": [{"address": address, "ports": {protocol.lower(): port}}],
    }


RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.com]
  http:
  - match: [{uri: {prefix: /denied}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: api.example.com}}]
  - route: [{destination: {host: api.example.com}}]
"""

ALIAS = """
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: localhost, ports: [{name: http, port: 8080}]}
"""

PLAIN, LINES = "10.83.1.2", "10.83.1.3"
"""Where the fabric puts the second and the third pod: both outside the mesh, they stand for servers elsewhere."""

MANIFESTS = "\n---\n".join(
    (
        STRICT,
        REGISTRY_ONLY,
        RULE,
        ALIAS,
        entry("api", ["api.example.com"], 80, "HTTP", **at(PLAIN, 8080, "HTTP")),
        entry("hidden", ["hidden.example.com"], 80, "HTTP", namespace="other", exportTo=["."], **at(PLAIN, 80, "HTTP")),
        entry("db", ["db.example.com"], 3306, "TCP", addresses=[DATABASE], **at(LINES, 3306, "TCP")),
        entry("tls", ["secure.example.com", "*.wild.example.com"], 443, "TLS", **at(HOST, TLS_PORT, "TLS")),
        entry("free", ["free.example.com"], FREE_PORT, "TCP"),
        entry("direct", ["*.direct.example.com"], DIRECT_PORT, "HTTP"),
    )
)  # fmt: skip

CLIENT = App("client")
APPS = (
    CLIENT,
    App("plain", labels=OUTSIDE),
    App("lines", serves="tcp", protocol="tcp", service_port=3306, port=3306, args=("--banner", BANNER), labels=OUTSIDE),
)  # fmt: skip


class _Answer(http.server.BaseHTTPRequestHandler):
    """Says which Host it was called by."""

    def do_GET(self) -> None:
        body = self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the library's
        """Keep the test's output clean."""


class _Hello(socketserver.BaseRequestHandler):
    """Says hello and ends."""

    def handle(self) -> None:
        self.request.sendall(b"hello")


class _Encrypted(socketserver.ThreadingTCPServer):
    """Speaks TLS, in the thread of each connection."""

    context: ssl.SSLContext

    def finish_request(self, request: object, client_address: object) -> None:  # noqa: ARG002 -- the library's
        assert isinstance(request, socket.socket)
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as encrypted:
            encrypted.sendall(b"hello")


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Generator[None]:
    """Serve in a thread; the socket stays in the namespace in which it was made."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="outside")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(directory: Path) -> ssl.SSLContext:
    """Return a server's context with a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "outside")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(days=365)
    )
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "outside.pem"
    path.write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def outside(mesh: TransparentMesh, directory: Path) -> Generator[None]:
    """Serve what is outside: HTTP and bytes at ``FAR``, TLS at the bridge."""
    assert mesh.network is not None
    mesh.network.fabric.run("ip", "link", "set", "lo", "up")
    mesh.network.fabric.run("ip", "addr", "add", f"{FAR}/32", "dev", "lo")
    encrypted = _Encrypted((HOST, TLS_PORT), _Hello)
    encrypted.context = certificate(directory)
    servers = (
        http.server.ThreadingHTTPServer((FAR, DIRECT_PORT), _Answer),
        http.server.ThreadingHTTPServer((FAR, 80), _Answer),
        socketserver.ThreadingTCPServer((FAR, FREE_PORT), _Hello),
        socketserver.ThreadingTCPServer((FAR, FREE_PORT + 1), _Hello),
        encrypted,
    )
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(serving(server))
        yield


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransparentMesh]:
    """A client in the mesh, two servers that are not, and what the entries above name."""
    work: Path = tmp_path_factory.mktemp("entries")
    mesh = TransparentMesh(work / "mesh", APPS, MANIFESTS)
    try:
        mesh.start()
        with outside(mesh, work):
            yield mesh
    finally:
        mesh.stop()


def words(raw: socket.socket) -> str:
    """Return what a server says before it is spoken to, empty when it closes."""
    try:
        return raw.recv(100).decode().strip()
    except ConnectionError:
        return ""


# --- By the Host ----------------------------------------------------------------------------------


def test_the_host_chooses_the_entry(mesh: TransparentMesh) -> None:
    """The first request to an entry without addresses goes to its endpoints, wherever the name was resolved to."""
    replies = [mesh.ask("client", NOWHERE, 80, "http://api.example.com/echo") for _ in range(2)]

    assert [(reply.status, reply.workload) for reply in replies] == [(200, "plain")] * 2


def test_rules_hold_for_entries(mesh: TransparentMesh) -> None:
    """A VirtualService for the host, at once."""
    assert mesh.ask("client", NOWHERE, 80, "http://api.example.com/denied").status == 418


@pytest.mark.parametrize(
    "host", ["unknown.example.com", "hidden.example.com", "orders.shop.svc.cluster.local"]
)
def test_what_no_entry_names_is_closed(mesh: TransparentMesh, host: str) -> None:
    """A host that nobody, or only another namespace, has; and no Service by its Host."""
    assert mesh.ask("client", NOWHERE, 80, f"http://{host}/echo").status == 503


def test_resolution_none_goes_where_the_connection_was_going(mesh: TransparentMesh) -> None:
    """Any host of a wildcard, at its own address."""
    reply = mesh.ask("client", FAR, DIRECT_PORT, f"http://a.direct.example.com:{DIRECT_PORT}/")

    assert (reply.status, reply.body) == (200, f"a.direct.example.com:{DIRECT_PORT}".encode())
    assert mesh.ask("client", FAR, DIRECT_PORT, "http://other.example.com/").status == 503


def test_an_external_name_is_called_by_its_service(mesh: TransparentMesh) -> None:
    """In the forms that its Service has: here it names the client's own machine."""
    replies = [
        mesh.ask("client", NOWHERE, 8080, f"http://{host}:8080/echo") for host in ("alias", "alias.shop.svc")
    ]

    assert [(reply.status, reply.workload) for reply in replies] == [(200, "client")] * 2


# --- By the address -------------------------------------------------------------------------------


def test_the_address_chooses_the_entry(mesh: TransparentMesh) -> None:
    """Bytes for an entry's address go to its endpoints, and the server may speak first."""
    with mesh.connect("client", DATABASE, 3306) as raw:
        assert words(raw) == BANNER


def test_another_port_of_the_address_is_closed(mesh: TransparentMesh) -> None:
    """The entry names one."""
    with mesh.connect("client", DATABASE, 3307) as raw:
        assert words(raw) == ""


# --- By the server name ---------------------------------------------------------------------------


def greeting(mesh: TransparentMesh, name: str) -> str:
    """Return what a TLS server says to who calls it by a name, empty if the connection is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with mesh.connect("client", NOWHERE, 443) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=name) as encrypted:
                return encrypted.recv(100).decode()
        except (ConnectionError, ssl.SSLError):
            return ""


@pytest.mark.parametrize("name", ["secure.example.com", "SECURE.example.com", "a.wild.example.com"])
def test_the_server_name_chooses_the_entry(mesh: TransparentMesh, name: str) -> None:
    """TLS is told by its server name, exact or under a wildcard, and passes unopened."""
    assert greeting(mesh, name) == "hello"


@pytest.mark.parametrize("name", ["other.example.com", "wild.example.com", "x.secure.example.com"])
def test_a_server_name_that_no_entry_has_is_closed(mesh: TransparentMesh, name: str) -> None:
    """No cluster is made up of what a client says."""
    assert greeting(mesh, name) == ""


# --- By the port ----------------------------------------------------------------------------------


def test_a_port_of_bytes_without_addresses_is_open(mesh: TransparentMesh) -> None:
    """As in Istio; its neighbour is not."""
    with (
        mesh.connect("client", FAR, FREE_PORT) as open_port,
        mesh.connect("client", FAR, FREE_PORT + 1) as closed,
    ):
        assert (words(open_port), words(closed)) == ("hello", "")


HIDING = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  egress: [{hosts: [./orders.shop.svc.cluster.local]}]
"""


def test_a_sidecar_closes_what_it_hides(start_pods: StartPods) -> None:
    """A Service that it does not import, in use or not, is nowhere; without it the same call is answered again."""
    mesh = start_pods(CLIENT, App("orders"), App("stock"))

    def statuses() -> list[int]:
        return [
            mesh.ask("client", mesh.vip(name), 80, f"http://{name}/echo").status
            for name in ("orders", "stock")
        ]

    assert statuses() == [200, 200]
    (mesh.mesh.manifests / "hiding.yaml").write_text(HIDING, encoding="utf-8")
    mesh.wait("the Sidecar holds", lambda: statuses() == [200, 503])
    (mesh.mesh.manifests / "hiding.yaml").unlink()
    mesh.wait("the Sidecar is gone", lambda: statuses() == [200, 200])


def test_strangers_are_reached_where_anything_is_allowed(start_pods: StartPods, tmp_path: Path) -> None:
    """With ALLOW_ANY an entry takes its own host on its port, and leaves all others where they were going."""
    mesh = start_pods(*APPS, manifests=MANIFESTS.replace("REGISTRY_ONLY", "ALLOW_ANY"))
    with outside(mesh, tmp_path):
        known = mesh.ask("client", FAR, 80, "http://api.example.com/echo")
        stranger = mesh.ask("client", FAR, 80, "http://stranger.example.com/")

    assert (known.status, known.workload) == (200, "plain")
    assert (stranger.status, stranger.body) == (200, b"stranger.example.com")
