"""What reaches an application whose pod's traffic is redirected, from whom and as whom."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import grpc
import netns
import pytest
from rig import App, Container, Reply, at_once
from transparent import OUTSIDE, STRANGER, StartPods, TransparentMesh, as_user

from xds import settings

NEEDS = netns.NEEDS

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
TESTER = "URI=spiffe://cluster.local/ns/shop/sa/tester"
BANNER = "5.7.0-mysql"
DEAD, UNDECLARED, ECHO = 7999, 9998, 8082

MODES = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: proa-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: shop}
spec:
  selector: {matchLabels: {app: open}}
  mtls: {mode: PERMISSIVE}
  portLevelMtls: {8081: {mode: STRICT}, 7002: {mode: STRICT}, 7003: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: PERMISSIVE}
"""


def echo(host: str, port: int) -> None:
    """Serve whatever bytes come back, on a port that no manifest names."""
    server = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                with contextlib.suppress(OSError):
                    connection.sendall(connection.recv(65536))

    threading.Thread(target=serve, name=f"echo-{port}", daemon=True).start()


CLOSED = App(
    "closed",
    annotations={
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/echo/metrics",
    },
    probes={"readinessProbe": {"httpGet": {"path": "/healthz", "port": "main"}}},
    more=(
        Container("stock", 9090, "stock", probes={"readinessProbe": {"grpc": {"port": 9090}}}),
        Container("lines", 7000, "tcp", ("--banner", BANNER)),
    ),
)
OPEN = App(
    "open",
    more=(
        Container("shut", 8081, "orders"),
        Container("http-echo", ECHO, listen=echo),
        Container("stock", 9090, "stock"),
        Container("lines", 7000, "tcp", ("--banner", BANNER)),
        Container("shut-lines", 7002, "tcp", ("--banner", BANNER)),
        Container("bare-lines", 7003, "tcp", ("--banner", BANNER)),
    ),
)
WEB = App("web")
PLAIN = App("plain", labels=OUTSIDE)

FAMILIES = pytest.mark.parametrize("family", ["ip", "ip6"])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransparentMesh]:
    """STRICT pod `closed`, PERMISSIVE pods `open` (with ports of other modes) and `web`, a pod outside the mesh."""
    work: Path = tmp_path_factory.mktemp("inbound") / "mesh"
    ports = {"closed": (7000, DEAD)}
    mesh = TransparentMesh(work, (CLOSED, OPEN, WEB, PLAIN), MODES, tcp_ports=ports)
    try:
        mesh.start()
        for name in ("closed", "open"):
            with mesh.inside(name):
                echo("::", UNDECLARED)
        yield mesh
    finally:
        mesh.stop()


@contextlib.contextmanager
def mutual(mesh: TransparentMesh, pod: str, port: int, *, late_s: float = 0) -> Generator[ssl.SSLSocket]:
    """Open mutual TLS from a stranger's address, as ServiceAccount shop/tester; its hello may come late."""
    with mesh.connect(STRANGER, mesh.at(pod).ip, port) as raw:
        time.sleep(late_s)  # what is tested is the lateness
        with mesh.identity("tester").wrap_socket(raw) as secured:
            yield secured


def get(secured: ssl.SSLSocket, path: str = "/echo", headers: dict[str, str] | None = None) -> Reply:
    """Send one request over an open connection."""
    connection = http.client.HTTPConnection("orders")
    connection.sock = secured
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def ask_grpc(channel: grpc.Channel, method: str) -> bytes:
    """Call a method with an empty message."""
    call = cast("Callable[[str], Callable[..., bytes]]", channel.unary_unary)  # pyright: ignore[reportUnknownMemberType]
    return call(method)(b"", timeout=10)


def caller(reply: Reply) -> list[str]:
    """Return who X-Forwarded-Client-Cert says called, by every URI in it."""
    (header,) = reply.json["headers"]["x-forwarded-client-cert"]
    return [part for element in header.split(",") for part in element.split(";") if part.startswith("URI=")]


def first_words(raw: socket.socket) -> str:
    """Return what a server says first, "" if it closes the connection."""
    raw.settimeout(10)
    try:
        return raw.recv(100).decode().strip()
    except ConnectionError:
        return ""


def is_closed(raw: socket.socket, sent: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> bool:
    """Tell whether a connection is closed without an answer."""
    raw.settimeout(10)
    try:
        raw.sendall(sent)
        return raw.recv(1) == b""
    except ConnectionError:
        return True


# --- STRICT -------------------------------------------------------------------------------------


def test_strict_takes_mutual_tls_and_tells_who_calls(mesh: TransparentMesh) -> None:
    """The caller's SPIFFE ID is in X-Forwarded-Client-Cert, and nothing that the caller wrote there itself."""
    with mutual(mesh, "closed", 8080) as secured:
        forged = {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/x/sa/root"}
        seen = get(secured, headers=forged)

    assert seen.workload == "closed"
    assert caller(seen) == [TESTER]


@FAMILIES
def test_strict_denies_plaintext(mesh: TransparentMesh, family: str) -> None:
    """An HTTP port with probes answers 403, a TCP port closes: over IPv4 and IPv6."""
    address = getattr(mesh.at("closed"), family)
    answer = mesh.ask("plain", address, 8080, "http://closed/echo")
    with mesh.connect("plain", address, 7000) as raw:
        words = is_closed(raw, b"hello\n")

    assert (answer.status, answer.workload) == (403, "")
    assert words


@FAMILIES
def test_strict_lets_exactly_the_declared_probe_pass(mesh: TransparentMesh, family: str) -> None:
    """GET of the probe's path reaches the application; another method or path does not."""
    address = getattr(mesh.at("closed"), family)

    assert mesh.ask(STRANGER, address, 8080, "http://x/healthz").status == 200
    assert mesh.ask(STRANGER, address, 8080, "http://x/healthz", method="POST").status == 403
    assert mesh.ask(STRANGER, address, 8080, "http://x/healthz/more").status == 403


@FAMILIES
def test_strict_lets_a_scrape_pass_where_the_pod_says(mesh: TransparentMesh, family: str) -> None:
    """GET of the annotated path on the annotated port, in plaintext; nothing below or beside it."""
    address = getattr(mesh.at("closed"), family)

    assert mesh.ask(STRANGER, address, 8080, "http://x/echo/metrics").workload == "closed"
    assert mesh.ask(STRANGER, address, 8080, "http://x/echo/metrics", method="POST").status == 403
    assert mesh.ask(STRANGER, address, 8080, "http://x/echo/metrics/more").status == 403
    assert mesh.ask(STRANGER, address, 8080, "http://x/echo").status == 403


def test_strict_lets_the_grpc_probe_pass(mesh: TransparentMesh) -> None:
    """The health service answers in plaintext; any other method is denied."""
    with grpc.insecure_channel(f"{mesh.at('closed').ip}:9090") as channel:
        health = ask_grpc(channel, HEALTH_CHECK)
        with pytest.raises(grpc.RpcError) as denied:
            ask_grpc(channel, "/shop.v1.Echo/Echo")

    assert health == SERVING
    assert cast("grpc.Call", denied.value).code() is grpc.StatusCode.PERMISSION_DENIED


def test_strict_grpc_over_mutual_tls(mesh: TransparentMesh) -> None:
    """HTTP/2 inside mutual TLS arrives as HTTP/2: the codec is sniffed, as no ALPN says it."""
    with tunnel(mesh, "closed", 9090) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert ask_grpc(channel, HEALTH_CHECK) == SERVING


def test_strict_server_first_over_mutual_tls(mesh: TransparentMesh) -> None:
    """A database that speaks first does so as soon as the handshake is done."""

    def greeted() -> str:
        with mutual(mesh, "closed", 7000) as secured:
            return first_words(secured)

    assert at_once(greeted) == BANNER


def test_strict_port_that_nobody_declared(mesh: TransparentMesh) -> None:
    """Kubernetes asks nobody to declare a port: mutual TLS reaches it, plaintext does not."""
    with mesh.connect(STRANGER, mesh.at("closed").ip, UNDECLARED) as raw:
        closed = is_closed(raw)
    with mutual(mesh, "closed", UNDECLARED) as secured:
        secured.sendall(b"hello")
        answer = first_words(secured)

    assert closed
    assert answer == "hello"


def test_strict_refuses_a_certificate_of_another_root(mesh: TransparentMesh, tmp_path: Path) -> None:
    """The same name under a foreign root is nobody."""
    stranger = mesh.identity("tester", state=tmp_path / "other")
    with (
        mesh.connect(STRANGER, mesh.at("closed").ip, 8080) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
        stranger.wrap_socket(raw) as secured,
    ):
        get(secured)


def test_strict_refuses_tls_that_is_not_the_meshs(mesh: TransparentMesh) -> None:
    """Without ALPN `mesh` a connection is an application's own TLS, which STRICT does not take."""
    context = mesh.identity("tester", alpn="h2")
    with (
        mesh.connect(STRANGER, mesh.at("closed").ip, 8080) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(raw)


# --- PERMISSIVE ---------------------------------------------------------------------------------


@FAMILIES
def test_permissive_takes_plaintext_from_nobody(mesh: TransparentMesh, family: str) -> None:
    """Plaintext arrives, over IPv4 and IPv6, and a forged identity does not."""
    forged = {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/shop/sa/root"}
    seen = mesh.ask("plain", getattr(mesh.at("open"), family), 8080, "http://open/echo", forged).json

    assert seen["workload"] == "open"
    assert "x-forwarded-client-cert" not in seen["headers"]


def test_permissive_grpc_in_plaintext(mesh: TransparentMesh) -> None:
    """HTTP/2 without TLS arrives as HTTP/2."""
    with grpc.insecure_channel(f"{mesh.at('open').ip}:9090") as channel:
        assert ask_grpc(channel, HEALTH_CHECK) == SERVING


@pytest.mark.parametrize("late_s", [0, 1.0])
def test_permissive_mutual_tls_whose_hello_is_late(mesh: TransparentMesh, late_s: float) -> None:
    """One lost packet delays a hello by a second: it is mutual TLS all the same, on HTTP and server-first ports."""
    with mutual(mesh, "open", 8080, late_s=late_s) as secured:
        seen = get(secured)
    with mutual(mesh, "open", 7000, late_s=late_s) as secured:
        words = first_words(secured)

    assert caller(seen) == [TESTER]
    assert words == BANNER


@FAMILIES
def test_permissive_server_first_in_plaintext(mesh: TransparentMesh, family: str) -> None:
    """A client that waits for the server's greeting gets it once the time for a hello is over."""
    with mesh.connect("plain", getattr(mesh.at("open"), family), 7000) as raw:
        assert first_words(raw) == BANNER


def test_permissive_port_that_nobody_declared(mesh: TransparentMesh) -> None:
    """Plaintext and mutual TLS both reach it."""
    with mesh.connect(STRANGER, mesh.at("open").ip6, UNDECLARED) as raw:
        raw.sendall(b"hello")
        plain = first_words(raw)
    with mutual(mesh, "open", UNDECLARED) as secured:
        secured.sendall(b"hello")
        answer = first_words(secured)

    assert (plain, answer) == ("hello", "hello")


@pytest.mark.parametrize("port", [UNDECLARED, ECHO])
def test_permissive_passes_an_applications_own_tls(mesh: TransparentMesh, port: int) -> None:
    """A hello without the mesh's ALPN reaches the application as it is, also on a port that is declared HTTP."""
    said, heard = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = mesh.identity("tester", alpn="h2").wrap_bio(heard, said)
    with pytest.raises(ssl.SSLWantReadError):
        secured.do_handshake()
    hello = said.read()
    with mesh.connect(STRANGER, mesh.at("open").ip, port) as raw:
        raw.settimeout(10)
        raw.sendall(hello)
        back = raw.recv(len(hello))

    assert hello.startswith(b"\x16\x03")
    assert back == hello[: len(back)] != b""


# --- Modes of single ports ----------------------------------------------------------------------


def test_strict_port_of_a_permissive_workload_stays_shut(mesh: TransparentMesh) -> None:
    """What holds for ports that nobody declared opens none that has a mode of its own."""
    with mesh.connect(STRANGER, mesh.at("open").ip, 8081) as raw:
        http_closed = is_closed(raw)
    with mesh.connect(STRANGER, mesh.at("open").ip, 7002) as raw:
        tcp_closed = is_closed(raw)
    with mutual(mesh, "open", 8081) as secured:
        status = get(secured).status

    assert (http_closed, tcp_closed, status) == (True, True, 200)


def test_disabled_port_does_not_wait_for_a_hello(mesh: TransparentMesh) -> None:
    """Nothing is inspected there, so a server-first application greets at once."""

    def greeted() -> str:
        with mesh.connect(STRANGER, mesh.at("open").ip, 7003) as raw:
            return first_words(raw)

    assert at_once(greeted) == BANNER


def test_only_a_declared_tcp_port_shortens_the_wait(mesh: TransparentMesh) -> None:
    """A workload that speaks HTTP alone gives a hello all the time that Envoy gives."""
    listeners = {name: mesh.listener(name, "inbound") for name in ("open", "web", "closed")}

    assert listeners["open"]["listener_filters_timeout"] == "2s"
    assert "listener_filters_timeout" not in listeners["web"]
    assert "listener_filters_timeout" not in listeners["closed"]
    assert "continue_on_listener_filters_timeout" not in listeners["closed"]


# --- The sidecar's own ports --------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("pod", ["closed", "open"])
@pytest.mark.parametrize("port", range(15000, 15007))
def test_no_port_of_the_sidecar_relays(mesh: TransparentMesh, port: int, pod: str, family: str) -> None:
    """A connection whose destination is the sidecar itself is closed, and makes no others."""
    before = mesh.stats(pod, r"^listener\.(inbound|outbound)\.downstream_cx_total$")
    with mesh.connect(STRANGER, getattr(mesh.at(pod), family), port) as raw:
        closed = is_closed(raw)
    after = mesh.stats(pod, r"^listener\.(inbound|outbound)\.downstream_cx_total$")

    assert closed
    assert sum(after.values()) - sum(before.values()) < 5  # a loop makes them by the hundred


@pytest.mark.parametrize("port", [15000, 15001, 15006])
def test_no_identity_opens_the_sidecars_own_ports(mesh: TransparentMesh, port: int) -> None:
    """Mutual TLS of a member of the mesh is closed there as well."""
    with (
        mesh.connect(STRANGER, mesh.at("closed").ip, port) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        mesh.identity("tester").wrap_socket(raw)


def test_packets_for_another_address_are_not_sent_on(mesh: TransparentMesh) -> None:
    """Whoever uses a pod as its router does not get the pod's sidecar as its proxy."""
    mesh.namespace(STRANGER).run("ip", "route", "add", "10.99.0.1", "via", mesh.at("open").ip)
    before = mesh.stats("open", r"^listener\.inbound\.downstream_cx_total$")
    with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
        mesh.connect(STRANGER, "10.99.0.1", 8080, timeout_s=1.5)

    assert mesh.stats("open", r"^listener\.inbound\.downstream_cx_total$") == before


def test_doors_show_readiness_and_metrics_and_nothing_else(mesh: TransparentMesh) -> None:
    """15021 and 15090 answer one path each, on every address; the admin endpoint is on loopback alone."""
    ip, ip6 = mesh.at("closed").ip, mesh.at("closed").ip6

    assert mesh.ask(STRANGER, ip, 15021, "http://x/ready").status == 200
    assert mesh.ask(STRANGER, ip6, 15021, "http://x/ready").status == 200
    assert mesh.ask(STRANGER, ip, 15021, "http://x/config_dump").status == 404
    assert b"envoy_server_live" in mesh.ask(STRANGER, ip6, 15090, "http://x/stats/prometheus").body
    assert mesh.ask(STRANGER, ip, 15090, "http://x/clusters").status == 404


# --- Probes of TCP ports ------------------------------------------------------------------------


def test_tcp_probe_asks_the_application(mesh: TransparentMesh) -> None:
    """Through interception a dead port accepts; the path on 15021 tells the truth."""
    ip = mesh.at("closed").ip
    mesh.connect(STRANGER, ip, DEAD).close()

    def probe(port: int) -> int:
        return mesh.ask(STRANGER, ip, 15021, f"http://x/tcp/{port}").status

    # Envoy asks a port that was dead again every half second, and the application began after its sidecar.
    mesh.wait("the probe has seen the application", lambda: probe(7000) == 200)
    assert probe(DEAD) == 503
    assert probe(1) == 404


# --- The pod and itself -------------------------------------------------------------------------


@FAMILIES
def test_application_that_calls_itself_needs_no_mesh(mesh: TransparentMesh, family: str) -> None:
    """By its own address or by loopback, an application reaches itself directly, also under STRICT."""
    own = mesh.ask("closed", getattr(mesh.at("closed"), family), 8080, "http://x/echo")
    loopback = mesh.ask("closed", {"ip": "127.0.0.1", "ip6": "::1"}[family], 8080, "http://x/echo")

    assert (own.workload, loopback.workload) == ("closed", "closed")


@FAMILIES
def test_sidecar_that_calls_its_own_pod_comes_in_by_the_door(mesh: TransparentMesh, family: str) -> None:
    """What the sidecar sends to its own pod, chosen behind a Service, meets the same chains as everybody's."""
    code = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 8080), 10);"
        "s.sendall(b'GET /echo HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); sys.stdout.write(s.recv(12).decode())"
    )
    said = mesh.namespace("closed").run(
        *as_user(settings.SIDECAR_UID), sys.executable, "-c", code, getattr(mesh.at("closed"), family)
    )

    assert said == "HTTP/1.1 403"


# --- Counters -----------------------------------------------------------------------------------


def test_requests_are_counted_by_the_verified_caller(mesh: TransparentMesh) -> None:
    """The destination's labels: who called by certificate, whether the hop was mutual TLS, which Service."""
    with mutual(mesh, "closed", 8080) as secured:
        get(secured)
    text = mesh.ask(STRANGER, mesh.at("closed").ip, 15090, "http://x/stats/prometheus").body.decode()
    line = next(
        found
        for found in text.splitlines()
        if "requests_total" in found and 'source_workload="tester.shop"' in found
    )

    assert 'destination_service="closed.shop.svc.cluster.local"' in line
    assert 'connection_security_policy="mutual_tls"' in line
    assert 'source_principal="spiffe://cluster.local/ns/shop/sa/tester"' in line


# --- Changes ------------------------------------------------------------------------------------


def test_mode_follows_its_policy(start_pods: StartPods) -> None:
    """PERMISSIVE becomes STRICT while a connection of mutual TLS goes on."""
    permissive = MODES.split("---", maxsplit=1)[0].replace("STRICT", "PERMISSIVE")
    mesh = start_pods(
        App("web", more=(Container("lines", 7000, "tcp", ("--banner", BANNER)),)), manifests=permissive
    )
    before = mesh.ask(STRANGER, mesh.at("web").ip, 8080, "http://x/echo").status
    with mutual(mesh, "web", 7000) as secured:
        words = first_words(secured)
        mesh.edit("manifests.yaml", permissive.replace("PERMISSIVE", "STRICT"))
        with mesh.connect(STRANGER, mesh.at("web").ip, 8080) as raw:
            closed = is_closed(raw)
        secured.sendall(b"still there\n")
        answer = first_words(secured)

    assert (before, words, closed) == (200, BANNER, True)
    assert "still there" in answer


def test_policies_guard_every_port_of_a_pod(start_pods: StartPods) -> None:
    """HTTP by request, bytes by connection, undeclared ports too; probes in plaintext pass without a verdict."""
    permissive = MODES.split("---", maxsplit=1)[0].replace("STRICT", "PERMISSIVE")
    rule = (
        "from: [{source: {serviceAccounts: [tester]}}], to: [{operation: {methods: [GET], paths: [/echo]}}]"
    )
    policy = f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: shop}}
spec: {{rules: [{{{rule}}}, {{to: [{{operation: {{ports: ["7000"]}}}}]}}]}}
"""
    lines = Container("lines", 7000, "tcp", ("--banner", BANNER))
    probes = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": "main"}}}
    mesh = start_pods(App("web", more=(lines,), probes=probes), manifests=permissive + policy)
    with mesh.inside("web"):
        echo("::", UNDECLARED)
    ip = mesh.at("web").ip
    with mutual(mesh, "web", 8080) as secured:
        allowed = get(secured).status
    with mutual(mesh, "web", 8080) as secured:
        other = get(secured, "/call").status
    with mutual(mesh, "web", 8080) as secured:
        probe = get(secured, "/healthz").status
    with mutual(mesh, "web", 7000) as secured:
        words = first_words(secured)
    with mesh.connect(STRANGER, ip, UNDECLARED) as raw:
        raw.sendall(b"hello")
        closed = is_closed(raw)

    assert (allowed, other, probe, words, closed) == (200, 403, 403, BANNER, True)
    assert mesh.ask(STRANGER, ip, 8080, "http://x/echo").status == 403
    assert mesh.ask(STRANGER, ip, 8080, "http://x/healthz").status == 200


def test_excluded_port_is_reached_without_the_sidecar(start_pods: StartPods) -> None:
    """Its application answers strangers itself; the rules, loaded twice, hold for every other port."""
    lines = Container("lines", 7000, "tcp", ("--banner", BANNER))
    left_out = {"excluded_inbound_ports": (7000,), "excluded_cidrs": ("10.83.0.0/16",)}
    mesh = start_pods(App("web", more=(lines,)), redirect={"web": left_out})
    mesh.intercept(mesh.pods["web"])
    with mesh.connect(STRANGER, mesh.at("web").ip, 7000) as raw:
        words = first_words(raw)
    with mesh.connect(STRANGER, mesh.at("web").ip, 8080) as raw:
        closed = is_closed(raw)

    assert words == BANNER
    assert closed
    assert mesh.namespace("web").run("nft", "list", "tables").split() == ["table", "inet", "proa"]


def test_excluded_port_is_called_in_plaintext(start_pods: StartPods) -> None:
    """Nobody behind it speaks mutual TLS, so no sidecar offers it there, under STRICT either; elsewhere it does."""
    left_out = {"excluded_inbound_ports": (8080,)}
    mesh = start_pods(App("client"), App("web"), App("orders"), redirect={"web": left_out})
    past = mesh.ask("client", mesh.vip("web"), 80, "http://web/echo")
    through = mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo")
    direct = mesh.ask("client", mesh.at("web").ip, 8080, "http://web/echo")

    assert (past.status, through.status, direct.status) == (200, 200, 200)
    assert "x-forwarded-client-cert" not in past.json["headers"]
    assert "x-forwarded-client-cert" in through.json["headers"]


@contextlib.contextmanager
def tunnel(mesh: TransparentMesh, pod: str, port: int) -> Generator[int]:
    """Listen on loopback and carry each connection on over mutual TLS, for clients that cannot speak it."""
    context, address = mesh.identity("tester"), mesh.at(pod).ip
    near = socket.create_server(("127.0.0.1", 0))
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        finally:
            target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(address, port, ssl=context)
        try:
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    async def serve() -> None:
        async with await asyncio.start_server(accept, sock=near):
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="tunnel")
    thread.start()
    try:
        yield near.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
