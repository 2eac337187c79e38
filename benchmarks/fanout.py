"""One change to many streams: Proa against bare grpc-go and bare grpc.aio, the same client, rounds interleaved.

It owns the comparison; it must never compare figures of different runs.
"""

from __future__ import annotations

import statistics
from itertools import islice

from benchmarks import worlds
from benchmarks.figures import ROUNDS, Result
from benchmarks.fleet import Lab, Load, Server, laboratory

OVER_GO_MAX = 3.2
ABOVE_ECHO_US_MAX = 40


def run(result: Result) -> None:
    """Measure the CPU of one push and its ACK, plaintext and over TLS with tokens."""
    sizes = (4, 8) if result.is_quick else (100, 1000)
    with laboratory() as lab:
        lab.build()
        certificate = lab.certificate()
        manifests = list(world(sizes[-1]))
        servers: dict[str, Server] = {
            "proa plaintext": lab.proa("proa-plain", manifests, is_insecure=True),
            "proa TLS": lab.proa("proa-tls", manifests, is_insecure=False),
            "grpc-go plaintext": lab.grpc_go("go-plain", None),
            "grpc-go TLS": lab.grpc_go("go-tls", certificate),
            "grpc.aio plaintext": lab.echo("echo-plain", None),
            "grpc.aio TLS": lab.echo("echo-tls", certificate),
        }
        for streams in sizes:
            _measure(result, lab, servers, streams)


def world(proxies: int) -> list[worlds.Manifest]:
    """Return the world of the comparisons: 100 services, one of them changing, and a Pod for each proxy."""
    return [
        worlds.namespace(),
        *worlds.services(100, 10),
        *worlds.bench_service(10),
        *islice(worlds.pods(proxies), proxies),
    ]


def _measure(result: Result, lab: Lab, servers: dict[str, Server], streams: int) -> None:
    loads = {
        name: lab.load(server, streams, f"eds={worlds.cluster('bench')}") for name, server in servers.items()
    }
    count = 1 if result.is_quick else max(3, 1000 // streams)
    rounds: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):
        for name, server in servers.items():
            cost = _push(server, loads[name], count, streams)
            if number:  # the first one warms up
                rounds[name].append(cost)
    for load in loads.values():
        load.stop()
    for name, found in rounds.items():
        result.add(f"{name}, {streams} streams: push and ACK", found, "µs")
    for kind in ("plaintext", "TLS"):
        proa, go, echo = (
            statistics.median(rounds[f"{who} {kind}"]) for who in ("proa", "grpc-go", "grpc.aio")
        )
        result.add(f"{kind}, {streams} streams: Proa against grpc-go", proa / go, "×", target=OVER_GO_MAX)
        name = f"{kind}, {streams} streams: Proa above bare grpc.aio"
        result.add(name, proa - echo, "µs", target=ABOVE_ECHO_US_MAX)


def _push(server: Server, load: Load, count: int, streams: int) -> float:
    """Return the CPU of one push and its ACK; every stream must have got every change."""
    load.command("reset")
    answer = server.push(count)
    assert answer["pushes"] == count * streams, answer
    seen = load.command(f"wait?sequence={server.changes}&timeout=10s")
    assert seen["complete"], seen
    return answer["cpu_us_per_push"]
