"""The ``proa`` command: one table of verbs, each loaded when it is used.

Owns the names and one-line helps of the verbs; it must never import more than click, so that
``proa --help`` costs what the smallest click program costs.
"""

from __future__ import annotations

import importlib
from typing import Final, NamedTuple, cast

import click


class Verb(NamedTuple):
    """Where a command lives and the line that ``proa --help`` shows for it."""

    module: str
    summary: str


VERBS: Final = {
    "serve": Verb("xds.cli.serve", "Serve a directory of manifests to Envoy over xDS."),
    "demo": Verb("xds.cli.demo", "Run real services behind real Envoys and change a weight live."),
    "bootstrap": Verb("xds.cli.bootstrap", "Print the Envoy bootstrap of one workload."),
    "redirect": Verb("xds.cli.redirect", "Print the rules that bring a pod's connections to its sidecar."),
    "inject": Verb("xds.cli.inject", "Write sidecars into manifests, without a webhook."),
    "token": Verb("xds.cli.token", "Write a join token for one workload and keep it fresh."),
    "status": Verb("xds.cli.status", "Show every proxy, what it acknowledged, and every problem."),
    "wait": Verb("xds.cli.wait", "Wait until every proxy has accepted the objects of a file."),
    "proxy": Verb("xds.cli.proxy", "Show what one proxy was sent, and why."),
    "stat": Verb("xds.cli.stat", "Show success, rate and latency of what arrives at each workload."),
    "edges": Verb("xds.cli.edges", "Show who calls whom, and whether both have shown who they are."),
    "top": Verb("xds.cli.top", "Show the busiest edges, again and again."),
    "graph": Verb("xds.cli.graph", "Print the graph of calls as a table, JSON, DOT or SVG."),
    "explain": Verb("xds.cli.explain", "Say what happens to one request, and which object decides it."),
    "fault": Verb("xds.cli.fault", "Make a service slow or fail on purpose, for a while."),
    "analyze": Verb("xds.cli.analyze", "Find chains of calls that multiply, and what mends them."),
    "install": Verb("xds.cli.install", "Print the manifest that installs the control plane in a cluster."),
    "uninstall": Verb("xds.cli.uninstall", "Print what is to be deleted, once no pod is meshed any more."),
    "check": Verb("xds.cli.check", "Check a cluster and its mesh, and say what mends each failure."),
    "validate": Verb("xds.cli.validate", "Check a directory with the server's own compiler."),
    "ca": Verb("xds.cli.ca", "Show and rotate the certificate authority."),
}
"""Every verb; its module holds the click command under the name ``command``."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, never when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table, which is the order of use."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb's module and return its command, None for a verb that does not exist."""
        del ctx
        if cmd_name not in VERBS:
            return None
        return cast("click.Command", importlib.import_module(VERBS[cmd_name].module).command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's lines; click's own would import every verb to ask for its help."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="proa", message="%(prog)s %(version)s")
def main() -> None:
    """Run a minimal service mesh: one control plane, stock Envoy sidecars.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 warnings only (check).
    """


if __name__ == "__main__":
    main(prog_name="proa")
