"""Tables of text: rich's on a terminal, aligned columns in a pipe.

Owns how rows look; it must never let a control character of a cell reach a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells under their columns; for a pipe the last column is as long as its text."""
    clean = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich(columns, clean)
    else:
        _show_plain(columns, clean)


def age(seconds: float) -> str:
    """Return a duration as people say it, in its largest unit: ``42s``, ``7m``, ``3h``, ``12d``."""
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size_s:
            return f"{seconds // size_s:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def printable(text: str) -> str:
    """Return the text with control characters as escapes: names and reasons come from strangers."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _show_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [tuple(columns), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
