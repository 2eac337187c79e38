"""Mesh settings: the ConfigMap ``proa``, key ``mesh``, with the field names of Istio's MeshConfig.

The same document serves a cluster and a directory; this module must never hold a tunable of the
control plane itself, those are flags and ``settings``.
"""

from __future__ import annotations

import difflib
import enum
import re
from typing import TYPE_CHECKING

import msgspec

from xds.api.addresses import read_cidr
from xds.api.core import Meta
from xds.api.evidence import read_sampling
from xds.api.mesh_telemetry import KNOWN as KNOWN_TELEMETRY
from xds.api.mesh_telemetry import MeshTelemetry, read_mesh_telemetry
from xds.api.meta import check_dns_label
from xds.api.metering import DEFAULT, Metering, read_metering
from xds.api.providers import BUILT_IN, Provider, read_providers
from xds.documents import DocumentError, parse_yaml
from xds.fields import ConfigError, Reader, show

if TYPE_CHECKING:
    from xds.fields import Note

NAME = "proa"
"""Name of the ConfigMap."""

HOME_NAMESPACE = "proa-system"
"""Where the ConfigMap is read: the namespace that Proa is installed in. Elsewhere it is somebody else's."""

DOCUMENT = "mesh"
"""The ConfigMap's key that holds the settings."""

TRUST_DOMAIN = "cluster.local"
ROOT_NAMESPACE = "proa-system"

_KNOWN = (
    "trustDomain",
    "rootNamespace",
    "outboundTrafficPolicy",
    "evictPods",
    "pathNormalization",
    "serviceCidrs",
    "podCidrs",
    "evidence",
    "metrics",
    "extensionProviders",
    *KNOWN_TELEMETRY,
)

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
"""SPIFFE-ID §2.1."""


class OutboundPolicy(enum.Enum):
    """What a proxy does with a destination that the mesh does not know."""

    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class PathNormalization(enum.Enum):
    """How a request's path is written before any policy compares it, and as the application gets it; each does more."""

    NONE = "NONE"
    """Nothing: what policies say of paths can be passed by."""
    BASE = "BASE"
    """RFC 3986 §6.2.2: needless escapes and dot segments go, and a backslash is a slash."""
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"
    """``%2F`` and ``%5C`` are slashes too."""


class _Written(enum.Enum):
    DEFAULT = "DEFAULT"
    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


class MeshSettings(msgspec.Struct, frozen=True, gc=False):
    """What holds for the whole mesh; the defaults are in force without any ConfigMap.

    Proa's own are ``serviceCidrs``, ``podCidrs``, ``accessLogRedaction``, ``metrics`` and ``evidence``.
    """

    meta: Meta = Meta(HOME_NAMESPACE, NAME)
    trust_domain: str = TRUST_DOMAIN
    root_namespace: str = ROOT_NAMESPACE
    outbound: OutboundPolicy = OutboundPolicy.ALLOW_ANY
    evict_pods: bool = False
    """Whether `proa fault kill-pod` may evict a Pod of the mesh."""
    paths: PathNormalization = PathNormalization.BASE
    service_cidrs: tuple[str, ...] = ()
    """Where cluster IPs come from, where the cluster itself does not tell or is not believed."""
    pod_cidrs: tuple[str, ...] = ()
    """Where Pods' addresses come from, likewise."""
    metrics: Metering = DEFAULT
    """What sidecars count; Proa's own."""
    providers: tuple[Provider, ...] = ()
    """Services that policies and telemetry may name, each name once."""
    telemetry: MeshTelemetry = MeshTelemetry()
    evidence: float = 0
    """Per cent of requests of which sidecars tell the control plane what they saw."""

    def provider(self, name: str) -> Provider | None:
        """Return the provider of a name, built-in ones among them; None where it is unknown or was left out."""
        return next((found for found in (*self.providers, *BUILT_IN) if found.name == name), None)


def read_mesh_settings(top: Reader, meta: Meta) -> MeshSettings:
    """Return the settings of the ConfigMap; a setting that Proa does not know is a warning."""
    holder = top.object("data")
    if holder is None or not holder.has(DOCUMENT):
        raise ConfigError(f"data.{DOCUMENT}", "is required: the mesh settings as YAML")
    reader = _parse(holder.text(DOCUMENT, limit=1 << 20), holder.at(DOCUMENT), top.notes)
    trust_domain = reader.text("trustDomain", TRUST_DOMAIN)
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        reason = f"must be lower-case letters, digits, '.', '-' or '_', got {show(trust_domain)}"
        raise reader.fail("trustDomain", reason)
    root_namespace = reader.text("rootNamespace", ROOT_NAMESPACE)
    check_dns_label(root_namespace, reader.at("rootNamespace"))
    settings = MeshSettings(
        meta=meta,
        trust_domain=trust_domain,
        root_namespace=root_namespace,
        outbound=_outbound(reader),
        evict_pods=reader.boolean("evictPods"),
        paths=_paths(reader),
        service_cidrs=_cidrs(reader, "serviceCidrs"),
        pod_cidrs=_cidrs(reader, "podCidrs"),
        metrics=read_metering(reader),
        providers=read_providers(reader),
        telemetry=read_mesh_telemetry(reader),
        evidence=read_sampling(reader),
    )
    _warn_unknown(reader, _KNOWN)
    return settings


def _parse(text: str, path: str, notes: list[Note]) -> Reader:
    try:
        documents = list(parse_yaml(text))
    except DocumentError as error:
        raise ConfigError(path, f"line {error.place.line} of it {error.reason}") from None
    if len(documents) > 1:
        raise ConfigError(path, "must be one YAML document, got several")
    if documents and documents[0].error:
        raise ConfigError(path, f"line {documents[0].error.place.line} of it: {documents[0].error.reason}")
    return Reader(documents[0].value if documents else {}, path, notes)


def _outbound(reader: Reader) -> OutboundPolicy:
    policy = reader.object("outboundTrafficPolicy")
    if policy is None:
        return OutboundPolicy.ALLOW_ANY
    mode = policy.choice("mode", OutboundPolicy, OutboundPolicy.ALLOW_ANY)
    _warn_unknown(policy, ("mode",))
    return mode


def _paths(reader: Reader) -> PathNormalization:
    found = reader.object("pathNormalization")
    if found is None:
        return PathNormalization.BASE
    written = found.choice("normalization", _Written, _Written.DEFAULT)
    _warn_unknown(found, ("normalization",))
    return PathNormalization.BASE if written is _Written.DEFAULT else PathNormalization(written.value)


def _cidrs(reader: Reader, name: str) -> tuple[str, ...]:
    found = (read_cidr(text, f"{reader.at(name)}[{i}]") for i, text in enumerate(reader.texts(name)))
    return tuple(sorted(set(found)))


def _warn_unknown(reader: Reader, known: tuple[str, ...]) -> None:
    """Warn instead of refusing: an Istio mesh configuration moves over unchanged."""
    for name in sorted(reader.present().difference(known)):
        near = difflib.get_close_matches(name, known, n=1)
        reader.warn(name, f"is not known and was left out{f'; did you mean {near[0]}?' if near else ''}")
