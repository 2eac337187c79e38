"""What injection adds to a Pod, and which Pods it leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.objects import Raw
from tests.fakes.pods import OFF, ON, TEMPLATE, arriving, container, injected, namespace
from xds import bootstrap, settings
from xds.api.kubernetes import read_pod
from xds.fields import Reader
from xds.injection.decision import Patched, Reason, Untouched, inject
from xds.injection.istio import IstioLabels, IstioRule, read_injectors
from xds.injection.template import Template, token_secret


def args(pod: Raw) -> dict[str, str]:
    """Return the sidecar's arguments as pairs."""
    words = container(pod, "proa-proxy")["args"]
    return {
        word: words[i + 1]
        for i, word in enumerate(words)
        if word.startswith("--") and not word.endswith("restart")
    }


def watched(pod: Raw) -> list[list[Any]]:
    """Return what the sidecar is told to ask."""
    found: list[list[Any]] = json.loads(args(pod)["--config-yaml"])["watched"]
    return found


def untouched(pod: Raw, where: Any = ON, **more: Any) -> Untouched:
    """Return why a Pod gets nothing."""
    outcome = inject(pod, where, TEMPLATE, **more)
    assert isinstance(outcome, Untouched), outcome
    return outcome


def test_our_containers_come_first_and_the_users_keep_their_order() -> None:
    """Rules, then sidecar: whatever init container comes later reaches the mesh."""
    pod = injected(arriving(spec={"initContainers": [{"name": "migrate"}, {"name": "fetch"}]}))

    assert [each["name"] for each in pod["spec"]["initContainers"]] == [
        "proa-init",
        "proa-proxy",
        "migrate",
        "fetch",
    ]
    assert container(pod, "proa-proxy")["restartPolicy"] == "Always"
    assert "restartPolicy" not in container(pod, "proa-init")


def test_the_sidecar_holds_nothing_that_it_does_not_need() -> None:
    """No root, no capability, no file of its own, whatever the Pod's own context says."""
    pod = injected(arriving(spec={"securityContext": {"runAsUser": 0, "runAsNonRoot": False}}))

    assert container(pod, "proa-proxy")["securityContext"] == {
        "runAsUser": 1337,
        "runAsGroup": 1337,
        "runAsNonRoot": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(pod, "proa-init")["securityContext"] == {
        "runAsUser": 65534,
        "runAsGroup": 65534,
        "runAsNonRoot": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_the_application_waits_for_the_static_listener() -> None:
    """Green only with the first complete configuration; patient enough for a control plane that is away."""
    probe = container(injected(arriving()), "proa-proxy")["startupProbe"]

    assert probe["httpGet"] == {"path": "/ready", "port": 15021, "scheme": "HTTP"}
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_the_token_is_the_sidecars_own() -> None:
    """Our audience, an hour, and the file that names it to Envoy beside it, without an object for it."""
    pod = injected(arriving(spec={"volumes": [{"name": "mine", "emptyDir": {}}]}))

    mine, token = pod["spec"]["volumes"]
    sources = token["projected"]["sources"]
    assert mine == {"name": "mine", "emptyDir": {}}
    assert sources[0]["serviceAccountToken"] == {
        "audience": settings.JOIN_TOKEN_AUDIENCE,
        "expirationSeconds": 3600,
        "path": "token",
    }
    assert sources[1]["downwardAPI"]["items"][0]["fieldRef"] == {
        "fieldPath": "metadata.annotations['proa.dev/token-secret']"
    }
    assert "volumeMounts" not in container(pod, "app")
    assert container(pod, "proa-proxy")["volumeMounts"][0] == {
        "name": "proa-token",
        "mountPath": "/var/run/secrets/proa",
        "readOnly": True,
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            {},
            {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "15090",
                "prometheus.io/path": "/stats/prometheus",
            },
        ),
        ({"prometheus.io/scrape": "false"}, {"prometheus.io/scrape": "false"}),
        ({"prometheus.io/port": "8080"}, {"prometheus.io/port": "8080"}),
    ],
)
def test_prometheus_is_led_to_the_sidecar_unless_the_pod_says_where(
    own: dict[str, str], expected: dict[str, str]
) -> None:
    """An application's own annotations stay as they are."""
    found = injected(arriving(metadata={"annotations": own}))["metadata"]["annotations"]

    assert {name: value for name, value in found.items() if name.startswith("prometheus.io/")} == expected


def test_our_containers_cannot_speak_to_the_api_in_the_applications_name() -> None:
    """Kubernetes mounts the Pod's API token into every container that has nothing at this path."""
    pod = injected(arriving())

    for name in ("proa-init", "proa-proxy"):
        assert {
            "name": "proa-token",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        } in container(pod, name)["volumeMounts"]


def test_the_annotation_is_the_file_that_the_bootstrap_names() -> None:
    """Envoy reads it where `proa bootstrap` says that it is."""
    channel = bootstrap.Tls(roots=("PEM",), newest_root="f", token_file="/var/run/secrets/proa/token")

    assert json.loads(token_secret()) == json.loads(bootstrap.render_secret(channel))
    assert channel.secret_file == "/var/run/secrets/proa/token.sds.json"
    assert injected(arriving())["metadata"]["annotations"]["proa.dev/token-secret"] == token_secret()


def test_the_bootstrap_travels_as_an_argument() -> None:
    """The kubelet expands only our own variables; every other dollar arrives as it was."""
    found = args(injected(arriving()))

    assert json.loads(found["--config-yaml"]) == {
        "node": {"metadata": {"pod": "$(POD_NAME)", "price": "$$5"}}
    }
    assert found["--service-node"] == "$(POD_NAME).$(POD_NAMESPACE)"
    assert found["--concurrency"] == "1"


def test_a_bootstrap_that_no_command_line_carries_is_refused_at_once() -> None:
    """Not when the first Pod arrives."""
    with pytest.raises(Exception, match="bootstrap takes"):
        Template(image="a", bootstrap={"text": "x" * (1 << 17)}, watch=TEMPLATE.watch)


@pytest.mark.parametrize(
    ("metadata", "workload"),
    [
        ({}, "orders"),
        ({"ownerReferences": [{"kind": "StatefulSet", "name": "db", "controller": True}]}, "db"),
        ({"ownerReferences": [{"kind": "Job", "name": "report-29000000", "controller": True}]}, "report"),
        ({"ownerReferences": [{"kind": "Job", "name": "once", "controller": True}]}, "once"),
        ({"ownerReferences": [], "name": "alone"}, "alone"),
        ({"ownerReferences": [], "generateName": "many-"}, "many"),
        ({"labels": {"proa.dev/workload": "said"}}, "said"),
        ({"annotations": {"proa.dev/workload": "said"}}, "said"),
    ],
)
def test_the_workload_is_stamped_on_the_pod(metadata: Raw, workload: str) -> None:
    """Its controller without the template's hash, a CronJob for each of its runs, what the user says above all."""
    pod = injected(arriving(metadata=metadata))

    assert pod["metadata"]["annotations"]["proa.dev/workload"] == workload
    assert {"name": "WORKLOAD_NAME", "value": workload} in container(pod, "proa-proxy")["env"]
    pod["metadata"].setdefault("name", "made-by-kubernetes")
    assert read_pod(Reader(pod, "", [])).workload == workload


def test_a_dollar_in_a_label_is_no_reference() -> None:
    """A label is not checked yet when a webhook sees it; an environment would expand it."""
    pod = injected(arriving(metadata={"labels": {"app": "$(POD_UID)"}}))

    assert {"name": "APP", "value": "$$(POD_UID)"} in container(pod, "proa-proxy")["env"]


def test_tcp_probes_ask_the_sidecar_and_others_stay() -> None:
    """Numbers, names and digits; of containers and native sidecars; a port that is excluded is not intercepted."""
    http: Raw = {"httpGet": {"port": 8080}}
    containers = [
        {
            "name": "app",
            "ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 3},
            "readinessProbe": http,
            "startupProbe": {"exec": {"command": ["true"]}},
            "lifecycle": {"preStop": {"tcpSocket": {"port": 8080}}},
        },
        {"name": "b", "readinessProbe": {"tcpSocket": {"port": "9000"}}},
        {"name": "c", "readinessProbe": {"tcpSocket": {"port": 9001}}},
        {"name": "d", "readinessProbe": {"tcpSocket": {"port": 80, "host": "example.com"}}},
        {"name": "e", "readinessProbe": {"tcpSocket": {"port": "nobody"}}},
        {"name": "f", "readinessProbe": {"grpc": {"port": 9002}}},
    ]
    native = {"name": "g", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 7000}}}
    pod = injected(
        arriving(
            metadata={"annotations": {"proa.dev/exclude-inbound-ports": "9001"}},
            spec={"containers": containers, "initContainers": [native]},
        )
    )

    assert container(pod, "app") == {
        **containers[0],
        "livenessProbe": {
            "httpGet": {"path": "/tcp/8080", "port": 15021, "scheme": "HTTP"},
            "periodSeconds": 3,
        },
    }
    assert container(pod, "b")["readinessProbe"]["httpGet"]["path"] == "/tcp/9000"
    assert container(pod, "g")["startupProbe"]["httpGet"]["path"] == "/tcp/7000"
    assert [container(pod, name) for name in "cdef"] == containers[2:]
    assert [one[:2] for one in watched(pod)] == [
        ["/tcp/7000", 7000],
        ["/tcp/8080", 8080],
        ["/tcp/9000", 9000],
    ]


def test_the_sidecar_asks_an_https_probe_in_the_kubelets_place() -> None:
    """Path, headers and timeout as they were, on a named port; each different request of a port has a place."""
    header = {"name": "X-Probe", "value": "100%"}
    asked: Raw = {"scheme": "https", "port": "web", "path": "healthz?full=1#x", "httpHeaders": [header]}
    app: Raw = {
        "name": "app",
        "ports": [{"name": "web", "containerPort": 8443}],
        "readinessProbe": {"httpGet": asked, "periodSeconds": 2, "timeoutSeconds": 3},
        "livenessProbe": {"httpGet": {"scheme": "HTTPS", "port": 8443}},
        "startupProbe": {"httpGet": {"scheme": "HTTPS", "port": 8443, "path": "/"}},
    }
    outcome = inject(arriving(spec={"containers": [app]}), ON, TEMPLATE)
    after = injected(arriving(spec={"containers": [app]}))

    assert isinstance(outcome, Patched)
    assert outcome.warnings == ()
    assert container(after, "app")["readinessProbe"] == {
        "httpGet": {"path": "/https/8443/2", "port": 15021, "scheme": "HTTP"},
        "periodSeconds": 2,
        "timeoutSeconds": 3,
    }
    assert [
        container(after, "app")[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe")
    ] == [
        "/https/8443",
        "/https/8443",
    ]
    assert watched(after) == [
        ["/https/8443", 8443, "/", [], 1],
        ["/https/8443/2", 8443, "/healthz?full=1", [["X-Probe", "100%"]], 3],
    ]


@pytest.mark.parametrize("header", [{"name": "a b", "value": "x"}, {"name": "a", "value": "x\r\nb: c"}, {}])
def test_a_header_that_no_request_carries_is_refused_by_name(header: Raw) -> None:
    """The sidecar's bootstrap would be refused as a whole, and the Pod never start."""
    probe: Raw = {"httpGet": {"scheme": "HTTPS", "port": 8443, "httpHeaders": [header]}}
    outcome = untouched(arriving(spec={"containers": [{"name": "app", "readinessProbe": probe}]}))

    assert outcome.is_refusal
    assert outcome.message.startswith("spec.containers.0.readinessProbe.httpGet.httpHeaders: ")


def test_a_hook_that_the_kubelet_sends_is_told_with_its_fix() -> None:
    """By container, hook and port; not one that asks just what a probe asks, or comes to no intercepted port."""
    hook: Raw = {"httpGet": {"port": "web", "path": "/stop"}}
    same: Raw = {"httpGet": {"port": 8080, "path": "healthz?stop=1"}}
    ports = [{"name": "web", "containerPort": 8080}]
    containers: list[Raw] = [
        {"name": "app", "ports": ports, "lifecycle": {"preStop": hook, "postStart": {"exec": {}}}},
        {"name": "b", "lifecycle": {"postStart": same, "preStop": {"sleep": {"seconds": 2}}}},
        {"name": "c", "lifecycle": {"preStop": {"httpGet": {"port": 9001, "path": "/stop"}}}},
        {"name": "d", "lifecycle": {"preStop": {"httpGet": {"port": 8080, "host": "example.com"}}}},
        {"name": "e", "readinessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}}},
        {
            "name": "f",
            "lifecycle": {"postStart": {"httpGet": {"port": 8080, "scheme": "HTTPS", "path": "/healthz"}}},
        },
    ]
    annotations = {"proa.dev/exclude-inbound-ports": "9001"}
    pod = arriving(metadata={"annotations": annotations}, spec={"containers": containers})
    outcome = inject(pod, ON, TEMPLATE)

    assert isinstance(outcome, Patched)
    said = [warning.partition(" is a stranger's")[0] for warning in outcome.warnings]
    assert said == [
        "container app: lifecycle.preStop.httpGet: the kubelet's request to port 8080",
        "container f: lifecycle.postStart.httpGet: the kubelet's request to port 8080",
    ]
    assert "gets SIGTERM at once" in outcome.warnings[0]
    assert "killed and started again" in outcome.warnings[1]
    assert [container(injected(pod), name) for name in "abcdf" if name != "a"] == [
        one for one in containers if one["name"] in "bcdf"
    ]


def test_the_sidecars_user_is_warned_of() -> None:
    """Connections of user 1337 are not intercepted, whoever makes them."""
    outcome = inject(arriving(spec={"securityContext": {"runAsUser": 1337}}), ON, TEMPLATE)

    assert isinstance(outcome, Patched)
    assert outcome.warnings == (
        "container app: user 1337 is the sidecar's: its connections are not intercepted",
    )


def test_an_injected_pod_stays_as_it_is() -> None:
    """Kubernetes may ask again after other webhooks, and `proa inject` may have been here before."""
    assert untouched(injected(arriving())).reason is Reason.ALREADY_INJECTED


@pytest.mark.parametrize(
    ("pod", "where", "reason"),
    [
        (arriving(), OFF, Reason.NOT_SELECTED),
        (arriving(metadata={"labels": {"proa.dev/inject": "false"}}), ON, Reason.OPTED_OUT),
        (arriving(metadata={"annotations": {"sidecar.istio.io/inject": "false"}}), ON, Reason.OPTED_OUT),
        (arriving(metadata={"labels": {"proa.dev/inject": "false"}}), OFF, Reason.NOT_SELECTED),
        (arriving(spec={"hostNetwork": True}), ON, Reason.HOST_NETWORK),
        (arriving(spec={"hostNetwork": True}), OFF, Reason.NOT_SELECTED),
        (arriving(), namespace("kube-system", proa="enabled"), Reason.RESERVED_NAMESPACE),
        (arriving(), namespace("proa-system", proa="enabled"), Reason.RESERVED_NAMESPACE),
        (arriving(spec={"os": {"name": "windows"}}), ON, Reason.WINDOWS),
        (arriving(spec={"nodeSelector": {"kubernetes.io/os": "windows"}}), ON, Reason.WINDOWS),
        (arriving(spec={"containers": [{"name": "istio-proxy"}]}), ON, Reason.ISTIO_PROXY),
        (arriving(spec={"initContainers": [{"name": "istio-proxy"}]}), ON, Reason.ISTIO_PROXY),
    ],
)
def test_a_pod_is_left_alone_for_a_reason(pod: Raw, where: Any, reason: Reason) -> None:
    """Its creator hears of every reason but those that surprise nobody."""
    outcome = untouched(pod, where)

    assert outcome.reason is reason
    assert not outcome.is_refusal
    assert outcome.is_told is (reason is not Reason.NOT_SELECTED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {"volumes": [{"name": "proa-token"}]}}, "spec.volumes"),
        ({"spec": {"initContainers": [{"name": "proa-init"}]}}, "spec.initContainers"),
        (
            {"metadata": {"annotations": {"proa.dev/workload": "../x"}}},
            "metadata.annotations[proa.dev/workload]",
        ),
        (
            {"metadata": {"annotations": {"proa.dev/proxy-cpu": "lots"}}},
            "metadata.annotations[proa.dev/proxy-cpu]",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: Raw, said: str) -> None:
    """A Pod that silently stayed outside the mesh would be worse."""
    outcome = untouched(arriving(**change))

    assert outcome.is_refusal
    assert outcome.message.startswith(said)


EVERYBODY: Raw = {}
ISTIO: Raw = {
    "items": [
        {
            "metadata": {"name": "istio-sidecar-injector"},
            "webhooks": [
                {"namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}}},
                {
                    "namespaceSelector": {
                        "matchExpressions": [{"key": "istio-injection", "operator": "DoesNotExist"}]
                    },
                    "objectSelector": {
                        "matchExpressions": [
                            {"key": "sidecar.istio.io/inject", "operator": "In", "values": ["true"]}
                        ]
                    },
                },
            ],
        },
        {"metadata": {"name": "somebody-elses"}, "webhooks": [EVERYBODY]},
    ]
}


@pytest.mark.parametrize(
    ("mode", "labels", "pod_labels", "is_injected"),
    [
        (IstioLabels.AUTO, {"istio": "enabled"}, {}, False),
        (IstioLabels.AUTO, {"proa": "enabled"}, {}, True),
        (IstioLabels.AUTO, {"proa": "enabled", "istio": "enabled"}, {}, True),
        (IstioLabels.AUTO, {}, {"sidecar.istio.io/inject": "true"}, False),
        (IstioLabels.AUTO, {}, {"proa.dev/inject": "true"}, True),
        (IstioLabels.ON, {"istio": "enabled"}, {}, True),
        (IstioLabels.OFF, {"istio": "enabled"}, {}, False),
        (IstioLabels.OFF, {}, {"proa.dev/inject": "true"}, True),
    ],
)
def test_istios_words_are_honoured_while_istio_does_not(
    mode: IstioLabels, labels: dict[str, str], pod_labels: dict[str, str], *, is_injected: bool
) -> None:
    """Two sidecars in a Pod would intercept each other."""
    rule = IstioRule(mode, read_injectors(ISTIO))
    outcome = inject(arriving(metadata={"labels": pod_labels}), namespace(**labels), TEMPLATE, istio=rule)

    assert isinstance(outcome, Patched) is is_injected
    if not is_injected:
        assert isinstance(outcome, Untouched)
        assert outcome.reason is Reason.ISTIO_INJECTOR


@pytest.mark.parametrize(
    "listed",
    [
        {"items": []},
        {"items": [{"metadata": {"name": "somebody-elses"}, "webhooks": [EVERYBODY]}]},
        {
            "items": [
                {
                    "metadata": {"name": "istio-revision-tag-default"},
                    "webhooks": [
                        {"namespaceSelector": {"matchLabels": {"istio.io/deactivated": "never-match"}}}
                    ],
                }
            ]
        },
    ],
)
def test_an_istio_that_selects_nothing_is_no_istio(listed: Raw) -> None:
    """Its labels stay in the namespaces after it is gone, or switched off."""
    rule = IstioRule(IstioLabels.AUTO, read_injectors(listed))

    assert isinstance(inject(arriving(), namespace(istio="enabled"), TEMPLATE, istio=rule), Patched)


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("In", ["a"], True), ("In", ["b"], False), ("NotIn", ["a"], False), ("NotIn", ["b"], True),
        ("Exists", [], True), ("DoesNotExist", [], False), ("SomethingNew", [], True),
    ],
)  # fmt: skip
def test_selectors_are_kubernetes(operator: str, values: list[str], *, holds: bool) -> None:
    """An operator that nobody knows yet selects: two sidecars are worse than none of ours."""
    expression = {"key": "k", "operator": operator, "values": values}
    listed = {
        "items": [
            {
                "metadata": {"name": "any", "labels": {"app": "sidecar-injector"}},
                "webhooks": [{"namespaceSelector": {"matchExpressions": [expression]}}],
            }
        ]
    }
    (injector,) = read_injectors(listed)

    assert injector.selects((("k", "a"),), ()) is holds
    assert injector.selects((), ()) is (operator in {"NotIn", "DoesNotExist", "SomethingNew"})


def test_a_selector_that_cannot_be_read_selects_everything() -> None:
    """The same fallback."""
    (injector,) = read_injectors(
        {"items": [{"metadata": {"name": "istio-sidecar-injector-x"}, "webhooks": [{"objectSelector": 5}]}]}
    )

    assert injector.selects((), ())
