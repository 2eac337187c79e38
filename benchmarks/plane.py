"""Proa's real server as `proa serve` composes it, with a control port that changes the world from inside.

It owns the command line alone; what it starts is `xds.standalone`, so that a push is measured without the file watcher
that noticed the change, and with everything else. It must never serve anybody but a benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import uvloop

from xds.channel import force_tls13, poll_in_place

poll_in_place()
force_tls13()  # before grpc is imported: see xds.channel

from benchmarks import pushes, worlds  # noqa: E402
from xds import logs  # noqa: E402
from xds.address import Address  # noqa: E402
from xds.app import Ports  # noqa: E402
from xds.standalone import Options, compose  # noqa: E402


async def serve(options: Options, ports: Ports, control: int) -> None:
    """Run until SIGTERM."""
    app = compose(options, ports)
    plane = app.plane

    def change(manifests: list[worlds.Manifest]) -> None:
        now = time.time()
        app.server.wake(plane.apply(worlds.objects(manifests), at=now, now=now))

    target = pushes.Target(
        change=change,
        is_settled=lambda: all(push.waiting <= 0 for push in plane.ledger.pushes()),
        acks=lambda: app.server.counters["acks"],
        streams=lambda: len(plane.registry),
    )
    async with pushes.listening(target, control):
        await app.run()


def main() -> None:
    """Read the command line: that of `proa serve`, and the control port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="directory", type=Path, required=True)
    parser.add_argument("--xds", type=int, required=True)
    parser.add_argument("--admin", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--insecure", action="store_true")
    args = parser.parse_args()
    logs.to_stderr()
    ports = Ports(Address("127.0.0.1", args.xds), Address("127.0.0.1", args.admin))
    options = Options(args.directory, args.state, is_insecure=args.insecure)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, ports, args.control))


if __name__ == "__main__":
    main()
