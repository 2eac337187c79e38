"""Who stands behind each Service: its slices, the Pods in them, and the accounts that those can prove.

It owns the indexes between slices and Pods; it must never decide what a Pod means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xds.api.core import EndpointSlice, Key
from xds.backend import Backend
from xds.hosts import Name
from xds.slices import moved
from xds.topics import Topic


@dataclass(slots=True)
class _Slices:
    """The slices of one Service and who stands behind them."""

    slices: dict[str, EndpointSlice] = field(default_factory=dict[str, EndpointSlice])
    accounts: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])


_Standing = tuple[Name, ...]
"""The Services in whose slices a Pod stands, each as often as it does; nearly always one, and once."""


class Members:
    """The slices of every Service; ``backend`` tells what a Pod means at the time of the call."""

    def __init__(self, backend: Callable[[Name], Backend]) -> None:
        self._backend = backend
        self._slices: dict[Name, _Slices] = {}
        self._standing: dict[Name, _Standing] = {}

    def slices(self, service: Name) -> list[EndpointSlice]:
        """Return a Service's slices, sorted by name."""
        held = self._slices.get(service)
        return [held.slices[name] for name in sorted(held.slices)] if held else []

    def accounts(self, service: Name) -> tuple[str, ...]:
        """Return the service accounts (``ns/name``) of the Pods behind a Service, sorted."""
        held = self._slices.get(service)
        return tuple(sorted(frozenset[str]().union(*held.accounts.values()))) if held else ()

    def services(self, pod: Name) -> list[Name]:
        """Return the Services in whose slices a Pod stands, sorted."""
        return sorted(set(self._standing.get(pod, ())))

    def take(self, key: Key, old: object, new: object) -> set[Topic]:
        """Take one change of a slice; return the topics it touches."""
        before = old if isinstance(old, EndpointSlice) else None
        after = new if isinstance(new, EndpointSlice) else None
        touched: set[Topic] = set()
        if before is not None and (after is None or after.service != before.service):
            touched |= self._put((key.namespace, before.service), key.name, None)
        if after is not None:
            touched |= self._put((key.namespace, after.service), key.name, after)
        return touched

    def touch(self, pod: Name) -> set[Topic]:
        """Return the topics of the Services that a Pod stands behind whose meaning has changed."""
        touched: set[Topic] = set()
        for service in set(self._standing.get(pod, ())):
            touched.add(("endpoints", *service))
            held = self._slices[service]
            accounts = {
                name: self._accounts(service[0], {e.pod for e in found.endpoints if e.pod})
                for name, found in held.slices.items()
            }
            if accounts != held.accounts:
                held.accounts = accounts
                touched.add(("accounts", *service))
        return touched

    def _put(self, service: Name, name: str, new: EndpointSlice | None) -> set[Topic]:
        held = self._slices.setdefault(service, _Slices())
        old = held.slices.get(name)
        before = held.accounts.get(name, frozenset())
        came, gone = moved(old.endpoints if old else (), new.endpoints if new else ())
        if new is None:
            held.slices.pop(name, None)
            held.accounts.pop(name, None)
        else:
            held.slices[name] = new
            held.accounts[name] = self._accounts_after(service[0], before, came, gone, new)
        alone = (service,)  # the one tuple that replicas share
        for pod in came:
            stood = self._standing.get((service[0], pod))
            self._standing[service[0], pod] = alone if stood is None else (*stood, service)
        for pod in gone:
            self._forget(service, pod)
        touched: set[Topic] = {("endpoints", *service)}
        if held.accounts.get(name, frozenset()) != before:
            touched.add(("accounts", *service))
        if not held.slices:
            del self._slices[service]
        return touched

    def _forget(self, service: Name, pod: str) -> None:
        """Another slice of the same service may still hold the pod while it moves between slices."""
        stood = self._standing[service[0], pod]
        if len(stood) == 1:
            del self._standing[service[0], pod]
        else:
            first = stood.index(service)
            self._standing[service[0], pod] = (*stood[:first], *stood[first + 1 :])

    def _accounts_after(
        self, namespace: str, before: frozenset[str], came: list[str], gone: list[str], new: EndpointSlice
    ) -> frozenset[str]:
        """Return who runs behind a slice; looks at no other Pod than it must to know that an account is still there."""
        came_with, left_with = self._accounts(namespace, came), self._accounts(namespace, gone)
        if came_with <= before and left_with <= came_with:
            return before
        stay = {account for account in left_with - came_with if self._runs(namespace, account, new)}
        return (before - left_with) | came_with | stay

    def _runs(self, namespace: str, account: str, found: EndpointSlice) -> bool:
        """Tell whether a Pod in a slice can prove an account; nearly always the first one can."""
        return any(account in self._accounts(namespace, (e.pod,)) for e in found.endpoints if e.pod)

    def _accounts(self, namespace: str, pods: Iterable[str]) -> frozenset[str]:
        """Return the accounts of those Pods that can prove one: without a sidecar nobody shows a certificate."""
        found = [self._backend((namespace, name)) for name in pods]
        return frozenset([f"{namespace}/{backend.service_account}" for backend in found if backend.is_meshed])
