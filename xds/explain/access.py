"""What the destination's sidecar says to a request that has arrived there: its listener, and its policies' verdict.

It owns the evaluation of the inbound side; it must never read a policy as a user wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from xds import ir
from xds.access import Access
from xds.api.core import Pod
from xds.compile.lens import Lens
from xds.compile.providers import provider_cluster
from xds.compile.sidecar import sidecar
from xds.compile.transparent import transparent
from xds.explain.answer import Authorization
from xds.explain.conditions import Arrival
from xds.explain.facts import Caller, Facts
from xds.explain.match import Request, without_query
from xds.explain.paths import written
from xds.explain.target import Address, addresses, healthy_of
from xds.explain.verdict import decide

NOBODY = Authorization("none", "", "no endpoint takes the request")
NO_SIDECAR = Authorization("allow", "", "no sidecar of the mesh stands in front of it")
PROBE = Authorization("allow", "", "it is a declared probe in plaintext, which no policy stops")
_ORDER = ("deny", "depends", "allow")
NO_POLICY = Authorization("allow", "", "no policy holds for it")


def authorize(
    facts: Facts, caller: Caller, cluster: ir.Cluster, found: Sequence[Address], request: Request
) -> tuple[str, Authorization]:
    """Return the listener that takes the request at its destination, and what it decides.

    Of several endpoints whose policies differ, a refusal goes before the others.
    """
    verdicts = [
        (node.name, _decide(facts, caller, cluster, one, node, request))
        for one, node in _inbound(facts, found)
    ]
    if not verdicts:
        return "", NO_SIDECAR if found else NOBODY
    return min(verdicts, key=lambda pair: _ORDER.index(pair[1].verdict))


def _decide(  # noqa: PLR0913, PLR0917 -- both ends of one hop
    facts: Facts, caller: Caller, cluster: ir.Cluster, one: Address, node: ir.Inbound, request: Request
) -> Authorization:
    if node.access is None:
        return NO_POLICY
    identity = caller.shown.identity if _is_mutual(caller, cluster, one) else ""
    request = replace(request, path=written(request.path, node.paths))
    path = without_query(request.path)
    if not identity and request.method == "GET" and path in node.probes:
        return PROBE
    arrival = Arrival(
        request=request,
        identity=identity,
        ip=caller.pod.ip if caller.pod else "",
        address=one.address,
        port=one.port,
        sni=cluster.tls.sni if identity and isinstance(cluster.tls, ir.AutoMtls | ir.Mtls) else "",
        healthy=_healthy(facts, node.access, node.workload.namespace),
    )
    if node.protocol.is_http:
        return decide(node.access, arrival, facts.now_s)
    verdict = decide(node.access.on_bytes(), arrival, facts.now_s)
    return structs.replace(verdict, status="closed") if verdict.status else verdict


def _healthy(facts: Facts, access: Access, namespace: str) -> dict[str, int]:
    """Return how many endpoints those have who may be asked about a request, by their cluster."""
    found: dict[str, int] = {}
    for asked in access.asked:
        cluster = provider_cluster(facts.lens, asked.provider, namespace)
        found[asked.cluster] = len(healthy_of(addresses(facts, cluster, ()))) if cluster else 0
    return found


def _is_mutual(caller: Caller, cluster: ir.Cluster, one: Address) -> bool:
    """Tell whether the hop is mutual TLS, so that the caller has an identity there."""
    if not caller.shown.is_meshed or not one.takes_mtls:
        return False
    return isinstance(cluster.tls, ir.AutoMtls | ir.Mtls)


def _inbound(facts: Facts, found: Iterable[Address]) -> Iterator[tuple[Address, ir.Inbound]]:
    """Yield what stands in front of each address, for those that have a sidecar."""
    lens = facts.lens
    for one in found:
        if one.pod is not None and one.backend is not None and one.backend.is_meshed:
            yield from ((one, node) for node in _ports(facts, lens, one.pod, one.port))


def _ports(facts: Facts, lens: Lens, pod: Pod, number: int) -> Iterator[ir.Inbound]:
    name = (pod.meta.namespace, pod.meta.name)
    is_intercepted = pod.is_redirected or facts.is_intercepted(name)
    found = (transparent if is_intercepted else sidecar)(lens, name)
    for listener in found.listeners if found else ():
        match listener:
            case ir.Intercepted(_, _, ports, others):
                yield next((port for port in ports if port.port == number), others)
            case ir.Inbound() if listener.port == number:
                yield listener
            case _:
                pass
