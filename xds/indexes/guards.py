"""Who may come in: the security policies of each namespace, and which of them hold for a Pod.

It owns their index and the rule of their scope; it must never decide about a request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from xds.api.core import Key, Labels, selects
from xds.api.istio_authorization import AuthorizationPolicy
from xds.api.istio_jwt import RequestAuthentication
from xds.api.targets import SERVICE
from xds.topics import Topic

Guard = AuthorizationPolicy | RequestAuthentication


class Guards:
    """All AuthorizationPolicies and RequestAuthentications, by namespace."""

    def __init__(self) -> None:
        self._in: defaultdict[str, dict[tuple[str, str], Guard]] = defaultdict(dict)

    def of(self, namespace: str) -> tuple[Guard, ...]:
        """Return the policies of a namespace, sorted by kind and name."""
        held = self._in.get(namespace, {})
        return tuple(held[key] for key in sorted(held))

    def take(self, key: Key, old: object, new: object) -> set[Topic]:
        """Take one change of a policy; return the topic that it touches."""
        del old
        held = self._in[key.namespace]
        if isinstance(new, AuthorizationPolicy | RequestAuthentication):
            held[key.kind, key.name] = new
        else:
            held.pop((key.kind, key.name), None)
            if not held:
                del self._in[key.namespace]
        return {("guards", key.namespace)}


def holds(guard: Guard, labels: Labels, services: Iterable[str]) -> bool:
    """Tell whether a policy holds for a Pod with these labels, which these Services of the policy's namespace select.

    One that is attached to what no sidecar stands before holds for nobody.
    """
    if guard.targets:
        wanted = {target.name for target in guard.targets if target.kind == SERVICE}
        return not wanted.isdisjoint(services)
    return selects(guard.selector, labels)
