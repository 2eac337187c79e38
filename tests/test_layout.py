"""The architecture, held by machine: arrows, sizes, names, and who may touch what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xds"

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

ONE_THOUGHT = {
    "xds/documents.py": 430,  # one pass over the parser's events; every check needs the same stack
    "xds/settings.py": 700,  # every tunable with its reason, in one place
    "xds/stream.py": 530,  # one conversation: receive and poll share every field of the session
    "xds/subscription.py": 440,  # what one type of one stream was told, in both variants
}
"""Files that are longer because they read as one thought, and how long they may be: they only shrink."""

FORBIDDEN_WORDS = {"manager", "handler", "helper", "util", "utils", "common", "base", "data", "info", "misc"}
"""Words that say nothing about what a thing is."""

WORDS_OF_THE_FIELD = {"info"}
"""Whole names that are allowed all the same: the severity beside ``warn``."""

ENVOY_API_ROOMS = {"csds", "events", "features", "resources", "stream", "server", "traffic"}
"""Who may import the generated API; everybody else sees our own types."""

ENVIRONMENT_ROOMS = {"settings", "channel", "demo"}
"""Who may read the environment: the settings, gRPC's own switch for TLS, and the programs that the demo starts."""


def sources(*folders: Path) -> list[Path]:
    """Return our own Python files below the folders, without the generated API."""
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if PACKAGE / "pb" not in path.parents
    )


def room(path: Path) -> str:
    """Return the top-level module below ``xds`` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def relative(path: Path) -> str:
    """Return a file's name for the list of a failure."""
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield every module that a file imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_arrows_go_one_way() -> None:
    """Import-linter keeps every contract of pyproject.toml."""
    linter = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
    ]
    result = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("package", ["xds.pb", "envoy_data_plane"])
def test_only_the_rooms_that_must_import_a_copy_of_the_envoy_api(package: str) -> None:
    """The private API is for builders and protocol; betterproto2's only for the bootstrap."""
    allowed = {"xds.pb": ENVOY_API_ROOMS, "envoy_data_plane": {"bootstrap"}}[package]
    found = [
        relative(path)
        for path in sources(PACKAGE)
        if room(path) not in allowed
        and any(f"{name}.".startswith(f"{package}.") for name in imported(parse(path)))
    ]

    assert found == []


def test_the_server_does_not_load_betterproto() -> None:
    """``envoy_data_plane`` costs 0.8 s of import and builds 37 to 217 times slower than upb."""
    script = (
        "import sys, xds.standalone\n"
        "print(*sorted({'envoy_data_plane', 'betterproto2', 'rich', 'kubernetes'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == ""


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """400 lines is a lot; what is longer has a reason and its own limit."""
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(PACKAGE)}

    assert {path: n for path, n in lines.items() if n > ONE_THOUGHT.get(path, FILE_LINES_MAX)} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    """60 lines is a lot."""
    found = [
        f"{relative(path)}:{node.lineno} {node.name}: {length} lines"
        for path in sources(PACKAGE, ROOT / "tests")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert found == []


def test_names_say_what_things_are() -> None:
    """No module, class or function is called a manager, handler, helper, util, common, base, data, info or misc."""
    found = [
        f"{relative(path)}: {name}"
        for path in sources(PACKAGE)
        for name in (path.stem, *_defined(parse(path)))
        if name not in WORDS_OF_THE_FIELD
        and FORBIDDEN_WORDS & set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))
    ]

    assert found == []


def test_every_module_says_what_it_owns_and_what_it_must_never_do() -> None:
    """A module docstring has at least two sentences; an empty package has none to tell."""
    found = [
        relative(path)
        for path in sources(PACKAGE)
        if not re.search(r"\b(?:never|nothing|nobody|no|not)\b", ast.get_docstring(tree := parse(path)) or "")
        and len(tree.body) > 1
    ]

    assert found == []


def test_only_settings_read_the_environment() -> None:
    """Every tunable is in one file; TLS 1.3 and child processes need the environment itself."""
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(PACKAGE)
        if room(path) not in ENVIRONMENT_ROOMS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
    ]

    assert found == []


def test_only_the_supervisor_catches_everything() -> None:
    """A broad ``except`` hides bugs; the one place for it crashes the process after logging."""
    broad = {"Exception", "BaseException"}
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(PACKAGE)
        if room(path) != "app"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or any(isinstance(n, ast.Name) and n.id in broad for n in ast.walk(node.type)))
    ]

    assert found == []


def test_envoy_is_no_package() -> None:
    """``envoy/`` holds files for Envoy; an ``__init__.py`` there would shadow the Envoy API's own package."""
    assert list((ROOT / "envoy").rglob("__init__.py")) == []


def test_no_test_waits_for_luck_or_replaces_a_name() -> None:
    """A test that sleeps is slow or flaky, one that patches knows too much, one that is skipped shows nothing.

    Asking again in a loop that has a deadline is no luck, nor is a wait that says beside it what must not happen.
    """
    found = [
        f"{relative(path)}:{line}: {words}"
        for path in sources(ROOT / "tests")
        for lines in [path.read_text(encoding="utf-8").splitlines()]
        for line, words, is_in_loop in _expressions(parse(path))
        if words in LUCK or (re.fullmatch(SLEEP, words) and not is_in_loop and "  # " not in lines[line - 1])
    ]

    assert found == []


LUCK = {
    "mock.patch",
    "unittest.mock.patch",
    "pytest.mark.skip",
    "pytest.mark.skipif",
    "pytest.mark.xfail",
    "pytest.skip",
}
SLEEP = r"(?:time|asyncio)\.sleep\((?!0\)).*"
"""``asyncio.sleep(0)`` gives way to other tasks and waits for nothing."""


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _expressions(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield line and text of every ``a.b`` and every call of one, and whether it stands in a loop."""
    loops = ast.While | ast.For | ast.AsyncFor
    looped = {id(node) for loop in ast.walk(tree) if isinstance(loop, loops) for node in ast.walk(loop)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Call) and isinstance(
            getattr(node, "func", node), ast.Attribute
        ):
            yield node.lineno, ast.unparse(node), id(node) in looped
