"""Injection adds and takes nothing else, whatever the Pod and whatever its annotations say."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.pods import ON, TEMPLATE, Raw
from xds.fields import ConfigError
from xds.injection.decision import Patched, Reason, Untouched, inject
from xds.injection.patch import apply
from xds.injection.sidecar import init_container, sidecar_container
from xds.injection.wishes import READ, read_wishes

NAMES = st.sampled_from(["app", "web", "b", "proa", "proa-init", "proa-proxy", "istio-proxy", "x"])
PORTS = st.sampled_from([80, 8080, 15021, "web", "80", "", 0, 70000])
TEXT = st.sampled_from(
    ["", "1", "0", "100m", "1Gi", "*", "80,90", "15006", "10.0.0.0/8", "::/0", "$(POD_UID)", "root", "\x00", "a" * 2000,
     "concurrency: 3", "{securityContext: {privileged: true}}", '"', "; flush ruleset", "true", "false"]
)  # fmt: skip
HOSTILE = (
    "sidecar.istio.io/proxyImage", "proa.dev/image", "proa.dev/proxy-image", "proa.dev/run-as-user",
    "proa.dev/workload", "proa.dev/token-secret", "sidecar.istio.io/userVolume", "sidecar.istio.io/bootstrapOverride",
    "proa.dev/capabilities",
    "proa.dev/inject", "sidecar.istio.io/inject", "container.apparmor.security.beta.kubernetes.io/proa-proxy",
)  # fmt: skip
ANNOTATIONS = st.dictionaries(st.sampled_from([*READ, *HOSTILE]), TEXT | st.text(max_size=30), max_size=6)


def socket_probe(port: object) -> Raw:
    """Return a probe that only connects."""
    return {"tcpSocket": {"port": port}, "periodSeconds": 7}


def http_probe(port: object) -> Raw:
    """Return a probe that asks."""
    return {"httpGet": {"port": port, "path": "/healthz"}}


def https_probe(port: object) -> Raw:
    """Return a probe that asks in TLS."""
    headers = [{"name": "a", "value": "b"}]
    return {"httpGet": {"port": port, "scheme": "HTTPS", "httpHeaders": headers}, "timeoutSeconds": 2}


OTHER_PROBES: list[Raw | None] = [
    {"exec": {"command": ["true"]}},
    {"tcpSocket": {"port": 80, "host": "elsewhere"}},
    None,
]
PROBE: st.SearchStrategy[Raw | None] = (
    PORTS.map(socket_probe) | PORTS.map(http_probe) | PORTS.map(https_probe) | st.sampled_from(OTHER_PROBES)
)
CONTAINER: st.SearchStrategy[Raw] = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "image": st.text(max_size=5),
        "ports": st.none() | st.just([{"name": "web", "containerPort": 8080}]),
        "livenessProbe": PROBE,
        "readinessProbe": PROBE,
        "startupProbe": PROBE,
        "lifecycle": st.sampled_from(
            [{"postStart": {"tcpSocket": {"port": 80}}}, {"preStop": {"httpGet": {"port": "web"}}}]
        ),
        "securityContext": st.just({"runAsUser": 1337}),
        "restartPolicy": st.just("Always"),
    },
)
POD: st.SearchStrategy[Raw] = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "name": NAMES,
                "generateName": st.just("web-"),
                "annotations": st.none() | ANNOTATIONS,
                "labels": st.none() | st.dictionaries(NAMES, TEXT, max_size=2),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINER, max_size=3)},
            optional={
                "initContainers": st.none() | st.lists(CONTAINER, max_size=2),
                "volumes": st.none()
                | st.just([])
                | st.just([{"name": "mine"}])
                | st.just([{"name": "proa-token"}]),
                "securityContext": st.just({"runAsUser": 0}),
                "hostNetwork": st.booleans(),
                "hostPID": st.just(value=True),
            },
        ),
    }
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NAMES,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["metadata", "spec", "containers", "initContainers", "name", "ports", "annotations", "volumes", "labels",
             "livenessProbe", "tcpSocket", "port", "ownerReferences", "controller", "os", "securityContext"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


def without_ours(pod: Raw, original: Raw) -> Raw:
    """Take away exactly what injection may add; put probes back by their kind alone."""
    pod = copy.deepcopy(pod)
    annotations: Raw = pod["metadata"]["annotations"]
    said: Raw = original["metadata"].get("annotations") or {}
    for name in ("proa.dev/workload", "proa.dev/token-secret"):
        del annotations[name]
        annotations.update({name: said[name]} if name in said else {})
    if not any(name.startswith("prometheus.io/") for name in said):
        for name in ("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"):
            annotations.pop(name, None)
    spec = pod["spec"]
    del spec["initContainers"][:2]
    assert spec["volumes"].pop()["name"] == "proa-token"
    for holder, then, name in (
        (pod["metadata"], original["metadata"], "annotations"),
        (spec, original["spec"], "initContainers"),
        (spec, original["spec"], "volumes"),
    ):
        if not holder[name] and not then.get(name):
            del holder[name]
            holder.update({name: then[name]} if name in then else {})
    for kind in ("containers", "initContainers"):
        for now, then in zip(spec.get(kind) or (), original["spec"].get(kind) or (), strict=True):
            _put_probes_back(now, then)
    return pod


def _put_probes_back(now: Raw, then: Raw) -> None:
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        before: Raw = then.get(name) or {}
        after: Raw = now.get(name) or {}
        asked: Raw = after.get("httpGet") or {}
        asked_before: Raw = before.get("httpGet") or {}
        if asked_before.get("scheme") == "HTTPS" and str(asked.get("path")).startswith("/https/"):
            assert asked["port"] == 15021
            after["httpGet"] = before["httpGet"]
        elif (
            before.get("tcpSocket") and asked.get("port") == 15021 and str(asked["path"]).startswith("/tcp/")
        ):
            del after["httpGet"]
            after["tcpSocket"] = before["tcpSocket"]


@settings(max_examples=1500)
@given(POD)
def test_nothing_but_our_additions_differs(pod: Raw) -> None:
    """Patched minus the allow-list is the original; the original is not touched; twice is once."""
    before = copy.deepcopy(pod)
    outcome = inject(pod, ON, TEMPLATE)

    assert pod == before
    if isinstance(outcome, Patched):
        after = apply(pod, outcome.operations)
        assert without_ours(after, before) == before
        again = inject(after, ON, TEMPLATE)
        assert isinstance(again, Untouched)
        assert again.reason is Reason.ALREADY_INJECTED
        json.dumps(after)


@settings(max_examples=1000)
@given(POD)
def test_no_annotation_gains_a_privilege(pod: Raw) -> None:
    """Image, user, capabilities, mounts and command of both containers are the same for every Pod."""
    outcome = inject(pod, ON, TEMPLATE)
    if not isinstance(outcome, Patched):
        return
    spec: Any = apply(pod, outcome.operations)["spec"]
    default = read_wishes({})
    expected: tuple[Any, Any] = (
        init_container(TEMPLATE, default),
        sidecar_container(TEMPLATE, default, "w", (), "{}"),
    )
    for ours, fixed in zip(spec["initContainers"][:2], expected, strict=True):
        differing = {name for name in ours.keys() | fixed.keys() if ours.get(name) != fixed.get(name)}
        assert differing <= {"command", "args", "env", "resources"}
        assert [each["name"] for each in ours.get("env", [])] == [
            each["name"] for each in fixed.get("env", [])
        ]
        assert ours["command"][0] == fixed["command"][0]
        assert len(ours["command"]) == len(fixed["command"])
    flags = [word for word in spec["initContainers"][1]["args"] if word.startswith("--")]
    assert set(flags) <= {
        "--config-yaml", "--service-node", "--service-cluster", "--concurrency", "--disable-hot-restart", "--log-level",
        "--drain-strategy", "--drain-time-s",
        "--file-flush-interval-msec",
    }  # fmt: skip


@settings(max_examples=1500)
@given(JSON)
def test_any_json_is_a_pod_or_is_not(raw: Any) -> None:
    """An outcome, or a ConfigError; never anything else."""
    try:
        outcome = inject(raw, ON, TEMPLATE)
    except ConfigError:
        return
    if isinstance(outcome, Patched):
        apply(raw, outcome.operations)
