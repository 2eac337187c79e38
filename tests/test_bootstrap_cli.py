"""`proa bootstrap` finds the pod and the channel root, and says what is missing; must never start a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fakes.entropy import counted_entropy
from xds import ca
from xds.cli.bootstrap import command

NOW = 1_800_000_000

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  serviceAccountName: web
  containers: [{name: web, image: shop}]
status: {podIP: 127.0.1.2}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A directory with one Pod, shop/web."""
    place = tmp_path / "mesh"
    place.mkdir()
    (place / "web.yaml").write_text(POD)
    return place


def _run(*args: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(command, [str(arg) for arg in args])
    return done.exit_code, done.stdout, done.stderr


def test_the_document_goes_to_stdout_and_is_json(manifests: Path) -> None:
    """Without -o, stdout is the bootstrap and nothing else."""
    code, out, _ = _run("--workload", "shop/web", "--from", manifests, "--insecure")

    assert code == 0
    assert json.loads(out)["node"]["id"] == "web.shop"
    assert json.loads(out)["node"]["cluster"] == "web.shop"


def test_the_channel_root_is_that_of_the_state_directory(manifests: Path, tmp_path: Path) -> None:
    """The root is inlined, its fingerprint reported, and the file that names the token lies beside it."""
    state, token, out = tmp_path / "state", tmp_path / "token", tmp_path / "b.json"

    code, _, err = _run(
        "--workload", "shop/web", "--from", manifests, "--state", state, "--token-file", token, "-o", out
    )

    assert code == 0, err
    document = json.loads(out.read_text())
    assert len(document["node"]["metadata"]["proa.dev/channel-root"]) == 64
    assert "BEGIN CERTIFICATE" in out.read_text()
    assert json.loads((tmp_path / "token.sds.json").read_text())["resources"][0]["generic_secret"] == {
        "secret": {"filename": str(token)}
    }


def test_an_unknown_pod_fails_with_its_name(manifests: Path) -> None:
    """Exit code 1, and the message names directory and Pod."""
    code, out, err = _run("--workload", "shop/nobody", "--from", manifests, "--insecure")

    assert code == 1
    assert out == ""
    assert "there is no Pod shop/nobody" in err


def test_a_pod_without_an_address_fails_with_the_field(manifests: Path) -> None:
    """Exit code 1, and the message names status.podIP."""
    (manifests / "web.yaml").write_text(POD.replace("status: {podIP: 127.0.1.2}", ""))

    code, _, err = _run("--workload", "shop/web", "--from", manifests, "--insecure")

    assert code == 1
    assert "status.podIP" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--workload", "web", "--insecure"), "NAMESPACE/POD"),
        (("--workload", "shop/web"), "--token-file"),
        (("--workload", "shop/web", "--insecure", "--xds", "127.0.0.1"), "HOST:PORT"),
        (("--workload", "shop/web", "--insecure", "--xds", "127.0.0.1:0"), "HOST:PORT"),
        (("--workload", "shop/web", "--insecure", "--envoy-version", "old"), "MAJOR.MINOR"),
    ],
)
def test_wrong_usage_is_exit_code_2(args: tuple[str, ...], words: str) -> None:
    """The message shows the form that is wanted."""
    code, _, err = _run(*args)

    assert code == 2
    assert words in err


def test_the_version_chooses_what_an_older_envoy_reads(manifests: Path) -> None:
    """From 1.37 on it is one document for all."""
    texts = [
        _run("--workload", "shop/web", "--from", manifests, "--insecure", "--envoy-version", version)[1]
        for version in ("1.36.4", "1.37.0", "1.40")
    ]

    assert "allow_paths" not in texts[0]
    assert "allow_paths" in texts[1]
    assert texts[1] == texts[2]


def test_insecure_beyond_loopback_is_refused(manifests: Path) -> None:
    """Plaintext to another machine is an error."""
    code, _, err = _run(
        "--workload", "shop/web", "--from", manifests, "--insecure", "--xds", "10.0.0.1:18000"
    )

    assert code == 1
    assert "--insecure" in err


def test_a_document_for_every_pod_of_a_cluster(tmp_path: Path) -> None:
    """Roots come from a file, the newest first; no pod is named, and no file is written beside the token."""
    roots = [ca.new_channel_root(now=NOW, entropy=counted_entropy(name)) for name in ("new", "old")]
    pem, token = tmp_path / "roots.pem", tmp_path / "token"
    pem.write_bytes(b"".join(root.pem for root in roots))

    code, out, err = _run(
        "--transparent", "--roots", pem, "--token-file", token, "--xds", "proa.proa-system.svc:15010"
    )

    assert code == 0, err
    node = json.loads(out)["node"]
    assert node["metadata"]["proa.dev/channel-root"] == roots[0].fingerprint
    assert out.count("BEGIN CERTIFICATE") == 2
    assert list(tmp_path.iterdir()) == [pem]


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_roots_that_are_none(tmp_path: Path, text: str) -> None:
    """Exit code 1, and the flag is named."""
    pem = tmp_path / "roots.pem"
    pem.write_text(text)

    code, _, err = _run("--transparent", "--roots", pem, "--token-file", tmp_path / "token")

    assert code == 1
    assert "--roots: must be PEM certificates, the newest first" in err


def test_authorities_of_a_collector_that_are_none(tmp_path: Path) -> None:
    """Exit code 1, and the flag is named; 2 where there is no collector that they could vouch for."""
    pem = tmp_path / "ca.pem"
    pem.write_text("no certificate")
    given = ("--transparent", "--insecure", "--otlp-metrics-ca", pem)

    code, _, err = _run(*given, "--otlp-metrics", "otlp.example.com:4317")
    alone, _, words = _run(*given)

    assert (code, alone) == (1, 2)
    assert "--otlp-metrics-ca: must be PEM certificates" in err
    assert "--otlp-metrics HOST:PORT" in words


def test_a_pod_or_any_pod_must_be_said(manifests: Path) -> None:
    """Exit code 2: without --transparent a document is one pod's."""
    code, _, err = _run("--from", manifests, "--insecure")

    assert code == 2
    assert "--workload NS/POD is missing, or --transparent" in err


def test_an_intercepted_pod_of_a_directory_needs_no_address(manifests: Path) -> None:
    """The sidecar of a pod without status is prepared before the pod runs."""
    (manifests / "web.yaml").write_text(POD.replace("status: {podIP: 127.0.1.2}", ""))

    code, out, err = _run("--transparent", "--workload", "shop/web", "--from", manifests, "--insecure")

    assert code == 0, err
    assert json.loads(out)["node"]["id"] == "web.shop"
