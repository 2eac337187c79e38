"""The intermediate representation: what a proxy must be told, as frozen, hashable values.

A node is the only input of the builder of its resource, so it is also the cache key:
equal node, equal bytes. Nodes must never hold Kubernetes objects, protobuf messages or
anything that the builder would have to look up.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.api.core import Protocol
from xds.api.istio_security import MtlsMode
from xds.api.mesh import PathNormalization
from xds.api.metering import DEFAULT, Metering
from xds.observed import NOTHING_OBSERVED, Observed

if TYPE_CHECKING:
    from xds.access import Access
    from xds.features import ClusterFeature, RouteFeature
    from xds.features.direct_response import DirectResponse
    from xds.features.headers import HeaderOps
    from xds.features.match import Match
    from xds.features.rate_limit import Rule
    from xds.features.redirect import Redirect
    from xds.features.shared_limit import Entry, Service
    from xds.indexes.ports import PortUse


@dataclass(frozen=True, slots=True)
class AutoMtls:
    """Mutual TLS with every endpoint whose metadata says that it can, plaintext with the others.

    ``sans`` are the exact SPIFFE ids that may answer. None known means that no peer is
    trusted: the builder must then emit a matcher that nothing matches.
    """

    sans: tuple[str, ...]
    sni: str


@dataclass(frozen=True, slots=True)
class Mtls:
    """Mutual TLS with every endpoint, whatever its metadata says (DestinationRule ISTIO_MUTUAL)."""

    sans: tuple[str, ...]
    sni: str


@dataclass(frozen=True, slots=True)
class Plaintext:
    """No TLS from the sidecar (DestinationRule DISABLE)."""


@dataclass(frozen=True, slots=True)
class OriginateTls:
    """The sidecar opens TLS to a server outside the mesh (DestinationRule SIMPLE, MUTUAL).

    Paths are files in the proxy's file system; empty means: not given.
    """

    sni: str
    sans: tuple[str, ...]
    ca_file: str
    certificate_file: str
    key_file: str
    insecure_skip_verify: bool


ClientTls = AutoMtls | Mtls | Plaintext | OriginateTls


class Discovery(enum.Enum):
    """Where a cluster's endpoints come from; the values are Envoy's words."""

    EDS = "EDS"
    STATIC = "STATIC"
    STRICT_DNS = "STRICT_DNS"
    LOGICAL_DNS = "LOGICAL_DNS"
    ORIGINAL_DST = "ORIGINAL_DST"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One port of a service, or one subset of it, as clients see it.

    ``endpoints`` are its own where they do not come apart from it, by EDS or with each connection. ``assignment``
    names the cluster whose endpoints it shares (empty: it has its own).
    """

    name: str
    host: str
    namespace: str
    service: str
    port: int
    subset: str
    protocol: Protocol
    tls: ClientTls
    features: tuple[ClusterFeature, ...] = ()
    discovery: Discovery = Discovery.EDS
    endpoints: tuple[Endpoint, ...] = ()
    assignment: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address, or name in DNS, that answers for a cluster; weights are relative to their sum.

    ``mtls`` tells that its sidecar speaks mutual TLS on this port; ``draining`` that no new
    connection should go there.
    """

    address: str
    port: int
    workload: str
    namespace: str
    mtls: bool
    draining: bool = False
    zone: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Destination:
    """A share of a route's traffic; weights are relative to their sum."""

    cluster: str
    weight: int
    headers: HeaderOps | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to one of these destinations."""

    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: the first route of a virtual host whose match holds decides. No match means every request."""

    name: str
    match: Match | None
    action: Forward | Redirect | DirectResponse
    features: tuple[RouteFeature, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The routes for a set of Host values; no two virtual hosts of a table share a domain."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The routes for one destination, by the name under which a proxy asks for it; ``host`` is what it is in spans."""

    name: str
    host: str
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Who a proxy is, for the labels of its metrics and logs, and what it counts.

    An empty ``app`` or ``version`` is what the proxy's own environment says (`injection.template`).
    """

    name: str
    namespace: str
    service_account: str
    app: str
    version: str
    trust_domain: str
    metering: Metering = DEFAULT


@dataclass(frozen=True, slots=True)
class OutboundHttp:
    """Where applications send HTTP and gRPC: the Host decides, through the named route table."""

    name: str
    address: str
    port: int
    route_table: str
    workload: Workload
    observed: Observed = NOTHING_OBSERVED


@dataclass(frozen=True, slots=True)
class OutboundTcp:
    """A local address that stands for one TCP service."""

    name: str
    address: str
    port: int
    cluster: str
    workload: Workload
    observed: Observed = NOTHING_OBSERVED


@dataclass(frozen=True, slots=True)
class Named:
    """What ServiceEntries say of destinations outside the ranges of Services and Pods.

    On ``http`` ports the Host decides, on ``tls`` ports the server name does among these hosts (wildcards among
    them), and connections to ``free`` ports go where they were going. ``addressed`` are ranges with their ports, each
    with the word whether it is HTTP: a cluster is asked for by the destination's name.
    """

    http: tuple[int, ...] = ()
    tls: tuple[tuple[int, tuple[str, ...]], ...] = ()
    free: tuple[int, ...] = ()
    addressed: tuple[tuple[str, tuple[tuple[int, bool], ...]], ...] = ()


NOTHING_NAMED = Named()


@dataclass(frozen=True, slots=True)
class HostTable:
    """The routes of requests to named hosts; any other goes to the cluster ``others``."""

    name: str
    hosts: tuple[VirtualHost, ...]
    others: str


@dataclass(frozen=True, slots=True)
class Dialling:
    """Where a Pod's outgoing connections are redirected to: the original destination decides.

    Within the ranges of Services and of Pods a cluster is asked for by the destination's name, HTTP on the ``ports``
    that speak it and bytes on all others; connections to any other address go to what is ``named``, else to the
    cluster ``others``.
    """

    name: str
    port: int
    table: str
    ports: tuple[PortUse, ...]
    service_ranges: tuple[str, ...]
    pod_ranges: tuple[str, ...]
    others: str
    workload: Workload
    named: Named = NOTHING_NAMED
    observed: Observed = NOTHING_OBSERVED
    declared: tuple[Declared, ...] | None = None
    """All that there is, for a proxy that cannot ask for clusters: no range counts then, and nobody waits."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A cluster IP, and what its ports are: the cluster of bytes, or empty where the Host of a request decides."""

    address: str
    ports: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The one scope of a listener's routes, which lets Envoy look into the table again after a wait."""

    name: str
    table: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance takes on a port: rules by the name under which they count, requests at once (0: no limit).

    ``asked`` is the service that is asked about descriptors of each request, None for none; ``asked_by`` is the object
    because of which, ``KIND/NAMESPACE/NAME``.
    """

    rules: tuple[tuple[str, Rule], ...] = ()
    concurrency: int = 0
    asked: Service | None = None
    descriptors: tuple[tuple[Entry, ...], ...] = ()
    asked_by: str = ""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One port of the workload itself, in front of its application.

    ``probes`` are exact paths that stay reachable in plaintext under STRICT;
    ``service`` is the host that metrics name as destination (empty: none selects this port).
    ``access`` says who may come in (None: no policy does, everybody may). HTTP is guarded by ``InboundRoutes``.
    ``is_older``: its Envoy takes no filters from routes, so that the listener holds them.
    """

    name: str
    address: str
    port: int
    protocol: Protocol
    mode: MtlsMode
    cluster: str
    workload: Workload
    service: str = ""
    probes: tuple[str, ...] = ()
    limits: Limits | None = None
    observed: Observed = NOTHING_OBSERVED
    access: Access | None = None
    paths: PathNormalization = PathNormalization.BASE
    is_older: bool = False


@dataclass(frozen=True, slots=True)
class InboundRoutes:
    """The routes of one port of the workload's own that speaks HTTP, and who may take them how often.

    All its filter chains share them, so that they count together.
    """

    name: str
    port: Inbound


@dataclass(frozen=True, slots=True)
class Intercepted:
    """All ports of a workload behind one listener, to which a Pod's incoming connections are redirected.

    The ``address`` of its ports means nothing; ``others`` stands for every port that is not among them, and its
    own number means nothing either. No Pod is named, so that equal Pods have equal listeners.
    """

    name: str
    port: int
    ports: tuple[Inbound, ...]
    others: Inbound


Listener = OutboundHttp | OutboundTcp | Dialling | Inbound | Intercepted


@dataclass(frozen=True, slots=True)
class InboundCluster:
    """The application behind an inbound port; an empty ``address`` means: where the connection was going."""

    name: str
    address: str
    port: int
    protocol: Protocol
    concurrency: int = 0
    """Requests at once that reach the application; 0: no limit."""
