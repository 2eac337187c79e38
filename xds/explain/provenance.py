"""Which object says so: the rule of a route, the DestinationRule and the PeerAuthentication of a hop.

It owns the way from a value in force back to the object that set it; it must never decide what is in force.
"""

from __future__ import annotations

from collections.abc import Iterator

from xds import ir
from xds.api.core import Labels, Pod, selects
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.api.istio_traffic import DestinationRule, HttpMatch, TrafficPolicy, VirtualService
from xds.compile.clusters import NO_POLICY, Shape
from xds.compile.hosts import Client, applies, shape_seen
from xds.compile.lens import Lens
from xds.explain.answer import Considered, Route
from xds.explain.facts import Caller, Facts
from xds.explain.match import described
from xds.hosts import service_of
from xds.resources import names
from xds.world import World

DEFAULT = "the default"


def virtual_service_of(lens: Lens, host: str, route: str) -> VirtualService | None:
    """Return the VirtualService in force whose rule a route of a host comes from, None for another kind of route."""
    found = names.parse_route(route)
    if found is None or found.kind != "VirtualService":
        return None
    candidates = (one for level in (lens.routes(host), *lens.wildcard_routes(host)) for one in level)
    wanted = (found.namespace, found.name)
    return next((one for one in candidates if (one.meta.namespace, one.meta.name) == wanted), None)


def places(rule: VirtualService, client: Client, port: int) -> list[str]:
    """Return the place of each route that a VirtualService gives a class of clients on a port, in their order."""
    return [path for path, match in _matches(rule) if applies(match, port, client)]


def described_routes(
    facts: Facts, caller: Caller, host: str, port: int, routes: tuple[ir.Route, ...]
) -> list[Route]:
    """Return every route of a host with its object and its place in it."""
    lens = facts.lens
    rule = virtual_service_of(lens, host, routes[0].name) if routes else None
    known = places(rule, caller.client, port) if rule else []
    out: list[Route] = []
    for position, found in enumerate(routes):
        said = names.parse_route(found.name)
        subject = f"{said.kind} {said.namespace}/{said.name}" if said else ""
        path = known[position] if len(known) == len(routes) else ""
        shown = path or (f"port {port}" if said else "")
        out.append(Route(found.name, subject, shown, "", described(found.match)))
    return out


def injected_by(facts: Facts, host: str, route: Route | None) -> str:
    """Return what injects the fault of a route: the Fault in force for the Service, else the rule itself."""
    service = service_of(host)
    found = next(iter(facts.lens.faults(service)), None) if service else None
    if found is not None:
        return f"Fault {found.meta.namespace}/{found.meta.name}"
    return f"{route.object} {route.rule}" if route else ""


def left_out(facts: Facts, caller: Caller, host: str, port: int, route: str) -> Iterator[Considered]:
    """Yield the rules of the VirtualService in force that the compiler left out for this caller and port."""
    rule = virtual_service_of(facts.lens, host, route)
    if rule is None:
        return
    subject = f"VirtualService {rule.meta.namespace}/{rule.meta.name}"
    for path, match in _matches(rule):
        if not applies(match, port, caller.client):
            yield Considered(subject, path, "", _why_left_out(match, port, caller))


def _why_left_out(match: HttpMatch, port: int, caller: Caller) -> str:
    if match.port and match.port != port:
        return f"is for port {match.port}, the request is for {port}"
    if match.source_namespace and match.source_namespace != caller.namespace:
        return f"is for clients of namespace {match.source_namespace}"
    if match.gateways and "mesh" not in match.gateways:
        return "is for gateways"
    wanted = ", ".join(f"{key}={value}" for key, value in match.source_labels)
    return f"is for clients with the labels {wanted}"


def _matches(rule: VirtualService) -> Iterator[tuple[str, HttpMatch]]:
    for http in rule.http:
        if not http.matches:
            yield http.path, HttpMatch(match=None)
        for index, match in enumerate(http.matches):
            yield f"{http.path}.match[{index}]", match


# -- the client's end ------------------------------------------------------------------------------


def client_mode(facts: Facts, caller: Caller, cluster: ir.Cluster) -> str:
    """Return what says how a client opens the connection: the DestinationRule with its field, or the default."""
    if not facts.world.has_keys:
        return "the control plane runs without keys (--insecure)"
    host = cluster.host
    shape = shape_seen(facts.lens, host, caller.namespace)
    if shape is None:
        return DEFAULT
    found = _tls_field(shape, cluster.subset, cluster.port)
    if found is None:
        return DEFAULT
    subject = _rule_with(facts.lens, host, shape, *found)
    return f"{subject} {found[1]}"


def subset_labels(facts: Facts, caller: Caller, cluster: ir.Cluster) -> Labels:
    """Return the labels of a cluster's subset, none for the host itself."""
    shape = shape_seen(facts.lens, cluster.host, caller.namespace)
    subsets = shape.subsets if shape else ()
    return next((one.labels for one in subsets if one.name == cluster.subset), ())


def rules_of(facts: Facts, caller: Caller, cluster: ir.Cluster) -> tuple[str, ...]:
    """Return the DestinationRules by which a caller's namespace sees a host."""
    shape = shape_seen(facts.lens, cluster.host, caller.namespace) if caller.shown.is_meshed else None
    return shape.rules if shape else ()


def _tls_field(shape: Shape, name: str, port: int) -> tuple[TrafficPolicy, str] | None:
    """Return the policy whose `tls` holds and where it stands; in the order of `compile.clusters.policy_of`."""
    subset = next((one for one in shape.subsets if one.name == name), None)
    for_port = dict(subset.policy.ports).get(port) if subset else None
    if for_port is not None:
        path = f"subsets[{name}].trafficPolicy.portLevelSettings[{port}].tls"
        return (for_port, path) if for_port.tls else None
    if subset is not None and subset.policy.tls:
        return subset.policy, f"subsets[{name}].trafficPolicy.tls"
    own = dict(shape.policy.ports).get(port)
    if own is not None:
        return (own, f"trafficPolicy.portLevelSettings[{port}].tls") if own.tls else None
    return (shape.policy, "trafficPolicy.tls") if shape.policy.tls else None


def _rule_with(lens: Lens, host: str, shape: Shape, policy: TrafficPolicy, path: str) -> str:
    """Return which of the rules of a shape holds a policy."""
    del path
    for rule in lens.rules(host):
        subject = f"DestinationRule {rule.meta.namespace}/{rule.meta.name}"
        if subject in shape.rules and policy in _policies(rule):
            return subject
    return " and ".join(shape.rules)


def _policies(rule: DestinationRule) -> Iterator[TrafficPolicy]:
    for policy in (rule.policy, *(subset.policy for subset in rule.subsets)):
        if policy != NO_POLICY:
            yield policy
            yield from (found for _, found in policy.ports)


# -- the server's end ------------------------------------------------------------------------------


def server_mode(world: World, pod: Pod, port: int) -> tuple[MtlsMode, str]:
    """Return the mode of a Pod's port as `Backend.mode_of` has it, and the PeerAuthentication that says so."""
    namespace = pod.meta.namespace
    mode = world.backend((namespace, pod.meta.name)).mode_of(port)
    if not world.has_keys:
        return mode, "the control plane runs without keys (--insecure)"
    root = world.settings.root_namespace
    own = world.policies(namespace)
    chosen = next((one for one in own if one.selector and selects(one.selector, pod.meta.labels)), None)
    if chosen is not None:
        for_port = dict(chosen.ports)
        if for_port.get(port) is not None:
            return mode, f"{_subject(chosen)} portLevelMtls[{port}]"
        if chosen.mode is not None:
            return mode, _subject(chosen)
    said = MtlsMode.PERMISSIVE, DEFAULT
    for scope in dict.fromkeys((root, namespace)):
        wide = next((one for one in world.policies(scope) if not one.selector), None)
        if wide is not None and wide.mode is not None:
            said = wide.mode, _subject(wide)
    # A policy that could never be read closes its scope, and is in no index.
    return mode, said[1] if said[
        0
    ] is mode else "a PeerAuthentication that cannot be read: STRICT until it can"


def _subject(policy: PeerAuthentication) -> str:
    return f"PeerAuthentication {policy.meta.namespace}/{policy.meta.name}"
