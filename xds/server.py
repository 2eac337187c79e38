"""The gRPC shell of the xDS server: authenticate a call, run one session per stream, write with backpressure.

It owns sockets, tasks, deadlines and counters; it must never decide what a proxy gets, nor build a response.

    gate = Gate(authenticate=…, connect=…, rule_of=…, …)          what the composition root decides
    server = Server(snapshot, registry, ledger, gate, ServerOptions())
    port = await server.start("127.0.0.1:18000", credentials)      credentials None: plaintext
    tasks.create_task(server.sweep())                              deadlines, until it is cancelled
    server.wake(sessions)                                          after Registry.changed marked a whole batch

Each stream has a reader (the call's own task) and one writer task. Every write is awaited, so that a client
that does not read fills its own flow-control window, holds one response, and is closed at the stall deadline.
Requests and responses pass as bytes; no message is decoded here but CSDS requests.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from xds.csds import client_status
from xds.events import Close, Denied, Event, Hello, Limits, Node, Stale, Unknown, Watch
from xds.gate import Call, Caller, Gate, ServerOptions
from xds.identity import Refused
from xds.ledger import Ledger, Response, State
from xds.pb.envoy.service.status.v3 import csds_pb2
from xds.push import Registry
from xds.refusals import Refusals, answer
from xds.snapshot import ResourceType, Snapshot
from xds.stream import Session
from xds.subscription import Variant

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]
Stream = Callable[[object, Context], Awaitable[None]]
Unary = Callable[[bytes, Context], Awaitable[bytes]]

# grpc-stubs do not know EOF and leave the factories untyped: they are typed here, once.
_new_server = cast("Callable[..., grpc.aio.Server]", grpc.aio.server)  # pyright: ignore[reportUnknownMemberType]
_EOF = cast("bytes", grpc.aio.EOF)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
_Services: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
_stream = cast("Callable[[Stream], Any]", grpc.stream_stream_rpc_method_handler)  # pyright: ignore[reportUnknownMemberType]
_unary = cast("Callable[[Unary], Any]", grpc.unary_unary_rpc_method_handler)  # pyright: ignore[reportUnknownMemberType]
_service = cast("Callable[[str, dict[str, Any]], _Services]", grpc.method_handlers_generic_handler)  # pyright: ignore[reportUnknownMemberType]

_CLOSE_DEADLINE_S = 1.0
"""How long the status of a stream that is closed may take to be queued: its peer may not be reading."""

_SERVICES: tuple[tuple[str, str, str, ResourceType | None], ...] = (
    # Envoy docs, xds_protocol, 'RPC Services and Methods for Each Variant': service, SotW, delta, type.
    (
        "discovery.v3.AggregatedDiscoveryService",
        "StreamAggregatedResources",
        "DeltaAggregatedResources",
        None,
    ),
    ("cluster.v3.ClusterDiscoveryService", "StreamClusters", "DeltaClusters", ResourceType.CLUSTER),
    ("endpoint.v3.EndpointDiscoveryService", "StreamEndpoints", "DeltaEndpoints", ResourceType.ENDPOINTS),
    ("listener.v3.ListenerDiscoveryService", "StreamListeners", "DeltaListeners", ResourceType.LISTENER),
    ("route.v3.RouteDiscoveryService", "StreamRoutes", "DeltaRoutes", ResourceType.ROUTES),
    ("secret.v3.SecretDiscoveryService", "StreamSecrets", "DeltaSecrets", ResourceType.SECRET),
)


_SWEEPS_PER_DEADLINE = 4
"""How often unanswered responses are looked for: a stalled client overstays by a quarter of its deadline."""


class _Stalled(Exception):  # noqa: N818 an outcome of the writer, not an error of ours
    """A response was not read, or not answered, before the stall deadline."""


@dataclass(slots=True)
class _Stream:
    """One open stream: its session and the signal that it may have something to write."""

    session: Session
    context: Context
    caller: Caller = None
    stalled: bool = False
    life: asyncio.Timeout | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.Task[None] | None = None


class Server:
    """The xDS port."""

    def __init__(
        self,
        snapshot: Snapshot,
        registry: Registry,
        ledger: Ledger,
        gate: Gate,
        options: ServerOptions | None = None,
    ) -> None:
        """Prepare; nothing listens before `start`."""
        self._snapshot = snapshot
        self._registry = registry
        self._ledger = ledger
        self._gate = gate
        self._options = ServerOptions() if options is None else options
        self._limits = Limits(request_bytes=self._options.max_receive_bytes)
        self._streams: dict[str, _Stream] = {}
        self._last_stream = 0
        self._refusals = Refusals()
        self._server: grpc.aio.Server | None = None
        self.counters: Counter[str] = Counter()
        """Streams, refusals, stalls, answers: what `/metrics` shows."""

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on `HOST:PORT` (port 0: any); return the port. Raises RuntimeError if it is taken."""
        server = _new_server(options=self._options.channel_arguments())
        server.add_generic_rpc_handlers(tuple(self._handlers()))  # pyright: ignore[reportUnknownMemberType]
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls, give open ones `grace_s` seconds, then end them; returns when all have ended."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def wake(self, sessions: Iterable[Session]) -> None:
        """Let these sessions write what is due; call it once after a batch of `Registry.changed`."""
        for session in sessions:
            stream = self._streams.get(session.id)
            if stream is not None:
                stream.wake.set()

    # ── methods ───────────────────────────────────────────────────────────────────────────────────────────

    def _handlers(self) -> Iterable[_Services]:
        """Yield the services; without (de)serialisers, gRPC passes bytes."""
        for service, sotw, delta, only in _SERVICES:
            methods = {sotw: _stream(self._discovery(Variant.SOTW, only))}
            methods[delta] = _stream(self._discovery(Variant.DELTA, only))
            yield _service(f"envoy.service.{service}", methods)
        fetch, follow = _unary(self._fetch_status), _stream(self._stream_status)
        status = {"FetchClientStatus": fetch, "StreamClientStatus": follow}
        yield _service("envoy.service.status.v3.ClientStatusDiscoveryService", status)
        for signal, take in (("metrics", self._gate.on_metrics), ("logs", self._gate.on_logs)):
            name = f"opentelemetry.proto.collector.{signal}.v1.{signal.title()}Service"
            yield _service(name, {"Export": _unary(self._export(signal, take))})

    def _discovery(self, variant: Variant, only: ResourceType | None) -> Stream:
        async def method(_requests: object, context: Context) -> None:
            await self._serve(context, variant, only)

        return method

    def _export(self, signal: str, take: Callable[[Caller, bytes], None]) -> Unary:
        """Hand the bytes of an export over; the empty response means that all were taken."""

        async def method(request: bytes, context: Context) -> bytes:
            take(await self._authenticate(context, None), request)
            self.counters[f"{signal}_exports"] += 1
            return b""

        return method

    async def _fetch_status(self, request: bytes, context: Context) -> bytes:
        """ClientStatusDiscoveryService/FetchClientStatus: what the caller itself has, and nobody else."""
        await self._authenticate(context, None)  # before a byte is decoded, as in a discovery stream
        try:
            message = csds_pb2.ClientStatusRequest.FromString(request)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")
        node = Node(message.node.id)
        caller = await self._authenticate(context, node)
        proxy = node.id if caller is None else caller.node_id
        return client_status(proxy, self._ledger.config(proxy)).SerializeToString()

    async def _stream_status(self, _requests: object, context: Context) -> None:
        """ClientStatusDiscoveryService/StreamClientStatus: one answer per request, each within the stall deadline."""
        await self._authenticate(context, None)  # before it may hold anything open, as in a discovery stream
        try:
            while True:
                async with asyncio.timeout(self._options.stall_deadline_s):
                    if (request := await context.read()) is _EOF:
                        return
                    await context.write(await self._fetch_status(request, context))
        except TimeoutError:
            await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "no request")

    # ── one stream ────────────────────────────────────────────────────────────────────────────────────────

    async def _authenticate(self, context: Context, node: Node | None) -> Caller:
        """Return who is calling, or abort with a constant text: a stranger learns nothing."""
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        try:
            return await self._gate.authenticate(Call(metadata, context.peer(), node))
        except Refused as refused:
            self.counters["refused"] += 1
            unsaid = self._refusals.take(refused.reason, self._gate.now())
            if unsaid is not None:
                said = {"reason": refused.reason.name, "why": refused.why, "peer": context.peer()}
                log.warning("call refused", extra={**said, "unsaid": unsaid})
            code, text = answer(refused.reason)
            await context.abort(grpc.StatusCode[code], text)

    async def _serve(self, context: Context, variant: Variant, only: ResourceType | None) -> None:
        """Run one stream from its first request to its end."""
        if not self._gate.ready():
            self.counters["not_ready"] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")
        self._last_stream += 1
        stream: _Stream
        session = Session(
            str(self._last_stream),
            self._snapshot,
            variant=variant,
            rule_of=lambda kind: self._gate.rule_of(stream.caller, kind),  # once the caller is known
            limits=self._limits,
            only=only,
        )
        stream = _Stream(session, context)
        self.counters["streams_opened"] += 1
        try:
            if await self._greet(stream):
                await self._converse(stream)
        finally:
            self._end(stream)

    async def _greet(self, stream: _Stream) -> bool:
        """Take the first request: learn who is calling and what it sees. False: it left without one."""
        session, context = stream.session, stream.context
        # Before a byte is decoded: 500 KB of empty sub-messages become 24 MiB of objects.
        proven = await self._authenticate(context, None)
        try:
            async with asyncio.timeout(self._options.first_request_deadline_s):
                first = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request")
        if first is _EOF:
            return False
        for event in session.receive(first, self._gate.now()):
            if isinstance(event, Close):
                await self._close(stream, event)
        if proven is not None and session.node is not None and proven.node_id == session.node.id:
            stream.caller = proven  # the token named the same pod a moment ago
        else:
            stream.caller = await self._authenticate(context, session.node)
        view = self._gate.connect(stream.caller, session)
        self._streams[session.id] = stream
        self._ledger.attach(session)
        self._registry.connect(session)
        await self._react(stream, session.attach(view, self._gate.now()))
        said = {"proxy": session.proxy, "stream": session.id, "peer": context.peer()}
        log.info("stream opened", extra=said)
        return True

    async def _converse(self, stream: _Stream) -> None:
        """Read and write until either side ends it."""
        life_s = self._options.life_s(stream.caller, self._gate.now(), random.random())  # noqa: S311 a spread
        try:
            async with asyncio.timeout(life_s) as stream.life, asyncio.TaskGroup() as tasks:
                name = f"xds-writer-{stream.session.id}"
                writer = stream.writer = tasks.create_task(self._write(stream), name=name)
                await self._read(stream)
                writer.cancel()
        except* _Stalled:
            self.counters["stalled"] += 1
            log.warning("stream stalled", extra={"proxy": stream.session.proxy, "stream": stream.session.id})
            await _abort(stream.context, grpc.StatusCode.DEADLINE_EXCEEDED, "response was not read in time")
        except* TimeoutError:
            self.counters["streams_expired"] += 1  # it has had its time: status OK, and the proxy comes back
        except* grpc.aio.AbortError:
            pass  # `_close` has said why; gRPC would log the group that carries it as a bug of ours

    async def _read(self, stream: _Stream) -> None:
        session, context, now = stream.session, stream.context, self._gate.now
        while (request := await context.read()) is not _EOF:
            await self._react(stream, session.receive(request, now()))

    async def _write(self, stream: _Stream) -> None:
        """Write what is due at each wake; a write that waits too long is ended by the sweeper."""
        session, context, wake, now = stream.session, stream.context, stream.wake, self._gate.now
        try:
            while True:
                await wake.wait()
                wake.clear()
                for response in session.poll(now()):
                    await context.write(response)
        except asyncio.CancelledError:
            if stream.stalled:
                raise _Stalled from None
            raise

    async def sweep(self) -> None:
        """End streams whose client does not read or does not answer, or is not who it was when it was admitted.

        It runs until it is cancelled; a server without it keeps no deadline, so its failure is its owner's end.
        One sweep instead of a timer for each write, which costs as much as building the response. A deadline for
        writes alone would not be enough: gRPC takes a few megabytes from us before a write has to wait, and a
        client that never reads gets no more than that, as nothing is sent before its ACK.
        """
        deadline_s = self._options.stall_deadline_s
        while True:
            await asyncio.sleep(deadline_s / _SWEEPS_PER_DEADLINE)
            oldest = self._gate.now() - deadline_s
            for stream in self._streams.values():
                if not self._gate.holds(stream.caller):
                    self._revoke(stream)
                since = stream.session.unanswered_since
                if since is not None and since <= oldest:
                    stream.stalled = True
                    if stream.writer is not None:
                        stream.writer.cancel()

    def _revoke(self, stream: _Stream) -> None:
        """End a stream in peace, as if its time were up: what comes back is authenticated anew."""
        is_open = stream.writer is not None and not stream.writer.done()
        if stream.life is not None and is_open and not stream.life.expired():
            self.counters["revoked"] += 1
            log.info(
                "stream of a gone pod", extra={"proxy": stream.session.proxy, "stream": stream.session.id}
            )
            stream.life.reschedule(0)

    async def _react(self, stream: _Stream, events: Iterable[Event]) -> None:
        """Do what a request asks of the shell."""
        for event in events:
            if isinstance(event, Close):
                await self._close(stream, event)
            self._note(stream, event)
        if not stream.session.idle:
            stream.wake.set()

    def _note(self, stream: _Stream, event: Event) -> None:
        session = stream.session
        match event:
            case Response():
                self._note_answer(session, event)
            case Watch():
                self._registry.watch(session, event)
                self._gate.on_names(session, event)
                if event.type is ResourceType.SECRET:
                    for name in event.added:
                        self._gate.on_secret(session, stream.caller, name, session.claimed(event.type, name))
            case Stale():
                self.counters["stale_nonces"] += 1
            case Denied():
                self.counters["denied"] += 1
                log.warning("resource denied", extra={"proxy": session.proxy, "resource": event.name})
            case Unknown():
                log.debug("type not served", extra={"proxy": session.proxy, "type": event.type_url[:200]})
            case Hello() | Close():
                pass  # taken where the stream is opened and ended

    def _note_answer(self, session: Session, response: Response) -> None:
        self._gate.on_answer(response)
        if response.state is State.ACKED:
            self.counters["acks"] += 1
            return
        self.counters["nacks"] += 1
        said = {"proxy": session.proxy, "type": response.type_url, "nonce": response.nonce}
        log.warning("response rejected", extra={**said, "error": response.error})

    async def _close(self, stream: _Stream, close: Close) -> None:
        """End a stream that broke a rule."""
        self.counters["closed"] += 1
        log.warning("stream closed", extra={"proxy": stream.session.proxy, "reason": close.text})
        await stream.context.abort(grpc.StatusCode[close.status.value], close.text)

    def _end(self, stream: _Stream) -> None:
        """Forget a stream, whatever ended it."""
        session = stream.session
        if self._streams.pop(session.id, None) is None:
            return
        self._registry.disconnect(session)
        self._ledger.detach(session)
        session.close()
        self._gate.on_close(session)
        self.counters["streams_closed"] += 1


async def _abort(context: Context, code: grpc.StatusCode, text: str) -> None:
    """Abort, but wait only so long: the status queues behind data that the peer does not read."""
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE_S):
            await context.abort(code, text)
    except TimeoutError:
        return
