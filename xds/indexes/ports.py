"""What port numbers speak, over all Services: a sidecar must know it from the number before it has read a byte.

It owns the count of who uses a number for what; it must never know who calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from xds.api.core import Service
from xds.hosts import Name
from xds.topics import Topic

Addresses = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PortUse:
    """What a port number speaks, where it is HTTP for somebody.

    ``services`` tells it of cluster IPs, but for the ``exceptions`` among them; ``pods`` of Pods' own addresses.
    """

    port: int
    services: bool
    pods: bool
    exceptions: Addresses = ()


class Ports:
    """The uses of each port number by Services, and by the Pods behind them."""

    def __init__(self) -> None:
        self._services: dict[tuple[int, bool], dict[Name, Addresses]] = {}
        self._pods: dict[tuple[int, bool], set[Name]] = {}
        self._uses: dict[int, PortUse] = {}

    def uses(self) -> tuple[PortUse, ...]:
        """Return every number that is HTTP for somebody, in order."""
        return tuple(self._uses[port] for port in sorted(self._uses))

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of a Service; return the topic if that changes what some number speaks."""
        numbers = self._count(name, old, is_there=False) | self._count(name, new, is_there=True)
        touched: set[Topic] = set()
        for port in numbers:
            before, after = self._uses.get(port), self._use(port)
            if before == after:
                continue
            touched.add(("ports",))
            if after is None:
                del self._uses[port]
            else:
                self._uses[port] = after
        return touched

    def _count(self, name: Name, service: object, *, is_there: bool) -> set[int]:
        if not isinstance(service, Service):
            return set()
        numbers: set[int] = set()
        for port in service.ports:
            is_http = port.protocol.is_http
            # A headless Service has no address of its own: its ports are dialled on the Pods.
            on_pods = {port.port} if service.headless else set[int]()
            if not service.headless:
                numbers.add(port.port)
                services = self._services.setdefault((port.port, is_http), {})
                if is_there:
                    services[name] = service.cluster_ips
                else:
                    services.pop(name, None)
            target = port.target or port.port
            on_pods |= {target} if isinstance(target, int) else set()
            for number in on_pods:
                pods = self._pods.setdefault((number, is_http), set())
                (pods.add if is_there else pods.discard)(name)
            numbers |= on_pods
        return numbers

    def _use(self, port: int) -> PortUse | None:
        """Return what a number speaks: for cluster IPs what most Services say, for Pods HTTP if all agree.

        Bytes are always right, if poorer: so they are the answer in doubt.
        """
        http, tcp = self._services.get((port, True)) or {}, self._services.get((port, False)) or {}
        pods = bool(self._pods.get((port, True))) and not self._pods.get((port, False))
        if not http and not pods:
            return None
        services = len(http) > len(tcp)
        fewer = tcp if services else http
        return PortUse(port, services, pods, tuple(sorted({ip for ips in fewer.values() for ip in ips})))
