"""One raw object to one typed object: the dispatch on apiVersion and kind.

It owns which kinds exist and how strictly each is read; it must never keep state, and it stays
out of the package's ``__init__`` so that importing ``core`` does not import every feature.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import xxhash

from xds.api import cluster, kubernetes, mesh
from xds.api.core import EndpointSlice, Key, Meta, Namespace, Node, Pod, Service, ServiceAccount, ServiceCIDR
from xds.api.fault import Fault, read_fault
from xds.api.istio_authorization import AuthorizationPolicy, closed, read_authorization_policy
from xds.api.istio_entry import ServiceEntry, read_service_entry
from xds.api.istio_jwt import RequestAuthentication, read_request_authentication, unreadable
from xds.api.istio_security import PeerAuthentication, read_peer_authentication
from xds.api.istio_sidecar import Sidecar, read_sidecar
from xds.api.istio_telemetry import Telemetry, read_telemetry
from xds.api.istio_traffic import DestinationRule, VirtualService, read_destination_rule, read_virtual_service
from xds.api.mesh import MeshSettings
from xds.api.meta import name_of, read_meta
from xds.api.rate_limit import RateLimit, read_rate_limit
from xds.fields import ConfigError, Note, Reader, show

Object: TypeAlias = (
    Service
    | EndpointSlice
    | Pod
    | Namespace
    | ServiceAccount
    | Node
    | ServiceCIDR
    | VirtualService
    | DestinationRule
    | ServiceEntry
    | Sidecar
    | Telemetry
    | PeerAuthentication
    | RateLimit
    | Fault
    | AuthorizationPolicy
    | RequestAuthentication
    | MeshSettings
)
"""Everything that Proa reads."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A typed object with its key, and the remarks that came up while it was read."""

    key: Key
    object: Object
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    """An object of a kind that Proa does not read; ``subject`` names it as far as that is possible."""

    subject: str
    reason: str


_CORE: Final[dict[str, tuple[tuple[str, ...], Callable[[Reader], Object]]]] = {
    "Service": (("v1",), kubernetes.read_service),
    "Pod": (("v1",), kubernetes.read_pod),
    "Namespace": (("v1",), kubernetes.read_namespace),
    "ServiceAccount": (("v1",), kubernetes.read_service_account),
    "EndpointSlice": (("discovery.k8s.io/v1",), kubernetes.read_endpoint_slice),
    "Node": (("v1",), cluster.read_node),
    "ServiceCIDR": (("networking.k8s.io/v1",), cluster.read_service_cidr),
}
"""Kubernetes' kinds: read leniently, because Kubernetes has validated them."""

_TRAFFIC: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
_TELEMETRY: Final = ("telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1")
_SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")

_ISTIO: Final[dict[str, tuple[tuple[str, ...], Callable[[Reader, Meta], Object]]]] = {
    "VirtualService": (_TRAFFIC, read_virtual_service),
    "DestinationRule": (_TRAFFIC, read_destination_rule),
    "ServiceEntry": (_TRAFFIC, read_service_entry),
    "Sidecar": (_TRAFFIC, read_sidecar),
    "PeerAuthentication": (_SECURITY, read_peer_authentication),
    "Telemetry": (_TELEMETRY, read_telemetry),
    "AuthorizationPolicy": (_SECURITY, read_authorization_policy),
    "RequestAuthentication": (_SECURITY, read_request_authentication),
}
"""Istio's kinds: read strictly, an unknown field is an error."""

_OWN: Final[dict[str, tuple[tuple[str, ...], Callable[[Reader, Meta], Object]]]] = {
    "RateLimit": (("proa.dev/v1alpha1",), read_rate_limit),
    "Fault": (("proa.dev/v1alpha1",), read_fault),
}
"""Our own kinds, for what no other API has: read as strictly."""

_STRICT: Final = {**_ISTIO, **_OWN}

BUILT_IN: Final = {kind: versions for kind, (versions, _) in _CORE.items()}
"""Kinds that are part of Kubernetes, with the apiVersions that are read, the preferred one first."""

CUSTOM: Final = {kind: versions for kind, (versions, _) in _STRICT.items()}
"""Kinds that a CustomResourceDefinition brings, likewise."""

_CLUSTER_SCOPED: Final = frozenset({"Namespace", "Node", "ServiceCIDR"})

_POD_OWNERS: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"})


def read(raw: object) -> Parsed | Ignored:
    """Return the typed form of one raw Kubernetes object, or why it was passed over.

    Raises ConfigError, and nothing else, for whatever JSON can hold; the path starts at the
    object (``spec.http[0].timeout``). ``status`` is read of Pods only.
    """
    notes: list[Note] = []
    top = Reader(raw, "", notes)
    version, kind = top.text("apiVersion"), top.text("kind")
    if kind == "ConfigMap" and version == "v1":
        return _read_config_map(top)
    if kind in _CORE and _known(top, version, _CORE[kind][0]):
        value = _CORE[kind][1](top)
    elif kind in _STRICT and _known(top, version, _STRICT[kind][0]):
        value = _read_strictly(top, _STRICT[kind][1])
    else:
        _refuse_misspelt(top, version, kind)
        return Ignored(_subject(top, kind), _why_ignored(version, kind))
    return Parsed(_key(kind, value.meta), value, tuple(notes))


def fingerprint(found: Object) -> str:
    """Return what tells two readings of one object apart; what Kubernetes adds to the metadata does not."""
    return xxhash.xxh3_64_hexdigest(repr(found).replace(repr(found.meta), "", 1).encode())


def key_of(raw: object) -> Key | None:
    """Return the key of a raw object that may be broken; None where it does not tell."""
    if not isinstance(raw, dict):
        return None
    fields = cast("Mapping[object, object]", raw)
    kind = fields.get("kind")
    namespace, name = name_of(fields)
    if not isinstance(kind, str) or not (kind in _CORE or kind in _STRICT or kind == "ConfigMap") or not name:
        return None
    return Key(kind, "" if kind in _CLUSTER_SCOPED else namespace, name)


def stand_in(raw: object) -> Object | None:
    """Return what is in force for an object that could never be read, None for nothing: a guard keeps closed."""
    key = key_of(raw)
    made = {"AuthorizationPolicy": closed, "RequestAuthentication": unreadable}.get(key.kind) if key else None
    if key is None or made is None:
        return None
    fields = cast("Mapping[object, object]", raw)
    try:
        meta = read_meta(Reader(raw, "", []))
    except ConfigError:
        meta = Meta(key.namespace, key.name)
    return made(meta, fields.get("spec"))


def _read_strictly(top: Reader, reader: Callable[[Reader, Meta], Object]) -> Object:
    meta = read_meta(top)
    top.raw("status")
    spec = Reader({} if top.raw("spec") is None else top.raw("spec"), "spec", top.notes)
    top.done()
    return reader(spec, meta)


def _read_config_map(top: Reader) -> Parsed | Ignored:
    meta = read_meta(top)
    if meta.name != mesh.NAME or meta.namespace != mesh.HOME_NAMESPACE:
        wanted = f"{mesh.HOME_NAMESPACE}/{mesh.NAME}"
        return Ignored(str(_key("ConfigMap", meta)), f"only the mesh settings in ConfigMap {wanted} are read")
    return Parsed(_key("ConfigMap", meta), mesh.read_mesh_settings(top, meta), tuple(top.notes))


def _known(top: Reader, version: str, known: tuple[str, ...]) -> bool:
    """Tell whether the version is one that is read; another version of the same group is an error."""
    if version in known:
        return True
    if _group(version) == _group(known[0]):
        raise top.fail("apiVersion", f"must be one of {', '.join(known)}, got {show(version)}")
    return False


def _refuse_misspelt(top: Reader, version: str, kind: str) -> None:
    """Raise for a kind that is nearly one of ours, in a group that we read: a rule would be lost in silence."""
    ours = [
        name
        for kinds in (_CORE, _STRICT)
        for name, (known, _) in kinds.items()
        if _group(version) == _group(known[0])
    ]
    near = difflib.get_close_matches(kind, ours, n=1, cutoff=0.85)
    if near:
        raise top.fail("kind", f"{show(kind)} is not known; did you mean {near[0]}?")


def _group(version: str) -> str:
    return version.rpartition("/")[0]


def _key(kind: str, meta: Meta) -> Key:
    return Key(kind, meta.namespace, meta.name)


def _subject(top: Reader, kind: str) -> str:
    namespace, name = name_of({"metadata": top.raw("metadata")})
    return f"{show(kind).strip(chr(34))} {namespace}/{name}" if name else show(kind).strip('"')


def _why_ignored(version: str, kind: str) -> str:
    if kind in _POD_OWNERS:
        return "is not read; without Kubernetes nothing makes Pods of it: write the Pods themselves"
    return f"Proa does not read {show(f'{version} {kind}')}"
