"""The chart, by a real helm: what it renders to, what it refuses, and that a real apiserver takes it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

from tests.cluster.cluster import Cluster
from xds import install
from xds.injection.istio import IstioLabels
from xds.injection.registration import configuration

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def _load() -> ModuleType:
    """Return deploy/render.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("proa_render", ROOT / "deploy" / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RENDER: Final[Any] = _load()


@pytest.fixture(scope="session")
def helm() -> Path:
    """Return a real helm; the first time it is built, which takes three minutes of CPU."""
    return RENDER.helm()


def objects(helm: Path, *flags: str) -> dict[str, Any]:
    """Return what helm renders, by kind and name."""
    found = yaml.safe_load_all(RENDER.render(helm, *flags))
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found if one}


def test_the_carried_manifest_is_what_helm_renders_now(helm: Path) -> None:
    """Byte for byte: who edits the chart runs `make manifest`."""
    assert install.carried() == RENDER.HEAD + RENDER.render(helm)


@pytest.mark.parametrize("mode", list(IstioLabels))
def test_the_webhook_is_the_one_that_the_server_keeps(helm: Path, mode: IstioLabels) -> None:
    """The chart's text and the server's own object say the same, for each setting of istioLabels."""
    shown = objects(helm, "--set-string", f"injection.istioLabels={mode.value}")
    found = shown["MutatingWebhookConfiguration/proa-injector"]

    def client(path: str) -> dict[str, Any]:
        return {"service": {"name": "proa", "namespace": "proa-system", "port": 443, "path": path}}

    assert found["webhooks"] == configuration(client, mode)["webhooks"]


def test_the_right_to_list_webhooks_goes_where_nobody_looks(helm: Path) -> None:
    """Only `auto` asks whether Istio injects."""
    rules = [
        rule
        for mode in ("auto", "off")
        for rule in objects(helm, "--set-string", f"injection.istioLabels={mode}")["ClusterRole/proa"][
            "rules"
        ]
        if "list" in rule["verbs"] and "mutatingwebhookconfigurations" in rule.get("resources", ())
    ]

    assert len(rules) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "replicaCount=3"), "replicaCount"),
        (("--set", "replicas=0"), "replicas"),
        (("--set", "injection.istioLabels=maybe"), "istioLabels"),
        (("--set", "image.pullPolicy=Sometimes"), "pullPolicy"),
        (("--namespace", "default"), "proa-system"),
    ],
)
def test_a_value_that_is_not_known_is_refused(helm: Path, flags: tuple[str, ...], words: str) -> None:
    """The schema names it; so does the check of the namespace, which every bootstrap pins."""
    with pytest.raises(SystemExit, match=words):
        RENDER.render(helm, *flags)


def test_monitoring_is_what_is_generated(helm: Path) -> None:
    """Each switch brings its files as they are; without them there is none."""
    flags = [f"monitoring.{name}=true" for name in ("podMonitor", "prometheusRule", "dashboards")]
    shown = objects(helm, *(word for flag in flags for word in ("--set", flag)))
    source = ROOT / "deploy" / "observability"
    wanted = [
        one
        for name in ("podmonitor.yaml", "prometheusrule.yaml")
        for one in yaml.safe_load_all((source / name).read_text("utf-8"))
    ]
    dashboards = {path.name: path.read_text("utf-8") for path in (source / "dashboards").glob("*.json")}

    assert all(shown[f"{one['kind']}/{one['metadata']['name']}"] == one for one in wanted)
    assert shown["ConfigMap/proa-dashboards"]["data"] == dashboards
    assert len(shown) == len(objects(helm)) + len(wanted) + 1


def test_every_value_is_in_the_schema_and_there_are_few() -> None:
    """At most 60 settings, and none that the schema does not know."""

    def leaves(value: object) -> int:
        return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1  # pyright: ignore[reportUnknownArgumentType]

    chart = ROOT / "deploy" / "helm" / "proa"
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    schema = yaml.safe_load((chart / "values.schema.json").read_text("utf-8"))

    assert leaves(values) <= 60
    assert set(values) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_values_of_a_large_installation_are_taken_by_a_real_apiserver(helm: Path, own_api: Cluster) -> None:
    """Every template that a default leaves out is valid Kubernetes."""
    flags = [
        "replicas=3,image.tag=v9,image.pullSecrets[0].name=pull,priorityClassName=system-cluster-critical",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring,podLabels.team=mesh",
        "podAnnotations.a=b,nodeSelector.disk=ssd,tolerations[0].operator=Exists,mesh.trustDomain=example.org",
        "serviceAccount.annotations.role=x,affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone",
    ]
    large = RENDER.render(helm, *(word for flag in flags for word in ("--set", flag)))
    own_api.apply(RENDER.HEAD)
    said = own_api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=large)

    assert said.count("(server dry run)") == len(install.documents(install.carried())) - 1
    assert "Warning" not in said


FOREIGN: Final = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: sidecars.networking.istio.io, labels: {chart: istio}}
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {kind: Sidecar, plural: sidecars, singular: sidecar}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def test_helm_installs_upgrades_and_leaves_the_kinds_and_the_keys(
    helm: Path, own_api: Cluster, tmp_path: Path
) -> None:
    """A kind of somebody else stays as it was; what a new authority would break outlives `helm uninstall`."""
    env = {"HOME": str(tmp_path), "PATH": os.defpath, "KUBECONFIG": str(own_api.kubeconfig)}

    def run(*words: str) -> None:
        argv = [str(helm), *words, "--namespace", "proa-system"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr

    def labels(name: str) -> dict[str, str]:
        return dict(own_api.get("crd", name)["metadata"]["labels"])

    own_api.apply(FOREIGN)
    chart = str(ROOT / "deploy" / "helm" / "proa")
    run("install", "proa", chart, "--create-namespace")
    own_api.kubectl(
        "-n", "proa-system", "patch", "secret", "proa-ca", "--type=merge", "-p", '{"data":{"k":"dg=="}}'
    )
    run("upgrade", "proa", chart, "--set", "replicas=1")
    after = own_api.get("deployment", "proa", "-n", "proa-system")["spec"]["replicas"]
    run("uninstall", "proa")
    run("install", "proa", chart, "--dry-run=server")  # what was kept is taken up again

    assert after == 1
    assert labels("sidecars.networking.istio.io") == {"chart": "istio"}
    assert labels("virtualservices.networking.istio.io")["app.kubernetes.io/part-of"] == "proa"
    assert own_api.get("secret", "proa-ca", "-n", "proa-system")["data"] == {"k": "dg=="}
    assert not own_api.exists("deployment", "proa", "-n", "proa-system")
    assert not own_api.exists("mutatingwebhookconfiguration", "proa-injector")
