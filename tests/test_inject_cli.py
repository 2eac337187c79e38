"""`proa inject`: manifests with sidecars, everything else as it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.entropy import counted_entropy
from tests.fakes.pods import TEMPLATE, Raw, container
from xds import ca, settings
from xds.cli.inject import command
from xds.documents import parse_yaml
from xds.injection.manifest import inject_text

ENTROPY = counted_entropy("inject")
OLD = ca.new_channel_root(now=time.time() - 3600, entropy=ENTROPY)
NEW = ca.new_channel_root(now=time.time(), entropy=ENTROPY)

SERVICE = """\
apiVersion: v1
kind: Service   # kept as it is, with this comment
metadata: {name: web}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: "1e3"}}
    spec:
      containers:
        - name: app
          command: ["y", "on", "012", "1.0", "", "null", "~", "a b"]
          readinessProbe: {tcpSocket: {port: 8080}}
"""


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Return a file with both roots of a rotation, the older one first."""
    path = tmp_path / "roots.pem"
    path.write_bytes(OLD.pem + NEW.pem)
    return path


def run(text: str, roots: Path, *more: str) -> Result:
    """Run the verb over a text on stdin."""
    return CliRunner().invoke(command, ["-f", "-", "--roots", str(roots), *more], input=text)


def documents(text: str) -> list[Raw]:
    """Read YAML as Python's own reader has it."""
    return [document for document in yaml.safe_load_all(text) if document]


def injected(text: str) -> str:
    """Inject with a small template."""
    return inject_text(text, TEMPLATE, "default").text


def test_a_deployment_is_injected_and_its_neighbours_stay(roots: Path) -> None:
    """To the letter, comments and all."""
    result = run(f"# ours\n{SERVICE}---\n{DEPLOYMENT}---\n{SERVICE}", roots)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"# ours\n{SERVICE}---\n")
    assert result.stdout.endswith(f"---\n{SERVICE}")
    assert result.stderr == "info: Deployment shop/web: injected\n"
    template = documents(result.stdout)[1]["spec"]["template"]
    assert template["metadata"]["annotations"]["proa.dev/workload"] == "web"
    assert [each["name"] for each in template["spec"]["initContainers"]] == ["proa-init", "proa-proxy"]
    assert container(template, "app")["readinessProbe"]["httpGet"]["path"] == "/tcp/8080"


def test_the_sidecar_trusts_both_roots_and_reports_the_newer_one(roots: Path) -> None:
    """Whatever their order in the file."""
    template = documents(run(DEPLOYMENT, roots, "--xds", "10.0.0.1:1").stdout)[0]["spec"]["template"]
    document = json.loads(container(template, "proa-proxy")["args"][1].replace("$$", "$"))

    assert document["node"]["metadata"][settings.CHANNEL_ROOT_METADATA] == NEW.fingerprint
    assert OLD.pem.decode() in json.dumps(document).replace("\\n", "\n")
    assert "10.0.0.1" in json.dumps(document)


def test_texts_stay_texts_for_every_reader() -> None:
    """`y`, `on`, `1e3` and their like mean something else to one reader of YAML or another."""
    found = injected(DEPLOYMENT)

    for read in (documents(found)[0], cast("Raw", next(iter(parse_yaml(found))).value)):
        template: Raw = read["spec"]["template"]
        assert container(template, "app")["command"] == ["y", "on", "012", "1.0", "", "null", "~", "a b"]
        assert template["metadata"]["labels"]["version"] == "1e3"
    assert '"y"' in found


@pytest.mark.parametrize(
    ("kind", "api", "path"),
    [
        ("StatefulSet", "apps/v1", ["spec", "template"]),
        ("DaemonSet", "apps/v1", ["spec", "template"]),
        ("ReplicaSet", "apps/v1", ["spec", "template"]),
        ("Job", "batch/v1", ["spec", "template"]),
        ("CronJob", "batch/v1", ["spec", "jobTemplate", "spec", "template"]),
        ("Pod", "v1", []),
    ],
)
def test_every_kind_that_holds_pods_is_known(kind: str, api: str, path: list[str]) -> None:
    """Alone and in a List, in YAML and in JSON."""
    holder: Raw = {"spec": {"containers": [{"name": "app"}]}}
    for step in reversed(path):
        holder = {step: holder}
    raw: Raw = {"apiVersion": api, "kind": kind, "metadata": {"name": "web"}, **holder}
    listed: Raw = {"apiVersion": "v1", "kind": "List", "items": [raw, {"kind": "Service"}]}

    for text in (json.dumps(raw), yaml.safe_dump(raw), json.dumps(listed)):
        (found,) = documents(injected(text))
        pod = found["items"][0] if "items" in found else found
        for step in path:
            pod = pod[step]
        assert pod["metadata"]["annotations"]["proa.dev/workload"] == "web"
        assert pod["spec"]["initContainers"][1]["name"] == "proa-proxy"


def test_what_is_injected_stays_as_it_is(roots: Path) -> None:
    """To the letter."""
    once = run(f"{SERVICE}---\n{DEPLOYMENT}", roots).stdout
    twice = run(once, roots)

    assert twice.stdout == once
    assert "left alone" in twice.stderr


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing\n", "---\n---\n", SERVICE, f"---\n{SERVICE}...\n", "a: |\n  ---\n  text\n", "--- text\n", "{}\n",
        "kind: Deployment\napiVersion: example.com/v1\n",
    ],
)  # fmt: skip
def test_a_text_without_pods_is_not_touched(text: str) -> None:
    """Whatever else it is."""
    assert injected(text) == text


def test_who_opts_out_is_left_alone(roots: Path) -> None:
    """And told why."""
    text = DEPLOYMENT.replace("labels: {", 'labels: {proa.dev/inject: "false", ')
    result = run(text, roots)

    assert result.stdout == text
    assert "info: Deployment shop/web: left alone: the Pod says no" in result.stderr


def test_a_wrong_annotation_writes_nothing(roots: Path) -> None:
    """Half of a manifest would be applied."""
    text = DEPLOYMENT.replace(
        "metadata: {labels", "metadata: {annotations: {proa.dev/proxy-cpu: lots}, labels"
    )
    result = run(f"{DEPLOYMENT}---\n{text}", roots)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: Deployment shop/web: metadata.annotations[proa.dev/proxy-cpu]: must be" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{SERVICE}---\na: [\n", "<stdin>:6:1"),
        (f"{SERVICE}---\na: 1\na: 2\n", "<stdin>:6:1"),
        ('{"a": ', "<stdin>:1:7"),
        ("apiVersion: apps/v1\nkind: Deployment\nspec: 5\n", "spec: must be an object"),
        ("a: 1\n...\nb: 1\n", "<stdin>:3:1: is not YAML"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_place(text: str, said: str, roots: Path) -> None:
    """Line and column of the whole text."""
    result = run(text, roots)

    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_roots_that_are_none_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    path = tmp_path / "roots.pem"
    path.write_text("nothing", encoding="utf-8")

    assert run(DEPLOYMENT, path).exit_code == 1


READABLE = st.characters(exclude_characters=[*map(chr, range(0x7F, 0xA0)), "\ufffe", "\uffff"])
"""Without what Python's own reader of YAML takes for unprintable, though JSON holds it as it is."""


@given(st.text(READABLE, max_size=40) | st.text("ayn01.e-+~:#'\" \\\n\t", max_size=12))
def test_any_text_is_read_as_it_was(text: str) -> None:
    """Written by us, read by Python's reader and by our own."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": text}]},
    }
    # not as pairs of surrogates, which are JSON and no YAML: an untouched Pod is returned to the letter
    found = injected(json.dumps(pod, ensure_ascii=False))

    assert documents(found)[0]["spec"]["containers"][0]["name"] == text
