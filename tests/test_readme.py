"""The README keeps its word: its commands are run, its links lead somewhere, its map is the tree."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from xds.demo.mesh import free_ports

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
IN_CLUSTER = [line for block in BLOCKS if "cluster-up" in block for line in block.splitlines()]
"""What tests/cluster/test_readme.py runs."""
COMMANDS = [line for block in BLOCKS if "cluster-up" not in block for line in block.splitlines()]

README_LINES_MAX = 150
DEADLINE_S = 120.0
"""For one command of the README to succeed; on two busy cores a first Envoy takes seconds."""


def targets() -> set[str]:
    """Return the targets of the Makefile that explain themselves."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):[^#\n]*## ", text, re.MULTILINE))


def test_the_readme_is_short() -> None:
    """150 lines, as the style asks."""
    assert len(README.splitlines()) <= README_LINES_MAX


def test_every_make_command_is_a_target() -> None:
    """In blocks and in sentences."""
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))

    assert named
    assert named <= targets()


def test_every_command_is_make_or_run_below() -> None:
    """A command that nothing runs is a promise that nobody keeps."""
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "proa", "envoy"}
    assert {shlex.split(command)[0] for command in IN_CLUSTER} == {"eval", "proa", "kubectl"}


def test_every_link_leads_to_a_file() -> None:
    """Relative links only, and each exists."""
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_room_exists() -> None:
    """The first column of the map names files and folders of the tree; bare names stand below ``xds``."""
    rows = re.findall(r"^\| (`[^|]+) \|", README.partition("## The rooms")[2], re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert names
    assert [name for name in names if not ((ROOT / name).exists() or (ROOT / "xds" / name).exists())] == []


@pytest.mark.envoy
@pytest.mark.timeout(300)
def test_the_commands_by_hand_end_in_a_connected_proxy(tmp_path: Path) -> None:
    """As written, with free ports for the fixed ones: web.shop is in sync, and shows its listeners."""
    with ExitStack() as stack:
        for words, is_background in _by_hand(tmp_path):
            if is_background:
                stack.enter_context(_background(words, tmp_path))
            else:
                _until_it_shows(SHOWN.get(words[1], ""), words, tmp_path)


SHOWN = {"status": r"^web\.shop +shop/web +\S+ +yes ", "proxy": r"^listeners +outbound "}
"""What a verb's output holds in the end."""


def _by_hand(folder: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command that is not make's, and whether it stays in the background."""
    ports: dict[str, str] = dict(zip(("18000", "18001"), map(str, free_ports(2)), strict=True))
    for command in COMMANDS:
        if command.startswith("make"):
            continue
        text = re.sub("|".join(ports), lambda found: ports[found[0]], command.removesuffix("&"))
        program, *arguments = shlex.split(text.replace("examples/", f"{ROOT}/examples/"))
        words = [str(Path(sys.executable).parent / program), *arguments]
        if program == "envoy":
            words += ["--use-dynamic-base-id", "--log-path", str(folder / "envoy.log")]
        yield words, command.endswith("&")


@contextmanager
def _background(words: list[str], folder: Path) -> Generator[None]:
    log = folder / f"{Path(words[0]).name}.stderr"
    with log.open("w") as stderr, subprocess.Popen(words, cwd=folder, stdout=stderr, stderr=stderr) as child:
        try:
            yield
        finally:
            child.send_signal(signal.SIGINT)


def _until_it_shows(pattern: str, words: list[str], folder: Path) -> None:
    """Run a command again until it succeeds and shows that: what it asks about is still starting."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode == 0 and re.search(pattern, result.stdout, re.MULTILINE):
            return
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text() for path in folder.glob("*.stderr"))
            pytest.fail(f"{shlex.join(words)}: {result.stdout}{result.stderr}\n{logs}")
