"""The example services: what their manifests promise, and their own Go tests; must never start a mesh."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from xds.cli.validate import problems_of
from xds.demo.manifests import PodSpec, read_pods
from xds.demo.programs import examples, go, shop

ROOT = Path(__file__).resolve().parent.parent
MESH = ROOT / "examples" / "go-services" / "mesh"
MODULES = ("examples/go-services", "benchmarks/baseline")

GO_COLD_S = 600
"""A cold cache downloads and compiles grpc-go: a minute of CPU here, several on a loaded machine."""

EXIT_S = 20
"""A program that was told to stop drains for at most 10 s."""


@pytest.fixture(scope="module")
def pods() -> tuple[PodSpec, ...]:
    """The Pods of the example."""
    return read_pods(MESH)


def test_the_mesh_has_no_problem() -> None:
    """The server's own compiler has nothing to say about the example's manifests."""
    assert problems_of(MESH) == ()


def test_no_two_pods_share_an_address(pods: tuple[PodSpec, ...]) -> None:
    """A sidecar and an application each have an address of their own, or one takes the other's port."""
    addresses = [address for pod in pods for address in (pod.pod_ip, pod.app_address)]

    assert len(addresses) == 12
    assert len(set(addresses)) == len(addresses)


def test_every_pod_has_a_service_account_of_its_own(pods: tuple[PodSpec, ...]) -> None:
    """Identity is the ServiceAccount; a shared one could not tell v1 from v2."""
    assert sorted(pod.service_account for pod in pods) == sorted(pod.name for pod in pods)


def test_the_readme_names_every_address(pods: tuple[PodSpec, ...]) -> None:
    """The table of addresses is what the manifests say."""
    text = (MESH.parent / "README.md").read_text("utf-8")
    table = re.findall(r"^\| (\S+) \| (127\S+) \| (127\S+) \|", text, re.MULTILINE)

    assert sorted(table) == sorted((pod.name, pod.pod_ip, pod.app_address) for pod in pods)


@pytest.mark.envoy
@pytest.mark.timeout(GO_COLD_S)
@pytest.mark.parametrize("module", MODULES)
def test_the_go_tests_pass(module: str) -> None:
    """`go vet` and `go test` of each module; their output is the reason when they do not."""
    for verb in ("vet", "test"):
        done = subprocess.run(
            [str(go(ROOT / module)), verb, "./..."],
            cwd=ROOT / module,
            capture_output=True,
            text=True,
            check=False,
            timeout=GO_COLD_S,
        )

        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def binary() -> Path:
    """The shop, built from this checkout."""
    return shop(examples())


@pytest.fixture
def taken() -> Iterator[str]:
    """An address whose port somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.envoy
@pytest.mark.timeout(GO_COLD_S)
def test_a_taken_port_is_a_clear_error(binary: Path, taken: str) -> None:
    """The message names the address, and the exit code is 1."""
    done = subprocess.run(
        [binary, "web", "--listen", taken], capture_output=True, text=True, check=False, timeout=EXIT_S
    )

    assert done.returncode == 1
    assert f"cannot listen on {taken}" in done.stderr


@pytest.mark.envoy
@pytest.mark.timeout(GO_COLD_S)
@pytest.mark.parametrize(
    "argv", [("web",), ("nothing",), ("load", "--rps", "0"), ("stock", "--listen", "x", "y")]
)
def test_wrong_usage_exits_with_2(binary: Path, argv: tuple[str, ...]) -> None:
    """A service without an address, an unknown one, a rate of nothing, a stray argument."""
    done = subprocess.run([binary, *argv], capture_output=True, text=True, check=False, timeout=EXIT_S)

    assert done.returncode == 2


@pytest.fixture
def echo(binary: Path) -> Iterator[str]:
    """The address of an echo service that ends with the test."""
    argv = [binary, "echo", "--workload", "one", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield json.loads(server.stderr.readline())["address"]
        finally:
            server.terminate()


@pytest.mark.envoy
@pytest.mark.timeout(GO_COLD_S)
def test_load_reports_every_request_when_it_is_told_to_stop(binary: Path, echo: str) -> None:
    """SIGTERM ends a run as its duration does: everything sent is answered and counted."""
    argv = [
        binary,
        "load",
        "--url",
        "http://one/echo",
        "--outbound",
        echo,
        "--rps",
        "200",
        "--duration",
        "1m",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        first = json.loads(load.stdout.readline())
        load.terminate()
        rest, _ = load.communicate(timeout=EXIT_S)
    final = json.loads(rest.splitlines()[-1])

    assert load.returncode == 0
    assert (first["type"], final["type"]) == ("second", "final")
    assert final["ok"] == final["sent"] >= first["sent"] > 0
    assert final["by_workload"] == {"one": final["sent"]}
