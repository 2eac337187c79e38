"""What the traffic verbs share: asking every replica what the sidecars reported, and how a figure looks.

Owns the one question and the cells of figures; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place
from xds.cli.parameters import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.traffic.graph import Figures, Seen
    from xds.traffic.sightings import Sighting, Sightings

NOTHING: Final = "-"

_LEAST_S: Final = 10
_MOST_S: Final = 60
"""What `xds.traffic.window` keeps: slots of 10 s, for a minute."""

namespace_option = click.option("-n", "--namespace", metavar="NAME", help="Only what is in this namespace.")
"""``-n NAMESPACE``; without it all are shown."""

SWITCH_ON: Final = "set `evidence: {sampling: 10}` in the mesh settings (ConfigMap proa)"
"""How requests come to be sampled."""

SILENT: Final = "no traffic has been reported: sidecars report every 5 s what went through them"


def _window(text: str) -> int:
    """Read a duration that the control plane still has the figures of."""
    seconds = duration(text)
    if not _LEAST_S <= seconds <= _MOST_S:
        raise click.BadParameter(f"must be {_LEAST_S}s to {_MOST_S}s, got {text!r}")
    return seconds


window_option = click.option(
    "-t",
    "--window",
    "window_s",
    metavar="DURATION",
    type=_window,
    default="1m",
    show_default=True,
    help="The time that rates and latencies are taken over.",
)
"""``-t DURATION``, as `linkerd viz stat` has it."""


def seen(where: dict[str, Any], window_s: int = _MOST_S) -> Seen:
    """Return what all replicas have heard, as one."""
    from xds.traffic import graph

    return graph.merge(place(**where).ask(f"/api/v1/edges?window={window_s}", graph.Seen))


def cells(red: Figures) -> tuple[str, ...]:
    """Return success, rate, p50, p95 and p99 as text."""
    success = NOTHING if red.success is None else f"{red.success:.2%}"
    return success, f"{red.requests_per_s:.1f}rps", ms(red.p50_ms), ms(red.p95_ms), ms(red.p99_ms)


def ms(value: float | None) -> str:
    """Return a duration in milliseconds, or that there is none."""
    return NOTHING if value is None else f"{value:.0f}ms" if value >= 1 else f"{value:.1f}ms"


def short(name: str) -> str:
    """Return a SPIFFE ID as ``NAME.NAMESPACE``, its ServiceAccount's."""
    _, found, path = name.partition("/ns/")
    namespace, is_account, account = path.partition("/sa/")
    return f"{account}.{namespace}" if found and is_account else name or NOTHING


def sightings(where: dict[str, Any]) -> list[Sightings]:
    """Return what every replica kept of sampled requests."""
    from xds.traffic.sightings import Sightings

    return place(**where).ask("/api/v1/evidence", Sightings)


def since(found: Iterable[Sighting], seconds: float, *, now: float) -> list[Sighting]:
    """Return what began within so many seconds before `now`, epoch; what does not say when is too old."""
    from datetime import datetime

    def began(sighting: Sighting) -> float:
        try:
            return datetime.fromisoformat(sighting.started).timestamp()
        except ValueError:
            return 0.0

    return [sighting for sighting in found if began(sighting) >= now - seconds]


def sampling(evidence: list[Sightings]) -> float:
    """Return how many per cent of the requests are sampled; 0: none."""
    return max((each.sampling for each in evidence), default=0)
