"""One destination of a route: its endpoints, and whether both ends of the hop speak the same.

It owns the count of endpoints and the meeting of the two TLS ends; it must never say why a policy holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from xds import ir
from xds.api.core import Labels, Pod, ServicePort, selects
from xds.api.istio_security import MtlsMode
from xds.backend import Backend
from xds.explain.answer import Endpoints, Tls, TlsEnd
from xds.explain.facts import Caller, Facts
from xds.explain.provenance import client_mode, server_mode
from xds.hosts import Name

ANSWERED = "answered 403"
"""What a STRICT port does with plaintext where it lets probes in."""

NO_SIDECAR = "no sidecar"
"""The mode of an end that has none: plaintext, and no rule of the mesh holds there."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address behind a cluster, and who is there."""

    address: str
    port: int
    is_ready: bool
    is_draining: bool
    zone: str
    pod: Pod | None
    backend: Backend | None
    takes_mtls: bool


def addresses(facts: Facts, cluster: ir.Cluster, labels: Labels) -> list[Address]:
    """Return every address that a cluster could have, ready or not; ``labels`` are those of its subset."""
    if cluster.discovery is not ir.Discovery.EDS:
        return [_listed(facts, found) for found in cluster.endpoints]
    service = (cluster.namespace, cluster.service)
    known = facts.world.service(service)
    port = next((found for found in known.ports if found.port == cluster.port), None) if known else None
    if port is None:
        return []
    found = {(one.address, one.port): one for one in _sliced(facts, service, port, labels)}
    return list(found.values())


def counted(found: list[Address]) -> Endpoints:
    """Return how many there are of each state. Where none is ready, those that still serve on their way out count."""
    healthy = healthy_of(found)
    draining = [one for one in found if one.is_draining and one not in healthy]
    zones = Counter(one.zone for one in healthy if one.zone)
    return Endpoints(len(found), len(healthy), len(draining), tuple(sorted(zones.items())))


def healthy_of(found: list[Address]) -> list[Address]:
    """Return the addresses that get requests."""
    ready = [one for one in found if one.is_ready]
    return ready or [one for one in found if one.is_draining]


def meet(facts: Facts, caller: Caller, cluster: ir.Cluster, found: list[Address]) -> Tls:
    """Return what both ends of the hop speak, why, and what comes of it; the result is empty where they agree."""
    client = _client(facts, caller, cluster)
    ends: Counter[tuple[str, str]] = Counter()
    problems: dict[str, None] = {}
    for one in healthy_of(found):
        mode, why = _server(facts, one)
        ends[mode, why] += 1
        problem = _conflict(caller, cluster, one, mode)
        if problem:
            problems[problem] = None
    server = tuple(TlsEnd(mode, why, count) for (mode, why), count in sorted(ends.items()))
    return Tls(client, server, "; ".join(problems))


def _client(facts: Facts, caller: Caller, cluster: ir.Cluster) -> TlsEnd:
    if not caller.shown.is_meshed:
        return TlsEnd(NO_SIDECAR, f"Pod {caller.namespace}/{caller.shown.pod} is outside the mesh")
    match cluster.tls:
        case ir.AutoMtls():
            mode = "mutual TLS where the endpoint takes it"
        case ir.Mtls():
            mode = "mutual TLS"
        case ir.OriginateTls():
            mode = "TLS of the client's own"
        case ir.Plaintext():
            mode = "plaintext"
    return TlsEnd(mode, client_mode(facts, caller, cluster))


def _server(facts: Facts, one: Address) -> tuple[str, str]:
    if one.backend is None or one.pod is None:
        return "unknown", "no Pod of the mesh has this address"
    if not one.backend.is_meshed:
        return NO_SIDECAR, f"Pod {one.pod.meta.namespace}/{one.pod.meta.name} is outside the mesh"
    mode, why = server_mode(facts.world, one.pod, one.port)
    return mode.value, why


def _conflict(caller: Caller, cluster: ir.Cluster, one: Address, server: str) -> str:
    """Return why a connection to one address fails, empty where it does not."""
    is_meshed = server in {mode.value for mode in MtlsMode}
    is_plain = not caller.shown.is_meshed or isinstance(cluster.tls, ir.Plaintext)
    has_probe = one.pod is not None and any(probe.port == one.port for probe in one.pod.probes)
    answer = ANSWERED if has_probe else "closed"
    if is_plain:
        return (
            f"plaintext is {answer}: the port takes mutual TLS only"
            if server == MtlsMode.STRICT.value
            else ""
        )
    match cluster.tls:
        case ir.Mtls() if not one.takes_mtls:
            end = "has no sidecar" if not is_meshed else "takes no TLS (DISABLE)"
            return f"mutual TLS fails: the endpoint {end}"
        case ir.OriginateTls() if server == MtlsMode.STRICT.value:
            return "the client's own TLS is closed: the port takes mutual TLS of the mesh only"
        case ir.AutoMtls(sans=()) | ir.Mtls(sans=()) if one.takes_mtls:
            return "no service account is known behind the Service, so that no certificate is believed"
        case _:
            return ""


def _sliced(facts: Facts, service: Name, port: ServicePort, labels: Labels) -> Iterator[Address]:
    for one in facts.world.slices(service):
        number = next((found.port for found in one.ports if found.name == port.name), None)
        if number is None:
            continue
        for found in one.endpoints:
            name = (one.meta.namespace, found.pod)
            backend = facts.world.backend(name)
            if labels and not selects(labels, backend.labels):
                continue
            pod = facts.world.pod(name)
            yield Address(
                found.address,
                number,
                is_ready=found.ready,
                is_draining=not found.ready and found.serving,
                zone=found.zone or backend.zone,
                pod=pod,
                backend=backend if pod else None,
                takes_mtls=backend.takes_mtls(number),
            )


def _listed(facts: Facts, found: ir.Endpoint) -> Address:
    owner = facts.world.by_address(found.address)
    pod = owner if isinstance(owner, Pod) else None
    backend = facts.world.backend((pod.meta.namespace, pod.meta.name)) if pod else None
    return Address(
        found.address,
        found.port,
        is_ready=not found.draining,
        is_draining=found.draining,
        zone=found.zone,
        pod=pod,
        backend=backend,
        takes_mtls=found.mtls,
    )
