"""Istio's ServiceEntry: hosts that are no Services, with their ports, addresses and endpoints, and its reader.

It holds what the user wrote; which entry a client sees for a host is decided in ``compile``, never here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.api.addresses import read_cidr, read_ip
from xds.api.core import Labels, Meta, Protocol
from xds.api.export import read_export_to
from xds.api.kubernetes import PROTOCOLS
from xds.api.meta import check_dns_subdomain, read_labels
from xds.fields import ConfigError, Reader, show
from xds.grammar import check_host

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT: Final = (
    ("hosts", "virtual_host.domains", "a wildcard needs endpoints, or resolution NONE in a redirected Pod"),
    ("addresses", "", "redirected Pods only: a Service's or a Pod's own address stays theirs"),
    ("ports[].number, name, protocol", "", "HTTPS and TLS are bytes to the sidecar"),
    ("ports[].targetPort", "socket_address.port_value", "where the endpoint's ports do not say otherwise"),
    ("location", "transport_socket", "MESH_EXTERNAL: no mutual TLS unless a DestinationRule asks for it"),
    ("resolution", "type", "NONE where nothing is redirected: the host's name is resolved"),
    ("endpoints[].address, ports, weight", "lb_endpoints", ""),
    ("endpoints[].labels", "", "for subsets; security.istio.io/tlsMode: istio says that it takes mutual TLS"),
    ("endpoints[].locality", "locality.zone", "the second part; the others are left out"),
    ("endpoints[].serviceAccount, subjectAltNames", "match_typed_subject_alt_names", ""),
    ("exportTo", "", "as with a VirtualService"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

TLS_MODE: Final = "security.istio.io/tlsMode"
"""Label of an endpoint: ``istio`` says that it takes mutual TLS (Istio's own)."""

MAX_ADDRESSES: Final = 256
"""Most addresses of one entry, as Istio's CRD has it."""

MAX_ENDPOINTS: Final = 4096
"""Most endpoints of one entry, as Istio's CRD has it."""

MAX_HOSTS: Final = 256
"""Most hosts of one entry, as Istio's CRD has it."""

_PORT_MAX: Final = 65_535
_WEIGHT_MAX: Final = 2**32 - 1
_ENCRYPTED: Final = frozenset({"https", "tls"})


class Location(enum.Enum):
    """Whether the endpoints belong to the mesh and may show its certificates."""

    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(enum.Enum):
    """Where a proxy finds the endpoints: where the connection went already, in the entry, or in DNS."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"

    @property
    def is_dns(self) -> bool:
        """Tell whether endpoints are names."""
        return self in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}


@dataclass(frozen=True, slots=True)
class EntryPort:
    """One port; ``target`` is where endpoints take it, ``is_tls`` says that clients speak TLS themselves."""

    port: int
    name: str
    protocol: Protocol
    target: int
    is_tls: bool = False


@dataclass(frozen=True, slots=True)
class EntryEndpoint:
    """One address or DNS name behind an entry; ``ports`` says by port name where it differs."""

    address: str
    ports: tuple[tuple[str, int], ...] = ()
    labels: Labels = ()
    weight: int = 1
    zone: str = ""
    service_account: str = ""

    def port_of(self, port: EntryPort) -> int:
        """Return where this endpoint takes one of the entry's ports."""
        return dict(self.ports).get(port.name, port.target)


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """Hosts outside the cluster's registry.

    ``addresses`` are single addresses and ``ranges`` are CIDRs, both in canonical form.
    """

    meta: Meta
    hosts: tuple[str, ...]
    ports: tuple[EntryPort, ...]
    location: Location = Location.MESH_EXTERNAL
    resolution: Resolution = Resolution.NONE
    addresses: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    endpoints: tuple[EntryEndpoint, ...] = ()
    export_to: tuple[str, ...] = ("*",)
    sans: tuple[str, ...] = ()

    def port(self, number: int) -> EntryPort | None:
        """Return the port of a number."""
        return next((port for port in self.ports if port.port == number), None)


def read_service_entry(spec: Reader, meta: Meta) -> ServiceEntry:
    """Return a ServiceEntry; raise ConfigError for the first field that is wrong."""
    mend = "make it a Service, or name endpoints"
    spec.refuse("workloadSelector", "the host would have no endpoints", mend=mend)
    hosts = tuple(dict.fromkeys(_hosts(spec)))
    resolution = spec.choice("resolution", Resolution, Resolution.NONE)
    addresses, ranges = _addresses(spec, resolution)
    ports = _ports(spec)
    found = ServiceEntry(
        meta=meta,
        hosts=hosts,
        ports=ports,
        location=spec.choice("location", Location, Location.MESH_EXTERNAL),
        resolution=resolution,
        addresses=addresses,
        ranges=ranges,
        endpoints=_endpoints(spec, resolution, frozenset(port.name for port in ports)),
        export_to=read_export_to(spec),
        sans=spec.texts("subjectAltNames"),
    )
    spec.done()
    _check_whole(spec, found)
    return found


def _hosts(spec: Reader) -> Iterator[str]:
    texts = spec.texts("hosts")
    if not 0 < len(texts) <= MAX_HOSTS:
        raise spec.fail("hosts", f"must name 1..{MAX_HOSTS} hosts, got {len(texts)}")
    for index, text in enumerate(texts):
        path = f"{spec.at('hosts')}[{index}]"
        if text == "*":
            raise ConfigError(path, "must not be *: it would take every host")
        yield check_host(path, text).lower().rstrip(".")


def _addresses(spec: Reader, resolution: Resolution) -> tuple[tuple[str, ...], tuple[str, ...]]:
    texts = spec.texts("addresses")
    if len(texts) > MAX_ADDRESSES:
        raise spec.fail("addresses", f"must be at most {MAX_ADDRESSES}, got {len(texts)}")
    single: dict[str, None] = {}
    ranges: dict[str, None] = {}
    for index, text in enumerate(texts):
        path = f"{spec.at('addresses')}[{index}]"
        if "/" not in text:
            single[read_ip(text, path)] = None
            continue
        whole = read_cidr(text, path)
        if resolution.is_dns:
            reason = f"must be one address with resolution {resolution.value}; ranges go with NONE and STATIC"
            raise ConfigError(path, reason)
        address, _, bits = whole.partition("/")
        if bits == ("128" if ":" in whole else "32"):
            single[address] = None
        else:
            ranges[whole] = None
    return tuple(single), tuple(ranges)


def _ports(spec: Reader) -> tuple[EntryPort, ...]:
    ports: dict[int, EntryPort] = {}
    for reader in spec.objects("ports"):
        port = _port(reader)
        if port.port in ports:
            raise reader.fail("number", f"is there twice: {port.port}")
        if port.name in {known.name for known in ports.values()}:
            raise reader.fail("name", f"is there twice: {show(port.name)}")
        ports[port.port] = port
    if not ports:
        raise spec.fail("ports", "must name at least one port")
    return tuple(ports.values())


def _port(reader: Reader) -> EntryPort:
    number = reader.integer("number", low=1, high=_PORT_MAX)
    name = reader.text("name", limit=256)
    said = reader.text("protocol", "", limit=256).lower()
    target = reader.integer("targetPort", 0, low=0, high=_PORT_MAX) or number
    word = said or name.lower()
    word = "grpc-web" if word.startswith("grpc-web") else word.partition("-")[0]
    protocol = PROTOCOLS.get(word)
    if protocol is None and said:
        known = ", ".join(sorted(PROTOCOLS)).upper()
        raise reader.fail("protocol", f"must be one of {known}, got {show(said)}")
    if protocol is None:
        reader.info("protocol", "is absent, and the name tells none: the port is treated as TCP")
    reader.done()
    return EntryPort(number, name, protocol or Protocol.TCP, target, word in _ENCRYPTED)


def _endpoints(spec: Reader, resolution: Resolution, ports: frozenset[str]) -> tuple[EntryEndpoint, ...]:
    readers = spec.objects("endpoints")
    if readers and resolution is Resolution.NONE:
        raise spec.fail("endpoints", "must be absent with resolution NONE; say STATIC or DNS")
    if len(readers) > 1 and resolution is Resolution.DNS_ROUND_ROBIN:
        raise spec.fail("endpoints", "must be at most one with resolution DNS_ROUND_ROBIN")
    if len(readers) > MAX_ENDPOINTS:
        raise spec.fail("endpoints", f"must be at most {MAX_ENDPOINTS}, got {len(readers)}")
    if not readers and resolution is Resolution.STATIC:
        raise spec.fail("endpoints", "must be given with resolution STATIC")
    return tuple(_endpoint(reader, resolution, ports) for reader in readers)


def _endpoint(reader: Reader, resolution: Resolution, ports: frozenset[str]) -> EntryEndpoint:
    account = reader.text("serviceAccount", "")
    if account:
        check_dns_subdomain(account, reader.at("serviceAccount"))
    reader.leave("network", "the endpoint is reached by its address")
    reader.raw("weight")
    found = EntryEndpoint(
        address=_address(reader, resolution),
        ports=tuple(_endpoint_ports(reader, ports)),
        labels=read_labels(reader, "labels"),
        weight=reader.integer("weight", 0, low=0, high=_WEIGHT_MAX) or 1,
        zone=_zone(reader.text("locality", "")),
        service_account=account,
    )
    reader.done()
    return found


def _address(reader: Reader, resolution: Resolution) -> str:
    text = reader.text("address")
    path = reader.at("address")
    if text.startswith("unix:"):
        raise ConfigError(path, "Unix sockets are not supported yet; give an IP address or a DNS name")
    if ":" in text or text.replace(".", "").isdecimal():
        return read_ip(text, path)
    if not resolution.is_dns:
        raise ConfigError(path, f"must be an IP address with resolution {resolution.value}, got {show(text)}")
    name = text.lower().rstrip(".")
    if name.startswith("*"):
        raise ConfigError(path, f"must be a name that DNS can resolve, got {show(text)}")
    return check_host(path, name)


def _endpoint_ports(reader: Reader, known: frozenset[str]) -> Iterator[tuple[str, int]]:
    ports = reader.object("ports")
    if ports is None:
        return
    for name in sorted(ports.present()):
        if name not in known:
            names = ", ".join(sorted(known))
            raise ports.fail(name, f"names no port of this ServiceEntry; it has {names}")
        yield name, ports.integer(name, low=1, high=_PORT_MAX)


def _zone(locality: str) -> str:
    """Return the zone of ``region/zone/subzone``."""
    parts = locality.split("/")
    return parts[1] if len(parts) > 1 else ""


def _check_whole(spec: Reader, found: ServiceEntry) -> None:
    """Refuse what no proxy could resolve, and tell of what only interception can serve."""
    wild = [host for host in found.hosts if host.startswith("*")]
    if found.resolution.is_dns and not found.endpoints and wild:
        raise spec.fail("hosts", f"{wild[0]} cannot be resolved: give endpoints, or say resolution NONE")
    is_tcp = any(not port.protocol.is_http and not port.is_tls for port in found.ports)
    if is_tcp and not found.addresses and not found.ranges:
        spec.warn(
            "addresses", "is empty: connections to TCP ports cannot be told apart, and are left as they are"
        )
