"""Injection by a real apiserver: what it selects, what it refuses, and certificates that change under its hands."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.cluster.cluster import Cluster, KubectlError
from tests.fakes.entropy import counted_entropy
from tests.fakes.pods import Raw, varied
from xds import bootstrap, ca
from xds.address import Address
from xds.api.core import Labels
from xds.bootstrap.probes import watch
from xds.cli.inject import command as inject_command
from xds.injection.istio import IstioLabels
from xds.injection.registration import configuration
from xds.injection.template import Template
from xds.kube.client import Client
from xds.kube.registration import Injectors, Registration
from xds.kube.webhook import Sources, Webhook
from xds.notices import Notice
from xds.rotation import ChannelRotation, Phase, Slots
from xds.trust import bootstrap_roots

DEADLINE_S = 60.0
ON = {"proa.dev/inject": "enabled"}

RIGHTS = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: injector}
rules:
  - {apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], verbs: [list]}
  - apiGroups: [admissionregistration.k8s.io]
    resources: [mutatingwebhookconfigurations]
    resourceNames: [proa-injector]
    verbs: [get, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: injector}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: injector}
subjects: [{kind: User, name: stranger, apiGroup: rbac.authorization.k8s.io}]
"""

ISTIO = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector, labels: {app: sidecar-injector}}
webhooks:
  - name: namespace.sidecar-injector.istio.io
    clientConfig: {url: "https://127.0.0.1:1/inject"}
    failurePolicy: Ignore
    sideEffects: None
    admissionReviewVersions: [v1]
    namespaceSelector: {matchLabels: {istio-injection: enabled}}
    rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
"""

APP = {
    "name": "app",
    "image": "shop:1",
    "ports": [{"name": "db", "containerPort": 3306}],
    "readinessProbe": {"tcpSocket": {"port": "db"}},
}


def bootstrap_template() -> Raw:
    """Return the bootstrap that `proa bootstrap --transparent` prints."""
    channel = bootstrap.Tls(roots=("PEM",), newest_root="f", token_file="/var/run/secrets/proa/token")
    return bootstrap.build(
        bootstrap.template(xds_host="proa.proa-system.svc", xds_port=15010, channel=channel)
    )


class Mesh:
    """The injector as a replica runs it: served here, registered with the real apiserver, with the least rights."""

    def __init__(self, api: Cluster, client: Client) -> None:
        entropy = counted_entropy("injection")
        self.api = api
        self.notices: list[Notice] = []
        self.rotation = ChannelRotation(
            Slots(Phase.STEADY, ca.new_channel_root(now=time.time(), entropy=entropy)),
            entropy=entropy,
            save=lambda _slots: None,
            started=time.time(),
            dwell_s=1.0,
        )
        self._entropy = entropy
        self._leaf: ca.Leaf | None = None
        self.injectors = Injectors(client, IstioLabels.AUTO)
        self.registration = Registration(
            client, roots=lambda: bootstrap_roots(self.rotation.slots), istio=lambda: self.injectors.rule
        )
        template = Template(image="proxy:1", bootstrap=bootstrap_template(), watch=watch)
        self.webhook = Webhook(
            Sources(
                template=lambda: template,
                labels=self._labels,
                istio=lambda: self.injectors.rule,
                certificate=self._certificate,
                record=self.notices.append,
            )
        )

    def _certificate(self) -> ca.Leaf:
        signer = self.rotation.slots.signer
        if self._leaf is None or self._leaf.issuer != signer.fingerprint:
            self._leaf = ca.issue_channel_leaf(signer, now=time.time(), entropy=self._entropy)
        return self._leaf

    def _labels(self, _name: str) -> Labels | None:
        return None  # as if no watch had brought any namespace yet

    async def kubectl(self, *args: str, manifest: object = None) -> str:
        """Run kubectl beside the webhook, which serves in this very loop."""
        text = "" if manifest is None else manifest if isinstance(manifest, str) else json.dumps(manifest)
        return await asyncio.to_thread(self.api.kubectl, *args, stdin=text)

    async def create(self, pod: Raw, namespace: str) -> Raw:
        """Create a Pod and return what the apiserver has made of it; KubectlError where it refuses."""
        return json.loads(
            await self.kubectl("create", "-n", namespace, "-f", "-", "-o", "json", manifest=pod)
        )

    async def pods(self, namespace: str, count: int) -> list[Raw]:
        """Return the Pods of a namespace as soon as controllers have created so many."""
        found: list[Raw] = []
        for _ in range(int(DEADLINE_S / 0.2)):
            found = json.loads(await self.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)
        raise AssertionError(
            f"{len(found)} of {count} Pods; {await self.kubectl('get', 'events', '-n', namespace)}"
        )


@asynccontextmanager
async def meshed(api: Cluster) -> AsyncGenerator[Mesh]:
    """Register the injector and serve it until the block ends; its registration stays behind."""
    await asyncio.to_thread(api.apply, RIGHTS)
    async with await Client.connect(api.kubeconfig_of("stranger")) as client:
        mesh = Mesh(api, client)
        async with mesh.webhook.listening(Address("127.0.0.1", 0)) as address:
            url = f"https://127.0.0.1:{address.port}"
            await mesh.kubectl("apply", "-f", "-", manifest=configuration(lambda path: {"url": url + path}))
            await mesh.injectors.look()
            assert await mesh.registration.reconcile()
            await _answering(mesh)
            yield mesh


async def _answering(mesh: Mesh) -> None:
    """Wait until the apiserver has seen the registration: some milliseconds after it was written."""
    with mesh.api.namespace("probe", ON) as name:
        pod = bare("probe")
        for _ in range(int(DEADLINE_S / 0.1)):
            try:
                made = await mesh.kubectl(
                    "create", "--dry-run=server", "-n", name, "-f", "-", "-o", "json", manifest=pod
                )
            except KubectlError:
                made = "{}"
            if "proa-proxy" in made:
                return
            await asyncio.sleep(0.1)
    raise AssertionError("the apiserver never asked")


def bare(name: str = "", **more: Any) -> Raw:
    """Return a Pod of its own, by default with a name to be generated."""
    metadata: Raw = {"name": name} if name else {"generateName": "loose-"}
    spec: Raw = {"containers": [APP], **more.get("spec", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, **more.get("metadata", {})},
        "spec": spec,
    }


def controlled(kind: str, api: str = "apps/v1", **spec: Any) -> Raw:
    """Return a workload of one Pod."""
    template: Raw = {
        "metadata": {"labels": {"app": "shop"}},
        "spec": {"containers": [APP], **spec.pop("pod", {})},
    }
    selector: Raw = {} if kind == "Job" else {"selector": {"matchLabels": {"app": "shop"}}}
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": f"shop-{kind.lower()}"},
        "spec": {**selector, "template": template, **spec},
    }


def init_names(pod: Raw) -> list[str]:
    """Return the names of a Pod's init containers."""
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


async def test_every_workload_of_a_labelled_namespace_is_meshed(own_api: Cluster) -> None:
    """Deployments, StatefulSets, Jobs and bare Pods, with and without a name, as soon as the label is there."""
    async with meshed(own_api) as mesh:
        with own_api.namespace("shop", ON) as name:
            for workload in (
                controlled("Deployment"),
                controlled("StatefulSet", serviceName="shop"),
                controlled("Job", "batch/v1", pod={"restartPolicy": "Never"}),
                bare("alone"),
                bare(),
            ):
                await mesh.kubectl("create", "-n", name, "-f", "-", manifest=workload)
            pods = await mesh.pods(name, 5)

    workloads = {pod["metadata"]["annotations"]["proa.dev/workload"] for pod in pods}
    assert workloads == {"shop-deployment", "shop-statefulset", "shop-job", "alone", "loose"}
    for pod in pods:
        assert init_names(pod) == ["proa-init", "proa-proxy"]
        app = pod["spec"]["containers"][0]
        assert app["readinessProbe"]["httpGet"] == {"path": "/tcp/3306", "port": 15021, "scheme": "HTTP"}
        mounted = [each["name"] for each in app.get("volumeMounts", [])]
        assert "proa-token" not in mounted


async def test_who_did_not_ask_is_left_alone_and_told(own_api: Cluster) -> None:
    """No label, opted out, the host's network, kube-system: the Pod is what it was, and the reason is told."""
    async with meshed(own_api) as mesh:
        with own_api.namespace("plain") as plain, own_api.namespace("shop", ON) as shop:
            made = [
                await mesh.create(bare("plain"), plain),
                await mesh.create(bare("out", metadata={"annotations": {"proa.dev/inject": "false"}}), shop),
                await mesh.create(bare("host", spec={"hostNetwork": True}), shop),
                await mesh.create(
                    bare("istio", spec={"containers": [APP, {**APP, "name": "istio-proxy"}]}), shop
                ),
            ]
            await mesh.kubectl("label", "namespace", "kube-system", "proa.dev/inject=enabled")
            made.append(await mesh.create(bare("system"), "kube-system"))
            asked = await mesh.create(bare("asks", metadata={"labels": {"proa.dev/inject": "true"}}), plain)

    assert [init_names(pod) for pod in made] == [[]] * 5
    assert init_names(asked) == ["proa-init", "proa-proxy"]
    assert [(each.about.name, each.reason) for each in mesh.notices] == [
        ("out", "OptedOut"),
        ("host", "HostNetwork"),
        ("istio", "IstioProxy"),
        ("system", "ReservedNamespace"),
    ]


async def test_a_wrong_annotation_is_refused_with_its_name(own_api: Cluster) -> None:
    """Who creates the Pod reads what to mend."""
    async with meshed(own_api) as mesh:
        with own_api.namespace("shop", ON) as shop:
            pod = bare("wrong", metadata={"annotations": {"sidecar.istio.io/proxyCPU": "lots"}})
            with pytest.raises(KubectlError, match=r"proxyCPU\]: must be an amount of CPU"):
                await mesh.create(pod, shop)


async def test_istios_label_counts_while_istio_does_not_serve_it(own_api: Cluster) -> None:
    """It is honoured, and what nobody answers for is refused; with Istio there, both end."""
    async with meshed(own_api) as mesh:
        with own_api.namespace("theirs", {"istio-injection": "enabled"}) as name:
            before = await mesh.create(bare("before"), name)
            policies = await _policies(mesh)
            await mesh.kubectl("apply", "-f", "-", manifest=ISTIO)
            await mesh.injectors.look()
            await mesh.registration.reconcile()
            after = await mesh.create(bare("after"), name)

        assert init_names(before) == ["proa-init", "proa-proxy"]
        assert init_names(after) == []
        assert policies == {"namespace": "Fail", "pod": "Fail", "istio-namespace": "Fail", "istio-pod": "Fail",
                            "reserved": "Ignore"}  # fmt: skip
        assert (await _policies(mesh))["istio-namespace"] == "Ignore"
        assert [each.reason for each in mesh.notices] == ["IstioInjector"]


async def _policies(mesh: Mesh) -> dict[str, str]:
    live = json.loads(
        await mesh.kubectl("get", "mutatingwebhookconfiguration", "proa-injector", "-o", "json")
    )
    return {each["name"].partition(".")[0]: each["failurePolicy"] for each in live["webhooks"]}


async def test_without_a_webhook_only_labelled_namespaces_wait(own_api: Cluster) -> None:
    """A Pod outside the mesh would be worse there; everybody else, kube-system among them, is not concerned."""
    async with meshed(own_api) as mesh:
        pass
    with own_api.namespace("plain") as plain, own_api.namespace("shop", ON) as shop:
        await mesh.kubectl("label", "namespace", "kube-system", "proa.dev/inject=enabled")
        with pytest.raises(KubectlError, match=r"namespace\.injector\.proa\.dev"):
            await mesh.create(bare("a"), shop)
        for namespace in (plain, "kube-system", "default"):
            assert init_names(await mesh.create(bare("a"), namespace)) == []


async def test_a_registration_that_somebody_reset_is_mended(own_api: Cluster) -> None:
    """An upgrade writes the object anew; a conflict is left to the next look; without one there is nothing to do."""
    async with meshed(own_api) as mesh:
        assert mesh.registration.reported() == {mesh.rotation.slots.newest.fingerprint}
        await mesh.kubectl(
            "replace", "-f", "-", manifest=configuration(lambda path: {"url": f"https://127.0.0.1:1{path}"})
        )
        assert await mesh.registration.reconcile()
        live = json.loads(
            await mesh.kubectl("get", "mutatingwebhookconfiguration", "proa-injector", "-o", "json")
        )
        assert all(each["clientConfig"]["caBundle"] for each in live["webhooks"])
        await mesh.kubectl("delete", "mutatingwebhookconfiguration", "proa-injector")
        assert not await mesh.registration.reconcile()
        assert mesh.registration.reported() == frozenset()


async def test_a_rotation_under_a_stream_of_creations_loses_none(own_api: Cluster) -> None:
    """The bundle has both roots before the new one signs, and loses the old one after: every Pod is made and meshed."""
    async with meshed(own_api) as mesh:
        with own_api.namespace("shop", ON) as shop:
            is_over = asyncio.Event()
            async with await Client.connect(own_api.kubeconfig) as client, asyncio.TaskGroup() as group:
                creators = [
                    group.create_task(_create_until(client, shop, is_over), name=f"creator {number}")
                    for number in range(4)
                ]
                first = mesh.rotation.slots.signer.fingerprint
                for _ in range(2):
                    await _rotate(mesh)
                is_over.set()

    made = [pod for creator in creators for pod in creator.result()]
    assert mesh.rotation.slots.signer.fingerprint != first
    assert len(made) >= 100
    assert {tuple(init_names(pod)) for pod in made} == {("proa-init", "proa-proxy")}


async def _rotate(mesh: Mesh) -> None:
    """Rotate the channel's root as the leader does: each tick steps only when the barrier holds."""
    before = mesh.rotation.slots.signer
    mesh.rotation.rotate(time.time())
    assert mesh.rotation.tick(time.time() + 3600, mesh.registration.reported) is None  # not seen there yet
    deadline = time.monotonic() + DEADLINE_S
    while mesh.rotation.slots.signer is before or mesh.rotation.slots.phase is not Phase.STEADY:
        assert time.monotonic() < deadline
        assert await mesh.registration.reconcile()
        mesh.rotation.tick(time.time(), mesh.registration.reported)
        await asyncio.sleep(0.1)
    assert await mesh.registration.reconcile()


async def _create_until(client: Client, namespace: str, is_over: asyncio.Event) -> list[Raw]:
    """Create Pods one after the other, at least 25; an ApiError ends the test."""
    made: list[Raw] = []
    while not is_over.is_set() or len(made) < 25:
        body = await client.call("POST", f"/api/v1/namespaces/{namespace}/pods", body=bare())
        made.append(json.loads(body))
    return made


async def test_a_pod_is_reviewed_once(own_api: Cluster) -> None:
    """The apiserver asks again when a plugin of its own changes what we patched: nothing is left for one to change.

    Its own clock says that an answer took no time that anybody would notice; `make bench` has the figure.
    """
    async with meshed(own_api) as mesh:
        with own_api.namespace("shop", ON) as shop:
            before = await _waits(mesh)
            async with await Client.connect(own_api.kubeconfig) as client:
                path = f"/api/v1/namespaces/{shop}/pods"
                for number in range(200):
                    pod = varied(number)
                    del pod["metadata"]["ownerReferences"], pod["spec"]["serviceAccountName"]
                    await client.call("POST", path, query={"dryRun": "All"}, body=pod)
            after = await _waits(mesh)

    counted = {bound: after[bound] - before.get(bound, 0) for bound in after}
    assert counted["+Inf"] == 200
    assert counted["0.5"] >= 198, counted


async def _waits(mesh: Mesh) -> dict[str, int]:
    """Return how many calls of a webhook of ours took at most so many seconds."""
    text = await mesh.kubectl("get", "--raw", "/metrics")
    found = re.findall(
        r'^apiserver_admission_webhook_admission_duration_seconds_bucket\{name="namespace\.injector\.proa\.dev"'
        r'.*?le="([^"]+)"\} (\d+)$',
        text,
        re.MULTILINE,
    )
    return {bound: int(count) for bound, count in found}


async def test_the_verb_writes_what_the_webhook_patches(own_api: Cluster, tmp_path: Path) -> None:
    """With the roots that the registration holds, it asks for nothing else; a Pod of it is not patched again."""
    async with meshed(own_api) as mesh:
        written = tmp_path / "pod.yaml"
        arguments = [
            "-f",
            "-",
            "-o",
            str(written),
            "--kubeconfig",
            str(own_api.kubeconfig),
            "--proxy-image",
            "proxy:1",
        ]
        result = await asyncio.to_thread(
            CliRunner().invoke, inject_command, arguments, input=json.dumps(bare("verb"))
        )
        assert result.exit_code == 0, result.output
        with own_api.namespace("shop", ON) as shop:
            verb = await mesh.create(yaml.safe_load(written.read_text("utf-8")), shop)
            webhook = await mesh.create(bare("webhook"), shop)

    assert mesh.rotation.slots.newest.fingerprint in json.dumps(verb)
    assert _comparable(verb) == _comparable(webhook)
    assert mesh.webhook.counts["AlreadyInjected"] == 1


def _comparable(pod: Raw) -> Raw:
    """Return a Pod's spec without what differs between any two: its bootstrap's roots, its names, its token."""
    spec: Raw = json.loads(json.dumps(pod["spec"]).replace(pod["metadata"]["name"], "NAME"))
    sidecar = next(each for each in spec["initContainers"] if each["name"] == "proa-proxy")
    sidecar["args"].pop(1)
    spec["volumes"] = [
        each["name"] for each in spec["volumes"] if not each["name"].startswith("kube-api-access")
    ]
    for container in (*spec["initContainers"], *spec["containers"]):
        container["volumeMounts"] = [
            each for each in container["volumeMounts"] if not each["name"].startswith("kube-api-access")
        ]
    return spec
