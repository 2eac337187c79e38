"""Facts about chains of calls that multiply: whose retries count, who is blamed, and what mends it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.fleet import LOOPBACK, answering, facts
from xds.__main__ import main
from xds.admin import listening
from xds.cli.traffic import since
from xds.traffic.amplification import Chain, Copying, Habits, Rule, Rules, chains, habits
from xds.traffic.edges import Edge, Traffic
from xds.traffic.graph import Seen, graph_of
from xds.traffic.sightings import Sighting, Sightings

WAY = ("web.shop", "a.shop", "b.shop", "c.shop")


def service(workload: str) -> str:
    """The host under which a workload is called."""
    return f"{workload.removesuffix('.shop')}.shop.svc.cluster.local"


def edge(source: str, destination: str, protocol: str = "http") -> Traffic:
    """An edge with some traffic."""
    found = Edge(source, service(destination), destination, "source", protocol, "unknown")
    return Traffic(found, 1, 0, 0, 0, 0, 1.0, 0.0, None, None, None, None)


def seen(*way: str) -> Seen:
    """A chain of calls."""
    return Seen(tuple(edge(a, b) for a, b in itertools.pairwise(way)), ())


def rule(source: str, destination: str, attempts: int = 3) -> Rule:
    """A sidecar that repeats a 503."""
    return Rule(source, service(destination), attempts, f"VirtualService/shop/{destination}/0", "503")


RULES = [rule(a, b) for a, b in itertools.pairwise(WAY)]


def call(  # noqa: PLR0913 -- a sighting has so many parts
    source: str,
    destination: str,
    *,
    request: str = "r1",
    reporter: str = "source",
    arrived: bool = False,
    code: int = 503,
    started: str = "2999-01-01T00:00:00.000Z",
) -> Sighting:
    """One request at one sidecar."""
    return Sighting(
        node="n",
        reporter=reporter,
        source=source,
        destination=destination,
        service=service(destination),
        route="",
        method="GET",
        request_id=request,
        trace_id="",
        parent="",
        arrived=arrived,
        code=code,
        flags="",
        attempts=1,
        started=started,
        duration_ms=1,
    )


def copying(*workloads: str) -> list[Sighting]:
    """What shows that applications copy baggage."""
    arrived = [call("x", name, reporter="destination", arrived=True) for name in workloads]
    return [*arrived, *(call(name, "y", arrived=True) for name in workloads)]


def dropping(*workloads: str) -> list[Sighting]:
    """What shows that they do not."""
    arrived = [call("x", name, reporter="destination", arrived=True) for name in workloads]
    return [*arrived, *(call(name, "y", arrived=False) for name in workloads)]


def worst(found: Habits, rules: list[Rule] = RULES, above: int = 1) -> Chain:
    """The worst chain."""
    return chains(graph_of(seen(*WAY)), rules, found, above=above)[0]


def test_every_hop_multiplies_where_baggage_is_dropped() -> None:
    """Three hops of three attempts, and what would be left if they copied it."""
    found = worst(habits(dropping("a.shop", "b.shop")))

    assert (found.factor, found.owned, found.drops) == (27, 3, ("a.shop", "b.shop"))
    assert [party.factor for party in found.parties] == [3, 3, 3]
    assert found.mends[0].startswith("let a.shop, b.shop copy every line of baggage")
    assert "VirtualService/shop/b.shop/0, VirtualService/shop/c.shop/0: 27 → 3" in found.mends[1]


def test_only_the_owner_multiplies_where_baggage_is_copied() -> None:
    """The rules of later hops are not asked."""
    found = worst(habits(copying("a.shop", "b.shop")))

    assert (found.factor, found.owned, len(found.parties)) == (3, 3, 1)


def test_one_application_that_drops_baggage_begins_a_new_chain() -> None:
    """From there on the next sidecar owns the call."""
    found = worst(habits([*copying("a.shop"), *dropping("b.shop")]))

    assert (found.factor, found.drops) == (9, ("b.shop",))


def test_what_was_not_seen_counts_as_the_worst_and_is_said() -> None:
    """Without evidence nobody knows what applications copy."""
    found = worst(Habits())

    assert (found.factor, found.unknown, found.drops) == (27, ("a.shop", "b.shop"), ())


def test_an_applications_tries_multiply_as_well() -> None:
    """A call that follows a failed one with the same id is the same call again."""
    tries = [call("web.shop", "a.shop", started=f"2999-01-01T00:00:0{number}.000Z") for number in range(3)]
    found = worst(habits([*tries, *copying("a.shop", "b.shop")]))

    assert (found.factor, found.parties[0].kind, found.parties[0].factor) == (9, "application", 3)
    assert found.mends[-1] == "let web.shop leave repeating to its sidecar (3 tries): 9 → 3"


def test_calls_that_succeed_are_no_tries() -> None:
    """A page that asks one service three times asks three things."""
    calls = [
        call("web.shop", "a.shop", code=200, started=f"2999-01-01T00:00:0{number}.000Z")
        for number in range(3)
    ]

    assert habits(calls).tries == {("web.shop", service("a.shop")): 1}


def test_what_a_sidecar_repeats_is_not_blamed_on_the_next_application() -> None:
    """Three requests that arrive make three calls: each is made once."""
    arrived = [call("web.shop", "a.shop", reporter="destination") for _ in range(3)]
    made = [call("a.shop", "b.shop", started=f"2999-01-01T00:00:0{number}.000Z") for number in range(3)]

    assert habits([*arrived, *made]).tries["a.shop", service("b.shop")] == 1


def test_an_application_that_sometimes_drops_it_drops_it() -> None:
    """One path without it is the one that multiplies."""
    assert habits([*copying("a.shop"), *dropping("a.shop")]).copies("a.shop") is Copying.DROPS


def test_nothing_above_the_bound_is_nothing() -> None:
    """Safe chains are not shown."""
    assert chains(graph_of(seen(*WAY)), RULES, habits(copying("a.shop", "b.shop")), above=4) == []


names = st.sampled_from("abcdef")


@given(st.lists(st.tuples(names, names), max_size=15), st.lists(st.integers(1, 4), min_size=15, max_size=15))
def test_any_graph_has_an_answer(pairs: list[tuple[str, str]], attempts: list[int]) -> None:
    """Circles end; copying never makes it worse, and a factor is what its parties multiply to."""
    found = graph_of(Seen(tuple(edge(a, b) for a, b in pairs), ()))
    rules = [rule(a, b, n) for (a, b), n in zip(pairs, attempts, strict=False) if n > 1]
    for chain in chains(found, rules, Habits(), above=1):
        product = 1
        for party in chain.parties:
            product *= party.factor
        assert chain.owned <= chain.factor == product
        assert len(set(chain.workloads)) == len(chain.workloads)


async def ask(*arguments: str, sampling: float = 100) -> Result:
    """Run the verb while an admin API answers it."""

    def evidence(_limit: int) -> Sightings:
        return Sightings(tuple(dropping("a.shop", "b.shop")), 0, sampling)

    served = dataclasses.replace(
        facts(),
        edges=answering(seen(*WAY)),
        repeats=lambda: Rules(tuple(RULES)),
        evidence=evidence,
    )
    async with listening(served, LOOPBACK) as bound:
        arguments = ("analyze", "retries", *arguments, "--admin", str(bound))
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_the_verb_says_chain_factor_parties_and_what_mends_it() -> None:
    """In words, and as one document."""
    lines = (await ask()).output.splitlines()
    document = json.loads((await ask("-o", "json")).output)

    assert lines[0] == "web.shop → a.shop → b.shop → c.shop: one call can become 27"
    assert lines[1] == "  × 3  mesh web.shop → a.shop: VirtualService/shop/a.shop/0: 503"
    assert document["chains"][0]["factor"] == 27


@pytest.mark.parametrize(
    ("above", "words"), [("27", "no chain of calls can"), ("26", "one call can become 27")]
)
async def test_the_bound_is_the_readers(above: str, words: str) -> None:
    """What is shown is above it."""
    assert words in (await ask("--above", above)).output


def test_old_evidence_is_not_believed() -> None:
    """An application that was mended yesterday is not blamed today."""
    old = [dataclasses.replace(found, started="2020-01-01T00:00:00.000Z") for found in dropping("a.shop")]

    assert since(old, 60, now=1e9 * 2) == []
    assert since(dropping("a.shop"), 60, now=1e9 * 2) == dropping("a.shop")


async def test_missing_evidence_is_said() -> None:
    """And where to turn it on."""
    assert "evidence: {sampling: 10}" in (await ask(sampling=0)).output
