"""``proa wait``: live means that every concerned proxy has accepted the file's own version."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.fakes.fleet import LOOPBACK, facts
from xds.__main__ import main
from xds.admin import listening
from xds.api.core import Key
from xds.api.manifest import Parsed, fingerprint, read
from xds.fields import Problem, Severity
from xds.ledger import Ledger, Push
from xds.snapshot import ResourceType

RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec: {hosts: [orders], http: [{timeout: 1s, route: [{destination: {host: orders}}]}]}
"""
KEY = Key("VirtualService", "shop", "orders")


def mark(text: str) -> str:
    """Return the fingerprint of one object."""
    parsed = read(yaml.safe_load(text))
    assert isinstance(parsed, Parsed)
    return fingerprint(parsed.object)


def pushed(ledger: Ledger) -> Push:
    """Open the push of a change of the rule that one proxy has yet to answer."""
    push = ledger.begin(1.0, [(ResourceType.ROUTES, "outbound")], (str(KEY),))
    push.waiting = 1
    return push


async def wait(
    folder: Path, ledger: Ledger, *words: str, in_force: str = RULE, problems: tuple[Problem, ...] = ()
) -> Result:
    """Run the command on a file with the rule, against a control plane in which another may be in force."""
    path = folder / "rule.yaml"
    path.write_text(RULE, "utf-8")

    def known(key: Key) -> str:
        return mark(in_force) if in_force and key == KEY else ""

    found = dataclasses.replace(
        facts(ledger),
        fingerprint=known,
        problems=lambda: problems,
    )
    async with listening(found, LOOPBACK) as bound:
        arguments = ["wait", "-f", str(path), "--admin", str(bound), *words]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_an_accepted_version_is_live(tmp_path: Path) -> None:
    """The verdict says how long the proxies took."""
    ledger = Ledger()
    pushed(ledger).settle("web-0.shop", 1.031)

    result = await wait(tmp_path, ledger)

    words = "VirtualService shop/orders: in force, accepted by every proxy 31 ms after the change\n"
    assert (result.exit_code, result.output) == (0, words)


async def test_what_concerns_no_proxy_is_live_at_once(tmp_path: Path) -> None:
    """A change that nobody sees has no push."""
    result = await wait(tmp_path, Ledger())

    assert (result.exit_code, result.output) == (0, "VirtualService shop/orders: in force\n")


@pytest.mark.parametrize(
    ("in_force", "words"),
    [
        (RULE.replace("1s", "2s"), "another version, or none, is in force"),
        ("", "another version, or none, is in force"),
        (RULE, "1 answer is missing"),
    ],
)
async def test_what_is_missing_is_named_when_the_time_is_up(
    tmp_path: Path, in_force: str, words: str
) -> None:
    """An older version in force, none, or a proxy that has not answered."""
    ledger = Ledger()
    pushed(ledger)

    result = await wait(tmp_path, ledger, "--timeout", "1s", in_force=in_force)

    assert (result.exit_code, result.output) == (1, f"Error: VirtualService shop/orders: {words} after 1 s\n")


async def test_a_rejection_ends_the_wait_in_envoys_words(tmp_path: Path) -> None:
    """What a proxy refused does not become live by waiting."""
    ledger = Ledger()
    pushed(ledger).settle("web-0.shop", 1.031, "Only unique\x1b[31m values")

    result = await wait(tmp_path, ledger)

    assert result.exit_code == 1
    assert "rejected by web-0.shop: Only unique" in result.output and "\x1b" not in result.output


async def test_a_refused_object_ends_the_wait_with_its_reason(tmp_path: Path) -> None:
    """The last good version stays in force, and the reason is the server's."""
    problem = Problem(Severity.ERROR, str(KEY), "spec.http[0].route", "names a subset that nobody defines")

    result = await wait(tmp_path, Ledger(), in_force=RULE.replace("1s", "2s"), problems=(problem,))

    assert result.exit_code == 1
    assert "spec.http[0].route: names a subset that nobody defines" in result.output


@pytest.mark.parametrize(("in_force", "code"), [("", 0), (RULE, 1)])
async def test_gone_waits_for_the_end_of_an_object(tmp_path: Path, in_force: str, code: int) -> None:
    """The file says which object it was."""
    result = await wait(tmp_path, Ledger(), "--gone", "--timeout", "1s", in_force=in_force)

    assert result.exit_code == code


async def test_a_file_that_nobody_could_read_is_no_wait(tmp_path: Path) -> None:
    """The place and the field, as `proa validate` says them."""
    path = tmp_path / "broken.yaml"
    path.write_text(RULE.replace("1s", "soon"), "utf-8")

    result = CliRunner().invoke(main, ["wait", "-f", str(path)])

    assert result.exit_code == 1
    assert f"{path}:5:" in result.output and "spec.http[0].timeout" in result.output


def test_metadata_does_not_make_another_version() -> None:
    """A cluster adds times, generations and annotations to what a file has."""
    richer = RULE.replace("namespace: shop", "namespace: shop, generation: 4, labels: {a: b}")

    assert mark(richer) == mark(RULE) != mark(RULE.replace("1s", "2s"))
