"""Hostile clients against a real control plane over TLS: constant refusals, bounded memory, others unharmed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.fakes.impatient import DEADLINE_S as IMPATIENT_S
from tests.fakes.plane import (
    ADS_DELTA,
    ADS_SOTW,
    CSDS,
    DEADLINE_S,
    OTLP,
    Plane,
    ask,
    metadata,
    open_stream,
    start,
)
from xds.demo.processes import Family
from xds.events import Limits
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
)
from xds.pb.envoy.service.status.v3 import csds_pb2
from xds.snapshot import ResourceType
from xds.tokens import TokenKey

TEXTS = frozenset({"authentication failed", "not authorized", "too many resources are subscribed"})
"""All that a refused client is ever told by us."""

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
EXHAUSTED, INVALID = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
REFUSALS = {UNAUTHENTICATED, DENIED, EXHAUSTED, INVALID}

ORDERS_ID = "spiffe://cluster.local/ns/shop/sa/orders"

NO_ALGORITHM = b'{"alg":"none","typ":"JWT"}'

SERVICES = 300

GROWTH_MIB = 96
"""What an attack may cost: far above what the allocator keeps, far below what an unbounded one takes."""


def _pod(name: str) -> str:
    return f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}
status: {{podIP: 127.0.0.9}}
"""


def _service(number: int) -> str:
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: hidden-{number}, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"""


MESHED = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {proa.dev/inject: enabled}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane with two pods and 300 services, whose deadlines are two seconds."""
    work: Path = tmp_path_factory.mktemp("hostile")
    family = Family(work / "logs")
    world = MESHED + _pod("web") + _pod("orders") + "".join(map(_service, range(SERVICES)))
    try:
        yield start(family, work, {"world.yaml": world}, "tests.fakes.impatient")
    finally:
        family.stop()


@pytest.fixture
def plane(running: Plane) -> Iterator[Plane]:
    """The control plane, which after each test must still live and serve."""
    yield running
    assert running.child.is_alive
    asyncio.run(served(running))


async def served(plane: Plane) -> float:
    """Return how many seconds a good client waited for the whole CDS."""
    began = time.monotonic()
    async with plane.channel() as channel:
        call = open_stream(channel, ADS_DELTA, f"Bearer {plane.token('web')}")
        await call.write(request(ResourceType.CLUSTER, "*"))
        response = DeltaDiscoveryResponse.FromString(cast("bytes", await call.read()))
        call.cancel()
    assert len(response.resources) >= SERVICES
    return time.monotonic() - began


def request(kind: ResourceType | str, *names: str, node: str = "web.shop", nonce: str = "") -> bytes:
    """Return a delta request."""
    url = kind if isinstance(kind, str) else kind.url
    message = DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names, response_nonce=nonce)
    message.node.id = node
    return message.SerializeToString()


async def refusal(plane: Plane, authorization: str, *requests: bytes, method: str = ADS_DELTA) -> grpc.Call:
    """Return how a stream that sends these requests ends; what is served before it is read and dropped."""
    return await asyncio.to_thread(_refusal, plane, authorization, requests, method)


def _refusal(plane: Plane, authorization: str, requests: tuple[bytes, ...], method: str) -> grpc.Call:
    # Not grpc.aio: a call that is refused while it writes ends there in INTERNAL, of the client's own making.
    with plane.blocking_channel() as channel:
        factory = cast("Callable[[str], Callable[..., Iterator[bytes]]]", channel.stream_stream)  # pyright: ignore[reportUnknownMemberType]
        call = factory(method)(iter(requests), metadata=metadata(authorization), timeout=DEADLINE_S)
        with pytest.raises(grpc.RpcError) as refused:
            for _ in call:
                pass
        return cast("grpc.Call", refused.value)


# --- Who is calling -------------------------------------------------------------------------------


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signed(plane: Plane, payload: bytes, header: str = "") -> str:
    """Return a token whose signature holds, whatever it says."""
    keys = plane.tokens
    text = f"{header or keys._header}.{_b64(payload)}"  # pyright: ignore[reportPrivateUsage]
    return f"{text}.{_b64(keys._key.sign(text.encode()))}"  # pyright: ignore[reportPrivateUsage]


def _claims(plane: Plane, **changes: object) -> bytes:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(plane.token("web").split(".")[1] + "=="))
    return json.dumps(claims | changes).encode()


def _alg_none(plane: Plane) -> str:
    return f"{_b64(NO_ALGORITHM)}.{_b64(_claims(plane))}."


def _alg_none_signed(plane: Plane) -> str:
    return _signed(plane, _claims(plane), _b64(NO_ALGORITHM))


def _of_another_key(_plane: Plane) -> str:
    claim: dict[str, Any] = {
        "namespace": "shop",
        "pod": "web",
        "service_account": "web",
        "trust_domain": "cluster.local",
    }
    return TokenKey(ed25519.Ed25519PrivateKey.generate()).issue(**claim, now=time.time(), octets=os.urandom)


FORGERIES: dict[str, tuple[Callable[[Plane], str], grpc.StatusCode]] = {
    "no token": (lambda _: "", UNAUTHENTICATED),
    "empty bearer": (lambda _: "Bearer ", UNAUTHENTICATED),
    "another scheme": (lambda p: f"Basic {p.token('web')}", UNAUTHENTICATED),
    "noise": (lambda _: "Bearer a.b.c", UNAUTHENTICATED),
    "null payload": (lambda p: f"Bearer {_signed(p, b'null')}", UNAUTHENTICATED),
    "list payload": (lambda p: f"Bearer {_signed(p, b'[]')}", UNAUTHENTICATED),
    "deep payload": (lambda p: f"Bearer {_signed(p, b'[' * 1500)}", UNAUTHENTICATED),
    "alg none": (lambda p: f"Bearer {_alg_none(p)}", UNAUTHENTICATED),
    "alg none, signed": (lambda p: f"Bearer {_alg_none_signed(p)}", UNAUTHENTICATED),
    "expired": (lambda p: f"Bearer {p.token('web', ttl_s=1, at=time.time() - 60)}", UNAUTHENTICATED),
    "not yet": (lambda p: f"Bearer {p.token('web', at=time.time() + 3600)}", UNAUTHENTICATED),
    "another audience": (lambda p: f"Bearer {_signed(p, _claims(p, aud='other'))}", UNAUTHENTICATED),
    "another key": (lambda p: f"Bearer {_of_another_key(p)}", UNAUTHENTICATED),
    "token of another pod": (lambda p: f"Bearer {p.token('orders')}", DENIED),
    "another ServiceAccount": (lambda p: f"Bearer {p.token('web', account='orders')}", DENIED),
    "subject of another": (lambda p: f"Bearer {_signed(p, _claims(p, sub=ORDERS_ID))}", DENIED),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGERIES)
def test_forged_proof(plane: Plane, case: str) -> None:
    """Every wrong proof ends every service's call in a constant text."""
    forge, code = FORGERIES[case]
    status = csds_pb2.ClientStatusRequest()
    status.node.id = "web.shop"

    async def unary(authorization: str) -> grpc.Call:
        async with plane.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(channel, CSDS, status.SerializeToString(), authorization)
            return cast("grpc.Call", refused.value)

    async def all_three() -> list[grpc.Call]:
        authorization = forge(plane)
        body = request(ResourceType.CLUSTER, "*")
        complete = DiscoveryRequest(type_url=ResourceType.CLUSTER.url)
        complete.node.id = "web.shop"
        sotw = complete.SerializeToString()
        return [
            await refusal(plane, authorization, body),
            await refusal(plane, authorization, sotw, method=ADS_SOTW),
            await unary(authorization),
        ]

    found = asyncio.run(all_three())

    assert [error.code() for error in found] == [code] * 3
    assert {error.details() for error in found} <= TEXTS


@pytest.mark.parametrize(
    "node", ["orders.shop", "", "web", "web.other", "web.shop.", "WEB.shop", "nobody.shop"]
)
def test_own_token_with_the_node_of_another(plane: Plane, node: str) -> None:
    """A genuine token opens its own pod's configuration alone."""
    body = request(ResourceType.CLUSTER, "*", node=node)
    found = asyncio.run(refusal(plane, f"Bearer {plane.token('web')}", body))

    assert found.code() is DENIED
    assert found.details() == "not authorized"


def test_token_of_a_pod_that_is_not_there(plane: Plane) -> None:
    """Whoever was deleted is out, and not told so."""
    body = request(ResourceType.CLUSTER, "*", node="ghost.shop")
    found = asyncio.run(refusal(plane, f"Bearer {plane.token('ghost')}", body))

    assert (found.code(), found.details()) == (DENIED, "not authorized")


def test_metrics_of_a_stranger(plane: Plane) -> None:
    """Nobody pushes telemetry without a token."""

    async def push() -> grpc.aio.AioRpcError:
        async with plane.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(channel, OTLP, b"\x0a\x00", "")
            return refused.value

    found = asyncio.run(push())

    assert (found.code(), found.details()) == (UNAUTHENTICATED, "authentication failed")


# --- What is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["orders", "default/orders", "default.orders", "ROOTCA2", "*", "default\0", "x" * 5000]
)
def test_secret_of_another(plane: Plane, name: str) -> None:
    """Any secret but the own two ends the stream."""
    body = request(ResourceType.SECRET, "default", name)
    found = asyncio.run(refusal(plane, f"Bearer {plane.token('web')}", body))

    assert (found.code(), found.details()) == (DENIED, "not authorized")


def test_too_many_names(plane: Plane) -> None:
    """One request with more names than the cap ends the stream."""
    names = (f"n{number}" for number in range(Limits().names_per_request + 1))
    found = asyncio.run(
        refusal(plane, f"Bearer {plane.token('web')}", request(ResourceType.ENDPOINTS, *names))
    )

    assert found.code() in {DENIED, EXHAUSTED}
    assert found.details() in TEXTS


def test_unknown_types(plane: Plane) -> None:
    """A type that the mesh does not serve gets an empty answer; a flood of them ends the stream."""
    count = Limits().types_per_stream + 1
    bodies = [request(f"type.googleapis.com/evil.Type{number}", "a") for number in range(count)]
    found = asyncio.run(refusal(plane, f"Bearer {plane.token('web')}", *bodies))

    assert (found.code(), found.details()) == (DENIED, "too many resources are subscribed")


def test_bytes_that_are_no_request(plane: Plane) -> None:
    """Noise ends the stream."""
    found = asyncio.run(refusal(plane, f"Bearer {plane.token('web')}", b"\xff\xff" + os.urandom(4000)))

    assert (found.code(), found.details()) == (INVALID, "malformed discovery request")


# --- How much ------------------------------------------------------------------------------------


def test_oversized_metadata(plane: Plane) -> None:
    """Request headers of 200 KB are refused by the transport."""
    found = asyncio.run(refusal(plane, "Bearer " + "a" * 200_000, request(ResourceType.CLUSTER, "*")))

    assert found.code() in REFUSALS
    assert "hidden" not in (found.details() or "")


def test_long_token(plane: Plane) -> None:
    """A token that fits the headers and is longer than any of ours is not even parsed."""
    found = asyncio.run(refusal(plane, "Bearer " + "a" * 6000, request(ResourceType.CLUSTER, "*")))

    assert (found.code(), found.details()) == (UNAUTHENTICATED, "authentication failed")


def test_oversized_first_request(plane: Plane) -> None:
    """More than 1 MiB is refused whoever sends it, and costs no more than it is."""
    before = plane.rss_mib()
    large = request(ResourceType.CLUSTER, "x" * (1024 * 1024 + 1))
    stranger = asyncio.run(refusal(plane, "", large))
    member = asyncio.run(refusal(plane, f"Bearer {plane.token('web')}", large))

    assert stranger.code() in {EXHAUSTED, UNAUTHENTICATED}
    assert member.code() is EXHAUSTED
    assert plane.rss_mib() - before < GROWTH_MIB


def test_half_a_megabyte_of_empty_messages(plane: Plane) -> None:
    """250,000 empty sub-messages in a first request cost bounded memory, and nothing after it."""
    extensions = b"\x4a\x00" * 250_000  # Node.extensions
    node = b"\x0a" + _varint(len(extensions)) + extensions
    before = plane.rss_mib()

    async def storm() -> list[grpc.Call]:
        return await asyncio.gather(*(refusal(plane, "", node) for _ in range(10)))

    found = asyncio.run(storm())

    assert {error.code() for error in found} <= {UNAUTHENTICATED, INVALID, EXHAUSTED}
    assert plane.rss_mib() - before < GROWTH_MIB


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


# --- The transport --------------------------------------------------------------------------------


def test_plaintext_to_the_tls_port(plane: Plane) -> None:
    """HTTP and HTTP/2 without TLS get no byte of an answer."""
    for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)):
        with socket.create_connection(("127.0.0.1", plane.port), timeout=DEADLINE_S) as connection:
            connection.sendall(hello)

            assert b"HTTP" not in _all_of(connection)


def _all_of(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(4096):
            found += more
    return found


def _openssl(plane: Plane, version: str) -> bool:
    """Tell whether a handshake of this version succeeds."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{plane.port}", version, "-alpn", "h2"]
    done = subprocess.run(argv, input=b"", capture_output=True, timeout=DEADLINE_S, check=False)
    return b"Cipher is TLS" in done.stdout


def test_tls_1_2_is_refused(plane: Plane) -> None:
    """Only 1.3 finds a common cipher."""
    assert _openssl(plane, "-tls1_3")
    assert not _openssl(plane, "-tls1_2")


def test_thousands_of_silent_connections(plane: Plane) -> None:
    """2,000 connections that say nothing are closed at the deadline; meanwhile others are served."""
    before = plane.rss_mib()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", plane.port), timeout=DEADLINE_S))
            for _ in range(2_000)
        ]
        waited_s = asyncio.run(served(plane))
        grown = plane.rss_mib() - before
        ends = [_all_of(connection) for connection in silent]

    assert waited_s < 4 * IMPATIENT_S
    assert grown < GROWTH_MIB
    assert set(ends) == {b""}


def test_silence_after_the_handshake(plane: Plane) -> None:
    """A connection that finished TLS and HTTP/2's settings, and then opens no stream, is closed too."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    address = ("127.0.0.1", plane.port)
    with (
        socket.create_connection(address, timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        began = time.monotonic()
        _all_of(connection)

        assert time.monotonic() - began < DEADLINE_S - 1


def test_streams_that_say_nothing(plane: Plane) -> None:
    """Streams without a first request end: at once without a token, with one at their deadline."""

    async def wait(authorization: str) -> set[grpc.StatusCode]:
        async with plane.channel() as channel:
            calls = [open_stream(channel, ADS_DELTA, authorization) for _ in range(50)]
            return {await call.code() for call in calls}

    began = time.monotonic()

    assert asyncio.run(wait("")) == {UNAUTHENTICATED}
    assert asyncio.run(wait(f"Bearer {plane.token('web')}")) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert time.monotonic() - began < DEADLINE_S - 1  # the server's deadline, not the call's


def test_clients_that_never_read(plane: Plane) -> None:
    """Fifty streams that subscribe to everything and read nothing are closed; others see changes meanwhile."""
    before = plane.rss_mib()

    async def stall() -> tuple[float, float]:
        async with plane.channel() as channel:
            authorization = f"Bearer {plane.token('orders')}"
            calls = [open_stream(channel, ADS_DELTA, authorization) for _ in range(50)]
            for call in calls:
                await call.write(request(ResourceType.CLUSTER, "*", node="orders.shop"))
            waited_s = await served(plane)
            grown = plane.rss_mib() - before
            began = time.monotonic()
            await _until(lambda: "orders.shop" not in _connected(plane))
            assert time.monotonic() - began < 6 * IMPATIENT_S
            return waited_s, grown

    waited_s, grown = asyncio.run(stall())

    assert waited_s < 4 * IMPATIENT_S
    assert grown < GROWTH_MIB


def _connected(plane: Plane) -> set[str]:
    return {proxy["id"] for proxy in plane.api("/api/v1/proxies")["proxies"]}


async def _until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not fact():  # noqa: ASYNC110 another process's fact
            await asyncio.sleep(0.1)


def test_nothing_of_it_leaves_files_open(plane: Plane) -> None:
    """After all of that the process holds a handful of connections."""
    process = psutil.Process(plane.child.process.pid)
    asyncio.run(_until(lambda: process.num_fds() < 100))

    assert process.num_fds() < 100
