"""The manifest that the wheel carries: what it holds, what it grants, and what is printed of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from xds import install, settings
from xds.__main__ import main
from xds.api.manifest import read
from xds.api.mesh import MeshSettings
from xds.checks.cluster import KINDS, OURS

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = install.documents(install.carried())
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def objects(kind: str) -> list[Any]:
    """Return the objects of a kind as Kubernetes would read them."""
    return [yaml.safe_load(one.text) for one in DOCUMENTS if one.kind == kind]


def container() -> Any:
    """Return the control plane's container."""
    return objects("Deployment")[0]["spec"]["template"]["spec"]["containers"][0]


def rules() -> list[Any]:
    """Return every rule of every role."""
    return [rule for kind in ("ClusterRole", "Role") for role in objects(kind) for rule in role["rules"]]


def test_the_namespace_comes_first_and_the_kinds_before_who_reads_them() -> None:
    """`kubectl apply` goes from top to bottom: what is needed is there before it is needed."""
    kinds = [one.kind for one in DOCUMENTS]

    assert kinds[0] == "Namespace"
    assert max(i for i, kind in enumerate(kinds) if kind == "CustomResourceDefinition") < kinds.index(
        "Deployment"
    )
    assert kinds[-1] == "MutatingWebhookConfiguration"


def test_the_chart_holds_what_observability_generates() -> None:
    """Helm reads nothing outside of its chart: `make manifest` copies it."""
    held, source = ROOT / "deploy" / "helm" / "proa" / "monitoring", ROOT / "deploy" / "observability"
    files = [
        source / "podmonitor.yaml",
        source / "prometheusrule.yaml",
        *(source / "dashboards").glob("*.json"),
    ]
    there = {str(path.relative_to(held)): path.read_text("utf-8") for path in held.rglob("*.*")}

    assert there == {str(path.relative_to(source)): path.read_text("utf-8") for path in files}


def test_the_kinds_are_those_that_are_read() -> None:
    """Chart, check and reader agree about names and versions, and about whose the kinds are."""
    found = {one["metadata"]["name"]: one for one in objects("CustomResourceDefinition")}

    assert {
        name: {version["name"] for version in one["spec"]["versions"]} for name, one in found.items()
    } == {name: set(versions) for name, versions in KINDS.items()}
    assert {one["metadata"]["labels"][OURS[0]] for one in found.values()} == {OURS[1]}


def test_no_right_is_a_wildcard_and_no_secret_is_read_beyond_our_own() -> None:
    """What the control plane may is written out: no `*`, one Secret, no exec, nobody's token."""
    words = {
        word for rule in rules() for key in ("apiGroups", "resources", "verbs") for word in rule.get(key, ())
    }
    secrets = [
        rule
        for role in objects("ClusterRole")
        for rule in role["rules"]
        if "secrets" in rule.get("resources", ())
    ]
    named = [rule for rule in rules() if "secrets" in rule.get("resources", ())]

    assert not {word for word in words if "*" in word}
    assert secrets == []
    assert [rule["resourceNames"] for rule in named] == [[settings.CA_SECRET]]
    assert not words & {"pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token", "impersonate",
                        "escalate", "bind", "deletecollection"}  # fmt: skip


def test_the_control_plane_satisfies_the_restricted_pod_security_standard() -> None:
    """Its own namespace enforces it."""
    pod, one = objects("Deployment")[0]["spec"]["template"]["spec"], container()

    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert objects("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_flag_of_the_deployment_is_one_that_serve_has() -> None:
    """An image that ends with a usage error would be noticed only in a cluster."""
    shown = CliRunner().invoke(main, ["serve", "--help"]).output
    flags = [word.partition("=")[0] for word in container()["args"] if word.startswith("--")]

    assert [flag for flag in flags if not re.search(rf"{flag}\b", shown)] == []


def test_images_and_chart_carry_this_version() -> None:
    """One number for wheel, chart, images and the default of `--proxy-image`."""
    chart = yaml.safe_load((ROOT / "deploy/helm/proa/Chart.yaml").read_text("utf-8"))

    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    assert container()["image"] == f"localhost/proa/control:{VERSION}"
    assert f"--proxy-image={settings.PROXY_IMAGE}" in container()["args"]
    assert f"localhost/proa/proxy:{VERSION}" == settings.PROXY_IMAGE


def test_the_mesh_settings_of_the_chart_are_the_defaults() -> None:
    """A ConfigMap that says nothing else changes nothing."""
    parsed = read(objects("ConfigMap")[0])
    found = getattr(parsed, "object", None)

    assert isinstance(found, MeshSettings)
    assert (found.trust_domain, found.root_namespace) == (settings.TRUST_DOMAIN, "proa-system")


def test_the_service_is_what_every_bootstrap_pins() -> None:
    """The name in the control channel's certificate is the Service's."""
    service = objects("Service")[0]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}

    assert (
        f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        == settings.CHANNEL_SERVER_NAME
    )
    assert ports == {"grpc-xds": 15010, "https-webhook": 443}


def test_every_object_of_a_namespace_is_in_ours() -> None:
    """Nothing is written elsewhere; webhook, roles and kinds belong to the cluster."""
    cluster = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding",
               "MutatingWebhookConfiguration"}  # fmt: skip

    assert {one.namespace for one in DOCUMENTS if one.kind not in cluster} == {"proa-system"}


def test_printing_all_is_the_carried_text_and_none_leaves_the_kinds_out() -> None:
    """Without a cluster, `--crds all|none` asks nobody."""
    everything = CliRunner().invoke(main, ["install", "--crds", "all"]).output
    nothing = CliRunner().invoke(main, ["install", "--crds", "none"]).output

    carried: list[object] = list(yaml.safe_load_all(install.carried()))
    assert list(yaml.safe_load_all(everything)) == [document for document in carried if document]
    assert "kind: CustomResourceDefinition" not in nothing and "kind: Deployment" in nothing


def test_a_kind_of_somebody_else_is_left_out() -> None:
    """Only that one, and nothing else of the manifest."""
    name = "virtualservices.networking.istio.io"
    printed = install.documents(install.installing(DOCUMENTS, without={name}))

    assert {one.name for one in DOCUMENTS} - {one.name for one in printed} == {name}
    assert len(printed) == len(DOCUMENTS) - 1


def test_removing_begins_with_the_webhook_and_ends_with_the_namespace() -> None:
    """While the webhook stands without its server, no pod of a meshed namespace starts; kinds are kept."""
    kinds = [one.kind for one in install.documents(install.removing(DOCUMENTS))]

    assert (kinds[0], kinds[-1]) == ("MutatingWebhookConfiguration", "Namespace")
    assert "CustomResourceDefinition" not in kinds


@pytest.mark.parametrize("verb", ["install", "uninstall", "check"])
def test_a_cluster_that_does_not_answer_is_exit_code_2(verb: str, tmp_path: Path) -> None:
    """The message says how to look at the connection."""
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "x", "user": {"token": "t"}}],
            }
        ),
        "utf-8",
    )
    result = CliRunner().invoke(main, [verb, "--kubeconfig", str(path)])

    assert (result.exit_code, "auth whoami" in result.output) == (2, True)
