"""What people see of a run: a live panel on a terminal, lines elsewhere, and the summary at the end.

It owns words and layout; it must never measure. Everything but the summary goes to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from xds.demo.admin import Traffic
from xds.demo.report import Phase, Report
from xds.demo.run import View

_LINE_S: Final = 5.0


class Lines:
    """One line for each step, and one each five seconds: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._shown_at = float("-inf")

    def step(self, text: str) -> None:
        """Print the step with the seconds since the start."""
        self._console.print(
            f"{time.monotonic() - self._began:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def show(self, view: View) -> None:
        """Print one line, each five seconds."""
        if time.monotonic() - self._shown_at >= _LINE_S and view.seconds:
            self._shown_at = time.monotonic()
            self.step(summary_line(view))

    def close(self) -> None:
        """Do nothing: lines stay."""


class Panel:
    """Steps as lines, then a panel that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._lines = Lines(console)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._is_live = False

    def step(self, text: str) -> None:
        """Print the step above the panel."""
        self._lines.step(text)

    def show(self, view: View) -> None:
        """Redraw the panel."""
        if not self._is_live:
            self._live.start()
            self._is_live = True
        self._live.update(draw(view), refresh=True)

    def close(self) -> None:
        """Take the panel away: the summary says the same and more."""
        if self._is_live:
            self._live.stop()
            self._is_live = False


def summary_line(view: View) -> str:
    """Return the moment in one line."""
    last = view.seconds[-1]
    acked = sum(proxy.acked for proxy in view.proxies)
    live = f", edit live in {view.live_ms:.0f} ms" if view.live_ms is not None else ""
    return (
        f"{last.ok / last.seconds:.0f} requests/s, {sum(second.failed for second in view.seconds)} failed, "
        f"split {_shares(view.desired, view.observed)}, {acked}/{len(view.proxies)} proxies acked{live}"
    )


def draw(view: View) -> Group:
    """Return the panel."""
    return Group(_headline(view), _split_table(view), call_tree(view.edges), _edge_table(view.edges))


def call_tree(edges: tuple[Traffic, ...]) -> Tree:
    """Return who calls whom, from those whom nobody calls; a caller that stands above itself is not opened again."""
    calls: dict[str, list[str]] = {}
    for seen in edges:
        if seen.edge.reporter == "destination":
            calls.setdefault(_short(seen.edge.source), []).append(_short(seen.edge.destination))
    called = {name for names in calls.values() for name in names}
    tree = Tree("Calls")
    for root in sorted(set(calls) - called):
        _grow(tree.add(root), root, calls, {root})
    return tree


def _grow(tree: Tree, name: str, calls: Mapping[str, list[str]], above: set[str]) -> None:
    for callee in sorted(set(calls.get(name, ()))):
        branch = tree.add(callee)
        if callee not in above:
            _grow(branch, callee, calls, above | {callee})


def summarise(report: Report, console: Console) -> None:
    """Print the result for people."""
    table = Table(title="Proa demo", show_header=False, title_justify="left")
    table.add_row("Requests", f"{report.requests}, {report.failed} failed")
    table.add_row(
        "Proxies",
        f"{len(report.proxies)}, {sum(p.acked for p in report.proxies)} have acknowledged everything",
    )
    table.add_row("Hops", f"{report.tls_hops} mutual TLS connections, {report.plaintext_hops} plaintext")
    table.add_row("Split before", _phase(report.split.before))
    table.add_row("Split after", _phase(report.split.after))
    live = "never" if report.live_ms is None else f"{report.live_ms:.1f} ms after the file's rename"
    table.add_row("Edit live on every proxy", live)
    if report.denial is not None:
        denial = report.denial
        table.add_row(
            "Access", f"{denial.caller} called {denial.service} itself and was answered {denial.status}"
        )
    table.add_row("Result", "ok" if report.ok else "FAILED")
    console.print(table, call_tree(report.edges), _edge_table(report.edges))
    for problem in report.problems:
        console.print(f"- {problem}", highlight=False, markup=False, soft_wrap=True)


def _headline(view: View) -> Text:
    whole = f" of {view.duration_s:g}" if view.duration_s else ""
    text = f"{view.elapsed_s:.0f}{whole} s"
    if view.seconds:
        text += f"  {summary_line(view)}"
    if view.certificate_ages_s:
        ages = view.certificate_ages_s.values()
        text += f"  certificates {min(ages):.0f} to {max(ages):.0f} s old"
    return Text(text)


def _split_table(view: View) -> Table:
    table = Table("orders", "desired", "observed", "requests", title="Split", title_justify="left")
    n = sum(view.observed.values())
    for name, share in view.desired.items():
        count = view.observed.get(name, 0)
        table.add_row(name, f"{share:.1%}", f"{count / n:.1%}" if n else "-", str(count))
    return table


def _edge_table(edges: tuple[Traffic, ...]) -> Table:
    """Return one row per edge: both ends report it, only the destination knows whether it was encrypted."""
    columns = ("from", "to", "hop", "req/s", "err/s", "p50 ms", "p99 ms", "total")
    table = Table(*columns, title="Edges, as their destinations report them", title_justify="left")
    for seen in edges:
        if seen.edge.reporter == "destination":
            numbers = (seen.requests_per_s, seen.errors_per_s, seen.p50_ms, seen.p99_ms)
            names = (_short(seen.edge.source), _short(seen.edge.destination), _hop(seen.edge.security))
            table.add_row(*names, *map(_number, numbers), str(seen.requests))
    return table


def _short(workload: str) -> str:
    """Return `web` for `web.shop`: the demonstration has one namespace."""
    return workload.partition(".")[0]


def _hop(security: str) -> str:
    return {"mutual_tls": "mTLS", "none": "plaintext"}.get(security, security)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _shares(desired: Mapping[str, float], observed: Mapping[str, int]) -> str:
    n = sum(observed.values())
    if not n:  # the second around an edit belongs to neither phase
        return "counting " + " ".join(f"{name} ({share:.0%})" for name, share in desired.items())
    return " ".join(
        f"{name} {observed.get(name, 0) / n:.1%} ({share:.0%})" for name, share in desired.items()
    )


def _phase(phase: Phase) -> str:
    shares = " ".join(
        f"{name} {share:.1%} ({phase.desired.get(name, 0):.0%})" for name, share in phase.observed.items()
    )
    return f"{shares}, {phase.n} requests, {'within' if phase.within_3_sigma else 'OUTSIDE'} 3 sigma"
