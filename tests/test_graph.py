"""Facts about the graph of calls: how both ends, several Pods and several replicas become one edge; its pictures."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import xml.etree.ElementTree as ET

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.fleet import LOOPBACK, answering, facts
from xds.__main__ import main
from xds.admin import listening
from xds.traffic import drawing, graph
from xds.traffic.edges import Edge, Port, Traffic, percentile
from xds.traffic.graph import Graph, Seen, Workload, graph_of, merge, stat

BOUNDS = (1.0, 10.0, 100.0)
ORDERS = "orders.shop.svc.cluster.local"
WEB, V1, V2 = "web.shop", "orders-v1.shop", "orders-v2.shop"


def traffic(  # noqa: PLR0913 -- a report has so many parts
    source: str = WEB,
    destination: str = V1,
    *,
    reporter: str = "source",
    service: str = ORDERS,
    protocol: str = "http",
    security: str = "unknown",
    rps: float = 10,
    errors: float = 0,
    buckets: tuple[float, ...] = (0, 10, 0, 0),
    identities: tuple[str, str] = ("", ""),
    connections: int = 0,
) -> Traffic:
    """One edge as one side reports it."""
    return Traffic(
        edge=Edge(source, service, destination, reporter, protocol, security),
        requests=100,
        errors=0,
        connections=connections,
        sent_bytes=0,
        received_bytes=0,
        requests_per_s=rps,
        errors_per_s=errors,
        p50_ms=percentile(BOUNDS, buckets, 0.5),
        p90_ms=None,
        p95_ms=None,
        p99_ms=None,
        source_identity=identities[0],
        destination_identity=identities[1],
        bounds=BOUNDS,
        buckets=buckets,
    )


def seen(*edges: Traffic, ports: tuple[Port, ...] = (), workloads: tuple[Workload, ...] = ()) -> Seen:
    """What one control plane heard."""
    return Seen(edges, ports, workloads)


WORLD = (Workload(WEB, 1, 1), Workload(V1, 2, 1, (ORDERS,)), Workload(V2, 1, 1, (ORDERS,)))
BOTH_ENDS = seen(
    traffic(rps=10, errors=2),
    traffic(reporter="destination", security="mutual_tls", rps=9, errors=1, identities=("spiffe://td/w", "")),
    workloads=WORLD,
)


def test_both_ends_of_an_edge_are_one_edge() -> None:
    """The caller knows what failed on the way; only the called side knows whether it was encrypted."""
    (link,) = graph_of(BOTH_ENDS).edges

    assert (link.source, link.destination, link.security) == (WEB, V1, "mutual_tls")
    assert link.red.requests_per_s == 10
    assert link.red.success == pytest.approx(0.8)
    assert link.source_identity == "spiffe://td/w"


def test_a_callers_word_for_its_peer_is_enough_where_the_peer_says_nothing() -> None:
    """A verified certificate of the peer was seen in a TLS handshake."""
    (link,) = graph_of(seen(traffic(identities=("", "spiffe://td/ns/shop/sa/orders")))).edges

    assert link.security == "mutual_tls"


def test_an_edge_that_is_sometimes_plaintext_is_plaintext() -> None:
    """While a mode is changed both are reported, and the worse one is told."""
    ends = (traffic(reporter="destination", security=how) for how in ("mutual_tls", "none"))
    (link,) = graph_of(seen(*ends)).edges

    assert link.security == "none"


def test_calls_that_never_arrived_belong_to_the_service() -> None:
    """Nobody knows to which of two workloads they would have gone; of one there is no doubt."""
    lost = traffic(destination="unknown", errors=10)
    (of_two,) = graph_of(seen(lost, workloads=WORLD)).edges
    (of_one,) = graph_of(seen(lost, workloads=WORLD[:2])).edges

    assert (of_two.destination, of_one.destination) == (ORDERS, V1)


def test_a_meshed_workload_without_traffic_is_a_node() -> None:
    """What is not called is there all the same."""
    found = graph_of(seen(workloads=WORLD))

    assert [node.name for node in found.nodes] == [V1, V2, WEB]


def test_replicas_add_up() -> None:
    """Each replica hears the proxies that are connected to it: rates are added, and percentiles made of all buckets."""
    one = seen(traffic(rps=10, buckets=(10, 0, 0, 0)), workloads=WORLD)
    other = seen(traffic(rps=30, buckets=(0, 0, 30, 0)), workloads=WORLD)
    (link,) = graph_of(merge([one, other])).edges

    assert link.red.requests_per_s == 40
    assert link.red.p50_ms is not None
    assert link.red.p50_ms > 10


def test_a_workloads_figures_are_its_own_sidecars() -> None:
    """What the server did is not what its callers saw of the network."""
    rows = {row.name: row for row in stat(BOTH_ENDS, graph.WORKLOAD)}

    assert rows["orders-v1"].red.requests_per_s == 9
    assert (rows["orders-v1"].pods, rows["orders-v1"].meshed) == (2, 1)
    assert rows["web"].red.success is None


def test_a_services_figures_are_its_callers() -> None:
    """With what never arrived."""
    lost = traffic(destination="unknown", rps=5, errors=5)
    (row,) = stat(seen(*BOTH_ENDS.edges, lost, workloads=WORLD), graph.SERVICE)

    assert (row.namespace, row.name, row.pods) == ("shop", "orders", 3)
    assert row.red.requests_per_s == 15
    assert row.red.success == pytest.approx(8 / 15)


def test_a_namespace_adds_its_workloads_up() -> None:
    """Pods, connections and requests."""
    ports = (
        Port("orders-0.shop", "inbound|8080", 9, 9, 2, V1),
        Port("orders-1.shop", "inbound|8080", 9, 9, 1, V1),
    )
    (row,) = stat(seen(*BOTH_ENDS.edges, ports=ports, workloads=WORLD), "namespace")

    assert (row.name, row.pods, row.meshed, row.open_connections) == ("shop", 4, 3, 3)
    assert row.red.requests_per_s == 9


def test_the_graph_survives_json() -> None:
    """What the admin API writes is what the command line reads."""
    assert msgspec.json.decode(msgspec.json.encode(BOTH_ENDS), type=Seen) == BOTH_ENDS


# -- pictures ------------------------------------------------------------------------------------------


def test_callers_stand_left_of_those_they_call() -> None:
    """Also where calls go in a circle: the way back is drawn backwards."""
    chain = seen(*(traffic(a, b) for a, b in (("a", "b"), ("b", "c"), ("a", "c"), ("c", "a"), ("b", "b"))))
    boxes = rectangles(drawing.svg(graph_of(chain)))

    assert [name for name, _ in sorted(boxes.items(), key=lambda item: item[1][0])] == ["a", "b", "c"]


def test_a_hostile_name_is_text() -> None:
    """Names come from strangers: none becomes markup, an attribute or a statement."""
    evil = 'a"</text><script>alert(1)</script>\n\x1b];x'
    found = graph_of(seen(traffic(evil, V1)))
    root = ET.fromstring(drawing.svg(found))  # noqa: S314 -- our own document

    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert all(line.startswith(("digraph", "  ", "}")) for line in drawing.dot(found).splitlines())
    assert '"a\\"</text>' in drawing.dot(found)


def rectangles(picture: str) -> dict[str, tuple[float, float, float, float]]:
    """Return each node's box, by its text."""
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for group in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}g"):  # noqa: S314 -- as above
        box = group.find("{http://www.w3.org/2000/svg}rect")
        text = group.find("{http://www.w3.org/2000/svg}text")
        if box is not None and text is not None and text.text:
            x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            boxes[text.text] = x, y, width, height
    return boxes


names = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(names, names), max_size=20))
def test_any_graph_is_drawn_the_same_way_and_nothing_overlaps(pairs: list[tuple[str, str]]) -> None:
    """Circles, islands and calls to oneself: the order of reports changes nothing."""
    reports = [traffic(source, destination) for source, destination in pairs]
    picture = drawing.svg(graph_of(seen(*reports)))
    boxes = rectangles(picture)

    assert drawing.svg(graph_of(seen(*reversed(reports)))) == picture
    assert set(boxes) == {name for pair in pairs for name in pair}
    for (ax, ay, aw, ah), (bx, by, _, _) in itertools.permutations(boxes.values(), 2):
        assert not (ax <= bx < ax + aw and ay <= by < ay + ah)


# -- the verbs -----------------------------------------------------------------------------------------


async def ask(*arguments: str, found: Seen = BOTH_ENDS) -> Result:
    """Run a verb in a thread while an admin API answers it."""
    served = dataclasses.replace(facts(), edges=answering(found))
    async with listening(served, LOOPBACK) as bound:
        return await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--admin", str(bound)])


async def test_stat_shows_each_workload() -> None:
    """In the columns that people know."""
    lines = (await ask("stat")).output.splitlines()

    assert lines[0].split() == [
        "NAMESPACE", "NAME", "MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN",
    ]  # fmt: skip
    assert lines[1].split() == ["shop", "orders-v1", "1/2", "88.89%", "9.0rps", "6ms", "10ms", "10ms", "0"]
    assert lines[3].split() == ["shop", "web", "1/1", "-", "-", "-", "-", "-", "0"]


async def test_stat_of_one_by_its_name() -> None:
    """Another namespace's is not shown, and nothing at all is an error."""
    assert "orders" in (await ask("stat", "svc/orders", "-n", "shop")).output
    assert (await ask("stat", "svc/orders", "-n", "other")).exit_code == 1
    assert (await ask("stat", "pod/x")).exit_code == 2


async def test_edges_shows_security_and_identities() -> None:
    """Who proved to be whom."""
    lines = (await ask("edges", "-n", "shop")).output.splitlines()

    assert lines[1].split() == ["web", "orders-v1", "shop", "shop", ORDERS, "mTLS", "spiffe://td/w", "-"]


async def test_top_in_a_pipe_is_one_look() -> None:
    """Busiest first."""
    busy = seen(*BOTH_ENDS.edges, traffic(destination=V2, rps=99), workloads=WORLD)
    lines = (await ask("top", found=busy)).output.splitlines()

    assert [line.split()[1] for line in lines[1:]] == [V2, V1]


@pytest.mark.parametrize("verb", ["stat", "edges", "top", "graph"])
async def test_each_verb_has_one_json_document(verb: str) -> None:
    """For programs."""
    assert json.loads((await ask(verb, "-o", "json")).output)


@pytest.mark.parametrize("verb", ["edges", "top", "graph"])
async def test_no_traffic_is_said(verb: str) -> None:
    """An empty table would leave the reader to guess."""
    assert "no traffic has been reported" in (await ask(verb, found=seen())).output


async def test_graph_is_drawn() -> None:
    """Both forms, of one namespace."""
    assert (await ask("graph", "-o", "svg", "-n", "shop")).output.startswith("<svg ")
    assert f'"{WEB}" -> "{V1}"' in (await ask("graph", "-o", "dot")).output
    assert V1 not in (await ask("graph", "-o", "dot", "-n", "other")).output


async def test_the_api_answers_the_graph() -> None:
    """The same that `proa graph -o json` prints."""
    import aiohttp

    served = dataclasses.replace(facts(), edges=answering(BOTH_ENDS))
    async with (
        listening(served, LOOPBACK) as bound,
        aiohttp.ClientSession() as client,
        client.get(f"http://{bound}/api/v1/graph") as answer,
    ):
        found = msgspec.json.decode(await answer.read(), type=Graph)

    assert found == graph_of(BOTH_ENDS)


@pytest.mark.parametrize(("flags", "asked"), [((), 60), (("-t", "30s"), 30), (("--window", "1m"), 60)])
@pytest.mark.parametrize("verb", ["stat", "top", "graph"])
async def test_a_window_can_be_asked_for(verb: str, flags: tuple[str, ...], asked: int) -> None:
    """A minute, unless something else is wanted."""
    windows: list[float] = []

    def edges(window_s: float) -> Seen:
        windows.append(window_s)
        return BOTH_ENDS

    async with listening(dataclasses.replace(facts(), edges=edges), LOOPBACK) as bound:
        await asyncio.to_thread(CliRunner().invoke, main, [verb, *flags, "--admin", str(bound)])

    assert windows == [asked]


@pytest.mark.parametrize("text", ["5s", "2m", "30"])
async def test_a_window_that_nobody_keeps_is_refused(text: str) -> None:
    """The control plane has slots of 10 s, for a minute."""
    result = await ask("stat", "-t", text)

    assert result.exit_code == 2
