"""The floor of grpc.aio: a server that writes the same bytes to every stream and reads the ACKs, and nothing else.

It owns what any asyncio gRPC server must do for a push: wake a writer, write, read. It must never look into a
request; what Proa costs above it is Proa's own.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, cast

import uvloop

from xds.channel import force_tls13, poll_in_place

poll_in_place()
force_tls13()  # equal transports: see xds.channel

import grpc  # noqa: E402
import grpc.aio  # noqa: E402

from benchmarks import pushes, worlds  # noqa: E402
from xds import frames  # noqa: E402
from xds.control import ControlPlane  # noqa: E402
from xds.server import ServerOptions  # noqa: E402
from xds.snapshot import ResourceType  # noqa: E402

METHOD = "DeltaAggregatedResources"
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class Echo:
    """All streams and the one response that they are sent."""

    def __init__(self) -> None:
        self._plane = ControlPlane()
        self._plane.apply(worlds.objects(worlds.bench_service(10)), at=0.0, now=0.0)
        self._wakes: set[asyncio.Event] = set()
        self._sent = 0
        self._nonce = 0
        self.acks = 0

    def change(self, manifests: list[worlds.Manifest]) -> None:
        """Build the response once and wake every writer."""
        self._plane.apply(worlds.objects(manifests), at=0.0, now=0.0)
        self._nonce += 1
        self._sent += len(self._wakes)
        self._body = self._response()
        for wake in self._wakes:
            wake.set()

    def is_settled(self) -> bool:
        """Tell whether every response has been answered."""
        return self.acks >= self._sent

    def streams(self) -> int:
        """Return how many streams are open."""
        return len(self._wakes)

    async def serve(self, _requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Serve one stream: write at each wake, count what is read."""
        wake = asyncio.Event()
        await context.read()
        await context.write(self._response())
        await context.read()
        self._wakes.add(wake)
        writer = asyncio.create_task(self._write(wake, context))
        while await context.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs do not know it
            self.acks += 1
        self._wakes.discard(wake)
        writer.cancel()

    async def _write(self, wake: asyncio.Event, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while True:
            await wake.wait()
            wake.clear()
            await context.write(self._body)

    def _response(self) -> bytes:
        """Return the bytes that Proa sends for this change."""
        kind = ResourceType.ENDPOINTS
        found = self._plane.snapshot.get("mesh", kind, worlds.cluster("bench"))
        assert found is not None
        return frames.delta_response([found.delta], (), frames.type_url_field(kind.url), str(self._nonce))


async def run(xds: int, control: int, credentials: grpc.ServerCredentials | None) -> None:
    """Serve until SIGTERM."""
    echo = Echo()
    library = cast("Any", grpc)  # the stubs leave its factories untyped
    server = library.aio.server(options=ServerOptions().channel_arguments())
    method = library.stream_stream_rpc_method_handler(echo.serve)
    server.add_generic_rpc_handlers((library.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
    if credentials is None:
        server.add_insecure_port(f"127.0.0.1:{xds}")
    else:
        server.add_secure_port(f"127.0.0.1:{xds}", credentials)
    await server.start()
    target = pushes.Target(echo.change, echo.is_settled, lambda: echo.acks, echo.streams)
    async with pushes.listening(target, control):
        await server.wait_for_termination()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--xds", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    args = parser.parse_args()
    pair = [(args.key.read_bytes(), args.cert.read_bytes())] if args.cert else None
    credentials = grpc.ssl_server_credentials(pair) if pair else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(args.xds, args.control, credentials))


if __name__ == "__main__":
    main()
