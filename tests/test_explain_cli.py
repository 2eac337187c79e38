"""`proa explain` as it is typed and printed, from a directory and through the admin API, with the same answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shlex
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.fakes.faults import BASE, ROOT, mistakes
from tests.fakes.fleet import LOOPBACK, facts
from xds.__main__ import main
from xds.admin import listening
from xds.control import ControlPlane
from xds.explain.answer import Answer
from xds.explain.located import located
from xds.explain.question import Question
from xds.explain.walk import explain
from xds.sources.directory import Directory

STRICT = (ROOT / "tls-disabled-against-strict" / "in.yaml").read_text("utf-8")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a directory with a mistake in it."""
    (tmp_path / "base.yaml").write_text(BASE.read_text("utf-8"), "utf-8")
    (tmp_path / "strict.yaml").write_text(STRICT, "utf-8")
    return tmp_path


def proa(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ("explain", *arguments))


@asynccontextmanager
async def served(root: Path) -> AsyncGenerator[str]:
    """Serve what a control plane over a directory answers; gives the admin address."""
    directory, plane = Directory(root), ControlPlane()
    batch = directory.load()
    plane.apply(batch.changes, at=0.0, now=0.0, broken=batch.broken)

    async def answer(question: Question) -> Answer:
        plane.problems = batch.problems
        return located(explain(plane.known(time.time()), question), directory.placed)

    async with listening(dataclasses.replace(facts(), explain=answer), LOOPBACK) as bound:
        yield str(bound)


@pytest.mark.parametrize(
    "words",
    [
        ("client.shop", "orders", "GET /x"),
        ("client.shop", "->", "orders", "GET /x"),
        ("client.shop -> orders GET /x",),
        ("client.shop → orders", "/x"),
    ],
)
def test_a_question_can_be_typed_in_several_ways(shop: Path, words: tuple[str, ...]) -> None:
    """With and without an arrow, in one word or several."""
    found = json.loads(proa(*words, "--dir", str(shop), "-o", "json").stdout)

    asked = found["question"]
    assert (asked["source"], asked["destination"], asked["path"]) == ("client.shop", "orders", "/x")


def test_an_arrow_that_the_shell_took_is_told(shop: Path) -> None:
    """Unquoted, `->` leaves a dash and a file named after the destination."""
    result = proa("client.shop", "-", "GET /x", "--dir", str(shop))

    assert result.exit_code == 2
    assert "leave the arrow out, or quote it" in result.stderr


def test_people_see_each_step_and_the_cause(shop: Path) -> None:
    """The outcome comes first, then the steps with their objects; a request that fails exits 1."""
    result = proa("client.shop", "orders", "GET /x", "--dir", str(shop))

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "client.shop -> orders  GET /x"
    assert lines[1].startswith("=> 503: plaintext is closed")
    assert any(
        line.split() == ["server", "TLS", "STRICT", "(2", "of", "2)", "PeerAuthentication", "shop/default"]
        for line in lines
    )
    assert any("outbound|80||orders.shop.svc.cluster.local" in line for line in lines)


def test_a_request_that_arrives_exits_0(shop: Path) -> None:
    """Without a cause that stops it, the exit code says so."""
    (shop / "strict.yaml").unlink()

    assert proa("client.shop", "orders", "--dir", str(shop)).exit_code == 0


def test_the_page_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of docs/explain.md is real, and its table holds every mistake that is tried."""
    root = Path(__file__).parent.parent
    page = (root / "docs" / "explain.md").read_text("utf-8")
    monkeypatch.chdir(root)

    for command, output in re.findall(r"^\$ proa explain (.*)\n((?:.*\n)*?)```$", page, re.MULTILINE):
        assert proa(*shlex.split(command)).stdout == output
    for one in mistakes():
        said = one.says.replace("|", "\\|")
        assert f"| `{one.name}` | {one.status} | {one.cause}: {said} |" in page


async def test_the_control_plane_says_the_same(shop: Path) -> None:
    """The document of the admin API equals that of the directory."""
    words = ("visitor.web", "orders.shop", "POST /x?y=1", "-H", "x-user: qa", "-o", "json")
    offline = await asyncio.to_thread(proa, *words, "--dir", str(shop))
    async with served(shop) as admin:
        live = await asyncio.to_thread(proa, *words, "--admin", admin)

    assert live.stdout == offline.stdout
    assert json.loads(live.stdout)["outcome"].startswith("503")


async def test_an_unknown_source_is_told_by_both(shop: Path) -> None:
    """Who is not there cannot be asked for."""
    words = ("nobody.shop", "orders")
    offline = await asyncio.to_thread(proa, *words, "--dir", str(shop))
    async with served(shop) as admin:
        live = await asyncio.to_thread(proa, *words, "--admin", admin)

    assert (offline.exit_code, live.exit_code) == (2, 1)
    assert "no Pod or workload nobody" in offline.stderr and "no Pod or workload nobody" in live.stderr
