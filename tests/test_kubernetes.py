"""The sidecars' template of a control plane in a cluster: made again when roots change, and never lost."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from xds.kubernetes import Sidecar
from xds.rotation import Root
from xds.state import StateDirectory, StateError, load_trust

SERVER = "proa.proa-system.svc:15010"


def sidecar(folder: Path, server: str = SERVER) -> Sidecar:
    """Return the sidecar of a trust of its own."""
    trust = load_trust(StateDirectory.open(folder / "state"), "cluster.local", now=time.time())
    return Sidecar("localhost/proa/proxy:1", trust, server)


async def test_a_template_that_cannot_be_made_keeps_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rotation must not end the control plane; what failed is said, and made when it can be."""
    made = sidecar(tmp_path)
    await made.refresh()
    last, made.server = made.template, "no address"
    made.trust.rotate(Root.CHANNEL, time.time())

    await made.keep()
    assert made.template is last
    assert "HOST:PORT" in str(caplog.records[-1].__dict__["why"])

    made.server = SERVER
    await made.keep()
    assert replace(made.template, bootstrap=last.bootstrap) == last
    assert made.template.bootstrap != last.bootstrap


async def test_without_a_first_template_there_is_no_start(tmp_path: Path) -> None:
    """The error names the command that failed, and what it said."""
    with pytest.raises(StateError, match=r"(?s)proa bootstrap: .*HOST:PORT"):
        await sidecar(tmp_path, "no address").refresh()
