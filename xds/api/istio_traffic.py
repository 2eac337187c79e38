"""Istio's traffic kinds: VirtualService and DestinationRule as frozen values, and their readers.

They hold what the user wrote, with hosts as they were written; what a short name means, and
which rule wins for a host, is decided in ``compile``, never here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xds.api.core import Labels, Meta
from xds.api.export import read_export_to
from xds.api.gateways import MESH, leave_connections, read_elsewhere, read_gateways, warn_unbound
from xds.api.meta import read_labels
from xds.features import (
    ClusterFeature,
    RouteFeature,
    connection_pool,
    direct_response,
    fault,
    headers,
    load_balancer,
    match,
    mirror,
    outlier,
    redirect,
    retry,
    retry_budget,
    rewrite,
    timeout,
    tls,
)
from xds.grammar import check_host, check_label, check_subset

if TYPE_CHECKING:
    from xds.features.direct_response import DirectResponse
    from xds.features.headers import HeaderOps
    from xds.features.match import Match
    from xds.features.mirror import Mirror
    from xds.features.redirect import Redirect
    from xds.features.tls import ClientTlsSettings
    from xds.fields import Reader

MAX_WEIGHT: Final = 2**31 - 1
"""Weights are int32 in Istio's API; Envoy adds them up in a uint32, so their sum is checked as well."""

_MAX_TOTAL_WEIGHT: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Destination:
    """A host as it was written, a subset of it (empty: all) and a port (0: to be found)."""

    host: str
    subset: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class RouteDestination:
    """A share of a rule's requests; weights are relative to their sum."""

    destination: Destination
    weight: int
    headers: HeaderOps | None


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """What the proxy decides (``match``, None: every request) and what is decided before: port and source."""

    match: Match | None
    port: int = 0
    source_labels: Labels = ()
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One HTTP rule: any match takes it; it either forwards to destinations or acts itself.

    ``name`` is empty where the user gave none; ``path`` is its place, such as ``http[0]``. One that is for gateways
    alone has its matches and nothing else.
    """

    name: str
    path: str
    matches: tuple[HttpMatch, ...]
    destinations: tuple[RouteDestination, ...]
    action: Redirect | DirectResponse | None
    features: tuple[RouteFeature, ...]
    mirrors: tuple[Mirror, ...]

    @property
    def is_for_sidecars(self) -> bool:
        """Tell whether sidecars go by it: it forwards somewhere, or answers."""
        return bool(self.destinations or self.action)


@dataclass(frozen=True, slots=True)
class VirtualService:
    """How requests to some hosts are routed; the first rule that matches decides.

    One that is bound to gateways only, or without hosts, has no rules here: sidecars have no use for them.
    """

    meta: Meta
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    http: tuple[HttpRule, ...]
    export_to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How a client speaks to a host; ``ports`` are policies that hold for one port instead."""

    tls: ClientTlsSettings | None = None
    features: tuple[ClusterFeature, ...] = ()
    ports: tuple[tuple[int, TrafficPolicy], ...] = ()


@dataclass(frozen=True, slots=True)
class Subset:
    """The endpoints of a host that have these labels, and what differs in how to speak to them."""

    name: str
    labels: Labels
    policy: TrafficPolicy


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """How clients speak to a host and which subsets it has."""

    meta: Meta
    host: str
    policy: TrafficPolicy
    subsets: tuple[Subset, ...]
    export_to: tuple[str, ...]


# -- VirtualService --------------------------------------------------------------------------


def read_virtual_service(spec: Reader, meta: Meta) -> VirtualService:
    """Return a VirtualService; raise ConfigError for the first field that is wrong."""
    bound = read_gateways(spec)
    gateways = bound or (MESH,)
    if not bound and not spec.texts("hosts") and spec.has("http"):
        return _skip_delegate(spec, meta)
    hosts = _read_hosts(spec, is_mesh=MESH in gateways)
    export_to = read_export_to(spec)
    if MESH not in gateways:
        spec.info("gateways", "are gateways only, which Proa does not run; sidecars skip this VirtualService")
        return _skip(spec, VirtualService(meta, hosts, gateways, (), export_to))
    rules = tuple(_read_rule(rule, f"http[{i}]", gateways) for i, rule in enumerate(spec.objects("http")))
    leave_connections(spec, gateways, has_requests=any(rule.is_for_sidecars for rule in rules))
    spec.done()
    if not rules:
        raise spec.fail("http", "must have at least one rule")
    _refuse_equal_names(spec, rules)
    return VirtualService(meta, hosts, gateways, rules, export_to)


def _skip_delegate(spec: Reader, meta: Meta) -> VirtualService:
    """Return what nobody goes by: Istio takes a VirtualService without hosts for a part of others."""
    reason = (
        "are absent: a delegate, whose rules Proa does not put into other VirtualServices; nobody goes by it"
    )
    spec.warn("hosts", reason)
    return _skip(spec, VirtualService(meta, (), (), (), read_export_to(spec)))


def _skip(spec: Reader, found: VirtualService) -> VirtualService:
    for name in ("http", "tcp", "tls"):
        spec.raw(name)
    spec.done()
    return found


def _read_hosts(spec: Reader, *, is_mesh: bool) -> tuple[str, ...]:
    hosts = spec.texts("hosts")
    if not hosts:
        raise spec.fail("hosts", "must name at least one host")
    seen: set[str] = set()
    for i, host in enumerate(hosts):
        path = f"hosts[{i}]"
        if host != "*":
            check_host(spec.at(path), host)
        elif is_mesh:
            raise spec.fail(path, "must not be * for sidecars: it would take every host of the mesh")
        if host.lower() in seen:
            raise spec.fail(path, f"is there twice: {host}")
        seen.add(host.lower())
    return hosts


def _refuse_equal_names(spec: Reader, rules: tuple[HttpRule, ...]) -> None:
    """Two rules of one name could not be told apart in metrics and logs; Istio only warns."""
    seen: set[str] = set()
    for rule in rules:
        if rule.name and rule.name in seen:
            spec.warn(f"{rule.path}.name", f"is there twice: {rule.name}")
        seen.add(rule.name)


def _read_rule(reader: Reader, path: str, gateways: tuple[str, ...]) -> HttpRule:
    name = reader.text("name", "")
    elsewhere = read_elsewhere(reader, gateways)
    if elsewhere:
        bound = tuple(HttpMatch(match=None, gateways=names) for names in elsewhere)
        return HttpRule(name, path, bound, (), None, (), ())
    reader.refuse("delegate", "these requests would get the next rule's answer")
    reader.leave("corsPolicy", "cross-origin requests are answered by the application")
    matches = tuple(_read_match(m, gateways) for m in reader.objects("match"))
    destinations = _read_destinations(reader)
    action = _read_action(reader, is_forward=bool(destinations))
    ops = headers.read(reader)
    forwarding = (rewrite.read(reader), timeout.read(reader), retry.read(reader), fault.read(reader))
    mirrors = mirror.read(reader)
    reader.done()
    _refuse_two_authorities(reader, ops, forwarding[0])
    features: tuple[RouteFeature | None, ...] = (ops, *forwarding)
    if action is not None:
        _refuse_idle(reader, action)
        # A fault goes before the answer, whoever gives it; the rest is about a destination.
        features, mirrors = (ops, forwarding[3]), ()
    return HttpRule(
        name, path, matches, destinations, action, tuple(f for f in features if f is not None), mirrors
    )


def _read_action(reader: Reader, *, is_forward: bool) -> Redirect | DirectResponse | None:
    moved = redirect.read(reader)
    answered = direct_response.read(reader)
    if is_forward + (moved is not None) + (answered is not None) != 1:
        raise reader.fail("route", "must stand alone, or redirect or directResponse in its place")
    return moved or answered


def _refuse_idle(reader: Reader, action: Redirect | DirectResponse) -> None:
    """Refuse what Istio refuses beside an action, and warn of what has no effect there."""
    refused = ("rewrite", "fault") if isinstance(action, redirect.Redirect) else ("rewrite",)
    for name in refused:
        if reader.has(name):
            raise reader.fail(name, "has no place in a rule that answers itself; remove it")
    for name in ("timeout", "retries", "mirror", "mirrors"):
        if reader.has(name):
            reader.warn(name, "has no effect in a rule that answers itself")


def _refuse_two_authorities(reader: Reader, ops: HeaderOps | None, written: rewrite.Rewrite | None) -> None:
    if ops is not None and written is not None and ops.authority and written.authority:
        raise reader.fail("rewrite.authority", "is set in headers.request as well; keep one of them")


def _read_match(reader: Reader, gateways: tuple[str, ...]) -> HttpMatch:
    bound = read_gateways(reader)
    source_namespace = reader.text("sourceNamespace", "")
    if source_namespace:
        check_label(reader.at("sourceNamespace"), source_namespace)
    found = HttpMatch(
        match=match.read(reader),
        port=reader.integer("port", 0, low=0, high=65_535),
        source_labels=read_labels(reader, "sourceLabels"),
        source_namespace=source_namespace,
        gateways=bound,
    )
    reader.raw("name")  # a label for logs; the rule's name serves
    reader.leave("statPrefix", "the route has no statistics of its own")
    reader.done()
    warn_unbound(reader, bound, gateways)
    return found


def _read_destinations(reader: Reader) -> tuple[RouteDestination, ...]:
    """Return the destinations that get traffic. One alone gets all; of several, those with weight 0 get none."""
    items = reader.objects("route")
    found = [_read_route_destination(item) for item in items]
    if len(found) == 1:
        only = found[0]
        if items[0].has("weight") and not only.weight:
            items[0].warn("weight", "has no effect: a destination alone gets every request")
        return (RouteDestination(only.destination, 100, only.headers),)
    total = sum(d.weight for d in found)
    if found and not total:
        raise reader.fail(
            "route", "has several destinations, and their weights add up to 0; give them weights"
        )
    if total > _MAX_TOTAL_WEIGHT:
        raise reader.fail("route", f"has weights that add up to {total}, at most {_MAX_TOTAL_WEIGHT} will do")
    for item in items:
        if not item.has("weight"):
            item.warn("weight", "is absent, which is 0 beside other destinations: it gets no requests")
    return tuple(d for d in found if d.weight)


def _read_route_destination(reader: Reader) -> RouteDestination:
    destination = reader.object("destination")
    if destination is None:
        raise reader.fail("destination", "is required")
    found = RouteDestination(
        _read_destination(destination),
        reader.integer("weight", 0, low=0, high=MAX_WEIGHT),
        headers.read(reader),
    )
    reader.done()
    return found


def _read_destination(reader: Reader) -> Destination:
    host = check_host(reader.at("host"), reader.text("host"))
    subset = reader.text("subset", "")
    if subset:
        check_subset(reader.at("subset"), subset)
    port = reader.object("port")
    reader.done()
    return Destination(host, subset, 0 if port is None else _read_port(port))


def _read_port(reader: Reader) -> int:
    number = reader.integer("number", low=1, high=65_535)
    reader.done()
    return number


# -- DestinationRule -------------------------------------------------------------------------


def read_destination_rule(spec: Reader, meta: Meta) -> DestinationRule:
    """Return a DestinationRule; raise ConfigError for the first field that is wrong."""
    spec.refuse("workloadSelector", "the rule would hold for every client of its namespace")
    host = spec.text("host")
    rule = DestinationRule(
        meta=meta,
        host=host if host == "*" else check_host(spec.at("host"), host),
        policy=_read_policy(spec),
        subsets=_read_subsets(spec),
        export_to=read_export_to(spec),
    )
    spec.done()
    return rule


def _read_subsets(spec: Reader) -> tuple[Subset, ...]:
    out: dict[str, Subset] = {}
    for reader in spec.objects("subsets"):
        name = check_subset(reader.at("name"), reader.text("name"))
        if name in out:
            raise reader.fail("name", f"is there twice: {name}")
        out[name] = Subset(name, read_labels(reader, "labels"), _read_policy(reader))
        reader.done()
    return tuple(out.values())


def _read_policy(parent: Reader) -> TrafficPolicy:
    reader = parent.object("trafficPolicy")
    if reader is None:
        return TrafficPolicy()
    ports: dict[int, TrafficPolicy] = {}
    for setting in reader.objects("portLevelSettings"):
        number = _read_port_number(setting)
        if number in ports:
            raise setting.fail("port", f"is there twice: {number}")
        ports[number] = _read_settings(setting)
        setting.done()
    settings = _read_settings(reader)
    reader.refuse("tunnel", "connections would not go through the tunnel")
    reader.refuse("proxyProtocol", "the server would wait for a header that does not come")
    budget = retry_budget.read(reader)
    reader.done()
    if budget is not None:
        # Settings of a port replace the host's, but Istio's have no budget: the host's goes on holding.
        ports = {number: _with(policy, budget) for number, policy in ports.items()}
        settings = _with(settings, budget)
    return TrafficPolicy(settings.tls, settings.features, tuple(sorted(ports.items())))


def _with(policy: TrafficPolicy, feature: ClusterFeature) -> TrafficPolicy:
    return replace(policy, features=(*policy.features, feature))


def _read_port_number(setting: Reader) -> int:
    port = setting.object("port")
    if port is None:
        raise setting.fail("port", "is required")
    return _read_port(port)


def _read_settings(reader: Reader) -> TrafficPolicy:
    found = (load_balancer.read(reader), connection_pool.read(reader), outlier.read(reader))
    return TrafficPolicy(tls.read(reader), tuple(f for f in found if f is not None))
