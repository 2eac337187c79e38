"""What the mesh wants every proxy to hold: resources in layers, and the views that streams have of them.

It owns names, versions and framed bytes; it must never know who is subscribed, nor read the body of a resource.

A *layer* is a scope that shares resources (`mesh`, `ns/shop`, `class/shop/3f…`, `proxy/shop/web-0`,
`stream/7`). A *view* is the tuple of layers that one stream sees, most specific first: a name means the first
layer that has it, and a wildcard means the union of all, up to the mark `NAMED` if the view has one.

    Snapshot.put(layer, type, name, body, cause=…)   → True if the version is new
    Snapshot.drop(layer, type, name) / drop_layer(layer)
    Snapshot.get(layer, type, name) / resolve(view, type, name) / names(view, type)
    Snapshot.consistent(view)                        → problems, empty if none
"""

import enum
import sys
from collections.abc import Callable, Iterator
from typing import Final, NewType

import msgspec
from xxhash import xxh3_64_hexdigest

from xds import frames

Layer = str
View = tuple[Layer, ...]
NAMED: Final = "by name"
"""No layer but a mark in a view: the layers behind it are seen by name only, and no wildcard covers them."""

Version = NewType("Version", str)


class ResourceType(enum.Enum):
    """The types that the mesh serves; the value is the type URL."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    SCOPES = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 a type's name

    def __init__(self, url: str) -> None:
        """Keep the URL as a plain attribute: `value` is a descriptor, five times slower on the hot path."""
        self.url = url
        self.any_url = frames.any_url_field(url)

    # Members are singletons; Enum's own hash is a Python call per dictionary lookup.
    __hash__ = object.__hash__


_OWN = ("proxy", "transparent", "older-proxy", "older-transparent")
"""What belongs to one proxy, in the form of its listeners (units.PROXY_LAYERS)."""

LAYERS: dict[ResourceType, tuple[str, ...]] = {
    # One proxy's own clusters, what was asked for by name, what a namespace sees differently, then the mesh.
    ResourceType.CLUSTER: (*_OWN, "caller", "demand", "redirected", "scope", "ns", "mesh"),
    # Endpoints never depend on one proxy: that is what makes them cheap to share.
    ResourceType.ENDPOINTS: ("scope", "ns", "mesh"),
    # A listener binds addresses of its own pod.
    # Of a proxy with intercepted traffic, only the inbound one is its own.
    ResourceType.LISTENER: (*_OWN, "caller"),
    # Routes are equal for proxies with equal labels and scope: one table per class, or per calling workload. A
    # workload's own ports have one each.
    ResourceType.ROUTES: (*_OWN, "class", "caller"),
    ResourceType.SCOPES: ("caller",),
    # A key belongs to one stream; the trust bundle belongs to all.
    ResourceType.SECRET: ("stream", "trust"),
}
"""Which kinds of layer may hold a type: it bounds what a lookup visits and what the push index stores."""


class Resource(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One named resource, encoded once. `cause` names the objects and rules that it was compiled from."""

    type: ResourceType
    name: str
    version: Version
    cause: tuple[str, ...]
    size_bytes: int
    """Length of the body."""
    sotw: bytes
    """The Any as field 2 of a DiscoveryResponse."""
    delta_prefix: bytes
    """What precedes `sotw` to make it field 2 of a DeltaDiscoveryResponse; the body is stored only once."""
    endpoints: str = ""
    """Of a cluster, the name of its load assignment where that is not its own."""

    @property
    def delta(self) -> bytes:
        """The `Resource` as field 2 of a DeltaDiscoveryResponse."""
        return self.delta_prefix + self.sotw

    @property
    def body(self) -> bytes:
        """The serialised Envoy message."""
        return self.sotw[len(self.sotw) - self.size_bytes :]

    def __repr__(self) -> str:
        """Name the resource; a body may be a private key and is never shown."""
        return f"Resource({self.type.name} {self.name!r} {self.version})"


def encode(  # noqa: PLR0913 as `put`, and what a cluster refers to
    kind: ResourceType,
    name: str,
    body: bytes,
    *,
    cause: tuple[str, ...] = (),
    version: str | None = None,
    endpoints: str = "",
) -> Resource:
    """Return the resource with its framed bytes.

    The version is the xxh3 of the body unless given: equal bytes have equal versions on every replica and
    after every restart, so that a reconnecting client that holds them is sent nothing. Names are interned,
    so that the subscriptions of all streams share one string.
    """
    if version is None:
        version = xxh3_64_hexdigest(body)
    sotw = frames.any_field(kind.any_url, body)
    prefix = frames.delta_prefix(name, version, len(sotw))
    return Resource(kind, sys.intern(name), Version(version), cause, len(body), sotw, prefix, endpoints)


class Snapshot:
    """All layers of one control plane."""

    def __init__(self) -> None:
        """Start empty."""
        self._held: dict[ResourceType, dict[Layer, dict[str, Resource]]] = {kind: {} for kind in ResourceType}

    def put(  # noqa: PLR0913 three of them are the key
        self,
        layer: Layer,
        kind: ResourceType,
        name: str,
        body: bytes,
        *,
        cause: tuple[str, ...] = (),
        version: str | None = None,
    ) -> bool:
        """Store a resource; return False if its version is already there, which is when a change stops.

        Raises ValueError for a layer of a kind that may not hold the type.
        """
        return self.place(layer, encode(kind, name, body, cause=cause, version=version))

    def place(self, layer: Layer, resource: Resource) -> bool:
        """Store a resource that is encoded already, so that layers can share its bytes; otherwise as `put`."""
        kind = resource.type
        held = self._held[kind].get(layer)
        if held is None:
            held = self._open(layer, kind)
        before = held.get(resource.name)
        held[resource.name] = resource
        return before is None or before.version != resource.version

    def _open(self, layer: Layer, kind: ResourceType) -> dict[str, Resource]:
        if layer.partition("/")[0] not in LAYERS[kind]:
            msg = f"{kind.name} may not be in layer {layer!r}, only in {LAYERS[kind]}"
            raise ValueError(msg)
        return self._held[kind].setdefault(layer, {})

    def drop(self, layer: Layer, kind: ResourceType, name: str) -> bool:
        """Remove a resource; return False if it was not there."""
        layers = self._held[kind]
        held = layers.get(layer)
        if held is None or held.pop(name, None) is None:
            return False
        if not held:
            del layers[layer]
        return True

    def drop_layer(self, layer: Layer) -> tuple[tuple[ResourceType, str], ...]:
        """Remove a whole layer; return the type and name of everything that it held."""
        dropped: list[tuple[ResourceType, str]] = []
        for kind, layers in self._held.items():
            dropped += [(kind, name) for name in layers.pop(layer, {})]
        return tuple(dropped)

    def get(self, layer: Layer, kind: ResourceType, name: str) -> Resource | None:
        """Return what one layer holds under a name."""
        held = self._held[kind].get(layer)
        return None if held is None else held.get(name)

    def resolve(self, view: View, kind: ResourceType, name: str) -> Resource | None:
        """Return what a name means in a view: the resource of the first layer that has it."""
        return self.resolver(view, kind)(name)

    def resolver(self, view: View, kind: ResourceType) -> Callable[[str], Resource | None]:
        """Return `resolve` for one view and type, to ask for many names before anything changes."""
        layers = self._held[kind]
        held = [layers[layer] for layer in view if layer in layers]
        if len(held) == 1:
            return held[0].get

        def resolve(name: str) -> Resource | None:
            for resources in held:
                resource = resources.get(name)
                if resource is not None:
                    return resource
            return None

        return resolve

    def names(self, view: View, kind: ResourceType) -> Iterator[str]:
        """Yield every name of a type that a wildcard covers in a view, each once."""
        layers = self._held[kind]
        held = [layers[layer] for layer in covered(view) if layer in layers]
        return (
            iter(held[0]) if len(held) == 1 else iter(dict.fromkeys(name for part in held for name in part))
        )

    def consistent(self, view: View) -> tuple[str, ...]:
        """Return one sentence for each endpoint set without its cluster and each route table without its listener.

        Names match by construction (an EDS name is its cluster's, a route table's is its listener's, or that of a
        port of the one listener that has all ports), so that the bodies need not be read.
        """
        return tuple(
            f"{child.name} {name} has no {parent.name} of that name"
            for child, parent in (
                (ResourceType.ENDPOINTS, ResourceType.CLUSTER),
                (ResourceType.ROUTES, ResourceType.LISTENER),
            )
            for known in (set(self.names(view, parent)),)
            for name in sorted(self.names(view, child))
            if name not in known and name.partition("|")[0] not in known
        )


def scope(view: View, kind: ResourceType) -> View:
    """Return the layers of a view that may hold a type."""
    kinds = LAYERS[kind]
    return tuple(layer for layer in view if layer == NAMED or layer.partition("/")[0] in kinds)


def covered(view: View) -> View:
    """Return the layers of a view that a wildcard covers."""
    return view[: view.index(NAMED)] if NAMED in view else view
