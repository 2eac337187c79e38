"""`proa check`: what each check says of a healthy cluster and of a broken one, and what the report looks like."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final
from xml.etree import ElementTree as ET

import msgspec
import pytest

from tests.fakes.entropy import counted_entropy
from xds import releases, report
from xds.api.core import (
    ContainerPort,
    Meta,
    Namespace,
    Node,
    Pod,
    Protocol,
    Service,
    ServiceCIDR,
    ServicePort,
)
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.ca import new_channel_root
from xds.checks import show
from xds.checks.facts import Facts, Grant, Heartbeat, Replica, Running
from xds.checks.finding import Result, Severity, exit_code
from xds.checks.objects import (
    ClientConfig,
    Condition,
    Conditions,
    Crd,
    CrdSpec,
    CrdVersion,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    Egress,
    Lease,
    LeaseSpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Peer,
    PolicyPort,
    Selector,
    Webhook,
    WebhookConfiguration,
)
from xds.checks.objects import Meta as RawMeta
from xds.checks.run import CHECKS, run
from xds.injection.hooks import Hook
from xds.rotation import Phase
from xds.trust import RootStatus, RotationStatus, Status

NOW: Final = 1_800_000_000.0
ROOT: Final = new_channel_root(now=NOW, entropy=counted_entropy())
YEAR_S: Final = 365 * 24 * 3600
IMAGE: Final = "localhost/proa/proxy:0.1.0"

KINDS: Final = {
    "networking.istio.io": ("destinationrules", "serviceentries", "sidecars", "virtualservices"),
    "security.istio.io": ("authorizationpolicies", "peerauthentications", "requestauthentications"),
    "telemetry.istio.io": ("telemetries",),
    "proa.dev": ("faults", "ratelimits"),
}


def crd(name: str, *versions: str, is_ours: bool = True, is_established: bool = True) -> Crd:
    """Return the definition of a kind."""
    labels = {"app.kubernetes.io/part-of": "proa"} if is_ours else {}
    served = versions or ("v1alpha1" if name.endswith(".proa.dev") else "v1",)
    return Crd(
        RawMeta(name, labels=labels),
        CrdSpec(tuple(CrdVersion(version, served=True) for version in served)),
        Conditions((Condition("Established", str(is_established)),)),
    )


def namespace(name: str, **labels: str) -> Namespace:
    """Return a namespace; underscores of a label's name stand for what Python cannot spell."""
    known = {"inject": "proa.dev/inject", "enforce": "pod-security.kubernetes.io/enforce"}
    return Namespace(Meta("", name, tuple(sorted((known[key], value) for key, value in labels.items()))))


WEB: Final = Pod(
    Meta("shop", "web-1", (("app", "web"),)),
    ip="10.244.0.7",
    ips=("10.244.0.7",),
    ports=(ContainerPort(8080, "http"),),
    workload="web",
    has_sidecar=True,
)
CONTROL: Final = Pod(
    Meta("proa-system", "proa-1", (("app.kubernetes.io/name", "proa"),)),
    ip="10.244.0.2",
    ips=("10.244.0.2",),
    workload="proa",
)
SHOP: Final = Service(
    Meta("shop", "web"), (ServicePort(80, "http", Protocol.HTTP, 8080),), (("app", "web"),), ("10.96.0.9",)
)


def rotation(not_after: float = NOW + YEAR_S) -> RotationStatus:
    """Return a root at rest."""
    return RotationStatus(Phase.STEADY, NOW, (RootStatus(ROOT.fingerprint, int(not_after), signs=True),), "")


def healthy() -> Facts:
    """Return a cluster with one meshed Pod and nothing wrong."""
    return Facts(
        now=NOW,
        version=(1, 37),
        user="admin",
        proxy_image=IMAGE,
        namespaces=(namespace("proa-system"), namespace("shop", inject="enabled")),
        pods=(
            Running(CONTROL, "ReplicaSet", (("proa", "control"),)),
            Running(WEB, "ReplicaSet", (("proa-proxy", IMAGE),)),
        ),
        services=(SHOP,),
        crds=tuple(crd(f"{plural}.{group}") for group, plurals in KINDS.items() for plural in plurals),
        nodes=(Node(Meta("", "n1"), "a", ("10.244.0.0/24",)),),
        ranges=(ServiceCIDR(Meta("", "kubernetes"), ("10.96.0.0/12",)),),
        heartbeats=(Heartbeat("n1", NOW - 5, is_ready=True),),
        webhooks=(
            WebhookConfiguration(
                RawMeta("proa-injector"), (Webhook("namespace.injector.proa.dev", ClientConfig(ROOT.pem)),)
            ),
        ),
        deployment=Deployment(RawMeta("proa"), DeploymentSpec(2), DeploymentStatus(2, 2)),
        lease=Lease(RawMeta("proa"), LeaseSpec("proa-1_x", "2027-01-15T07:59:59.000000Z")),
        replicas=(Replica("proa-1", trust=Status(rotation(), rotation(), 1)),),
    )


def found(facts: Facts, check: str, *, pre: bool = False) -> Result:
    """Return the first result of a check."""
    return next(result for result in run(facts, pre=pre) if result.check == check)


def meshed(pod: Pod, *others: Pod) -> tuple[Running, ...]:
    """Return the control plane and other Pods, as Deployments make them."""
    return (Running(CONTROL, "ReplicaSet"), *(Running(one, "ReplicaSet") for one in (pod, *others)))


@pytest.mark.parametrize("pre", [False, True])
def test_a_healthy_cluster_is_all_ok(*, pre: bool) -> None:
    """Every check says ok, and the exit code is 0."""
    results = run(healthy(), pre=pre)

    assert [one for one in results if one.severity is not Severity.OK] == []
    assert exit_code(results) == 0


def test_ids_are_stable_and_unique() -> None:
    """Scripts match them: a renamed id breaks a pipeline."""
    assert [check.id for check in CHECKS] == [
        "cluster.version", "cluster.permissions", "cluster.foreign-kinds", "cluster.kinds", "cluster.injectors",
        "cluster.clocks", "control.deployment", "control.replicas", "control.leader", "control.reachable",
        "webhook.trust", "trust.roots", "proxies.accept", "proxies.answered", "proxies.release",
        "objects.in-force", "namespaces.pod-security", "network.egress", "network.ingress", "network.addresses",
        "pods.meshed", "pods.current", "pods.hooks", "services.ports",
    ]  # fmt: skip


def test_a_service_that_does_not_answer_a_sidecar_is_told() -> None:
    """Requests are decided by the fail mode meanwhile, so it breaks nothing by itself."""
    silent = (report.SilentService("rate limit service", 7, NOW - 5),)
    proxy = report.Proxy("web-1.shop", "shop/web", NOW, 1, acked=True, types=(), silent=silent)
    facts = replace(healthy(), replicas=(replace(healthy().replicas[0], proxies=(proxy,)),))

    result = found(facts, "proxies.answered")
    assert (result.severity, result.subject) == (Severity.WARNING, "Proxy web-1.shop")
    assert "rate limit service did not answer" in result.message


@pytest.mark.parametrize(
    ("image", "before"), [("old:1", ""), (IMAGE, "proa install | kubectl apply -f - && ")]
)
def test_an_older_envoy_is_named_with_what_it_lacks_and_the_restart(image: str, before: str) -> None:
    """Restarted alone where a newer image is injected already, else after an installation that brings one."""
    lacks = releases.lacks("1.39.3")
    proxy = report.Proxy(
        "web-1.shop", "shop/web", NOW, 1, acked=True, types=(), version="1.39.3", lacks=lacks
    )
    today = msgspec.structs.replace(proxy, id="web-2.shop", version="1.40.0", lacks=())
    gone = msgspec.structs.replace(proxy, id="web-0.shop")
    facts = replace(
        healthy(),
        pods=(Running(CONTROL, "ReplicaSet"), Running(WEB, "ReplicaSet", (("proa-proxy", image),))),
        replicas=(replace(healthy().replicas[0], proxies=(gone, proxy, today)),),
    )
    results = [one for one in run(facts, pre=False) if one.check == "proxies.release"]

    assert [(one.severity, one.subject, one.fix) for one in results] == [
        (Severity.WARNING, "Workload shop/web", f"{before}kubectl -n shop rollout restart deployment/web")
    ]
    assert results[0].message == f"web-1 is with Envoy 1.39.3, which lacks of 1.40: {'; '.join(lacks)}"


HOOK: Final = Hook("app", "preStop", 8080)
STRICT: Final = MtlsMode.STRICT


@pytest.mark.parametrize(
    ("policies", "severity"),
    [
        ((), Severity.OK),
        ((PeerAuthentication(Meta("proa-system", "default"), mode=STRICT),), Severity.WARNING),
        ((PeerAuthentication(Meta("shop", "default"), mode=STRICT),), Severity.WARNING),
        ((PeerAuthentication(Meta("other", "default"), mode=STRICT),), Severity.OK),
        (
            (
                PeerAuthentication(Meta("shop", "default"), mode=STRICT),
                PeerAuthentication(
                    Meta("shop", "web"), (("app", "web"),), STRICT, ((8080, MtlsMode.PERMISSIVE),)
                ),
            ),
            Severity.OK,
        ),
    ],
)
def test_a_hook_that_strict_refuses_is_named_once(
    policies: tuple[PeerAuthentication, ...], severity: Severity
) -> None:
    """By workload, whatever number of Pods it has, with the command that edits it."""
    second = msgspec.structs.replace(WEB, meta=Meta("shop", "web-2", WEB.meta.labels))
    pods = (Running(CONTROL), *(Running(one, "ReplicaSet", (), (HOOK,)) for one in (WEB, second)))
    facts = replace(healthy(), pods=pods, authentications=policies)
    results = [one for one in run(facts, pre=True) if one.check == "pods.hooks"]

    assert [one.severity for one in results] == [severity]
    if severity is not Severity.OK:
        assert (results[0].subject, results[0].message) == ("Workload shop/web", HOOK.said)
        assert results[0].fix == "kubectl -n shop edit deployment/web"


def test_a_cluster_without_native_sidecars_is_refused() -> None:
    """Kubernetes 1.28 would start the sidecar as an init container that never ends."""
    result = found(replace(healthy(), version=(1, 28)), "cluster.version", pre=True)

    assert (result.severity, "1.28" in result.message) == (Severity.ERROR, True)


def test_missing_rights_are_named_with_the_command_that_grants_them() -> None:
    """One line for the user, with every verb and resource."""
    grants = (
        Grant("get", "namespaces", "", is_allowed=True),
        Grant("create", "roles.rbac.authorization.k8s.io", "proa-system", is_allowed=False),
    )
    result = found(replace(healthy(), user="ann", grants=grants), "cluster.permissions", pre=True)

    assert result.message == "may not: create roles.rbac.authorization.k8s.io in proa-system"
    assert result.fix.endswith("--clusterrole=cluster-admin --user=ann")


def test_a_kind_that_is_missing_or_not_served_is_an_error() -> None:
    """Without the kind nobody can write it; the manifest brings it."""
    kept = healthy().crds[1:]
    missing = found(replace(healthy(), crds=kept), "cluster.kinds")
    broken = found(
        replace(healthy(), crds=(crd("destinationrules.networking.istio.io", is_established=False), *kept)),
        "cluster.kinds",
    )

    assert (missing.severity, missing.fix) == (Severity.ERROR, "proa install | kubectl apply -f -")
    assert (broken.severity, broken.fix) == (
        Severity.ERROR,
        "kubectl describe crd destinationrules.networking.istio.io",
    )


def test_a_foreign_kind_of_another_version_is_an_error_before_the_installation() -> None:
    """Proa leaves it alone, and could not read it."""
    crds = (crd("sidecars.networking.istio.io", "v2", is_ours=False),)
    result = found(replace(healthy(), crds=crds), "cluster.foreign-kinds", pre=True)

    assert result.message == "is served as v2; Proa reads v1, v1alpha3, v1beta1"


def test_an_injector_of_istio_is_a_warning() -> None:
    """Both may live in one cluster; who selects the same namespace twice should know."""
    istio = WebhookConfiguration(RawMeta("istio-sidecar-injector-1-30"))
    result = found(replace(healthy(), webhooks=(*healthy().webhooks, istio)), "cluster.injectors")

    assert result.severity is Severity.WARNING


def test_a_control_plane_that_is_not_available_is_an_error() -> None:
    """The number of replicas that are missing is said."""
    broken = replace(
        healthy(), deployment=Deployment(RawMeta("proa"), DeploymentSpec(2), DeploymentStatus(1))
    )

    assert found(broken, "control.deployment").message == "1 of 2 replicas are available"
    assert found(replace(healthy(), deployment=None), "control.deployment").message == "is missing"


def test_one_replica_is_a_warning_with_the_command_for_two() -> None:
    """Exit code 3: nothing is broken yet."""
    results = run(
        replace(healthy(), deployment=Deployment(RawMeta("proa"), DeploymentSpec(1), DeploymentStatus(1))),
        pre=False,
    )

    assert [(one.check, one.fix) for one in results if one.severity is not Severity.OK] == [
        ("control.replicas", "kubectl -n proa-system scale deployment/proa --replicas=2")
    ]
    assert exit_code(results) == 3


@pytest.mark.parametrize("renewed", [None, "2027-01-15T07:58:00.000000Z"])
def test_a_lease_that_nobody_renews_is_an_error(renewed: str | None) -> None:
    """Without a leader no certificate is rotated and the webhook's bundle is not kept."""
    lease = Lease(RawMeta("proa"), LeaseSpec("proa-1_x", renewed))

    assert found(replace(healthy(), lease=lease), "control.leader").severity is Severity.ERROR


def test_a_replica_that_stays_silent_is_named() -> None:
    """What only it could tell cannot be judged, and is no ok."""
    silent = replace(
        healthy(), replicas=(Replica("proa-1", "no answer"),), unread={"replicas": "no replica answers"}
    )

    assert found(silent, "control.reachable").subject == "Pod proa-system/proa-1"
    assert found(silent, "trust.roots").severity is Severity.WARNING


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        (b"", "has no caBundle yet"),
        (b"no PEM", "is no PEM"),
        (
            new_channel_root(now=NOW, entropy=counted_entropy("x")).pem,
            f"lacks the root {ROOT.fingerprint[:16]}",
        ),
        (new_channel_root(now=NOW - 11 * YEAR_S, entropy=counted_entropy()).pem, "has expired"),
    ],
)
def test_a_bundle_that_the_apiserver_cannot_use_is_an_error(bundle: bytes, words: str) -> None:
    """Every webhook of the same fault stands in one line."""
    entries = tuple(Webhook(name, ClientConfig(bundle)) for name in ("a", "b"))
    facts = replace(healthy(), webhooks=(WebhookConfiguration(RawMeta("proa-injector"), entries),))
    results = [one for one in run(facts, pre=False) if one.check == "webhook.trust"]

    assert [one.message.partition(": ")[0] for one in results] == ["a, b"]
    assert words in results[0].message


@pytest.mark.parametrize(
    ("left_s", "severity"),
    [(20 * 86_400, Severity.WARNING), (-1, Severity.ERROR), (40 * 86_400, Severity.OK)],
)
def test_a_root_that_ends_soon_is_named_with_the_rotation(left_s: float, severity: Severity) -> None:
    """Thirty days before its end it is worth a warning."""
    status = Status(rotation(), rotation(NOW + left_s), 1)
    result = found(replace(healthy(), replicas=(Replica("proa-1", trust=status),)), "trust.roots")

    assert result.severity is severity
    assert severity is Severity.OK or result.fix == "proa ca rotate --kubernetes --channel"


@pytest.mark.parametrize(
    ("ahead_s", "is_ready", "severity"),
    [
        (150, True, Severity.ERROR),
        (-300, True, Severity.ERROR),
        (-300, False, Severity.OK),
        (-40, True, Severity.OK),
    ],
)
def test_a_clock_that_is_far_off_is_an_error(ahead_s: float, severity: Severity, *, is_ready: bool) -> None:
    """Certificates are backdated by two minutes; a dead node's old heartbeat is no matter of clocks."""
    facts = replace(healthy(), heartbeats=(Heartbeat("n1", NOW + ahead_s, is_ready=is_ready),))

    assert found(facts, "cluster.clocks").severity is severity


def test_a_proxy_that_rejects_and_an_object_that_is_not_in_force_are_errors() -> None:
    """Both say where to look."""
    proxy = report.Proxy(
        "web-1.shop", "shop/web", NOW, 1, acked=False, types=(report.TypeCount("routes", 1, 0, 2),)
    )
    problem = report.ProblemRecord(
        "error", "VirtualService shop/web", "http[0].timeout", "is no duration", ""
    )
    replica = replace(healthy().replicas[0], problems=(problem,), proxies=(proxy,))
    facts = replace(healthy(), replicas=(replica, replica))

    assert found(facts, "proxies.accept").fix == "proa proxy config web-1.shop --kubernetes"
    assert [(one.message, one.fix) for one in run(facts, pre=False) if one.check == "objects.in-force"] == [
        ("http[0].timeout: is no duration", "kubectl -n shop edit virtualservice web")
    ]


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_pod_security_level_that_refuses_the_init_container_is_an_error(level: str) -> None:
    """Also while the namespace has no Pod yet."""
    facts = replace(healthy(), namespaces=(namespace("shop", inject="enabled", enforce=level),), pods=())
    result = found(facts, "namespaces.pod-security", pre=True)

    assert result.subject == "Namespace shop"
    assert (
        result.fix == "kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged --overwrite"
    )


def test_pods_older_than_their_label_are_one_line_for_each_workload() -> None:
    """The restart that gives them a sidecar is said once."""
    old = [replace_pod(WEB, name=f"web-{i}", has_sidecar=False) for i in range(5)]
    results = [
        one for one in run(replace(healthy(), pods=meshed(*old)), pre=False) if one.check == "pods.meshed"
    ]

    assert [(one.severity, one.fix) for one in results] == [
        (Severity.WARNING, "kubectl -n shop rollout restart deployment/web")
    ]
    assert results[0].message.startswith("web-0, web-1, web-2 and 2 more are older")


def test_a_sidecar_of_another_image_is_a_warning() -> None:
    """An upgrade is finished when every Pod was restarted."""
    pods = (Running(WEB, "StatefulSet", (("proa-proxy", "localhost/proa/proxy:0.0.9"),)),)

    assert (
        found(replace(healthy(), pods=pods), "pods.current").fix
        == "kubectl -n shop rollout restart statefulset/web"
    )


@pytest.mark.parametrize(
    ("target", "severity"),
    [(8080, Severity.OK), ("http", Severity.OK), (9090, Severity.WARNING), ("https", Severity.ERROR)],
)
def test_a_port_that_no_container_declares_is_found(target: int | str, severity: Severity) -> None:
    """A number may work undeclared; a name leads nowhere."""
    ports = (ServicePort(80, "http", Protocol.HTTP, target),)
    service = Service(SHOP.meta, ports, SHOP.selector, SHOP.cluster_ips)
    result = found(replace(healthy(), services=(service,)), "services.ports")

    assert result.severity is severity
    assert severity is Severity.OK or result.fix == (
        'kubectl -n shop patch service web -p \'{"spec":{"ports":[{"port":80,"targetPort":8080}]}}\''
    )


def test_an_address_outside_the_known_ranges_is_an_error() -> None:
    """A sidecar would take it for a stranger's."""
    pod = found(replace(healthy(), nodes=()), "network.addresses")
    service = found(
        replace(healthy(), ranges=(ServiceCIDR(Meta("", "kubernetes"), ("10.0.0.0/16",)),)),
        "network.addresses",
    )

    assert "set podCidrs" in pod.message and pod.severity is Severity.ERROR
    assert service.message == (
        "10.96.0.9 in use, outside 10.0.0.0/16: sidecars take them for strangers; set serviceCidrs"
    )


def egress(*rules: Egress, selector: Selector | None = None) -> NetworkPolicy:
    """Return a NetworkPolicy of the namespace shop that restricts what leaves."""
    spec = NetworkPolicySpec(selector or Selector(), ("Egress",), rules)
    return NetworkPolicy(RawMeta("deny", "shop"), spec)


TO_PROA: Final = Peer(namespace_selector=Selector({"kubernetes.io/metadata.name": "proa-system"}))


@pytest.mark.parametrize(
    ("policy", "severity"),
    [
        (egress(), Severity.ERROR),
        (egress(selector=Selector({"app": "other"})), Severity.OK),
        (egress(Egress()), Severity.OK),
        (egress(Egress((TO_PROA,))), Severity.OK),
        (egress(Egress((TO_PROA,), (PolicyPort(443),))), Severity.ERROR),
        (egress(Egress((TO_PROA,), (PolicyPort(15000, 15100),))), Severity.OK),
        (egress(Egress((TO_PROA,), (PolicyPort("grpc-xds"),))), Severity.OK),
        (egress(Egress((TO_PROA,), (PolicyPort(15010, protocol="UDP"),))), Severity.ERROR),
        (egress(Egress((Peer(pod_selector=Selector()),))), Severity.ERROR),
    ],
)
def test_a_policy_that_cuts_sidecars_off_is_an_error(policy: NetworkPolicy, severity: Severity) -> None:
    """Selectors, peers and ports are read as Kubernetes reads them."""
    assert found(replace(healthy(), policies=(policy,)), "network.egress").severity is severity


def test_the_policy_that_is_offered_lets_the_sidecars_out() -> None:
    """The fix is a NetworkPolicy; with it the check says ok."""
    cut = egress()
    result = found(replace(healthy(), policies=(cut,)), "network.egress")
    offered = json.loads(result.fix.split("'")[1])
    rule = offered["spec"]["egress"][0]
    peer = Peer(
        Selector(rule["to"][0]["podSelector"]["matchLabels"]),
        Selector(rule["to"][0]["namespaceSelector"]["matchLabels"]),
    )
    added = egress(Egress((peer,), (PolicyPort(rule["ports"][0]["port"]),)))

    assert found(replace(healthy(), policies=(cut, added)), "network.egress").severity is Severity.OK


def test_a_control_plane_that_lets_nobody_in_is_an_error() -> None:
    """A default-deny of its own namespace needs the chart's policy beside it."""
    deny = NetworkPolicy(RawMeta("deny", "proa-system"), NetworkPolicySpec(policy_types=("Ingress",)))

    assert found(replace(healthy(), policies=(deny,)), "network.ingress").severity is Severity.ERROR


def test_what_may_not_be_read_is_a_warning_and_no_ok() -> None:
    """Absence of information is no health."""
    facts = replace(healthy(), policies=(), unread={"policies": "Forbidden: no"})

    assert found(facts, "network.egress").message == "cannot be judged: policies: Forbidden: no"


def test_json_has_every_result_and_the_exit_code() -> None:
    """The document is versioned."""
    document = json.loads(show.as_json(run(replace(healthy(), version=(1, 20)), pre=False)))

    assert document["results"][0] == {
        "check": "cluster.version",
        "category": "cluster",
        "severity": "error",
        "subject": "Cluster",
        "message": "Kubernetes 1.20 has no native sidecars; Proa needs 1.29",
        "fix": "kubectl version  # upgrade the cluster",
    }
    assert (document["version"], document["exitCode"], document["counts"]["error"]) == (1, 1, 1)


def test_junit_has_a_failure_for_each_error_and_survives_any_name() -> None:
    """A pipeline shows it; XML cannot hold every character that an object's name in a message may."""
    bad = Result("pods.meshed", Severity.ERROR, "Pod a/b\x00", "is\x1b odd & <old>", "do")
    top = ET.fromstring(show.as_junit((bad, *run(healthy(), pre=False))))  # noqa: S314  # our own document
    failures = top.findall(".//failure")

    assert [one.text for one in failures] == ["is\N{REPLACEMENT CHARACTER} odd & <old>\ndo"]
    assert len(top.findall(".//testcase")) == 1 + len(run(healthy(), pre=False))


def replace_pod(pod: Pod, *, name: str, has_sidecar: bool) -> Pod:
    """Return the Pod under another name."""
    return Pod(
        Meta(pod.meta.namespace, name, pod.meta.labels),
        ports=pod.ports,
        workload=pod.workload,
        has_sidecar=has_sidecar,
    )
