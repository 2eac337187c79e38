"""`proa status`, `proxy` and `ca` with --kubernetes: every replica asked, one answer made of theirs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner, Result

from tests.fakes.portforward import Pods
from xds.__main__ import main

PROXIES: Final = "/api/v1/proxies"
PROBLEMS: Final = "/api/v1/problems"
CA: Final = "/api/v1/ca"

ROTATION: Final[dict[str, Any]] = {"phase": "steady", "entered": 0, "roots": [], "waiting_for": ""}
STATUS: Final[dict[str, Any]] = {"workload": ROTATION, "channel": ROTATION, "leaves": 3}
PROBLEM: Final = {"severity": "error", "object": "Service a/b", "field": "", "reason": "odd", "where": ""}


def proxy(name: str, *, at: float) -> dict[str, Any]:
    """Return a proxy as the API shows it."""
    return {"id": name, "workload": "w", "connected_at": at, "streams": 1, "acked": True, "types": []}


async def proa(pods: Pods, folder: Path, *words: str) -> Result:
    """Run a verb beside the fake apiserver."""
    async with pods.serving(folder) as kubeconfig:
        arguments = [*words, "--kubeconfig", str(kubeconfig)]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_status_is_the_union_of_what_the_replicas_say(tmp_path: Path) -> None:
    """A proxy that has moved is shown once, with its newest connection; a problem that all have, once."""
    pods = Pods(
        {
            "proa-1": {
                PROXIES: {"proxies": [proxy("a.x", at=9), proxy("b.x", at=1)]},
                PROBLEMS: {"problems": [PROBLEM]},
            },
            "proa-2": {PROXIES: {"proxies": [proxy("b.x", at=5)]}, PROBLEMS: {"problems": [PROBLEM]}},
        }
    )
    result = await proa(pods, tmp_path, "status", "-o", "json")
    found = json.loads(result.stdout)

    assert [(one["id"], one["connected_at"]) for one in found["proxies"]] == [("a.x", 9), ("b.x", 5)]
    assert found["problems"] == [PROBLEM]


async def test_a_silent_replica_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    """On stderr, so that a document on stdout stays whole."""
    pods = Pods({"proa-1": None, "proa-2": {PROXIES: {"proxies": []}, PROBLEMS: {"problems": []}}})
    result = await proa(pods, tmp_path, "status", "-o", "json")

    assert (result.exit_code, json.loads(result.stdout)) == (0, {"proxies": [], "problems": []})
    assert "proa-1: no answer PortForward: connection refused" in result.stderr


async def test_when_no_replica_answers_it_is_exit_code_1(tmp_path: Path) -> None:
    """With the reason of each."""
    result = await proa(Pods({"proa-1": None}), tmp_path, "status")

    assert (result.exit_code, "proa-1" in result.stderr) == (1, True)


async def test_a_proxy_is_asked_of_whoever_serves_it(tmp_path: Path) -> None:
    """The others answer 404, which is nobody's fault."""
    path = "/api/v1/proxies/web.shop/config"
    pods = Pods({"proa-1": {}, "proa-2": {path: {"id": "web.shop", "resources": []}}})
    result = await proa(pods, tmp_path, "proxy", "config", "shop/web", "-o", "json")

    assert json.loads(result.stdout) == {"id": "web.shop", "resources": []}
    assert result.stderr == ""


async def test_a_rotation_is_ordered_of_the_leader_alone(tmp_path: Path) -> None:
    """The Lease names its process, which begins with the name of its Pod."""
    answers = {f"{CA}/rotate?root=channel": STATUS}
    pods = Pods({"proa-1": answers, "proa-12": answers}, holder="proa-12_5f3a")
    result = await proa(pods, tmp_path, "ca", "rotate", "--channel", "-o", "json")

    assert pods.asked == [("proa-12", f"POST {CA}/rotate?root=channel")]
    assert json.loads(result.stdout)["leaves"] == 3


async def test_without_a_leader_nothing_is_rotated(tmp_path: Path) -> None:
    """Nobody would write the new root."""
    pods = Pods({"proa-1": {CA: STATUS}})
    result = await proa(pods, tmp_path, "ca", "status")

    assert (result.exit_code, pods.asked) == (1, [])
