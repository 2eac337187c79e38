"""Why a request fails, or goes another way than its sender may expect: one cause for each, in words that name objects.

It owns the tests for the mistakes that people make; it must never find a cause for what works as written.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from msgspec import structs

from xds import ir
from xds.api.core import Labels, Service, selects
from xds.api.istio_traffic import VirtualService
from xds.compile.clusters import exported, shapes
from xds.compile.hosts import sees
from xds.compile.lens import Lens
from xds.explain import answer
from xds.explain.answer import Cause, Considered, Route, Target
from xds.explain.facts import Caller, Facts
from xds.explain.match import Request, failing
from xds.explain.target import ANSWERED, Address
from xds.explain.way import Way
from xds.explain.words import Behaviour
from xds.hosts import Name, service_of, visible


def no_host(facts: Facts, caller: Caller, way: Way, port: int) -> Cause:
    """Return why no virtual host answers to a Host."""
    lens, client = facts.lens, caller.client
    name = service_of(way.host)
    service = lens.service(name) if name else None
    if service is None:
        return _unknown(facts, caller, way.host)
    subject = f"Service {service.meta.namespace}/{service.meta.name}"
    if not visible(service.export_to, service.meta.namespace, caller.namespace):
        listed = ", ".join(service.export_to)
        text = f"{subject} is hidden from namespace {caller.namespace}: its exportTo is {listed}"
        return Cause("not-exported", text, "404")
    if not sees(lens, client, service.meta.namespace, way.host):
        who = caller.shown.workload or caller.namespace
        text = f"Sidecar {client.sidecar} hides {way.host} from {who}: add it to spec.egress[].hosts"
        return Cause("not-imported", text, "404")
    numbers = [found.port for found in service.ports]
    found = next((one for one in service.ports if one.port == (port or 80)), None)
    if found is not None and not found.protocol.is_http:
        named = f"named {found.name}" if found.name else "without a name"
        text = (
            f"{subject} port {found.port} is {named} and has no appProtocol, so it is bytes and no Host is read: "
            "name it http, or set appProtocol: http"
        )
        return Cause("not-http", text, "404")
    listed = ", ".join(map(str, numbers)) or "none"
    return Cause("no-port", f"{subject} has no port {port or 80}; it has {listed}", "404")


def _unknown(facts: Facts, caller: Caller, host: str) -> Cause:
    bare = host.partition(".")[0]
    elsewhere = sorted(
        name for name in facts.world.services() if name[1] == bare and name[0] != caller.namespace
    )
    if "." not in host.removesuffix(f".{caller.namespace}.svc.cluster.local") and elsewhere:
        text = f"{bare} means Service {caller.namespace}/{bare}, which does not exist; {_call(elsewhere[0])}"
        return Cause("other-namespace", text, "404")
    known = [f"{name}.{namespace}" for namespace, name in facts.world.services()]
    near = difflib.get_close_matches(host, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Cause(
        "no-host",
        f"no Service and no ServiceEntry that {caller.namespace} sees is called {host}{hint}",
        "404",
    )


def _call(name: Name) -> str:
    return f"Service {name[0]}/{name[1]} is called {name[1]}.{name[0]}"


def unrouted(facts: Facts, caller: Caller, way: Way) -> Iterator[Cause]:
    """Yield the VirtualServices that are written for a host and do not route it for this caller."""
    lens = facts.lens
    owner = service_of(way.host)
    in_force = _holding(way.routes)
    for found in lens.claims(way.host):
        subject = f"VirtualService {found.meta.namespace}/{found.meta.name}"
        if subject == in_force or not found.http:
            continue
        reason = _why_not(lens, caller, way.host, owner[0] if owner else "", found)
        if reason:
            yield Cause("not-routed", f"{subject} does not hold for {way.host}: {reason}")


def _why_not(lens: Lens, caller: Caller, host: str, owner: str, found: VirtualService) -> str:
    namespace = found.meta.namespace
    if owner and namespace not in (caller.namespace, owner, lens.root_namespace):
        return f"the host belongs to namespace {owner}, so rules of {namespace} hold for clients of {namespace} only"
    if not visible(found.export_to, namespace, caller.namespace):
        return f"its exportTo keeps it from namespace {caller.namespace}"
    if not sees(lens, caller.client, namespace, host, found.export_to):
        return f"Sidecar {caller.client.sidecar} does not import {host} from {namespace}"
    if found not in lens.routes(host):
        return "this version of it is refused"
    return "another one goes before it"


def _holding(routes: tuple[ir.Route, ...]) -> str:
    parts = routes[0].name.split("/") if routes else []
    return f"{parts[0]} {parts[1]}/{parts[2]}" if len(parts) >= 4 else ""


def shadowed(
    request: Request, routes: tuple[ir.Route, ...], taken: int, described: list[Route]
) -> Iterator[Cause]:
    """Yield the later rules that would take the request as well, where they ask for more than the one that takes it."""
    chosen = described[taken]
    for position in range(taken + 1, len(routes)):
        match, here = routes[position].match, described[position]
        if match is None or _place(here) == _place(chosen) or failing(match, request):
            continue
        late = f"{here.rule} ({here.match}) never sees this request"
        text = f"{chosen.object} {chosen.rule} ({chosen.match}) comes first: {late}"
        yield Cause("shadowed", text)


def _place(route: Route) -> str:
    return route.rule.partition(".")[0]


def nobody(facts: Facts, cluster: ir.Cluster, labels: Labels, found: list[Address]) -> Cause | None:
    """Return why a cluster has no endpoint that takes requests, None if it has one."""
    subject = f"Service {cluster.namespace}/{cluster.service}"
    service = facts.world.service((cluster.namespace, cluster.service))
    if found:
        states = ", ".join(sorted(one.pod.meta.name if one.pod else one.address for one in found)[:5])
        return Cause("not-ready", f"{subject} has {len(found)} endpoints and none is ready: {states}", "503")
    if service is None:
        return Cause("no-endpoint", f"{cluster.host} has no endpoint", "503")
    if cluster.subset:
        return _empty_subset(facts, service, cluster.subset, labels)
    return _empty_service(facts, service, cluster.port)


def _empty_subset(facts: Facts, service: Service, subset: str, labels: Labels) -> Cause | None:
    name = (service.meta.namespace, service.meta.name)
    pods = {one.pod for found in facts.world.slices(name) for one in found.endpoints if one.pod}
    wanted = ", ".join(f"{key}={value}" for key, value in labels)
    keys = {key for key, _ in labels}
    seen = sorted(
        {
            f"{key}={value}"
            for pod in pods
            for key, value in facts.world.backend((name[0], pod)).labels
            if key in keys
        }
    )
    has = f"they have {', '.join(seen)}" if seen else f"they have no label {', '.join(sorted(keys))}"
    subject = f"subset {subset} of Service {name[0]}/{name[1]}"
    text = f"{subject} selects {wanted}, which none of its {len(pods)} Pods has: {has}"
    return Cause("empty-subset", text, "503")


def _empty_service(facts: Facts, service: Service, port: int) -> Cause:
    namespace = service.meta.namespace
    subject = f"Service {namespace}/{service.meta.name}"
    wanted = ", ".join(f"{key}={value}" for key, value in service.selector)
    pods = [pod for name in facts.world.pods() if name[0] == namespace and (pod := facts.world.pod(name))]
    chosen = [pod for pod in pods if service.selector and selects(service.selector, pod.meta.labels)]
    if service.selector and not chosen:
        return Cause("no-endpoint", f"{subject} selects {wanted}, and no Pod of {namespace} has that", "503")
    target = next((found.target for found in service.ports if found.port == port), "")
    if chosen and isinstance(target, str) and target:
        text = f"{subject} port {port} targets {target}, and no container of its Pods has a port of that name"
        return Cause("no-endpoint", text, "503")
    return Cause("no-endpoint", f"{subject} has no endpoint", "503")


def of_targets(targets: Iterable[Target], *, is_meshed: bool) -> Iterator[Cause]:
    """Yield what the two ends of a hop make of each other, and what policies say of what arrives."""
    for target in targets:
        if target.tls.result:
            ends = ", ".join(f"{end.mode} by {end.why}" for end in target.tls.server)
            client = f"{target.tls.client.mode} by {target.tls.client.why}"
            text = f"{target.tls.result}; client: {client}; server: {ends}"
            status = "503" if is_meshed else "closed"
            yield Cause("tls", text, "403" if ANSWERED in target.tls.result else status, target.percent)
        elif target.authorization.verdict == "deny":
            found = target.authorization
            yield Cause("denied", found.reason, found.status, target.percent)
        elif target.authorization.verdict == "depends":
            yield Cause("depends", target.authorization.reason, percent=target.percent)


def merged(found: Iterable[Cause]) -> list[Cause]:
    """Return the causes, each once with the sum of its shares, those that stop the request first."""
    shares: dict[Cause, float] = {}
    for one in found:
        plain = structs.replace(one, percent=0.0)
        shares[plain] = shares.get(plain, 0.0) + one.percent
    summed = [structs.replace(one, percent=round(min(share, 100.0), 3)) for one, share in shares.items()]
    return sorted(summed, key=lambda one: not one.status)


def nothing_matches(considered: Iterable[Considered]) -> Cause:
    """Return the cause of a request that no rule takes."""
    listed = "; ".join(f"{one.object} {one.rule}: {one.reason}" for one in considered)
    return Cause("no-route", f"no rule takes the request: {listed}", "404")


def hidden_cluster(facts: Facts, caller: Caller, name: str, host: str) -> Cause:
    """Return why a route's cluster does not exist for a caller."""
    service = service_of(host)
    found = facts.world.service(service) if service else None
    if service and found:
        seen = exported(found, shapes(facts.lens, service, {}))
        if caller.namespace not in seen and "" not in seen:
            text = f"Service {service[0]}/{service[1]} is hidden from namespace {caller.namespace} by its exportTo"
            return Cause("not-exported", text, "503")
        return Cause(
            "no-cluster", f"{name}: Service {service[0]}/{service[1]} has no such port or subset", "503"
        )
    return Cause("no-cluster", f"{name}: nothing that {caller.namespace} sees is called {host}", "503")


def of_behaviour(route: answer.Route | None, known: Behaviour) -> Iterator[Cause]:
    """Yield faults that are injected on purpose, and retries that no time is left for."""
    fault, tries = known.fault, known.retries
    place = f"{route.object} {route.rule}" if route else ""
    by = fault.object if fault else ""
    if fault is not None and fault.abort_percent:
        text = f"{by} aborts {fault.abort_percent:g} % of the requests on purpose, with {fault.abort}"
        status = fault.abort if fault.abort.isdecimal() else "200"
        yield Cause("fault", text, status if fault.abort_percent >= 100 else "")
    if fault is not None and fault.delay_percent:
        text = f"{by} delays {fault.delay_percent:g} % of the requests by {fault.delay_ms:g} ms on purpose"
        yield Cause("fault", f"{text}, before any timeout counts")
    if tries is not None and known.timeout_ms and known.timeout_ms <= tries.per_try_timeout_ms:
        text = (
            f"{place}: perTryTimeout {tries.per_try_timeout_ms:g} ms leaves no time for a retry within timeout "
            f"{known.timeout_ms:g} ms: a slow answer is 504 after the first attempt"
        )
        yield Cause("no-time-to-retry", text)
