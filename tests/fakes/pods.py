"""Pods as an AdmissionReview carries them, and a mesh's template; must never be made by the code under test."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from xds.api.core import Labels, Meta, Namespace
from xds.injection.decision import Patched, inject
from xds.injection.patch import apply
from xds.injection.probes import Watched
from xds.injection.template import Template

Raw = dict[str, Any]

ON = Namespace(Meta("", "shop", (("proa.dev/inject", "enabled"),)))
OFF = Namespace(Meta("", "shop"))


def watch(document: Raw, watched: Sequence[Watched]) -> Raw:
    """Stand for `xds.bootstrap.probes.watch`: which they are is all that matters here."""
    return {**document, "watched": [list(one) for one in watched]}


TEMPLATE = Template(
    image="proxy:1",
    bootstrap={"node": {"metadata": {"pod": "$(POD_NAME)", "price": "$5"}}},
    watch=watch,
)


def arriving(**changes: Any) -> Raw:
    """Return a Pod of a Deployment, without a name; ``metadata`` and ``spec`` are merged in."""
    metadata: Raw = {
        "generateName": "orders-5d8f-",
        "labels": {"app": "orders", "pod-template-hash": "5d8f"},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "orders-5d8f",
                "uid": "u1",
                "controller": True,
            }
        ],
    }
    container: Raw = {"name": "app", "image": "orders:1", "ports": [{"name": "web", "containerPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, **changes.get("metadata", {})},
        "spec": {"containers": [container], "serviceAccountName": "orders", **changes.get("spec", {})},
    }


def annotated(**annotations: str) -> Raw:
    """Return that Pod with annotations; ``__`` in a name is ``/``, ``_`` a dash."""
    return arriving(metadata={"annotations": annotations})


def injected(pod: Raw, namespace: Namespace = ON, template: Template = TEMPLATE, **more: Any) -> Raw:
    """Return the Pod with its patch applied; it must get one, and stays as it was."""
    before = copy.deepcopy(pod)
    outcome = inject(pod, namespace, template, **more)
    assert isinstance(outcome, Patched), outcome
    after = apply(pod, outcome.operations)
    assert pod == before
    return after


def container(pod: Raw, name: str) -> Raw:
    """Return a container of a Pod by its name."""
    lists = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    return next(each for each in lists if each["name"] == name)


def namespace(name: str = "shop", **labels: str) -> Namespace:
    """Return a namespace with labels; ``proa`` and ``istio`` stand for the two that matter."""
    known = {"proa": "proa.dev/inject", "istio": "istio-injection"}
    pairs: Labels = tuple(sorted((known.get(key, key), value) for key, value in labels.items()))
    return Namespace(Meta("", name, pairs))


def varied(number: int) -> Raw:
    """Return a Pod of 1..8 containers with up to 60 variables each, with probes and annotations of every shape."""
    containers: list[Raw] = [
        {
            "name": f"c{index}",
            "image": "shop:1",
            "env": [{"name": f"V{each}", "value": "x" * 40} for each in range(number % 60)],
            "ports": [{"name": "web", "containerPort": 8000 + index}],
            **[
                {"readinessProbe": {"tcpSocket": {"port": "web"}}},
                {"readinessProbe": {"httpGet": {"port": 80}}},
                {},
            ][(number + index) % 3],
        }
        for index in range(1 + number % 8)
    ]
    annotations = [
        {},
        {"sidecar.istio.io/proxyCPU": "200m"},
        {"traffic.sidecar.istio.io/excludeOutboundPorts": ",".join(map(str, range(1000, 1060)))},
        {"proxy.istio.io/config": "concurrency: 2"},
    ][number % 4]
    volumes: list[Raw] = [{"name": f"v{each}", "emptyDir": {}} for each in range(number % 4)]
    spec: Raw = {"containers": containers, "volumes": volumes, "hostNetwork": number % 17 == 0}
    return arriving(metadata={"annotations": annotations}, spec=spec)
