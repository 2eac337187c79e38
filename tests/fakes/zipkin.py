"""The real Zipkin: fetched from Maven once, started for a test, asked over its own API.

It owns the file in the cache, which its digest names, and the process; it must never run what does not have that
digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.cluster import packages, programs
from xds.demo.mesh import free_port
from xds.demo.processes import wait_until

VERSION: Final = "3.5.1"
_URL: Final = (
    f"https://repo1.maven.org/maven2/io/zipkin/zipkin-server/{VERSION}/zipkin-server-{VERSION}-exec.jar"
)
_SHA256: Final = "7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d"

_FETCH_S: Final = 300
_START_S: Final = 150
"""A Java server with Spring: 6 s on an idle machine, a minute beside other tests."""


@dataclass(frozen=True, slots=True)
class Span:
    """One span as Zipkin tells it; ``kind`` is CLIENT or SERVER."""

    trace: str
    id: str
    parent: str
    service: str
    name: str
    kind: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Zipkin:
    """A running server."""

    port: int

    def traces(self) -> list[list[Span]]:
        """Return all traces that it has."""
        found: Any = self._get("/api/v2/traces?" + urlencode({"limit": 1000, "lookback": 3_600_000}))
        return [[_span(raw) for raw in trace] for trace in found]

    def is_healthy(self) -> bool:
        """Tell whether it answers."""
        try:
            return self._get("/health").get("status") == "UP"
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)


@contextmanager
def zipkin(directory: Path) -> Generator[Zipkin]:
    """Run the server on a free port; its log is in ``directory``."""
    archive, found = jar(), Zipkin(free_port())
    with (directory / "zipkin.log").open("wb") as log:
        env = {**os.environ, "QUERY_PORT": str(found.port), "STORAGE_TYPE": "mem"}
        argv = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar", str(archive)]
        with subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                wait_until("Zipkin answers", found.is_healthy, timeout_s=_START_S)
                yield found
            finally:
                process.kill()


def jar() -> Path:
    """Return the archive, fetched at most once for this machine."""
    packages.install(("default-jre-headless",))
    path = programs.cache() / "zipkin" / VERSION / "zipkin.jar"
    if not path.is_file():
        with programs.lock("zipkin"):
            if not path.is_file():  # the lock's last owner may have fetched it
                _fetch(path)
    return path


def _fetch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with urllib.request.urlopen(_URL, timeout=_FETCH_S) as answer:
        body = answer.read()
    digest = hashlib.sha256(body).hexdigest()
    if digest != _SHA256:
        message = f"{_URL} has the digest {digest}, expected {_SHA256}"
        raise RuntimeError(message)
    draft.write_bytes(body)
    draft.replace(path)


def _span(raw: dict[str, Any]) -> Span:
    return Span(
        trace=raw["traceId"],
        id=raw["id"],
        parent=raw.get("parentId", ""),
        service=raw.get("localEndpoint", {}).get("serviceName", ""),
        name=raw.get("name", ""),
        kind=raw.get("kind", ""),
        tags=raw.get("tags", {}),
    )
