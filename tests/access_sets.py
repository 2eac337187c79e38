"""Sets of policies, each made of the one before in the ways in which people change them.

It owns what is written and what is then in force; it must never look at what anybody answers, nor import what is
tested.
"""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import dataclass, replace
from typing import Final

import yaml

from tests.access_worlds import EXTRAS, Addresses, Document, Policies, World

WORLD: Final = World(0, (), ())
"""The workload that they are for."""

_MOST_POLICIES: Final = 6


@dataclass(frozen=True, slots=True)
class Held:
    """A policy as it is written, and as it is in force: they differ where what is written cannot be read."""

    written: Document
    effective: Document


class Sets:
    """Sets of policies, each made of the one before."""

    def __init__(self, rng: random.Random, at: Addresses) -> None:
        self._rng, self._at, self._numbers = rng, at, itertools.count()
        self._held = [Held(found, found) for found in self._some()]
        self._round = 0
        self._in_force: dict[str, Document] = {}

    @property
    def world(self) -> World:
        """What is in force."""
        return replace(WORLD, policies=tuple(held.effective for held in self._held))

    @property
    def mark(self) -> str:
        """The policy that is new in each round, as a push names its cause."""
        return f"AuthorizationPolicy {WORLD.namespace}/round-{self._round}"

    def written(self) -> str:
        """The manifests; one policy without effect is new in each round, so that every round has a push to wait for."""
        meta = {"name": f"round-{self._round}", "namespace": WORLD.namespace}
        spec: Document = {"action": "AUDIT", "rules": [{}]}
        mark: Document = {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": meta,
            "spec": spec,
        }
        return yaml.dump_all([*(held.written for held in self._held), mark], Dumper=yaml.CSafeDumper)

    def turn(self) -> None:
        """Make the next set: one to three policies change, in any way that people change them."""
        self._round += 1
        self._in_force = {_name(held.effective): held.effective for held in self._held}
        for _ in range(self._rng.choice((1, 1, 2, 3))):
            if not self._held:
                self._held.append(self._added())
                continue
            index = self._rng.randrange(len(self._held))
            ways = (self._replaced, self._replaced, self._moved, self._spoilt, self._mended)
            match self._rng.randrange(8):
                case 0:
                    del self._held[index]
                case 1 | 2 if len(self._held) < _MOST_POLICIES:
                    self._held.append(self._added())
                case _:
                    self._held[index] = self._rng.choice(ways)(self._held[index])

    def _some(self) -> list[Document]:
        found = [dict(each) for each in Policies(self._rng, WORLD, self._at, EXTRAS).policies()]
        for each in found:
            each["metadata"] = {**each["metadata"], "name": f"p{next(self._numbers)}"}
        return found

    def _one(self) -> Document:
        return next(each for each in self._some() if each["kind"] == "AuthorizationPolicy")

    def _added(self) -> Held:
        found = self._one()
        return self._spoilt(Held(found, found)) if self._rng.random() < 0.3 else Held(found, found)

    def _replaced(self, held: Held) -> Held:
        if held.written["kind"] != "AuthorizationPolicy":
            return self._moved(held)
        found = {**self._one(), "metadata": held.written["metadata"]}
        return Held(found, found)

    def _moved(self, held: Held) -> Held:
        """The same rules for somebody else, or for this workload again."""
        labels = self._rng.choice(({"app": "orders"}, {"app": "other"}, {"version": "v1"}, {"version": "v2"}))
        found = copy.deepcopy(held.effective)
        found["spec"]["selector"] = {"matchLabels": labels}
        return Held(found, found)

    def _spoilt(self, held: Held) -> Held:
        """What was in force before this turn stays; of what was made in this turn nobody has seen a good version."""
        good = self._in_force.get(_name(held.written))
        return Held(self._spoil(held.written), good or _closed(held.written))

    def _mended(self, held: Held) -> Held:
        return Held(held.effective, held.effective)

    def _spoil(self, found: Document) -> Document:
        sources: list[Document] = [{"ipBlocks": ["10.0.0.0/33"]}, {"principals": []}, {"principal": ["x"]}]
        is_policy = found["kind"] == "AuthorizationPolicy"
        faults: list[Document] = [{"ruels": []}]
        faults += [{"rules": [{"from": [{"source": source}]}]} for source in sources if is_policy]
        return {**found, "spec": {**found["spec"], **self._rng.choice(faults)}}


def _name(found: Document) -> str:
    return found["metadata"]["name"]


def _closed(found: Document) -> Document:
    """What docs/security.md says of a policy that nobody could ever read."""
    spec = {key: value for key, value in found["spec"].items() if key == "selector"}
    action = found["spec"].get("action", "ALLOW")
    if action == "AUDIT":
        return {**found, "spec": {**spec, "action": "AUDIT"}}
    return {**found, "spec": spec if action == "ALLOW" else {**spec, "action": "DENY", "rules": [{}]}}
