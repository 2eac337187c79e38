"""The campaign: random policies and requests, the reference evaluator's answer against that of compiled filters.

It owns the comparison, its report and the smallest case of a difference; it must never decide who is right: people
do, with Istio's documents at hand.

    make authz-campaign N=20000 SEED=7
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from tests import access_requests, access_tokens
from tests.access_reference import Http, Manifest, Mesh, Verdict, Workload, decide
from tests.access_worlds import EXTRAS, PROVIDER, ROOT_NAMESPACE, Addresses, Pair, World
from tests.cluster import packages
from tests.envoy import releases
from tests.envoy.access_mesh import RefusedError, serving
from tests.envoy.access_wire import Answer, Wire, is_http2, octets
from tests.envoy.netns import Namespace
from tests.path_reference import normalise
from xds.demo.processes import Family

WORLDS: Final = 100
"""How many worlds one Envoy serves: a start costs a second or two, whatever it serves."""

PAIRS: Final = 50
"""How many requests a world is asked: more policies find more than more requests do."""

FORMS: Final = tuple(itertools.product((False, True), (False, True)))
"""What the batches of a campaign are in turn: redirected or not, over IPv4 or IPv6."""

_SHOWN: Final = 5
_ROUNDS: Final = 12
_FIRSTS: Final = itertools.cycle(range(0, 30_000, 3 * WORLDS))


def _lets_through(provider: str, http: Http | None) -> bool:
    """The external authorizer of the campaign; one that speaks HTTP cannot answer for a TCP connection."""
    return provider == PROVIDER and http is not None and http.values("x-ext") == ["allow"]


MESH: Final = Mesh(
    root_namespace=ROOT_NAMESPACE, now=2_000_000_000, verified=access_tokens.verified, external=_lets_through
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One pair of which the two sides say different things."""

    at: Addresses
    world: World
    pair: Pair
    expected: Verdict
    got: Answer

    def __str__(self) -> str:
        http = self.pair.http
        asked = octets(http).decode("latin-1") if http else "(TCP)\n"
        policies = yaml.safe_dump_all(map(dict, self.world.policies), sort_keys=False)
        return (
            f"expected {self.expected.value}, got {self.got.verdict and self.got.verdict.value}: {self.got.words}"
            f" {self.got.target}\n{self.at}\n{self.pair.client}\n{asked}{policies}"
        )


@dataclass(slots=True)
class Report:
    """What a campaign has seen."""

    seed: int
    verdicts: Counter[Verdict] = field(default_factory=Counter[Verdict])
    ways: Counter[str] = field(default_factory=Counter[str])
    """How many went as what, and how."""
    differences: list[Difference] = field(default_factory=list[Difference])

    def take(self, found: Iterable[tuple[Pair, Verdict, Difference | None]], at: Addresses) -> None:
        """Add what a comparison has found."""
        for pair, verdict, difference in found:
            self.verdicts[verdict] += 1
            self.differences += [difference] if difference else []
            protocol = "TCP" if pair.http is None else "HTTP/2" if is_http2(pair) else "HTTP/1"
            self.ways[protocol] += 1
            self.ways["IPv6" if at.is_v6 else "IPv4"] += 1
            self.ways["redirected" if at.is_intercepted else "addressed"] += 1

    @property
    def pairs(self) -> int:
        """How many pairs were compared."""
        return self.verdicts.total()

    def share(self, *verdicts: Verdict) -> float:
        """Which part of all pairs the evaluator answers so, 0 to 1."""
        return sum(self.verdicts[verdict] for verdict in verdicts) / max(self.pairs, 1)

    def __str__(self) -> str:
        shares = ", ".join(f"{verdict.value} {self.share(verdict):.1%}" for verdict in Verdict)
        denied = self.share(Verdict.DENY, Verdict.UNAUTHENTICATED)
        ways = ", ".join(f"{way} {count}" for way, count in sorted(self.ways.items()))
        return (
            f"seed {self.seed}: {self.pairs} pairs ({ways}), {len(self.differences)} mismatches; "
            f"{shares}; allow {self.share(Verdict.ALLOW):.1%}, deny {denied:.1%}"
        )


def expected(world: World, pair: Pair, at: Addresses) -> Verdict:
    """The reference evaluator's answer."""
    workload = Workload(world.namespace, world.labels, frozenset({"orders"}))
    return decide(world.policies, workload, world.connection(pair, at), pair.http, MESH)


def compare(wire: Wire, world: World) -> Iterator[tuple[Pair, Verdict, Difference | None]]:
    """Ask both sides; an allowed request must also reach the application with the path that was judged."""
    for pair, got in zip(world.pairs, wire.ask(world, world.pairs), strict=True):
        wanted = expected(world, pair, wire.at)
        is_same = is_meant(got, wanted, pair.http) and (pair.http is None or _is_sent(pair.http, got))
        yield pair, wanted, None if is_same else Difference(wire.at, world, pair, wanted, got)


def is_meant(got: Answer, wanted: Verdict, http: Http | None) -> bool:
    """Whether an answer means this verdict; a token for others is a 403, the reason of which HEAD does not show."""
    is_for_others = "Audiences in Jwt" in got.words or (http is not None and http.method == "HEAD")
    is_refused = wanted is Verdict.UNAUTHENTICATED and got.verdict is Verdict.DENY and is_for_others
    return got.verdict is wanted or is_refused


def _is_sent(http: Http, got: Answer) -> bool:
    """Whether the application, if it was reached, got the path that was judged; a token in the query may be gone."""
    written = re.sub("^https?://[^/?#]*", "", http.target)
    path, _, query = got.target.partition("?")
    return not path or (
        path == normalise(written) and (query == written.partition("?")[2] or "token=" in written)
    )


def run(pairs: int, seed: int, work: Path, extras: frozenset[str] = EXTRAS, version: str = "") -> Report:
    """Compare this many pairs (rounded up to whole worlds) of a seed, in a network namespace of their own.

    ``version`` is an older Envoy's; empty: today's.
    """
    report = Report(seed)
    indexes = range(-(-pairs // PAIRS))
    if version:
        releases.envoy(version)  # from inside the namespace nothing can be fetched
    with isolated(work):
        for start, (is_intercepted, is_v6) in zip(indexes[::WORLDS], itertools.cycle(FORMS), strict=False):
            at = replace(addresses(), is_v6=is_v6, is_intercepted=is_intercepted)
            worlds = [
                access_requests.make(seed, index, number, at, pairs=PAIRS, extras=extras)
                for number, index in enumerate(indexes[start : start + WORLDS])
            ]
            with serving(work / f"batch-{start}", worlds, at, version=version) as wire:
                for world in worlds:
                    report.take(compare(wire, world), at)
    return report


@contextlib.contextmanager
def isolated(work: Path) -> Generator[None]:
    """A network namespace, in which any address is free to be taken; needs root."""
    work.mkdir(exist_ok=True)
    packages.install(("iproute2", "nftables", "util-linux"))
    family = Family(work / "logs")
    try:
        with Namespace(family, "campaign").inside():
            yield
    finally:
        family.stop()


def addresses() -> Addresses:
    """Loopback addresses that no other process uses, nor any other caller: two Envoys on one would share its calls."""
    return Addresses(1 + os.getpid() % 250, next(_FIRSTS))


# -- the smallest case -----------------------------------------------------------------------------------------


def shrunk(found: Difference, work: Path) -> Difference:
    """The same difference with as little policy as it needs."""
    with isolated(work):
        for round_ in range(_ROUNDS):
            smaller = _smallest(found, work / f"round-{round_}")
            if smaller is None:
                break
            found = smaller
    return found


def _smallest(found: Difference, work: Path) -> Difference | None:
    """The smallest of those with one part less that still differ, None where none does."""
    at = replace(found.at, first=addresses().first)
    worlds = [
        replace(_moved(found, policies, n, at), pairs=(found.pair,))
        for n, policies in enumerate(itertools.islice(_smaller(found.world.policies), 3 * WORLDS))
    ]
    if not worlds:
        return None
    try:
        with serving(work, worlds, at) as wire:
            answers = [
                difference for world in worlds for _, _, difference in compare(wire, world) if difference
            ]
    except RefusedError:
        return None
    return min(answers, key=lambda each: len(json.dumps(each.world.policies)), default=None)


def _moved(found: Difference, policies: Sequence[Manifest], number: int, at: Addresses) -> World:
    """The same policies, for the workload of another number."""
    world, other = found.world, World(number, (), ())
    text = json.dumps(policies).replace(found.at.of_workload(world.number), at.of_workload(number))
    text = re.sub(rf'"{world.namespace}(["-])', rf'"{other.namespace}\1', text)
    return World(number, tuple(json.loads(text)), ())


def _smaller(policies: Sequence[Manifest]) -> Iterator[list[Manifest]]:
    for n, policy in enumerate(policies):
        others = [*policies[:n], *policies[n + 1 :]]
        yield others
        for spec in _less(policy["spec"]):
            if _is_whole(spec):
                yield [*others, {**policy, "spec": spec}]


_KEPT: Final = {"key", "jwks", "issuer", "name", "action", "provider", "selector", "matchLabels", "world"}
"""What a smaller case keeps: without its selector, a policy of the root namespace would hold for every other case."""


def _less(value: Any) -> Iterator[Any]:
    """Every value with one part less."""
    match value:
        case {**found}:
            for key, item in found.items():
                if key not in _KEPT:
                    yield {name: each for name, each in found.items() if name != key}
                yield from ({**found, key: less} for less in _less(item))
        case [*items]:
            for n, item in enumerate(items):
                yield [*items[:n], *items[n + 1 :]]
                yield from ([*items[:n], less, *items[n + 1 :]] for less in _less(item))
        case _:
            return


def _is_whole(value: Any) -> bool:
    """Whether nothing is empty that has to say something; an empty rule does."""
    match value:
        case {"key": _, **rest} if not rest.keys() & {"values", "notValues"}:
            return False
        case (
            {"from": [] | {}}
            | {"to": []}
            | {"when": []}
            | {"source": {}}
            | {"operation": {}}
            | {"jwtRules": []}
        ):
            return False
        case {**found}:
            return all(_is_whole(item) and (item or key == "rules") for key, item in found.items())
        case [*items]:
            return all(map(_is_whole, items))
        case _:
            return True


# -- the command -----------------------------------------------------------------------------------------------


def main() -> int:
    """Run a campaign of its own and print what it has seen; 1 if there is a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--envoy", metavar="VERSION", default="", help="an older one (envoy/versions)")
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)  # noqa: T201  # the program's output
    with tempfile.TemporaryDirectory() as scratch:
        work, began = options.work or Path(scratch), time.monotonic()
        report = run(options.pairs, options.seed, work, version=options.envoy)
        for n, difference in enumerate(report.differences[:_SHOWN]):
            print("---", shrunk(difference, work / f"shrink-{n}"), sep="\n")  # noqa: T201  # the same
        print(f"{report}; {time.monotonic() - began:.0f} s")  # noqa: T201  # the same
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
