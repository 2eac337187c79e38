"""A graph as text that other programs show: Graphviz' DOT, and SVG with a layout of our own.

It owns the layout, which is the same for the same graph; it must never let a name of a stranger become markup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from xds.traffic.graph import MUTUAL_TLS, Graph, Link, Node

_CHAR: Final = 7.3
"""Width of a character of 12 px monospace; boxes are as wide as their text."""
_HEIGHT: Final = 40
_ROW: Final = 78
_GAP: Final = 190
"""Between two columns: as much as a label of an edge needs."""
_MARGIN: Final = 24
_SOUND: Final = 0.99
_POOR: Final = 0.9
"""Below the first an edge is amber, below the second red."""

_STYLE: Final = (
    "text{font:12px monospace;fill:#222}.small{font-size:10px;fill:#555}"
    "rect{fill:#f4f7fb;stroke:#4a6785}.unmeshed rect{fill:#fff;stroke:#999;stroke-dasharray:4 3}"
    "path{fill:none;stroke:#2e7d32;stroke-width:1.5}.amber path{stroke:#b26a00}.red path{stroke:#c62828}"
    ".idle path{stroke:#aaa}.plain path{stroke-dasharray:5 4}"
)

_HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" style="fill:#555;stroke:none"/></marker></defs>'
)


def dot(graph: Graph) -> str:
    """Return the graph in Graphviz' language."""
    lines = ["digraph mesh {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for node in graph.nodes:
        style = "" if node.meshed else ", style=dashed"
        lines.append(f"  {_quoted(node.name)} [label={_quoted(_title(node))}{style}];")
    for link in graph.edges:
        style = "" if link.security == MUTUAL_TLS else ", style=dashed"
        ends = f"{_quoted(link.source)} -> {_quoted(link.destination)}"
        lines.append(f"  {ends} [label={_quoted(label(link))}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def svg(graph: Graph) -> str:
    """Return the graph as one SVG document: callers to the left of those whom they call."""
    places = _places(graph)
    widths = {node.name: len(_title(node)) * _CHAR + 24 for node in graph.nodes}
    width = max((x + widths[name] for name, (x, _) in places.items()), default=0) + _MARGIN
    height = max((y + _HEIGHT for _, y in places.values()), default=0) + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}">',
        f"<style>{_STYLE}</style>",
        _HEAD,
    ]
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    for link in graph.edges:
        nth = seen[link.source, link.destination]
        seen[link.source, link.destination] += 1
        lines.append(_curve(link, places, widths, nth))
    lines += [_box(node, places[node.name], widths[node.name]) for node in graph.nodes]
    return "\n".join([*lines, "</svg>"]) + "\n"


def label(link: Link) -> str:
    """Return what stands at an edge: rate and success, or that it is TCP."""
    if link.red.success is None:
        return f"tcp, {link.connections} connections" if link.protocol == "tcp" else "idle"
    return f"{link.red.requests_per_s:.1f} rps, {link.red.success:.1%}"


def _title(node: Node) -> str:
    pods = f" {node.meshed}/{node.pods}" if node.pods else ""
    return f"{node.name}{pods}"


def _box(node: Node, place: tuple[float, float], width: float) -> str:
    x, y = place
    kind = "meshed" if node.meshed else "unmeshed"
    return (
        f'<g class="{kind}"><rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{x + 12:.0f}" y="{y + 25:.0f}">{_text(_title(node))}</text></g>'
    )


def _curve(
    link: Link, places: Mapping[str, tuple[float, float]], widths: Mapping[str, float], nth: int
) -> str:
    """Return one edge: a curve from the right of its source to the left of its destination, or around it."""
    (x, y), (to_x, to_y) = places[link.source], places[link.destination]
    x, y, to_y = x + widths[link.source], y + _HEIGHT / 2, to_y + _HEIGHT / 2
    bend = 60.0
    if to_x < x:  # back to an earlier column, or to itself: leave below, arrive from below
        y, to_y, bend = y + 12, to_y + 12, 90.0
    label_x, label_y = (x + to_x) / 2, (y + to_y) / 2 - 6 + 12 * nth
    kind = f"{_colour(link)}{'' if link.security == MUTUAL_TLS else ' plain'}"
    return (
        f'<g class="{kind}"><title>{_text(_words(link))}</title>'
        f'<path d="M{x:.0f} {y:.0f}C{x + bend:.0f} {y:.0f} {to_x - bend:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"'
        ' marker-end="url(#head)"/>'
        f'<text class="small" x="{label_x:.0f}" y="{label_y:.0f}" text-anchor="middle">{_text(label(link))}</text></g>'
    )


def _colour(link: Link) -> str:
    success = link.red.success
    if success is None:
        return "green" if link.protocol == "tcp" else "idle"
    return "green" if success >= _SOUND else "amber" if success >= _POOR else "red"


def _words(link: Link) -> str:
    times = (("p50", link.red.p50_ms), ("p95", link.red.p95_ms), ("p99", link.red.p99_ms))
    durations = ", ".join(f"{name} {value:.0f} ms" for name, value in times if value is not None)
    said = f"{link.source} → {link.destination} ({link.service}): {label(link)}, {link.security}"
    return f"{said}, {durations}" if durations else said


def _places(graph: Graph) -> dict[str, tuple[float, float]]:
    """Return the upper left corner of each node."""
    columns = _columns(graph)
    x, places = float(_MARGIN), dict[str, tuple[float, float]]()
    titles = {node.name: _title(node) for node in graph.nodes}
    for column in columns:
        for row, name in enumerate(column):
            places[name] = x, _MARGIN + row * float(_ROW)
        x += max(len(titles[name]) for name in column) * _CHAR + 24 + _GAP
    return places


def _columns(graph: Graph) -> list[list[str]]:
    """Return the nodes by their longest way from a node that nobody calls; what leads back does not count."""
    calls: defaultdict[str, set[str]] = defaultdict(set)
    for link in graph.edges:
        calls[link.source].add(link.destination)
    names = [node.name for node in graph.nodes]
    called = {callee for caller, callees in calls.items() for callee in callees if callee != caller}
    order = _order([*(name for name in names if name not in called), *names], calls)
    position = {name: number for number, name in enumerate(order)}
    rank = dict.fromkeys(names, 0)
    for name in order:
        for callee in calls[name]:
            if position[callee] > position[name]:
                rank[callee] = max(rank[callee], rank[name] + 1)
    columns: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        columns[rank[name]].append(name)
    return [columns[number] for number in sorted(columns)]


def _order(roots: Iterable[str], calls: Mapping[str, set[str]]) -> list[str]:
    """Return the nodes so that callers come before those whom they call, as far as no circle forbids it."""
    seen: set[str] = set()
    done: list[str] = []
    for root in roots:
        waiting = [(root, False)]
        while waiting:
            name, is_left = waiting.pop()
            if is_left:
                done.append(name)
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                waiting += [(callee, False) for callee in sorted(calls.get(name, ()), reverse=True)]
    return done[::-1]


def _quoted(text: str) -> str:
    """Return a string of DOT; a backslash would begin an escape there."""
    clean = _printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{clean}"'


def _text(text: str) -> str:
    return escape(_printable(text))


def _printable(text: str) -> str:
    """Return the text without what no document may hold: control characters are not even XML."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
