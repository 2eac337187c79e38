"""Who sees which hosts: the Sidecar that holds for a Pod, and what it lets through.

It owns the index of Sidecars and the rules of their hosts; it must never know what exists.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from xds.api.core import Labels, selects
from xds.api.istio_sidecar import EgressHost, Sidecar
from xds.hosts import Name, age
from xds.topics import Topic


class Sidecars:
    """All Sidecars, by namespace."""

    KIND: Final = "Sidecar"

    def __init__(self) -> None:
        self._in: defaultdict[str, dict[str, Sidecar]] = defaultdict(dict)

    def get(self, name: Name) -> Sidecar | None:
        """Return one Sidecar."""
        return self._in.get(name[0], {}).get(name[1])

    def of(self, namespace: str) -> list[Sidecar]:
        """Return the Sidecars of a namespace, oldest first."""
        return sorted(self._in.get(namespace, {}).values(), key=age)

    def holding(self, namespace: str, labels: Labels, root: str) -> Sidecar | None:
        """Return the one Sidecar that holds for a Pod, None where none does.

        One that selects the Pod, else its namespace's, else the root namespace's; the oldest of several.
        """
        own = self.of(namespace)
        chosen = next((found for found in own if found.selector and selects(found.selector, labels)), None)
        for candidates in (own, self.of(root)):
            chosen = chosen or next((found for found in candidates if not found.selector), None)
        return chosen

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of a Sidecar; return the topics it touches."""
        del old
        if isinstance(new, Sidecar):
            self._in[name[0]][name[1]] = new
        else:
            self._in[name[0]].pop(name[1], None)
            if not self._in[name[0]]:
                del self._in[name[0]]
        return {("sidecar", *name), ("sidecars", name[0])}


def imports(sidecar: Sidecar | None, client: str, owner: str, host: str) -> bool:
    """Tell whether clients of a namespace under a Sidecar (None: under none) see a host that ``owner`` has."""
    if sidecar is None or sidecar.egress is None:
        return True
    return any(_is_from(wanted, client, owner) and _covers(wanted.host, host) for wanted in sidecar.egress)


def _is_from(wanted: EgressHost, client: str, owner: str) -> bool:
    match wanted.namespace:
        case "*":
            return True
        case ".":
            return owner == client
        case "~":
            return False
        case named:
            return named == owner


def _covers(wanted: str, host: str) -> bool:
    """Tell whether a written host means a host; of two wildcards, or of one, either may be the wider (Istio's rule)."""
    return wanted in {"*", host} or _is_below(wanted, host) or _is_below(host, wanted)


def _is_below(wide: str, host: str) -> bool:
    return wide.startswith("*.") and host.endswith(wide[1:])
