"""The real gRPC server on loopback, and a real gRPC client."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import grpc.aio
import pytest

from xds import settings
from xds.identity import Identity, Proof, Refusal, Refused, rule_of
from xds.ledger import Ledger
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from xds.pb.envoy.service.status.v3 import csds_pb2
from xds.push import Registry
from xds.server import Call, Caller, Gate, Server, ServerOptions
from xds.snapshot import ResourceType, Snapshot, View
from xds.stream import Session

ADS_DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ADS_SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
EDS_SOTW = "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
CSDS = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
CSDS_STREAM = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus"
OTLP = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
DEADLINE_S = 30.0


@dataclass
class Mesh:
    """A control plane with one token, and what happened in it."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    registry: Registry = field(default_factory=Registry)
    ledger: Ledger = field(default_factory=Ledger)
    ready: bool = True
    secrets: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    closed: list[str] = field(default_factory=list[str])
    gone: set[str] = field(default_factory=set[str])
    exports: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    server: Server = field(init=False)
    port: int = 0

    def gate(self) -> Gate:
        """Return decisions like those of the composition root: the token is the pod's name."""

        async def authenticate(call: Call) -> Caller:
            pod = call.metadata.get("authorization", "").removeprefix("Bearer ")
            if not pod:
                raise Refused(Refusal.NO_TOKEN)
            if pod == "crowd":
                raise Refused(Refusal.BUSY)
            if call.node is not None and call.node.id != f"{pod}.shop":
                raise Refused(Refusal.NODE)
            return _identity(pod)

        def connect(_caller: Caller, session: Session) -> View:
            return (f"stream/{session.id}", "proxy/shop/web", "ns/shop", "mesh")

        def on_secret(session: Session, _caller: Caller, name: str, _claimed: str | None) -> None:
            self.secrets.append((session.id, name))
            self.snapshot.put(f"stream/{session.id}", ResourceType.SECRET, name, b"key")

        return Gate(
            authenticate=authenticate,
            rule_of=lambda caller, kind: rule_of(caller, kind.url),
            connect=connect,
            on_secret=on_secret,
            on_close=lambda session: self.closed.append(session.id),
            on_metrics=lambda caller, body: self.exports.append((caller.pod if caller else "", body)),
            ready=lambda: self.ready,
            now=asyncio.get_running_loop().time,
            holds=lambda caller: caller is None or caller.pod not in self.gone,
        )

    def put(self, kind: ResourceType, name: str, body: bytes) -> None:
        """Change the mesh as the composition root does."""
        push = self.ledger.begin(1.0, ((kind, name),))
        self.snapshot.put("mesh", kind, name, body)
        self.server.wake(self.registry.changed("mesh", kind, name, push))


def _identity(pod: str) -> Identity:
    return Identity(pod, "shop", "web", "web", "cluster.local", Proof.TOKEN)


@asynccontextmanager
async def serve(options: ServerOptions | None = None) -> AsyncGenerator[tuple[Mesh, grpc.aio.Channel]]:
    """Run a server and open a channel to it."""
    mesh = Mesh()
    mesh.server = Server(mesh.snapshot, mesh.registry, mesh.ledger, mesh.gate(), options)
    mesh.port = await mesh.server.start("127.0.0.1:0")
    sweeper = asyncio.create_task(mesh.server.sweep())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.port}") as channel:
        yield mesh, channel
    sweeper.cancel()
    await mesh.server.stop()


def _metadata(pod: str = "web") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {pod}"),)


def _delta(kind: ResourceType, *names: str, nonce: str = "") -> bytes:
    request = DeltaDiscoveryRequest(type_url=kind.url, resource_names_subscribe=names, response_nonce=nonce)
    request.node.id = "web.shop"
    return request.SerializeToString()


def _sotw(kind: ResourceType, *names: str) -> bytes:
    request = DiscoveryRequest(type_url=kind.url, resource_names=names)
    request.node.id = "web.shop"
    return request.SerializeToString()


Call_ = grpc.aio.StreamStreamCall[bytes, bytes]


def _open(channel: grpc.aio.Channel, method: str, pod: str = "web") -> Call_:
    factory = cast("Callable[[str], Callable[..., Call_]]", channel.stream_stream)  # pyright: ignore[reportUnknownMemberType]
    return factory(method)(metadata=_metadata(pod), timeout=DEADLINE_S)


async def _ask(channel: grpc.aio.Channel, method: str, body: bytes, pod: str = "web") -> bytes:
    factory = cast("Callable[[str], Callable[..., Awaitable[bytes]]]", channel.unary_unary)  # pyright: ignore[reportUnknownMemberType]
    return await factory(method)(body, metadata=_metadata(pod), timeout=DEADLINE_S)


async def _hear(call: Call_) -> DeltaDiscoveryResponse:
    return DeltaDiscoveryResponse.FromString(cast("bytes", await call.read()))


async def _until(fact: Callable[[], bool]) -> None:
    """Return when a fact holds; the loop's own deadline ends a wait for nothing."""
    async with asyncio.timeout(DEADLINE_S):
        while not fact():  # noqa: ASYNC110 the fact is another task's, and gRPC signals it to nobody
            await asyncio.sleep(0.005)


async def test_delta_stream_carries_a_change() -> None:
    """A subscribed resource arrives, and its next version after a wake."""
    async with serve() as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "a", b"one")
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        first = await _hear(call)
        await call.write(_delta(ResourceType.CLUSTER, nonce=first.nonce))
        mesh.put(ResourceType.CLUSTER, "a", b"two")
        second = await _hear(call)
        call.cancel()

        assert [r.resource.value for r in first.resources] == [b"one"]
        assert [r.resource.value for r in second.resources] == [b"two"]


@pytest.mark.parametrize("method", [ADS_SOTW, EDS_SOTW])
async def test_sotw_streams_carry_endpoints(method: str) -> None:
    """The aggregated and the single-type service speak state of the world."""
    async with serve() as (mesh, channel):
        mesh.put(ResourceType.ENDPOINTS, "a", b"one")
        call = _open(channel, method)
        await call.write(_sotw(ResourceType.ENDPOINTS, "a"))
        response = DiscoveryResponse.FromString(cast("bytes", await call.read()))
        call.cancel()

        assert [r.value for r in response.resources] == [b"one"]


async def test_acknowledged_push_is_live() -> None:
    """The client's ACK reaches the ledger."""
    async with serve() as (mesh, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        absent = await _hear(call)
        await call.write(_delta(ResourceType.CLUSTER, nonce=absent.nonce))
        mesh.put(ResourceType.CLUSTER, "a", b"one")
        response = await _hear(call)
        (push,) = mesh.ledger.pushes()
        before = push.live_at
        await call.write(_delta(ResourceType.CLUSTER, nonce=response.nonce))
        await _until(lambda: push.live_at is not None)
        call.cancel()

        assert before is None


@pytest.mark.parametrize(
    ("pod", "code"), [("", grpc.StatusCode.UNAUTHENTICATED), ("other", grpc.StatusCode.PERMISSION_DENIED)]
)
async def test_stranger_gets_no_facts(pod: str, code: grpc.StatusCode) -> None:
    """Without a token, or with another's node ID, the stream ends in a constant text."""
    async with serve() as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "secret-name", b"one")
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # by the write, where the refusal comes first
            await _ask(channel, ADS_DELTA, _delta(ResourceType.CLUSTER, "secret-name"), pod)

        assert refused.value.code() is code
        assert refused.value.details() in {"authentication failed", "not authorized"}
        assert len(mesh.registry) == 0


async def test_a_crowd_is_told_to_come_back_and_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """An overloaded queue says nothing against a caller; who waits in it in vain is a few lines and a count."""
    async with serve() as (mesh, channel):
        for _ in range(3 * settings.REFUSALS_SAID):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await _open(channel, ADS_DELTA, "crowd").read()

            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "try again later"
        assert mesh.server.counters["refused"] == 3 * settings.REFUSALS_SAID
        assert [one.message for one in caplog.records].count("call refused") == settings.REFUSALS_SAID


async def test_no_byte_before_ready() -> None:
    """A control plane that has not synced refuses streams, so that nobody loses configuration."""
    async with serve() as (mesh, channel):
        mesh.ready = False
        call = _open(channel, ADS_DELTA)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()

        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_rule_breaker_is_closed() -> None:
    """Bytes that are no request end the stream with the session's status."""
    async with serve() as (_, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()

        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_rule_breaker_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is closed on purpose is one line of ours, and no traceback of gRPC's."""
    async with serve() as (mesh, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        await _hear(call)
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        await _until(lambda: mesh.server.counters["streams_closed"] == 1)
        await mesh.server.stop()

        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [record.message for record in caplog.records if record.levelno > logging.WARNING] == []
        assert [record.message for record in caplog.records].count("stream closed") == 1


async def test_silent_stream_is_closed() -> None:
    """Who does not say who it is does not stay."""
    async with serve(ServerOptions(first_request_deadline_s=0.05)) as (_, channel):
        call = _open(channel, ADS_DELTA)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()

        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_client_that_does_not_answer_is_closed() -> None:
    """A client that stopped reading ends at the stall deadline and is counted."""
    async with serve(ServerOptions(stall_deadline_s=0.2)) as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "a", b"one")
        stalled = _open(channel, ADS_DELTA)
        await stalled.write(_delta(ResourceType.CLUSTER, "*"))
        await _until(lambda: mesh.server.counters["stalled"] == 1)
        await _until(lambda: len(mesh.registry) == 0)

        assert mesh.closed == ["1"]


async def test_client_that_answers_is_not_closed() -> None:
    """A quiet stream whose responses are all answered lives on."""
    async with serve(ServerOptions(stall_deadline_s=0.5)) as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "a", b"one")
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "*"))
        first = await _hear(call)
        await call.write(_delta(ResourceType.CLUSTER, nonce=first.nonce))
        await _until(lambda: mesh.server.counters["acks"] == 1)
        await asyncio.sleep(1)  # two deadlines
        mesh.put(ResourceType.CLUSTER, "a", b"two")
        second = await _hear(call)
        call.cancel()

        assert [r.resource.value for r in second.resources] == [b"two"]


async def test_secret_is_issued_when_it_is_subscribed() -> None:
    """The first subscription of a secret calls for it, and the answer carries it."""
    async with serve() as (mesh, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.SECRET, "default"))
        response = await _hear(call)
        call.cancel()

        assert mesh.secrets == [("1", "default")]
        assert [r.resource.value for r in response.resources] == [b"key"]


async def test_ended_stream_is_forgotten() -> None:
    """After the client leaves, neither index nor ledger knows it, and the shell is told."""
    async with serve() as (mesh, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        await _hear(call)
        await call.done_writing()
        await _until(lambda: mesh.closed == ["1"])

        assert len(mesh.registry) == 0
        assert mesh.ledger.proxies() == ()


async def test_stream_life_is_bounded_if_asked() -> None:
    """A stream that has had its time ends with OK."""
    async with serve(ServerOptions(stream_life_s=0.1)) as (mesh, channel):
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        await _hear(call)

        assert await call.code() is grpc.StatusCode.OK
        assert mesh.server.counters["streams_expired"] == 1


async def test_status_service_tells_a_caller_about_itself() -> None:
    """CSDS shows the caller's own resources, and the keys of none."""
    async with serve() as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "a", b"one")
        call = _open(channel, ADS_DELTA)
        await call.write(_delta(ResourceType.CLUSTER, "a"))
        first = await _hear(call)
        await call.write(_delta(ResourceType.SECRET, "default"))
        await _hear(call)
        await call.write(_delta(ResourceType.CLUSTER, nonce=first.nonce))
        await _until(lambda: mesh.server.counters["acks"] == 1)
        request = csds_pb2.ClientStatusRequest()
        request.node.id = "web.shop"
        answer = await _ask(channel, CSDS, request.SerializeToString())
        (config,) = csds_pb2.ClientStatusResponse.FromString(answer).config
        call.cancel()

        assert config.node.id == "web.shop"
        assert {(entry.name, entry.config_status) for entry in config.generic_xds_configs} == {
            ("a", csds_pb2.ConfigStatus.SYNCED),
            ("default", csds_pb2.ConfigStatus.STALE),
        }
        assert b"key" not in answer


async def test_status_stream_answers_each_request() -> None:
    """The streaming form of CSDS says the same, as often as it is asked."""
    async with serve() as (_, channel):
        call = _open(channel, CSDS_STREAM)
        request = csds_pb2.ClientStatusRequest()
        request.node.id = "web.shop"
        answers: list[str] = []
        for _ in range(2):
            await call.write(request.SerializeToString())
            answer = csds_pb2.ClientStatusResponse.FromString(cast("bytes", await call.read()))
            answers.append(answer.config[0].node.id)
        call.cancel()

        assert answers == ["web.shop", "web.shop"]


@pytest.mark.parametrize(
    ("pod", "code"),
    [("", grpc.StatusCode.UNAUTHENTICATED), ("web", grpc.StatusCode.DEADLINE_EXCEEDED)],
)
async def test_status_stream_is_not_held_open(pod: str, code: grpc.StatusCode) -> None:
    """A stranger is refused before it has asked, and who asks nothing more does not stay."""
    async with serve(ServerOptions(stall_deadline_s=0.2)) as (_, channel):
        call = _open(channel, CSDS_STREAM, pod)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()

        assert refused.value.code() is code
        assert refused.value.details() in {"authentication failed", "no request"}


async def test_status_of_another_is_refused() -> None:
    """A caller that names another proxy learns nothing (CVE-2026-31838)."""
    async with serve() as (_, channel):
        request = csds_pb2.ClientStatusRequest()
        request.node.id = "other.shop"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _ask(channel, CSDS, request.SerializeToString())

        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_metrics_are_handed_over() -> None:
    """An OTLP export reaches the callback with the caller's identity."""
    async with serve() as (mesh, channel):
        answer = await _ask(channel, OTLP, b"metrics")

        assert answer == b""
        assert mesh.exports == [("web", b"metrics")]


async def test_many_streams_connect_at_once() -> None:
    """A reconnect storm is admitted whole: nobody is refused."""
    async with serve(ServerOptions(max_concurrent_streams=1000)) as (mesh, channel):
        mesh.put(ResourceType.CLUSTER, "a", b"one")

        async def connect() -> bytes:
            call = _open(channel, ADS_DELTA)
            await call.write(_delta(ResourceType.CLUSTER, "a"))
            response = await _hear(call)
            call.cancel()
            return response.resources[0].resource.value

        bodies = await asyncio.gather(*(connect() for _ in range(200)))

        assert bodies == [b"one"] * 200


async def test_the_stream_of_a_pod_that_is_gone_ends_in_peace() -> None:
    """Its proof held when it was shown; when the Pod is no more, the stream ends, and the others go on."""
    async with serve(ServerOptions(stall_deadline_s=0.2)) as (mesh, channel):
        calls = {pod: _open(channel, ADS_DELTA, pod) for pod in ("web", "api")}
        for pod, call in calls.items():
            request = DeltaDiscoveryRequest(type_url=ResourceType.CLUSTER.url)
            request.node.id = f"{pod}.shop"
            await call.write(request.SerializeToString())
        await _until(lambda: mesh.server.counters["streams_opened"] == 2 and len(mesh.registry) == 2)
        mesh.gone.add("web")

        assert await calls["web"].code() is grpc.StatusCode.OK
        assert mesh.server.counters["revoked"] == 1
        assert not calls["api"].done()
