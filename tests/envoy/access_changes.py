"""Policies that change under traffic: every request is answered as the old set says or as the new one, by nothing else.

It owns the rounds, who asks meanwhile, and which answers were right at which time; it must never judge a policy
itself: the reference evaluator does.

    make authz-changes N=500 SEED=7

A round replaces, adds, deletes, moves, spoils and mends policies of one workload behind a real control plane and a
real Envoy. Requests go over connections that live through all rounds and over new ones, over HTTP and as bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import yaml

from tests.access_reference import Verdict
from tests.access_requests import Requests
from tests.access_sets import WORLD, Sets
from tests.access_worlds import EXTRAS, HTTP_PORT, Addresses, Client, Pair, World
from tests.envoy import access_mesh, static_envoy
from tests.envoy.access_campaign import addresses, expected, is_meant
from tests.envoy.access_wire import CLOSED, Answer, Wire, exchange, octets
from xds import settings
from xds.demo.manifests import read_pods
from xds.demo.mesh import Mesh
from xds.demo.processes import wait_until
from xds.demo.run import live_at
from xds.state import StateDirectory, system_entropy

_LIVE_S: Final = 60.0
_ROUND_S: Final = 60.0
_LOOKED_AT: Final = 60
_ASKED: Final = 12
"""Requests of a round that are asked over and over: few, so that each is asked often while policies change."""

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer, and when it was asked for and given (epoch, seconds)."""

    pair: Pair
    answer: Answer
    asked_at: float
    answered_at: float
    way: str


@dataclass(frozen=True, slots=True)
class Change:
    """One round: what held before and after, and when the new set was written and acknowledged."""

    old: World
    new: World
    written_at: float
    acked_at: float

    def right(self, seen: Seen, at: Addresses) -> set[Verdict]:
        """The answers that one of the sets in force meanwhile gives."""
        found: set[Verdict] = set()
        if seen.asked_at < self.acked_at:
            found.add(expected(self.old, seen.pair, at))
        if seen.answered_at > self.written_at:
            found.add(expected(self.new, seen.pair, at))
        return found

    def told(self, seen: Seen, right: set[Verdict]) -> str:
        """A wrong answer, with all that it depends on."""
        asked = octets(seen.pair.http).decode("latin-1") if seen.pair.http else "(TCP)\n"
        sets = (
            yaml.safe_dump_all(map(dict, world.policies), sort_keys=False) for world in (self.old, self.new)
        )
        after_ms, until_ms = ((t - self.written_at) * 1000 for t in (seen.asked_at, seen.answered_at))
        return (
            f"{seen.way}: right were {sorted(v.value for v in right)}, got {seen.answer}; asked {after_ms:.1f} ms, "
            f"answered {until_ms:.1f} ms, acknowledged {(self.acked_at - self.written_at) * 1000:.1f} ms after the "
            f"write\n{seen.pair.client}\n{asked}" + "\n=== then ===\n".join(sets)
        )


@dataclass(slots=True)
class Report:
    """What was seen in all rounds."""

    seed: int
    rounds: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    """How many, by way."""
    between: int = 0
    """Answers between write and acknowledgement where the sets say different things."""
    turned: int = 0
    """Requests that the two sets of their round answer differently."""
    lasting_ms: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        ordered = sorted(self.lasting_ms) or [0.0]
        ways = ", ".join(f"{way} {count}" for way, count in sorted(self.answers.items()))
        return (
            f"seed {self.seed}: {self.rounds} changes, {self.answers.total()} answers ({ways}), {self.between} of them "
            f"while old and new differed, {self.turned} requests turned, {len(self.wrong)} answered by neither; "
            f"written to acknowledged p50 {ordered[len(ordered) // 2]:.0f} ms, "
            f"p99 {ordered[int(len(ordered) * 0.99)]:.0f} ms"
        )


# -- who asks --------------------------------------------------------------------------------------------------


class Callers:
    """Ways of asking: over connections that live through all rounds, over new ones, and as bytes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._open: dict[Client, tuple[contextlib.ExitStack, socket.socket, IO[bytes]]] = {}
        self.ways: dict[str, Callable[[Pair], Answer]] = {
            "open": self._over_open,
            "new": self._over_new,
            "bytes": self._over_new,
        }

    def ask(self, way: str, pairs: Sequence[Pair], is_over: threading.Event) -> list[Seen]:
        """Ask these over and over until it is over, and each of them once more."""
        found: list[Seen] = []
        if way == "bytes":
            pairs = list(dict.fromkeys(replace(pair, http=None) for pair in pairs))
        for pair in itertools.cycle(pairs):
            if is_over.is_set():
                break
            found.append(self._seen(way, pair))
        return found + [self._seen(way, pair) for pair in pairs]

    def close(self) -> None:
        """End what is open."""
        for stack, _, _ in self._open.values():
            stack.close()

    def _seen(self, way: str, pair: Pair) -> Seen:
        asked_at = time.time()
        answer = self.ways[way](pair)
        return Seen(pair, answer, asked_at, time.time(), way)

    def _over_new(self, pair: Pair) -> Answer:
        return self._wire.ask(WORLD, [pair])[0]

    def _over_open(self, pair: Pair) -> Answer:
        """Ask over the client's connection; one that is found closed gives way to a new one."""
        assert pair.http is not None
        is_old = pair.client in self._open
        stack, wire, stream = self._open.pop(pair.client, None) or self._connect(pair.client)
        answer, is_last = exchange(wire, stream, pair.http)
        if is_last:
            stack.close()
        else:
            self._open[pair.client] = stack, wire, stream
        return self._over_open(pair) if is_old and answer.words in CLOSED else answer

    def _connect(self, client: Client) -> tuple[contextlib.ExitStack, socket.socket, IO[bytes]]:
        stack = contextlib.ExitStack()
        wire = stack.enter_context(self._wire.connected(WORLD, client, HTTP_PORT))
        return stack, wire, stack.enter_context(wire.makefile("rb"))


# -- the rounds ------------------------------------------------------------------------------------------------


class Changing:
    """A workload behind a real sidecar and a real control plane, whose policies change."""

    def __init__(self, mesh: Mesh, wire: Wire, seed: int) -> None:
        self._mesh, self._wire, self._rng = mesh, wire, random.Random(seed)
        self._sets = Sets(self._rng, wire.at)
        self._callers = Callers(wire)
        self._pool = ThreadPoolExecutor(len(self._callers.ways))
        self.report = Report(seed)
        self._put()

    def close(self) -> None:
        """End what is open."""
        self._pool.shutdown()
        self._callers.close()

    def round(self) -> None:
        """Change the policies while all callers ask, and compare."""
        old = self._sets.world
        self._sets.turn()
        new = self._sets.world
        pairs = self._chosen(old, new)
        is_over = threading.Event()
        asking = [self._pool.submit(self._callers.ask, way, pairs, is_over) for way in self._callers.ways]
        try:
            change = Change(old, new, *self._put())
        finally:
            is_over.set()
            seen = list(itertools.chain.from_iterable(future.result(_ROUND_S) for future in asking))
        self._compare(change, seen)
        self.report.turned += sum(self._is_turned(change, pair) for pair in pairs)

    def _put(self) -> tuple[float, float]:
        """Write the present set; return when that was, and when the sidecar had acknowledged it."""
        draft = self._mesh.work / "policies.yaml"
        draft.write_text(self._sets.written(), "utf-8")
        written_at = time.time()
        draft.replace(self._mesh.manifests / draft.name)
        acked: list[float] = []

        def is_live() -> bool:
            at = live_at(self._mesh.api.pushes(), self._sets.mark, written_at)
            acked.extend(() if at is None else (at,))
            return at is not None

        wait_until("the policies are live", is_live, timeout_s=_LIVE_S, child=self._mesh.control_plane)
        return written_at, acked[0]

    def _chosen(self, old: World, new: World) -> list[Pair]:
        """Return requests near both sets; those that the two answer differently go first."""
        near = [
            pair
            for world in (old, new)
            for pair in Requests(self._rng, world, EXTRAS).pairs(_LOOKED_AT)
            if pair.http is not None
        ]
        near.sort(key=lambda pair: expected(old, pair, self._wire.at) is expected(new, pair, self._wire.at))
        return [*near[: _ASKED // 2], *self._rng.sample(near, _ASKED // 2)]

    def _is_turned(self, change: Change, pair: Pair) -> bool:
        return expected(change.old, pair, self._wire.at) is not expected(change.new, pair, self._wire.at)

    def _compare(self, change: Change, seen: Sequence[Seen]) -> None:
        report = self.report
        report.rounds += 1
        report.lasting_ms.append((change.acked_at - change.written_at) * 1000)
        for one in seen:
            right = change.right(one, self._wire.at)
            report.answers[one.way] += 1
            report.between += len(right) > 1
            if not any(is_meant(one.answer, verdict, one.pair.http) for verdict in right):
                report.wrong.append(change.told(one, right))


@contextlib.contextmanager
def changing(work: Path, seed: int) -> Generator[Changing]:
    """Start the mesh and everything behind it."""
    at = addresses()
    mesh = Mesh(work)
    mesh.manifests.mkdir()
    base = yaml.dump_all(access_mesh.manifests([WORLD], at, {}), Dumper=yaml.CSafeDumper)
    (mesh.manifests / "base.yaml").write_text(base, "utf-8")
    (pod,) = read_pods(mesh.manifests)
    behind = static_envoy.bootstrap([], [])
    behind["static_resources"]["listeners"] = list(access_mesh.applications(at))
    with contextlib.ExitStack() as stack:
        stack.enter_context(static_envoy.running(behind, work))
        stack.callback(mesh.stop)
        mesh.serve()
        mesh.wait_ready(pod, mesh.start_sidecar(pod))
        slots = StateDirectory.open(mesh.state).workload_roots(
            settings.TRUST_DOMAIN, now=time.time(), entropy=system_entropy()
        )
        found = Changing(mesh, Wire(work, slots.signer, at), seed)
        stack.callback(found.close)
        yield found


def run(rounds: int, seed: int, work: Path, *, limit_s: float = float("inf"), least: int = 0) -> Report:
    """Change policies this many times, or as often as the time allows (seconds), but not less than that."""
    with changing(work, seed) as found:
        until = time.monotonic() + limit_s
        while found.report.rounds < (rounds if time.monotonic() < until else least):
            found.round()
        return found.report


def main() -> int:
    """Change policies and print what was seen; 1 if an answer was of neither set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = run(options.rounds, options.seed, Path(scratch))
    for text in report.wrong[:_SHOWN]:
        print("---", text, sep="\n")  # noqa: T201  # the program's output
    print(report)  # noqa: T201  # the same
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
