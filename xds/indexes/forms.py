"""The forms that Pods have: what policies look at in a Pod, each form counted once for all of its replicas.

It owns the count; it must never know which policy asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from xds.api.core import Labels, Pod

PodForm = tuple[Labels, tuple[int, ...]]
"""A Pod's labels and its container ports."""


class PodForms:
    """The forms of each namespace; a rollout adds one form, however many replicas it has."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[PodForm]] = defaultdict(Counter)

    def of(self, namespace: str) -> Iterable[PodForm]:
        """Return the forms that the Pods of a namespace have, each once."""
        return self._counts[namespace].keys() if namespace in self._counts else ()

    def count(self, namespace: str, old: object, new: object) -> bool:
        """Take one change of a Pod; tell whether a form came first or went last."""
        left, come = _form(old), _form(new)
        if left == come:
            return False
        counts = self._counts[namespace]
        known = len(counts)
        if come is not None:
            counts[come] += 1
        is_new = len(counts) != known
        if left is None:
            return is_new
        counts[left] -= 1
        if counts[left]:
            return is_new
        del counts[left]
        return True


def _form(pod: object) -> PodForm | None:
    return (pod.meta.labels, tuple(port.port for port in pod.ports)) if isinstance(pod, Pod) else None
