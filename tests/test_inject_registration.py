"""The registration asks about exactly the Pods that want a sidecar, and is mended where it does not say so."""

from __future__ import annotations

import base64
import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.pods import Raw
from xds.api.core import Labels, Meta, Namespace, Pod
from xds.fields import ConfigError
from xds.inject import wants_sidecar
from xds.injection.istio import IstioLabels, IstioRule, read_injectors
from xds.injection.patch import apply
from xds.injection.registration import configuration, mend

WORDS = (None, "", "enabled", "disabled", "true", "false", "maybe")


def service(path: str) -> Raw:
    """Return the clientConfig of the Service."""
    return {"service": {"name": "proa", "namespace": "proa-system", "port": 443, "path": path}}


CONFIGURATION: Any = configuration(service)


def selects(selector: Raw | None, labels: dict[str, str]) -> bool:
    """Judge a label selector as Kubernetes documents it."""
    for each in (selector or {}).get("matchExpressions", []):
        value = labels.get(each["key"])
        if (value in each["values"]) is not (each["operator"] == "In"):
            return False
    return True


def asked(namespace: dict[str, str], pod: dict[str, str]) -> list[str]:
    """Return the webhooks that are asked about a Pod."""
    return [
        webhook["name"].partition(".")[0]
        for webhook in CONFIGURATION["webhooks"]
        if selects(webhook["namespaceSelector"], namespace) and selects(webhook.get("objectSelector"), pod)
    ]


def pairs(found: dict[str, str]) -> Labels:
    """Return labels as the core has them."""
    return tuple(sorted(found.items()))


def test_who_wants_a_sidecar_is_asked_about_once() -> None:
    """Every combination of labels: nobody is missed, and only both of Istio's words together ask twice."""
    for own, istio, pod_own, pod_istio in itertools.product(WORDS, WORDS, WORDS, WORDS):
        namespace = {"kubernetes.io/metadata.name": "shop"} | _said("proa.dev/inject", own)
        namespace |= _said("istio-injection", istio)
        pod = _said("proa.dev/inject", pod_own) | _said("sidecar.istio.io/inject", pod_istio)
        found = asked(namespace, pod)
        wanted = wants_sidecar(
            Pod(Meta("shop", "a", pairs(pod))), Namespace(Meta("", "shop", pairs(namespace)))
        )

        assert len(found) <= 1 or found == ["istio-namespace", "istio-pod"], (namespace, pod)
        assert found or not wanted, (namespace, pod)


def _said(key: str, word: str | None) -> dict[str, str]:
    return {} if word is None else {key: word}


@pytest.mark.parametrize("name", ["kube-system", "proa-system"])
def test_the_mesh_never_stands_in_its_own_way(name: str) -> None:
    """Whatever the labels: nobody there waits for an answer."""
    namespace = {
        "kubernetes.io/metadata.name": name,
        "proa.dev/inject": "enabled",
        "istio-injection": "enabled",
    }
    policies = {each["name"].partition(".")[0]: each["failurePolicy"] for each in CONFIGURATION["webhooks"]}

    for pod in ({}, {"proa.dev/inject": "true"}, {"sidecar.istio.io/inject": "true"}):
        assert [policies[each] for each in asked(namespace, pod)] == ["Ignore"]


def test_a_namespace_without_labels_is_never_asked_about() -> None:
    """Its Pods are created whether the mesh is there or not."""
    assert asked({"kubernetes.io/metadata.name": "plain"}, {"app": "a"}) == []


def test_istios_labels_can_be_left_out() -> None:
    """Then no webhook selects them."""
    off: Any = configuration(service, IstioLabels.OFF)

    assert [each["name"].partition(".")[0] for each in off["webhooks"]] == ["namespace", "pod", "reserved"]


def live(**changes: Any) -> Raw:
    """Return the configuration as an apiserver has it."""
    found = copy.deepcopy(CONFIGURATION)
    found["metadata"]["resourceVersion"] = "7"
    return {**found, **changes}


def test_every_entry_believes_every_root_that_may_sign() -> None:
    """Old and new during a rotation; and nothing is sent when nothing is missing."""
    operations = mend(live(), ("OLD\n", "NEW\n"), IstioRule(IstioLabels.ON))
    mended: Any = apply(live(), operations)

    assert {each["clientConfig"]["caBundle"] for each in mended["webhooks"]} == {
        base64.b64encode(b"OLD\nNEW\n").decode()
    }
    assert mend(mended, ("OLD\n", "NEW\n"), IstioRule(IstioLabels.ON)) == ()
    assert mend(mended, ("NEW\n",), IstioRule(IstioLabels.ON)) != ()


def test_a_patch_carries_the_version_that_it_was_made_for() -> None:
    """The apiserver answers a conflict where somebody was faster."""
    first, *_ = mend(live(), ("A",), None)

    assert (first.op, first.path, first.value) == ("replace", "/metadata/resourceVersion", "7")


def test_webhooks_of_others_are_left_alone() -> None:
    """Whoever put them there."""
    theirs = {"name": "other.example.com", "clientConfig": {"url": "https://example.com"}}
    mended: Any = apply(live(webhooks=[theirs]), mend(live(webhooks=[theirs]), ("A",), None))

    assert mended["webhooks"] == [theirs]


def test_istios_entries_refuse_only_while_istio_serves_none() -> None:
    """With its injector there, its namespaces must not depend on us; what was set is otherwise left."""
    installed = {
        "items": [
            {
                "metadata": {"name": "istio-sidecar-injector"},
                "webhooks": [{"namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}}}],
            }
        ]
    }

    def policies(rule: IstioRule | None) -> dict[str, str]:
        mended: Any = apply(live(), mend(live(), ("A",), rule))
        return {each["name"].partition(".")[0]: each["failurePolicy"] for each in mended["webhooks"]}

    assert policies(IstioRule())["istio-namespace"] == "Fail"
    assert policies(IstioRule(IstioLabels.AUTO, read_injectors(installed)))["istio-namespace"] == "Ignore"
    assert policies(IstioRule(IstioLabels.AUTO, read_injectors(installed)))["istio-pod"] == "Fail"
    assert policies(None)["istio-namespace"] == "Ignore"


@pytest.mark.parametrize(
    "raw", [None, [], {}, {"metadata": {"resourceVersion": "1"}, "webhooks": [{"name": 1}]}]
)
def test_what_is_no_configuration_is_refused(raw: object) -> None:
    """By its field."""
    with pytest.raises(ConfigError):
        mend(raw, ("A",), None)


def test_the_manifest_registers_exactly_this() -> None:
    """What `proa install` prints is what the leader will mend."""
    text = (Path(__file__).parent.parent / "xds" / "install" / "manifest.yaml").read_text("utf-8")
    (installed,) = [
        document
        for document in yaml.safe_load_all(text)
        if document and document["kind"] == CONFIGURATION["kind"]
    ]

    assert {each["name"]: each for each in installed["webhooks"]} == {
        each["name"]: each for each in CONFIGURATION["webhooks"]
    }
