"""Names of everything that is served, and the way back from a name to what it names.

The forms are Istio's where Istio has one, so that dashboards and people recognise them; no
other module may put a resource name together or take one apart.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, NamedTuple

OUTBOUND: Final = "outbound"
"""The outbound HTTP listener and its route table."""

ENTRIES: Final = "entries"
"""The route table of hosts that ServiceEntries name, for connections that no address tells apart."""

CONTROL_PLANE: Final = "xds"
"""The cluster of the control plane, which every bootstrap has (bootstrap.channel)."""

PASSTHROUGH: Final = "passthrough"
"""The cluster that goes where the connection was going."""

BLACKHOLE: Final = "blackhole"
"""The cluster without endpoints, which closes what is sent to it."""

INBOUND: Final = "inbound"
"""The listener to which a Pod's incoming connections are redirected."""

INBOUND_OTHERS: Final = "inbound-others"
"""Ports of a workload that nobody declared: their cluster, and what counts them."""

OWN_CERTIFICATE: Final = "default"
"""The secret with a proxy's own certificate and key."""

TRUST_BUNDLE: Final = "ROOTCA"
"""The secret with the roots that vouch for peers."""


class ClusterName(NamedTuple):
    """What the name of an outbound cluster says."""

    port: int
    subset: str
    host: str


class RouteName(NamedTuple):
    """What the name of a route says; ``rule`` is a rule's name or index, or the port of a Service or entry."""

    kind: str
    namespace: str
    name: str
    rule: str


class Address(NamedTuple):
    """Where a TCP listener listens."""

    address: str
    port: int


def cluster(port: int, subset: str, host: str) -> str:
    """Return the name of a service's cluster and of its endpoints: ``outbound|80|v1|orders.shop.svc.cluster.local``."""
    return f"outbound|{port}|{subset}|{host}"


def cluster_of_server_name(port: str, server_name: str) -> str:
    """Return the name of a host's cluster where Envoy is to put in port and host itself."""
    return f"outbound|{port}||{server_name}"


def provider_cluster(port: int, host: str, *, is_grpc: bool) -> str:
    """Return the name under which a sidecar itself calls a provider: ``provider|grpc|4317|HOST``."""
    return f"provider|{'grpc' if is_grpc else 'http'}|{port}|{host}"


def jwks_cluster(port: int, host: str) -> str:
    """Return the name under which a sidecar itself fetches keys from a host outside: ``jwks|443|HOST``."""
    return f"jwks|{port}|{host}"


def sni(port: int, subset: str, host: str) -> str:
    """Return the server name of mutual TLS to a service, Istio's form: ``outbound_.80_.v1_.HOST``."""
    return f"outbound_.{port}_.{subset}_.{host}"


def parse_cluster(name: str) -> ClusterName | None:
    """Return what an outbound cluster's name says, None for any other name."""
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != "outbound" or not parts[3]:
        return None
    port = _port(parts[1])
    return None if port is None else ClusterName(port, parts[2], parts[3])


def counted_as(stat_name: str) -> str:
    """Return the destination under whose stat name a cluster counts (see ``parts.stat_name``): ``HOST:PORT``.

    A subset follows in brackets; any other name is returned as it is.
    """
    found = parse_cluster(stat_name.replace("_", "."))
    if found is None:
        return stat_name
    return f"{found.host}:{found.port}" + (f" ({found.subset})" if found.subset else "")


def inbound_cluster(port: int) -> str:
    """Return the name of the application's cluster behind an inbound port: ``inbound|8080||``."""
    return f"inbound|{port}||"


def parse_inbound_cluster(name: str) -> int | None:
    """Return the port of an inbound cluster's name, None for any other name."""
    parts = name.split("|")
    return _port(parts[1]) if len(parts) == 4 and parts[0] == "inbound" and not parts[2] + parts[3] else None


def inbound_listener(port: int) -> str:
    """Return the name of the listener in front of one of the workload's ports: ``inbound|8080``."""
    return f"inbound|{port}"


def inbound_routes(port: int) -> str:
    """Return the name of the route table of one of the workload's ports, which is its listener's."""
    return inbound_listener(port)


def parse_inbound_listener(name: str) -> int | None:
    """Return the port of an inbound listener's name, None for any other name."""
    direction, _, port = name.partition("|")
    return _port(port) if direction == "inbound" else None


def tcp_listener(address: str, port: int) -> str:
    """Return the name of a local address that stands for a TCP service: ``tcp|127.0.1.3:3306``."""
    return f"tcp|{address}:{port}"


def parse_tcp_listener(name: str) -> Address | None:
    """Return where a TCP listener listens, None for any other name."""
    kind, _, rest = name.partition("|")
    address, _, text = rest.rpartition(":")
    port = _port(text)
    return Address(address, port) if kind == "tcp" and address and port is not None else None


class Dialled(NamedTuple):
    """Where an application was going, as the name of a cluster on demand says it; ``address`` in canonical form."""

    is_http: bool
    address: str
    port: int


HTTP_DESTINATION: Final = "o"
TCP_DESTINATION: Final = "tcp"
"""First words of the clusters that Envoy asks for by an intercepted connection's destination."""


def destination(address: str, port: int, *, is_http: bool) -> str:
    """Return the name under which a proxy asks for a destination: ``o|10.96.0.1:80``, ``tcp|[fd00::1]:5432``."""
    host = f"[{address}]" if ":" in address else address
    return f"{HTTP_DESTINATION if is_http else TCP_DESTINATION}|{host}:{port}"


def parse_destination(name: str) -> Dialled | None:
    """Return what a destination's name says, None for any other name and for one that is not written as Envoy does."""
    kind, _, rest = name.partition("|")
    host, _, text = rest.rpartition(":")
    port = _port(text) if text else None
    if kind not in (HTTP_DESTINATION, TCP_DESTINATION) or not port:
        return None
    try:
        address = str(ip_address(host[1:-1] if host.startswith("[") else host))
    except ValueError:
        return None
    found = Dialled(kind == HTTP_DESTINATION, address, port)
    return found if port < 65536 and destination(*found[1:], is_http=found.is_http) == name else None


def is_http_destination(name: str) -> bool:
    """Tell whether a cluster's name is that of an HTTP destination, which a route table may have rules for."""
    return name.startswith("o|")


def is_on_demand(name: str) -> bool:
    """Tell whether a cluster is one that a proxy asks for by name: a destination, or a service that a route names."""
    return name.startswith(("o|", "tcp|", "outbound|"))


def rule_route(namespace: str, name: str, rule: str) -> str:
    """Return the name of a VirtualService rule's route: ``VirtualService/shop/orders/canary``."""
    return f"VirtualService/{namespace}/{name}/{rule}"


def service_route(namespace: str, name: str, port: int) -> str:
    """Return the name of the route that a Service has without any rule: ``Service/shop/orders/80``."""
    return f"Service/{namespace}/{name}/{port}"


def entry_route(namespace: str, name: str, port: int) -> str:
    """Return the name of the route that a ServiceEntry has without any rule: ``ServiceEntry/shop/api/443``."""
    return f"ServiceEntry/{namespace}/{name}/{port}"


def parse_route(name: str) -> RouteName | None:
    """Return what a route's name says (a rule's own name may hold slashes), None for any other name."""
    parts = name.split("/", 3)
    if len(parts) != 4 or parts[0] not in ("VirtualService", "Service", "ServiceEntry"):
        return None
    return RouteName(*parts)


def _port(text: str) -> int | None:
    """Return the number in the form in which it is written here, so that no two names mean the same."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or (text[0] == "0" and text != "0"):
        return None
    return int(text)
