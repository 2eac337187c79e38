"""Connected proxies as the ledger sees them, and what the admin API asks, without a control plane behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from xds.address import Address
from xds.admin import Facts
from xds.explain.answer import Answer
from xds.explain.question import Question
from xds.fields import ConfigError
from xds.ledger import Ledger, Row, State, Tally
from xds.metrics import Metrics
from xds.rotation import Phase
from xds.snapshot import ResourceType
from xds.traffic.amplification import Rules
from xds.traffic.graph import Seen
from xds.traffic.sightings import Sightings
from xds.trust import RootStatus, RotationStatus, Status

_Found = TypeVar("_Found")

LOOPBACK = Address("127.0.0.1", 0)

STEADY = RotationStatus(Phase.STEADY, 0.0, (RootStatus("ab" * 32, 2_000_000_000, signs=True),), "")


async def _nobody(question: Question) -> Answer:
    raise ConfigError("source", f"no Pod or workload {question.source} is known")


def answering(found: _Found) -> Callable[[float], _Found]:
    """Return what answers this, whatever number it is asked with."""
    return lambda _asked: found


def facts(ledger: Ledger | None = None) -> Facts:
    """Return the facts of a control plane that is ready and has no problem."""
    return Facts(
        ledger=ledger or Ledger(),
        metrics=Metrics(),
        not_ready=lambda: "",
        workload=lambda node_id: node_id.partition("-")[0],
        problems=lambda: (),
        edges=lambda _window_s: Seen((), ()),
        evidence=lambda _limit: Sightings(()),
        repeats=lambda: Rules(()),
        explain=_nobody,
        ca=lambda: Status(STEADY, STEADY, 0),
        rotate=lambda _root: None,
        retire=lambda _root: None,
        fingerprint=lambda key: "f1" if key.name == "orders" else "",
    )


@dataclass
class FakeStream:
    """One open stream that has whatever rows a test gives it."""

    proxy: str
    connected_at: float = 1_000.0
    found: list[Row] = field(default_factory=list[Row])
    version: str = "1.40.0"

    def rows(self) -> Iterable[Row]:
        """Return the rows as they are."""
        return self.found

    def tallies(self) -> Iterable[Tally]:
        """Count the rows."""
        for url in dict.fromkeys(found.type_url for found in self.found):
            states = [found.state for found in self.found if found.type_url == url]
            accepted = states.count(State.ACKED) + states.count(State.HELD)
            yield Tally(url, accepted, states.count(State.SENT), states.count(State.NACKED))


def row(
    kind: ResourceType = ResourceType.CLUSTER,
    name: str = "outbound|80||orders.shop.svc.cluster.local",
    *,
    state: State = State.ACKED,
    error: str = "",
) -> Row:
    """Return what a proxy has of one resource; the fields that no test looks at are filled in."""
    return Row(
        type_url=kind.url,
        name=name,
        state=state,
        version="00c0ffee00c0ffee",
        nonce="7",
        sent_at=1_001.0,
        answered_at=1_001.5,
        size_bytes=321,
        cause=("VirtualService shop/orders http[0]", "Service shop/orders"),
        error=error,
    )
