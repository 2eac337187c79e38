"""The admin API, asked over a loopback socket, with a real ledger and no control plane behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.fakes.fleet import LOOPBACK, FakeStream, facts, row
from xds.address import Address
from xds.admin import Facts, listening
from xds.ca import CaError
from xds.fields import Problem, Severity
from xds.ledger import Ledger, State
from xds.rotation import Root
from xds.snapshot import ResourceType


@asynccontextmanager
async def serving(found: Facts, address: Address = LOOPBACK) -> AsyncGenerator[aiohttp.ClientSession]:
    """Serve the facts and give a client whose paths are the server's."""
    async with listening(found, address) as bound, aiohttp.ClientSession(f"http://{bound}") as client:
        yield client


def two_proxies() -> Ledger:
    """Return a ledger with one proxy in sync and one that rejected a route."""
    ledger = Ledger()
    ledger.attach(FakeStream("web-0.shop", found=[row(), row(ResourceType.LISTENER, "outbound")]))
    rejected = row(
        ResourceType.ROUTES, "outbound", state=State.NACKED, error="Only unique values for domains"
    )
    ledger.attach(FakeStream("orders-0.shop", found=[row(), rejected]))
    return ledger


async def test_healthz_answers_while_nothing_is_ready() -> None:
    """Health is the event loop's, not the world's."""
    waiting = dataclasses.replace(facts(), not_ready=lambda: "the directory has not been read")
    async with serving(waiting) as client, client.get("/healthz") as answer:
        body = await answer.text()

    assert (answer.status, body) == (200, "ok\n")


async def test_readyz_says_what_is_missing() -> None:
    """Not ready is 503 with the reason."""
    waiting = dataclasses.replace(facts(), not_ready=lambda: "the directory has not been read")
    async with serving(waiting) as client, client.get("/readyz") as answer:
        body = await answer.text()

    assert (answer.status, body) == (503, "not ready: the directory has not been read\n")


async def test_readyz_is_ok_once_the_world_was_read() -> None:
    """Ready is 200."""
    async with serving(facts()) as client, client.get("/readyz") as answer:
        assert answer.status == 200


async def test_proxies_lists_every_proxy_with_its_counts() -> None:
    """A proxy is acked if nothing of it waits or was rejected; counts are by type."""
    async with serving(facts(two_proxies())) as client, client.get("/api/v1/proxies") as answer:
        found = (await answer.json())["proxies"]

    assert [(proxy["id"], proxy["workload"], proxy["acked"]) for proxy in found] == [
        ("orders-0.shop", "orders", False),
        ("web-0.shop", "web", True),
    ]
    assert found[0]["types"] == [
        {"type": "clusters", "accepted": 1, "unanswered": 0, "rejected": 0},
        {"type": "routes", "accepted": 0, "unanswered": 0, "rejected": 1},
    ]


async def test_config_explains_each_resource() -> None:
    """A resource shows where it stands, Envoy's words, and the objects it came from."""
    async with (
        serving(facts(two_proxies())) as client,
        client.get("/api/v1/proxies/orders-0.shop/config?type=routes") as answer,
    ):
        [found] = (await answer.json())["resources"]

    assert (found["state"], found["error"]) == ("NACKED", "Only unique values for domains")
    assert found["cause"] == ["VirtualService shop/orders http[0]", "Service shop/orders"]


async def test_config_of_a_stranger_is_not_found() -> None:
    """A proxy that is not connected is 404, and the text says where to look."""
    async with serving(facts()) as client, client.get("/api/v1/proxies/web-9.shop/config") as answer:
        body = await answer.text()

    assert answer.status == 404
    assert "GET /api/v1/proxies" in body


async def test_config_of_a_proxy_without_resources_is_empty() -> None:
    """A proxy that has asked for nothing is connected all the same."""
    ledger = Ledger()
    ledger.attach(FakeStream("web-0.shop"))
    async with serving(facts(ledger)) as client, client.get("/api/v1/proxies/web-0.shop/config") as answer:
        found = await answer.json()

    assert found == {"id": "web-0.shop", "resources": []}


async def test_config_refuses_an_unknown_type() -> None:
    """A misspelt type is 400 with the known ones, never an empty list."""
    async with (
        serving(facts(two_proxies())) as client,
        client.get("/api/v1/proxies/web-0.shop/config?type=cluster") as answer,
    ):
        body = await answer.text()

    assert answer.status == 400
    assert "clusters" in body


async def test_pushes_show_how_long_a_change_took() -> None:
    """A push is live with its last answer; the time is from its detection, in milliseconds."""
    ledger = Ledger()
    push = ledger.begin(10.0, [(ResourceType.ROUTES, "outbound")], ("VirtualService shop/orders http[0]",))
    push.waiting = 2
    push.settle("web-0.shop", 10.020)
    push.settle("orders-0.shop", 10.125)
    async with serving(facts(ledger)) as client, client.get("/api/v1/pushes") as answer:
        [found] = (await answer.json())["pushes"]

    assert found["live_ms"] == pytest.approx(125)
    assert found["changes"] == [{"type": "routes", "name": "outbound"}]
    assert found["causes"] == ["VirtualService shop/orders http[0]"]


async def test_pushes_show_a_rejection_in_the_words_of_envoy() -> None:
    """A push that a proxy rejected names the proxy and its reason."""
    ledger = Ledger()
    push = ledger.begin(10.0, [(ResourceType.ROUTES, "outbound")])
    push.waiting = 1
    push.settle("web-0.shop", 10.1, "Only unique values for domains")
    async with serving(facts(ledger)) as client, client.get("/api/v1/pushes") as answer:
        [found] = (await answer.json())["pushes"]

    assert found["rejections"] == [
        {"proxy": "web-0.shop", "at": 10.1, "error": "Only unique values for domains"}
    ]


async def test_pushes_are_newest_first_and_limited() -> None:
    """``?limit=1`` gives the last one."""
    ledger = Ledger()
    ledger.begin(10.0, [])
    ledger.begin(11.0, [])
    async with serving(facts(ledger)) as client, client.get("/api/v1/pushes?limit=1") as answer:
        found = (await answer.json())["pushes"]

    assert [push["id"] for push in found] == [2]


@pytest.mark.parametrize("limit", ["-1", "x", "99999", "²"])
async def test_pushes_refuse_a_limit_that_is_no_count(limit: str) -> None:
    """A limit is 0..9999 in ASCII digits."""
    async with serving(facts()) as client, client.get("/api/v1/pushes", params={"limit": limit}) as answer:
        assert answer.status == 400


async def test_problems_name_object_field_and_place() -> None:
    """A problem carries everything that its line in a terminal shows."""
    problem = Problem(
        Severity.ERROR, "VirtualService shop/orders", "http[0].weight", "must be 0..100", "a.yaml:3:5"
    )
    found_facts = dataclasses.replace(facts(), problems=lambda: (problem,))
    async with serving(found_facts) as client, client.get("/api/v1/problems") as answer:
        found = (await answer.json())["problems"]

    assert found == [
        {
            "severity": "error",
            "object": "VirtualService shop/orders",
            "field": "http[0].weight",
            "reason": "must be 0..100",
            "where": "a.yaml:3:5",
        }
    ]


async def test_metrics_count_proxies_and_problems() -> None:
    """Gauges are read at the scrape."""
    problem = Problem(Severity.WARNING, "Service shop/orders", "", "has no port")
    found_facts = dataclasses.replace(facts(two_proxies()), problems=lambda: (problem,))
    async with serving(found_facts) as client, client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()

    assert "proa_proxies 2.0" in lines
    assert 'proa_problems{severity="warning"} 1.0' in lines
    assert 'proa_problems{severity="error"} 0.0' in lines


@pytest.mark.parametrize(("query", "root"), [("", Root.WORKLOAD), ("?root=channel", Root.CHANNEL)])
async def test_rotate_begins_the_rotation_of_one_root(query: str, root: Root) -> None:
    """The workload root unless the query names the channel's; the answer is the new state."""
    begun: list[Root] = []
    ordered = dataclasses.replace(facts(), rotate=begun.append)
    async with serving(ordered) as client, client.post(f"/api/v1/ca/rotate{query}") as answer:
        found = await answer.json()

    assert begun == [root]
    assert found["workload"]["phase"] == "steady"


async def test_rotate_refuses_an_unknown_root() -> None:
    """A misspelt root rotates nothing."""
    begun: list[Root] = []
    ordered = dataclasses.replace(facts(), rotate=begun.append)
    async with serving(ordered) as client, client.post("/api/v1/ca/rotate?root=chanel") as answer:
        assert answer.status == 400

    assert begun == []


async def test_retire_without_an_old_root_is_a_conflict() -> None:
    """What cannot be retired is 409 with the reason."""

    def nothing(root: Root) -> None:
        message = f"nothing to retire: {root.value}"
        raise CaError(message)

    refusing = dataclasses.replace(facts(), retire=nothing)
    async with serving(refusing) as client, client.post("/api/v1/ca/retire") as answer:
        body = await answer.text()

    assert (answer.status, body) == (409, "nothing to retire: workload\n")


async def test_orders_are_not_read_with_get() -> None:
    """A link cannot rotate a root."""
    async with serving(facts()) as client, client.get("/api/v1/ca/rotate") as answer:
        assert answer.status == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:18001", "10.0.0.1:18001", "127.0.0.1.evil.example"]
)
async def test_a_foreign_host_name_is_refused(host: str) -> None:
    """A page whose name was rebound to the loopback address sends that name."""
    async with serving(facts()) as client, client.get("/api/v1/proxies", headers={"Host": host}) as answer:
        assert answer.status == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:18001", "127.0.0.1", "127.1.2.3:9", "[::1]", "[::1]:18001"]
)
async def test_every_name_of_this_machine_is_taken(host: str) -> None:
    """Loopback addresses and localhost, with and without a port."""
    async with serving(facts()) as client, client.get("/api/v1/proxies", headers={"Host": host}) as answer:
        assert answer.status == 200


async def test_an_order_from_another_web_site_is_refused() -> None:
    """A form on a web page can post to loopback, and sends its Origin."""
    begun: list[Root] = []
    ordered = dataclasses.replace(facts(), rotate=begun.append)
    page = {"Origin": "http://evil.example"}
    async with serving(ordered) as client, client.post("/api/v1/ca/rotate", headers=page) as answer:
        assert answer.status == 403

    assert begun == []


async def test_an_address_that_others_reach_takes_no_orders() -> None:
    """Nobody is authenticated there, so it can be read and not told."""
    begun: list[Root] = []
    ordered = dataclasses.replace(facts(), rotate=begun.append)
    async with serving(ordered, Address("0.0.0.0", 0)) as client:  # noqa: S104  # what is under test
        async with client.post("/api/v1/ca/rotate") as order:
            assert order.status == 403
        async with client.get("/api/v1/proxies", headers={"Host": "proa.proa-system"}) as reading:
            assert reading.status == 200

    assert begun == []


async def test_a_taken_port_is_an_os_error() -> None:
    """Two control planes on one address: the second one says so and ends."""
    async with listening(facts(), LOOPBACK) as bound:
        with pytest.raises(OSError, match="address already in use"):
            async with listening(facts(), bound):
                pass
