"""Make-before-break as one table: in which order the changes of one batch reach a proxy.

It owns the order and its reasons; it must never know how a change is encoded or sent.
"""

import enum
from dataclasses import dataclass

from xds.snapshot import ResourceType


class Step(enum.Enum):
    """Whether a row brings resources or takes them away."""

    UP = "up"
    DOWN = "down"


class Waits(enum.Enum):
    """What a row waits for. Waiting ends with the proxy's answer, ACK or NACK: a NACK blocks nothing else."""

    NOTHING = "nothing"
    SAME_NAME = "the cluster of the same name to be written"
    ALL = "every row above"


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the sequence."""

    type: ResourceType
    step: Step
    waits: Waits
    why: str
    holds_others: bool = True
    """Whether rows below that wait for all wait for this one."""


SEND_ORDER: tuple[Row, ...] = (
    # Envoy docs, xds_protocol, "Eventual consistency considerations"; the quotes are its sentences.
    Row(
        ResourceType.CLUSTER,
        Step.UP,
        Waits.NOTHING,
        '"CDS updates (if any) must always be pushed first": everything else refers to clusters.',
    ),
    Row(
        ResourceType.ENDPOINTS,
        Step.UP,
        Waits.SAME_NAME,
        '"EDS updates (if any) must arrive after CDS updates for the respective clusters": for the respective'
        " ones only, so that an isolated endpoint change goes out at once; and for the writing only, because a"
        " cluster is acknowledged when its endpoints have warmed it.",
    ),
    Row(
        ResourceType.LISTENER,
        Step.UP,
        Waits.ALL,
        '"LDS updates must arrive after corresponding CDS/EDS updates": a listener may name a cluster itself.',
    ),
    Row(
        ResourceType.SCOPES,
        Step.UP,
        Waits.ALL,
        "A scope belongs to a listener that is there, and names the table that Envoy asks for next.",
    ),
    Row(
        ResourceType.ROUTES,
        Step.UP,
        Waits.ALL,
        '"RDS updates … must arrive after CDS/EDS/LDS updates"; "routes are not warmed", so a route to a'
        " cluster that the proxy has not accepted yet would answer 503.",
    ),
    Row(
        ResourceType.SECRET,
        Step.UP,
        Waits.NOTHING,
        "A secret is asked for by a cluster or listener that has arrived and warms until it comes; a renewal"
        " must not be late because of a busy mesh. No route or cluster refers to it across a step.",
        holds_others=False,
    ),
    Row(
        ResourceType.LISTENER,
        Step.DOWN,
        Waits.ALL,
        "Removals go from what refers to what is referred to; the new paths above carry the traffic by now.",
    ),
    Row(
        ResourceType.SCOPES,
        Step.DOWN,
        Waits.ALL,
        "No listener looks for a scope any more, and no table goes while a scope names it.",
    ),
    Row(
        ResourceType.ROUTES,
        Step.DOWN,
        Waits.ALL,
        "No listener refers to the table any more.",
    ),
    Row(
        ResourceType.CLUSTER,
        Step.DOWN,
        Waits.ALL,
        '"Stale CDS clusters and related EDS endpoints (ones no longer being referenced) can then be removed."',
    ),
    Row(
        ResourceType.ENDPOINTS,
        Step.DOWN,
        Waits.ALL,
        "After its cluster: a cluster whose endpoints go first answers 503 for the moment between.",
    ),
    Row(
        ResourceType.SECRET,
        Step.DOWN,
        Waits.ALL,
        "Last: listeners and clusters that used it are gone.",
    ),
)
