"""What the ledger shows of one subscription: a row per resource that was sent, claimed, refused or denied.

It owns the reading of a subscription's state; it must never change it.
"""

from collections.abc import Iterator

from xds.held import ABSENT
from xds.ledger import Response, Row, State, Tally
from xds.snapshot import Resource
from xds.subscription import Subscription


def of(sub: Subscription) -> Iterator[Row]:
    """Yield one row per resource."""
    flight = sub.in_flight
    on_the_way = {} if flight is None else flight.items
    for name in dict.fromkeys((*sub.held, *on_the_way, *sub.rejected, *sub.denied)):
        yield _row(sub, name, flight if name in on_the_way else sub.last.get(name))


def tally(sub: Subscription) -> Tally:
    """Count the rows without making them: a thousand proxies are looked at in one request."""
    on_the_way = () if sub.in_flight is None else sub.in_flight.items.keys()
    apart = {*on_the_way, *sub.rejected, *sub.denied}
    held = sum(resource is not ABSENT for resource in sub.held.values())
    held -= sum(sub.held.get(name, ABSENT) is not ABSENT for name in apart)
    rejected = sum(name not in sub.denied for name in sub.rejected)
    return Tally(sub.url, held, len(apart) - len(sub.denied) - rejected, rejected)


def _row(sub: Subscription, name: str, response: Response | None) -> Row:
    """Describe one resource of one subscription."""
    flight = sub.in_flight
    held = sub.held.get(name)
    rejection = sub.rejected.get(name)
    resource = flight.items[name] if flight is not None and name in flight.items else held
    if name in sub.denied:
        state = State.DENIED
    elif rejection is not None:
        state = State.NACKED
    elif response is flight and flight is not None:
        state = State.SENT
    elif held is ABSENT:
        state = State.ABSENT
    else:
        state = State.HELD if response is None else State.ACKED
    known = resource if isinstance(resource, Resource) else None
    answered = None if response is None or response.state is State.SENT else response.answered_at
    return Row(
        type_url=sub.url,
        name=name,
        state=state,
        version="" if known is None else known.version,
        nonce=None if response is None else response.nonce,
        sent_at=None if response is None else response.at,
        answered_at=answered,
        size_bytes=0 if known is None else known.size_bytes,
        cause=rejection.cause if rejection is not None else () if known is None else known.cause,
        error="" if rejection is None else rejection.error,
    )
