"""The control port of the servers that are measured: make changes, wait for every ACK, say what that cost.

It owns the commands and the counting of CPU, equal for all Python servers and as in `baseline/`; it must never
decide what a change means.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from aiohttp import web

from benchmarks import worlds

POLL_S = 0.005
"""How often the last ACK is looked for; a look costs microseconds."""

TIMEOUT_S = 60.0
"""Longer than the slowest fan-out on a busy machine; more means that an ACK is lost."""

BODY_BYTES_MAX = 64 << 20
"""1,500 changes of a large object."""


class Answer(msgspec.Struct, frozen=True):
    """What a push cost: `changes` are pairs of the change's number and its time (epoch, s)."""

    changes: tuple[tuple[int, float], ...]
    streams: int
    pushes: int
    cpu_seconds: float
    cpu_us_per_push: float
    wall_ms: float
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A server as the commands see it."""

    change: Callable[[list[worlds.Manifest]], None]
    """Take one batch of manifests and tell every stream."""
    is_settled: Callable[[], bool]
    acks: Callable[[], int]
    streams: Callable[[], int]


def cpu_s() -> float:
    """Return user and system seconds of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def listening(target: Target, port: int) -> AsyncGenerator[None]:
    """Serve POST /push on a port of 127.0.0.1: a JSON list of changes, each a list of manifests."""

    async def push(request: web.Request) -> web.Response:
        steps = msgspec.json.decode(await request.read(), type=list[list[dict[str, object]]])
        first, interval_ms = (
            int(request.query.get("first", "1")),
            float(request.query.get("interval_ms", "0")),
        )
        answer = await _push(target, steps, first, interval_ms / 1000)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    application = web.Application(client_max_size=BODY_BYTES_MAX)
    application.router.add_post("/push", push)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


async def _push(target: Target, steps: list[list[worlds.Manifest]], first: int, interval_s: float) -> Answer:
    acks, before, began = target.acks(), cpu_s(), time.monotonic()
    changes: list[tuple[int, float]] = []
    for number, manifests in enumerate(steps):
        late_s = time.monotonic() - began - number * interval_s
        await asyncio.sleep(max(0.0, -late_s))
        changes.append((first + number, time.time()))
        target.change(manifests)
        if not interval_s:
            await _settle(target)
    is_settled = await _settle(target)
    spent, pushes = cpu_s() - before, target.acks() - acks
    return Answer(
        changes=tuple(changes),
        streams=target.streams(),
        pushes=pushes,
        cpu_seconds=spent,
        cpu_us_per_push=spent / pushes * 1e6 if pushes else 0.0,
        wall_ms=(time.monotonic() - began) * 1000,
        is_settled=is_settled,
    )


async def _settle(target: Target) -> bool:
    deadline = time.monotonic() + TIMEOUT_S
    await asyncio.sleep(0)
    while not target.is_settled():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True
