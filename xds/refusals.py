"""What a refused caller is told, and which refusals get a line of log: the first few of each kind in a while.

It owns the constant texts and the share of each kind; it must never tell a stranger why, write a line itself, or
grow with the number of callers.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from xds import settings
from xds.identity import Refusal

_FORBIDDEN: Final = ("PERMISSION_DENIED", "not authorized")
_LATER: Final = ("UNAVAILABLE", "try again later")
_UNPROVEN: Final = ("UNAUTHENTICATED", "authentication failed")

_ANSWERS: Final = {
    # The token is genuine: the caller asks for what is another's.
    Refusal.SUBJECT: _FORBIDDEN,
    Refusal.NODE: _FORBIDDEN,
    Refusal.POD: _FORBIDDEN,
    # Nothing is known against the caller: we are busy, or the apiserver cannot be asked.
    Refusal.BUSY: _LATER,
    Refusal.REVIEW: _LATER,
}


def answer(reason: Refusal) -> tuple[str, str]:
    """Return the gRPC status of a refusal and its text."""
    return _ANSWERS.get(reason, _UNPROVEN)


@dataclass(slots=True)
class _Span:
    """What was said of one kind since ``began_at``."""

    began_at: float
    said: int = 0
    unsaid: int = 0


class Refusals:
    """The lines that are still free; one for each kind in ``REFUSALS_SPAN_S`` tells how many others there were."""

    def __init__(self) -> None:
        self._spans: dict[Hashable, _Span] = {}

    def take(self, kind: Hashable, now: float) -> int | None:
        """Return how many of this kind went unsaid since the last line of it, or None when this one does too.

        ``kind`` is one of few: a reason, never a name that callers choose. ``now`` is in monotonic seconds.
        """
        span = self._spans.setdefault(kind, _Span(now))
        if now - span.began_at >= settings.REFUSALS_SPAN_S:
            span.began_at, span.said = now, 0
        if span.said >= settings.REFUSALS_SAID:
            span.unsaid += 1
            return None
        span.said += 1
        unsaid, span.unsaid = span.unsaid, 0
        return unsaid
