"""The ``proa`` command: verbs, usage errors, and what status and proxy config show of a served ledger."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.fakes.fleet import LOOPBACK, FakeStream, facts, row
from xds import releases
from xds.__main__ import VERBS, main
from xds.address import Address
from xds.admin import listening
from xds.cli.table import age, printable
from xds.fields import Problem, Severity
from xds.ledger import Ledger, State
from xds.snapshot import ResourceType

ROOT = Path(__file__).resolve().parent.parent


def proa(*arguments: str) -> Result:
    """Run the command in this process and return its exit code and output."""
    return CliRunner().invoke(main, arguments)


def on_terminal(*arguments: str) -> str:
    """Run the command as a process on a terminal of 200 columns and return what it wrote there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    words = [sys.executable, "-m", "xds", *arguments]
    with subprocess.Popen(words, cwd=ROOT, stdout=theirs, env=environment):
        os.close(theirs)
        screen = b""
        with contextlib.suppress(OSError):  # EIO is how Linux says that the other side has closed
            while chunk := os.read(ours, 65_536):
                screen += chunk
    os.close(ours)
    return screen.decode()


@asynccontextmanager
async def served(problems: tuple[Problem, ...] = ()) -> AsyncGenerator[str]:
    """Serve one synced and one rejecting proxy; gives the admin address."""
    ledger = Ledger()
    ledger.attach(FakeStream("web-0.shop", found=[row(), row(ResourceType.LISTENER, "outbound")]))
    rejected = row(ResourceType.ROUTES, "outbound", state=State.NACKED, error="Only unique\x1b[31m values")
    ledger.attach(FakeStream("orders-0.shop", found=[row(), rejected], version="1.39.3"))
    async with listening(dataclasses.replace(facts(ledger), problems=lambda: problems), LOOPBACK) as bound:
        yield str(bound)


async def ask(*arguments: str, problems: tuple[Problem, ...] = ()) -> Result:
    """Run the command in a thread while a ledger is served to it."""
    async with served(problems) as admin:
        return await asyncio.to_thread(proa, *arguments, "--admin", admin)


def test_help_lists_every_verb() -> None:
    """The table of verbs is what the help shows."""
    result = proa("--help")

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_command(verb: str) -> None:
    """Each row of the table names a module that holds a click command."""
    assert isinstance(importlib.import_module(VERBS[verb].module).command, click.Command)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    """``proa VERB --help`` is help, exit code 0."""
    result = proa(verb, "--help")

    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serv",), "No such command 'serv'"),
        (("serve",), "one source is needed"),
        (("serve", "--from", "/no/such/directory"), "does not exist"),
        (("serve", "--from", ".", "--xds", "18000"), "must be HOST:PORT"),
        (("serve", "--from", ".", "--xds", "proa.example:18000"), "must be an IP address or localhost"),
        (("serve", "--from", ".", "--xds", "127.0.0.1:65536"), "0..65535"),
        (("serve", "--from", ".", "--xds", "::1:18000"), "in brackets"),
        (("serve", "--from", ".", "--insecure", "--xds", "0.0.0.0:18000"), "needs loopback addresses"),
        (("serve", "--from", ".", "--insecure", "--admin", "0.0.0.0:18001"), "needs loopback addresses"),
        (("status", "-o", "yaml"), "is not one of"),
        (("proxy", "config"), "Missing argument 'ID'"),
        (("proxy", "config", "web-0.shop", "--type", "cluster"), "is not one of"),
    ],
)
def test_a_usage_error_is_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    """What the user typed wrong is 2, and the text names it."""
    result = proa(*arguments)

    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("verb", [("status",), ("proxy", "config", "web-0.shop")])
def test_no_control_plane_is_exit_code_1_and_says_what_to_start(verb: tuple[str, ...]) -> None:
    """Port 1 is never ours: the connection is refused at once."""
    result = proa(*verb, "--admin", "127.0.0.1:1")

    assert result.exit_code == 1
    assert "proa serve --from DIR" in result.output


async def test_a_foreign_server_is_exit_code_1() -> None:
    """An answer that is not ours is an error that names the address, not a traceback."""
    async with served() as admin:
        result = await asyncio.to_thread(proa, "status", "--admin", f"http://{admin}/healthz?")

    assert result.exit_code == 1
    assert "is not the admin API" in result.output


async def test_status_shows_each_proxy_and_what_it_has_accepted() -> None:
    """One line a proxy: accepted of all for each type, and what was rejected."""
    result = await ask("status")
    lines = [line.split("  ") for line in result.output.splitlines()]
    cells = {line[0]: [cell.strip() for cell in line if cell.strip()] for line in lines}

    assert result.exit_code == 0
    assert cells["orders-0.shop"][3:] == ["no", "1/1", "-", "-", "-", "0/1 1 NACK", "-", "1.39.3"]
    assert cells["web-0.shop"][3:] == ["yes", "1/1", "-", "1/1", "-", "-", "-", "1.40.0"]
    (lacks,) = releases.lacks("1.39.3")
    assert cells["1.39.3"] == ["1.39.3", "orders-0.shop", lacks]


async def test_status_on_a_terminal_is_a_table_with_a_rule() -> None:
    """Rich draws it where somebody looks; in a pipe there is only text."""
    async with served() as admin:
        screen = await asyncio.to_thread(on_terminal, "status", "--admin", admin)

    assert "web-0.shop" in screen
    assert "───" in screen


async def test_status_shows_problems() -> None:
    """A problem stands below the proxies with its object, field, reason and place."""
    problem = Problem(
        Severity.ERROR, "VirtualService shop/orders", "http[0].weight", "must be 0..100", "a.yaml:3:5"
    )
    result = await ask("status", problems=(problem,))

    assert "error     VirtualService shop/orders  http[0].weight  must be 0..100  a.yaml:3:5" in result.output


async def test_status_in_json_is_one_document() -> None:
    """``-o json`` holds the proxies and the problems of the API."""
    result = await ask("status", "-o", "json")
    found = json.loads(result.output)

    assert [proxy["id"] for proxy in found["proxies"]] == ["orders-0.shop", "web-0.shop"]
    assert found["problems"] == []


async def test_proxy_config_shows_version_state_bytes_and_cause() -> None:
    """One line a resource; the objects that it was compiled from stand at its end."""
    result = await ask("proxy", "config", "web-0.shop", "--type", "clusters")
    [_, line] = result.output.splitlines()

    assert line.split()[:4] == [
        "clusters",
        "outbound|80||orders.shop.svc.cluster.local",
        "00c0ffee00c0ffee",
        "ACKED",
    ]
    assert line.endswith("321    VirtualService shop/orders http[0], Service shop/orders")


async def test_proxy_config_shows_a_rejection_without_its_control_characters() -> None:
    """Envoy's words are quoted; an escape sequence in them does not reach the terminal."""
    result = await ask("proxy", "config", "orders-0.shop")

    assert r"routes outbound was rejected: Only unique\x1b[31m values" in result.output


async def test_proxy_config_takes_the_form_of_workload() -> None:
    """NAMESPACE/POD, as ``proa token`` and ``proa bootstrap`` take it, names the same proxy as POD.NAMESPACE."""
    asked = await ask("proxy", "config", "shop/web-0")
    shown = await ask("proxy", "config", "web-0.shop")

    assert asked.exit_code == 0
    assert "clusters" in asked.stdout
    assert [line.split()[:2] for line in asked.stdout.splitlines()] == [
        line.split()[:2] for line in shown.stdout.splitlines()
    ]


async def test_proxy_config_of_a_stranger_is_exit_code_1() -> None:
    """A proxy that is not connected is an error with the server's words."""
    result = await ask("proxy", "config", "web-9.shop")

    assert result.exit_code == 1
    assert "no such proxy is connected" in result.output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (7_200, "2h"), (1_000_000, "11d")],
)
def test_age_is_in_the_largest_unit(seconds: float, text: str) -> None:
    """Ages are for reading; a clock that went back shows zero."""
    assert age(seconds) == text


def test_printable_keeps_words_in_every_script() -> None:
    """Only what a terminal would obey is escaped."""
    assert printable("größer → 大\t\x07") == r"größer → 大\x09\x07"


@pytest.mark.parametrize("text", ["127.0.0.1:18000", "[::1]:0", "localhost:65535"])
def test_an_address_prints_as_it_is_read(text: str) -> None:
    """Reading and printing are inverse."""
    assert str(Address.parse(text)) == text


def test_serve_makes_no_state_before_it_serves(tmp_path: Path) -> None:
    """A usage error leaves nothing behind."""
    state = tmp_path / "state"
    proa("serve", "--from", str(tmp_path), "--state", str(state), "--insecure", "--xds", "0.0.0.0:0")

    assert not state.exists()
