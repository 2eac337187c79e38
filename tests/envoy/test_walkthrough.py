"""Every page of the walk-through: its commands, as they stand there, print what stands below them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.cluster import packages
from xds.demo.processes import Family, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "examples/go-services/walkthrough"
PAGES: Final = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
BLOCK: Final = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

START_S: Final = 240.0
"""Building the shop takes a minute on an idle machine, when nothing is cached."""

BLOCK_S: Final = 120.0

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mapping[str, str]]:
    """Keep the demo's mesh; give the environment that its lines make, with `proa` on the PATH."""
    if shutil.which("curl") is None:
        packages.install(("curl",))
    folder = tmp_path_factory.mktemp("walkthrough")
    lines = folder / "lines"
    family = Family(folder / "logs")
    with lines.open("wb") as out:
        child = family.start("demo", [sys.executable, "-m", "xds", "demo", "--stay"], stdout=out.fileno())
    try:
        wait_until(
            "the shop stays", lambda: lines.read_text().count("export") >= 7, timeout_s=START_S, child=child
        )
        found = re.findall(r"(\w+)=(\S+)", lines.read_text())
        yield {**os.environ, **dict(found), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        child.process.send_signal(signal.SIGINT)
        child.process.wait(timeout=60)
    finally:
        family.stop()


@pytest.fixture
def bare(shop: Mapping[str, str]) -> Mapping[str, str]:
    """Bring the manifests back to the demo's own, without its canary, and wait until that is live."""
    manifests = Path(shop["MANIFESTS"])
    for path in manifests.iterdir():
        if not (ROOT / "examples/go-services/mesh" / path.name).exists():
            path.unlink()
    prepare = next(text for _, text in blocks(FOLDER / "README.md") if "rm $MANIFESTS" in text)
    run(prepare.replace("rm ", "rm -f "), shop)
    rules = " ".join(f"-f {path}" for path in sorted(FOLDER.glob("*.yaml")))
    run(f"proa wait --gone {rules}", shop)
    return shop


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block."""
    return BLOCK.findall(page.read_text("utf-8"))


def run(script: str, env: Mapping[str, str]) -> str:
    """Run commands as a reader's shell does, from the clone; AssertionError with all words when one fails."""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],  # noqa: S607  # the reader's shell
        cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=BLOCK_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def agrees(wanted: str, got: str) -> bool:
    """Compare two lines word by word; `~160` stands for what 160 trials of a coin may give, four deviations wide."""
    pairs = zip(wanted.split(), got.split(), strict=False)
    return len(wanted.split()) == len(got.split()) and all(
        abs(int(is_) - int(want[1:])) <= 4 * int(want[1:]) ** 0.5
        if want.startswith("~") and is_.isdigit()
        else want == is_
        for want, is_ in pairs
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_keeps_its_word(page: Path, bare: Mapping[str, str]) -> None:
    """A block of commands prints the block of text below it; where none is below, it only must succeed."""
    found = blocks(page)
    assert found
    for (language, script), (below, wanted) in zip(found, [*found[1:], ("", "")], strict=True):
        if language != "sh":
            continue
        printed = [
            line for line in run(script, bare).splitlines() if not re.match(r"\w+ \S+: (in force|gone)", line)
        ]
        if below == "text":
            lines = wanted.splitlines()
            assert len(printed) == len(lines) and all(map(agrees, lines, printed)), f"{script}\n{printed}"


def test_every_page_and_file_is_in_the_list() -> None:
    """A page has a file of rules of its own name, and a row in the index."""
    rows = re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\)", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)

    assert sorted(rows) == [page.stem for page in PAGES]
    assert [page.stem for page in PAGES] == sorted(path.stem for path in FOLDER.glob("*.yaml"))
