"""What each unit of compilation read, and which units read a topic.

It owns both directions of that relation and keeps them equal; it must never know what a topic or a unit means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from xds.tables import Unit
from xds.world import Topic

_NONE: frozenset[Topic] = frozenset()


class Reads:
    """The units that exist, each with the topics that it read when it last ran."""

    def __init__(self) -> None:
        self._topics: dict[Unit, frozenset[Topic]] = {}
        self._units: defaultdict[Topic, set[Unit]] = defaultdict(set)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self._topics)

    def __iter__(self) -> Iterator[Unit]:
        """Yield every unit."""
        return iter(self._topics)

    def __contains__(self, unit: Unit) -> bool:
        return unit in self._topics

    def start(self, unit: Unit) -> bool:
        """Add a unit that has read nothing yet; return False if it is there already."""
        if unit in self._topics:
            return False
        self._topics[unit] = _NONE
        return True

    def stop(self, unit: Unit) -> None:
        """Remove a unit and all that it read."""
        self.remember(unit, _NONE)
        del self._topics[unit]

    def topics(self, unit: Unit) -> frozenset[Topic]:
        """Return what a unit read."""
        return self._topics[unit]

    def remember(self, unit: Unit, topics: frozenset[Topic]) -> None:
        """Replace what a unit read."""
        before = self._topics[unit]
        if topics == before:
            return
        for topic in topics - before:
            self._units[topic].add(unit)
        for topic in before - topics:
            units = self._units[topic]
            units.discard(unit)
            if not units:
                del self._units[topic]
        self._topics[unit] = topics

    def of(self, topics: Iterable[Topic]) -> set[Unit]:
        """Return the units that read one of these topics."""
        return {unit for topic in topics for unit in self._units.get(topic, ())}
