"""What the traffic verbs share: asking every replica what the sidecars reported, and how a figure looks.

Owns the one question and the cells of figures; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place

if TYPE_CHECKING:
    from xds.traffic.graph import Figures, Seen

NOTHING: Final = "-"

namespace_option = click.option("-n", "--namespace", metavar="NAME", help="Only what is in this namespace.")
"""``-n NAMESPACE``; without it all are shown."""

SILENT: Final = "no traffic has been reported: sidecars report every 5 s what went through them"


def seen(where: dict[str, Any]) -> Seen:
    """Return what all replicas have heard, as one."""
    from xds.traffic import graph

    return graph.merge(place(**where).ask("/api/v1/edges", graph.Seen))


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
