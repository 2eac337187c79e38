"""The facts that `proa check` judges, read with the user's own rights: bounded, side by side, never all or nothing.

Owns the requests; what a user may not read becomes a reason in ``Facts.unread``. It must never write.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec

from xds import report
from xds.api import cluster as cluster_api
from xds.api import kubernetes as core_api
from xds.api.core import Namespace, Pod, label
from xds.api.manifest import read as read_manifest
from xds.api.mesh import MeshSettings
from xds.checks.control import seconds
from xds.checks.facts import NAME, NAMESPACE, Facts, Grant, Heartbeat, Replica, Running
from xds.checks.objects import Conditions, Crd, Deployment, Lease, NetworkPolicy, WebhookConfiguration
from xds.fields import ConfigError, Reader
from xds.inject import INJECT
from xds.injection.hooks import Hook, hooks
from xds.injection.names import fields
from xds.injection.wishes import read_wishes
from xds.kube.client import Client
from xds.kube.forward import exchange
from xds.kube.lists import authentications, listed, single
from xds.sources.transport import ApiError
from xds.trust import Status

T = TypeVar("T")

ADMIN_PORT: Final = 15014
"""The admin API of a replica, on its Pod's loopback address."""

_OK: Final = 200

_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_RANGES: Final = "/apis/networking.k8s.io/v1/servicecidrs"
_OWN: Final = f"namespaces/{NAMESPACE}"
_DEPLOYMENT: Final = f"/apis/apps/v1/{_OWN}/deployments/{NAME}"
_LEASE: Final = f"/apis/coordination.k8s.io/v1/{_OWN}/leases/{NAME}"
_IMAGE_FLAG: Final = "--proxy-image="


@dataclass(frozen=True, slots=True)
class Meshed:
    """The Pods that have a sidecar, and the namespaces."""

    pods: tuple[Running, ...]
    namespaces: tuple[Namespace, ...]

    def labels_of(self, name: str) -> tuple[str, ...]:
        """Return the labels that mesh a namespace's Pods."""
        words = next((one.meta.labels for one in self.namespaces if one.meta.name == name), ())
        return tuple(word for word in (INJECT, "istio-injection") if label(words, word) == "enabled")


async def definitions(client: Client) -> tuple[Crd, ...]:
    """Return the kinds that the cluster has."""
    return tuple(msgspec.convert(await listed(client, _CRDS), list[Crd]))


async def meshed(client: Client) -> Meshed:
    """Return the Pods that have a sidecar and are not on their way out."""
    pods = [one for one in await _pods(client) if one.pod.has_sidecar and not one.is_over]
    return Meshed(tuple(pods), await _namespaces(client))


async def replicas(client: Client) -> list[str]:
    """Return the names of the control plane's Pods that run, sorted."""
    items = await listed(client, f"/api/v1/{_OWN}/pods", labelSelector=f"app.kubernetes.io/name={NAME}")
    found = [one for item in items for one in _read_all([item], core_api.read_pod)]
    return sorted(pod.meta.name for pod in found if pod.ip and not pod.finished and not pod.terminating)


async def leader(client: Client) -> str:
    """Return the Pod whose process holds the Lease, empty if none of those that run does."""
    lease = await single(client, _LEASE, Lease)
    holder = (lease.spec.holder_identity if lease else None) or ""
    return next((pod for pod in await replicas(client) if f"{holder}_".startswith(f"{pod}_")), "")


async def survey(client: Client, grants: Sequence[Grant] = ()) -> Facts:
    """Return the facts; ``grants`` are what to ask the apiserver about. Raises ApiError if it does not answer."""
    facts = await _Survey(client).facts(grants)
    pods = [one.pod.meta.name for one in facts.control_plane() if one.pod.ip]
    found = tuple(await asyncio.gather(*(replica(client, pod) for pod in pods)))
    is_heard = any(not one.silence for one in found)
    unread = facts.unread if is_heard else {**facts.unread, "replicas": "no replica answers"}
    return replace(facts, replicas=found, unread=unread)


class _Survey:
    """One round of questions; what is refused is noted, and the others go on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread: dict[str, str] = {}

    async def facts(self, grants: Sequence[Grant]) -> Facts:
        """Ask everything but the replicas."""
        client = self._client
        version, (now, user) = await _version(client), await _self(client)
        facts = Facts(
            now=now,
            version=version,
            user=user,
            namespaces=await self._ask("namespaces", _namespaces(client), ()),
            pods=await self._ask("pods", _pods(client), ()),
            services=await self._ask(
                "services", _each(client, "/api/v1/services", core_api.read_service), ()
            ),
            policies=await self._ask("policies", _policies(client), ()),
            authentications=await self._ask("authentications", authentications(client), ()),
            crds=await self._ask("crds", definitions(client), ()),
            nodes=await self._ask("nodes", _each(client, "/api/v1/nodes", cluster_api.read_node), ()),
            ranges=await self._ask("ranges", _each(client, _RANGES, cluster_api.read_service_cidr), ()),
            heartbeats=await self._ask("heartbeats", _heartbeats(client), ()),
            webhooks=await self._ask("webhooks", _webhooks(client), ()),
            settings=await self._ask("settings", _settings(client), MeshSettings()),
            lease=await self._ask("lease", single(client, _LEASE, Lease), None),
            grants=await self._ask("grants", _grants(client, grants), ()),
        )
        raw = await self._ask("deployment", single(client, _DEPLOYMENT, dict[str, object]), None)
        deployment = None if raw is None else msgspec.convert(raw, Deployment)
        return replace(facts, deployment=deployment, proxy_image=_flag(raw, _IMAGE_FLAG), unread=self._unread)

    async def _ask(self, name: str, job: Awaitable[T], nothing: T) -> T:
        try:
            return await job
        except ApiError as error:
            self._unread[name] = f"{error.reason}: {error.message}"
        except (msgspec.MsgspecError, ConfigError) as error:
            self._unread[name] = str(error)
        return nothing


async def replica(client: Client, pod: str) -> Replica:
    """Return what one replica of the control plane knows, or why it does not say."""

    async def ask(path: str, kind: type[T]) -> T:
        answer = await exchange(client, NAMESPACE, pod, ADMIN_PORT, path)
        if answer.status != _OK:
            raise ApiError(answer.status, "AdminApi", answer.body.decode("utf-8", "replace").strip())
        return msgspec.json.decode(answer.body, type=kind)

    try:
        trust = await ask("/api/v1/ca", Status)
        problems = await ask("/api/v1/problems", report.Problems)
        proxies = await ask("/api/v1/proxies", report.Proxies)
    except (ApiError, msgspec.MsgspecError) as error:
        return Replica(pod, str(error))
    return Replica(pod, "", trust, problems.problems, proxies.proxies)


async def _each(client: Client, path: str, read: Callable[[Reader], T]) -> tuple[T, ...]:
    """Return the objects of a list as the control plane reads them; what it cannot read it says itself."""
    return tuple(_read_all(await listed(client, path), read))


def _read_all(items: Iterable[dict[str, object]], read: Callable[[Reader], T]) -> Iterator[T]:
    for item in items:
        try:
            yield read(Reader(item, "", []))
        except ConfigError:
            continue  # the replicas report it as a problem of the object


async def _namespaces(client: Client) -> tuple[Namespace, ...]:
    return await _each(client, "/api/v1/namespaces", core_api.read_namespace)


async def _pods(client: Client) -> tuple[Running, ...]:
    items = await listed(client, "/api/v1/pods")
    return tuple(
        Running(pod, *_bearings(item), _hooks(item, pod))
        for item in items
        for pod in _read_all([item], core_api.read_pod)
    )


def _bearings(item: dict[str, object]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the kind of a Pod's controller, and its images by container."""
    raw = msgspec.convert(item, _RawPod)
    kind = next((owner.kind for owner in raw.metadata.ownerReferences if owner.controller), "")
    containers = (*raw.spec.initContainers, *raw.spec.containers)
    return kind, tuple((one.name, one.image) for one in containers)


def _hooks(item: dict[str, object], pod: Pod) -> tuple[Hook, ...]:
    """Return a Pod's hooks that are intercepted, or would be if it were made now."""
    try:
        excluded = read_wishes(dict(pod.meta.annotations)).exclusions.excluded_inbound_ports
    except ConfigError:
        excluded = ()  # nothing would be made now
    return tuple(hooks(fields(item.get("spec")), excluded))


async def _policies(client: Client) -> tuple[NetworkPolicy, ...]:
    items = await listed(client, "/apis/networking.k8s.io/v1/networkpolicies")
    return tuple(msgspec.convert(items, list[NetworkPolicy]))


async def _webhooks(client: Client) -> tuple[WebhookConfiguration, ...]:
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    return tuple(msgspec.convert(await listed(client, path), list[WebhookConfiguration]))


async def _heartbeats(client: Client) -> tuple[Heartbeat, ...]:
    nodes = msgspec.convert(await listed(client, "/api/v1/nodes"), list[_RawNode])
    ready = {node.metadata.name for node in nodes if node.status.hold("Ready")}
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    leases = msgspec.convert(await listed(client, path), list[Lease])
    return tuple(
        Heartbeat(lease.metadata.name, at, lease.metadata.name in ready)
        for lease in leases
        for at in [seconds(lease.spec.renew_time)]
        if at is not None
    )


async def _settings(client: Client) -> MeshSettings:
    raw = await single(client, f"/api/v1/{_OWN}/configmaps/{NAME}", dict[str, object])
    found = read_manifest(raw) if raw is not None else None
    settings = getattr(found, "object", None)
    return settings if isinstance(settings, MeshSettings) else MeshSettings()


async def _version(client: Client) -> tuple[int, int]:
    found = msgspec.json.decode(await client.call("GET", "/version"), type=_Version)
    major, minor = (re.match(r"[0-9]*", text) for text in (found.major, found.minor))  # "29+" on some clouds
    return int((major and major[0]) or 0), int((minor and minor[0]) or 0)


async def _self(client: Client) -> tuple[float, str]:
    """Return the apiserver's clock and how it calls us."""
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = f"/apis/{kind['apiVersion']}/selfsubjectreviews"
    found = msgspec.json.decode(await client.call("POST", path, body=kind), type=_Review)
    return seconds(found.metadata.creationTimestamp) or 0.0, found.status.userInfo.username


async def _grants(client: Client, wanted: Sequence[Grant]) -> tuple[Grant, ...]:
    return tuple(
        await asyncio.gather(*(_granted(client, grant) for grant in wanted)),
    )


async def _granted(client: Client, grant: Grant) -> Grant:
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    resource, _, group = grant.resource.partition(".")
    attributes = {"verb": grant.verb, "group": group, "resource": resource, "namespace": grant.namespace}
    body = {**kind, "spec": {"resourceAttributes": attributes}}
    path = f"/apis/{kind['apiVersion']}/selfsubjectaccessreviews"
    found = msgspec.json.decode(await client.call("POST", path, body=body), type=_Access)
    return replace(grant, is_allowed=found.status.allowed)


def _flag(deployment: dict[str, object] | None, name: str) -> str:
    """Return the value of a flag of the control plane's container, empty where it has none."""
    if deployment is None:
        return ""
    pod = msgspec.convert(deployment, _RawDeployment).spec.template
    words = [word for one in pod.spec.containers for word in one.args if word.startswith(name)]
    return words[0].removeprefix(name) if words else ""


# --- what is read of raw objects; the names are Kubernetes' ---------------------------------------


class _Owner(msgspec.Struct, frozen=True):
    kind: str
    controller: bool = False


class _RawMeta(msgspec.Struct, frozen=True):
    name: str = ""
    creationTimestamp: str | None = None  # noqa: N815
    ownerReferences: tuple[_Owner, ...] = ()  # noqa: N815


class _Container(msgspec.Struct, frozen=True):
    name: str
    image: str = ""
    args: tuple[str, ...] = ()


class _PodSpec(msgspec.Struct, frozen=True):
    containers: tuple[_Container, ...] = ()
    initContainers: tuple[_Container, ...] = ()  # noqa: N815


class _RawPod(msgspec.Struct, frozen=True):
    metadata: _RawMeta
    spec: _PodSpec


class _Template(msgspec.Struct, frozen=True):
    spec: _PodSpec


class _TemplateSpec(msgspec.Struct, frozen=True):
    template: _Template


class _RawDeployment(msgspec.Struct, frozen=True):
    spec: _TemplateSpec


class _RawNode(msgspec.Struct, frozen=True):
    metadata: _RawMeta
    status: Conditions = Conditions()


class _Version(msgspec.Struct, frozen=True):
    major: str
    minor: str


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _UserStatus(msgspec.Struct, frozen=True):
    userInfo: _User = _User()  # noqa: N815


class _Review(msgspec.Struct, frozen=True):
    metadata: _RawMeta
    status: _UserStatus = _UserStatus()


class _Verdict(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Access(msgspec.Struct, frozen=True):
    status: _Verdict = _Verdict()
