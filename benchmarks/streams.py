"""Proxies that come, stay behind and come again: staleness, cold connects, storms, reconnects, a large route table.

It owns the scenarios, each against the real server over TLS with tokens; it must never subscribe a proxy to less
than a sidecar asks for, except where the figure is about one resource.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from benchmarks import worlds
from benchmarks.fanout import world
from benchmarks.figures import ROUNDS, Figure, Result
from benchmarks.fleet import Lab, Load, Proa, laboratory

SIDECAR = ("cds", "lds", "rds=outbound", "sds=default,ROOTCA")
"""What a sidecar subscribes to; with the flag --follow it asks for the endpoints of every cluster as well."""

FOLLOW = ("--follow",)


def run(result: Result) -> None:
    """Run every scenario."""
    with laboratory() as lab:
        lab.build()
        _small_world(result, lab)
        _large_world(result, lab)


def _small_world(result: Result, lab: Lab) -> None:
    """100 services, and as many Pods as there are proxies at once."""
    proxies = 10 if result.is_quick else 1000
    server = lab.proa("small", world(proxies), is_insecure=False)
    _staleness(result, lab, server)
    _staleness_of_files(result, lab, server)
    lab.stop(server.child)
    server = lab.proa("storm", world(proxies), is_insecure=False)
    _storm(result, lab, server, proxies)
    lab.stop(server.child)


def _staleness(result: Result, lab: Lab, server: Proa) -> None:
    streams, seconds = (4, 1) if result.is_quick else (100, 30)
    load = lab.load(server, streams, f"eds={worlds.cluster('bench')}")
    answer = server.push(50 * seconds, interval_ms=20)
    _report_staleness(result, load, answer["changes"], server.changes, f"50 changes/s, {streams} proxies")
    result.add("the same: CPU of the server, share of a core", answer["cpu_seconds"] / seconds, "cores")
    load.stop()


def _staleness_of_files(result: Result, lab: Lab, server: Proa) -> None:
    """The same through the directory: each change is a file that is replaced by a rename."""
    streams, seconds = (4, 1) if result.is_quick else (100, 10)
    load = lab.load(server, streams, f"eds={worlds.cluster('bench')}")
    directory = lab.work / "small" / "manifests"
    _move_to_its_own_file(directory)
    time.sleep(1)  # the watcher settles: the figure is about edits, not about the first look at a new file
    changes: list[tuple[int, float]] = []
    began = time.monotonic()
    for number in range(50 * seconds):
        time.sleep(max(0.0, began + number / 50 - time.monotonic()))
        server.changes += 1
        changes.append(
            (
                server.changes,
                _write(directory / "mark.yaml", worlds.documents([worlds.marked(server.changes)])),
            )
        )
    found = f"50 edits/s of one file, {streams} proxies"
    _report_staleness(result, load, changes, server.changes, found, target_ms=None)
    load.stop()


def _move_to_its_own_file(directory: Path) -> None:
    """Take the marked slice out of the file of the whole world, which would be read again at each change."""
    text = (directory / "world.yaml").read_text("utf-8")
    mark = worlds.documents([worlds.marked(0)]).strip()
    assert mark in text
    _write(directory / "mark.yaml", mark)
    _write(directory / "world.yaml", text.replace(f"---\n{mark}\n", ""))


def _write(path: Path, text: str) -> float:
    """Replace a file by a rename; return when."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, "utf-8")
    at = time.time()
    draft.replace(path)
    return at


def _report_staleness(  # noqa: PLR0913, PLR0917 -- what was done, and what it is called
    result: Result,
    load: Load,
    changes: list[tuple[int, float]],
    newest: int,
    name: str,
    target_ms: float | None = 100,
) -> None:
    import json

    reached = load.command(f"wait?sequence={newest}&timeout=20s")
    seen = load.command("staleness", json.dumps({"changes": changes}).encode())
    assert reached["complete"], reached
    result.add(f"{name}: staleness p50", seen["p50_ms"], "ms")
    result.add(f"{name}: staleness p99", seen["p99_ms"], "ms", target=target_ms)
    left = seen["last_ms"]
    result.add(f"{name}: last change to its last arrival", left, "ms", target=1000 if target_ms else None)
    result.add(f"{name}: pairs that never arrived", seen["missing"], "", target=0 if target_ms else None)


def _storm(result: Result, lab: Lab, server: Proa, proxies: int) -> None:
    """All proxies connect at once as sidecars do; then all lose their stream and come again with what they hold."""
    empty_mib, before = server.rss_mib(), server.cpu_s()
    load = lab.load(server, proxies, *SIDECAR, flags=(*FOLLOW, "--remember"))
    failed = load.connected["failed"]
    cost = (server.cpu_s() - before) / proxies * 1000
    found = f"{proxies} sidecars of 100 services connect at once"
    result.add(f"{found}: refused", failed, "", target=0)
    result.add(f"{found}: until all are served", load.connected["settled_ms"]["last"] / 1000, "s")
    result.add(f"{found}: CPU per proxy", cost, "ms")
    result.add(f"{found}: RSS of the server", server.rss_mib(), "MiB", target=150 + 0.3 * proxies)
    result.add("RSS of the server before", empty_mib, "MiB")
    rounds: list[float] = []
    again = {"resources": 0, "bytes": 0}
    for _ in range(1 if result.is_quick else 3):
        before = server.cpu_s()
        answer = load.command("reconnect?quiet=1s")
        rounds.append((server.cpu_s() - before) / proxies * 1000)
        again = {name: answer[name] for name in again}
    secrets = f"{found}: unchanged reconnect"
    result.add(f"{secrets}: resources sent again", again["resources"], "", target=0)
    result.add(f"{secrets}: CPU per proxy", rounds, "ms", target=5)
    load.stop()


def _large_world(result: Result, lab: Lab) -> None:
    """1,000 services, one of them with weighted routes."""
    services, proxies = (20, 4) if result.is_quick else (1000, 100)
    manifests = [worlds.namespace(), *worlds.services(services, 10), *worlds.split("s7", 50)]
    server = lab.proa("large", [*manifests, *worlds.pods(proxies)], is_insecure=False)
    lab.load(server, 1, *SIDECAR, flags=FOLLOW).stop()  # encodes everything once, before anything counts
    _cold(result, lab, server, services)
    _weight(result, lab, server, services, proxies)


def _cold(result: Result, lab: Lab, server: Proa, services: int) -> None:
    streams = 2 if result.is_quick else 20
    rounds: list[float] = []
    for _ in range(ROUNDS):
        before = server.cpu_s()
        load = lab.load(server, streams, *SIDECAR, flags=(*FOLLOW, "--parallel", "1"))
        rounds.append((server.cpu_s() - before) / streams * 1000)
        assert load.connected["settled"] == streams, load.connected
        load.stop()
    result.add(f"cold connect of a sidecar with {services} services: CPU", rounds, "ms", target=11)


def _weight(result: Result, lab: Lab, server: Proa, services: int, proxies: int) -> Figure:
    load = lab.load(server, proxies, "rds=outbound")
    steps = [worlds.split("s7", weight)[1:] for weight in (60, 50)]
    rounds: list[float] = []
    for _ in range(ROUNDS):
        answer = server.apply(steps)
        assert answer["pushes"] == len(steps) * proxies, answer
        rounds.append(answer["cpu_us_per_push"] / 1000)
    load.stop()
    name = f"one weight among {services} virtual hosts, {proxies} proxies: CPU per proxy"
    return result.add(name, statistics.median(rounds), "ms", target=0.6)
