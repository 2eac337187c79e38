"""Both rotations and the issuer together, and `proa ca` on top of them.

Owns the order of a whole rotation; it must never need a running server.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from xds import settings
from xds.ca import CaError
from xds.cli.ca import command
from xds.identity import Identity, Proof
from xds.rotation import Phase, Root
from xds.state import StateDirectory, load_trust
from xds.trust import OFFLINE, Fleet, Trust, bootstrap_roots

NOW = 1_800_000_000.0
WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
LIVE = Fleet(lambda _version: True, lambda _stream, _version: True, frozenset)


def started(path: Path, now: float = NOW) -> Trust:
    """The trust of a control plane that starts on this state directory."""
    return load_trust(StateDirectory.open(path / "state"), "cluster.local", now=now)


def test_a_rotation_killed_in_every_phase_comes_to_its_end(tmp_path: Path) -> None:
    """Prepare → activate → retire, each step by another process; the leaf follows, the old root goes."""
    first = started(tmp_path)
    old = first.workload.slots.signer.fingerprint
    (prepared,) = first.rotate(Root.WORKLOAD, NOW)
    second = started(tmp_path, NOW + 100)
    second.issuer.subscribe("1", WEB, "default", claimed=None, now=NOW + 100)
    early = second.tick(NOW + 101, LIVE)
    activated, leaf = second.tick(NOW + 100 + settings.ROTATION_DWELL_S, LIVE)
    third = started(tmp_path, NOW + 200)
    (retired,) = third.tick(NOW + 200 + settings.ROTATION_DWELL_S, LIVE)

    assert early == ()
    assert prepared.version == activated.version != retired.version
    assert leaf.name == "default"
    assert third.workload.slots.phase is Phase.STEADY
    assert old not in {root.fingerprint for root in third.workload.slots.trusted}


def test_the_barrier_asks_for_the_bundle_that_has_both_roots(tmp_path: Path) -> None:
    """An ACK of an older bundle does not activate anything."""
    trust = started(tmp_path)
    before = trust.issuer.bundle().version
    trust.rotate(Root.WORKLOAD, NOW)

    def acked(version: str) -> bool:
        return version == before

    trust.tick(NOW + 1000, replace(LIVE, bundle_acked=acked))

    assert trust.workload.slots.phase is Phase.PREPARED


@pytest.mark.parametrize("root", list(Root))
def test_nothing_is_retired_without_a_successor(tmp_path: Path, root: Root) -> None:
    """The only root cannot be dropped."""
    with pytest.raises(CaError, match="nothing to retire"):
        started(tmp_path).retire(root, NOW)


def test_the_channel_certificate_is_one_object_until_it_is_due(tmp_path: Path) -> None:
    """Handshakes share it; at half life there is another."""
    trust = started(tmp_path)
    leaf = trust.channel_leaf(NOW)

    assert trust.channel_leaf(leaf.renew_at - 1) is leaf
    assert trust.channel_leaf(leaf.renew_at) is not leaf


def test_the_channel_certificate_follows_its_root(tmp_path: Path) -> None:
    """During the rotation the old root signs; bootstraps carry both and report the new one."""
    trust = started(tmp_path)
    old = trust.channel_leaf(NOW)
    trust.rotate(Root.CHANNEL, NOW)
    during = trust.channel_leaf(NOW)
    roots, reported = bootstrap_roots(trust.channel.slots)
    trust.retire(Root.CHANNEL, NOW)

    assert during is old
    assert len(roots) == 2
    assert trust.channel_leaf(NOW).issuer == reported != old.issuer


# --- proa ca ----------------------------------------------------------------------------------


def run(path: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """The JSON of a `proa ca` command, which must succeed."""
    found = CliRunner().invoke(command, [*arguments, "--state", str(path / "state"), "-o", "json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


def test_rotating_offline_is_taken_up_by_the_next_start(tmp_path: Path) -> None:
    """The command prepares; the control plane goes on when proxies have ACKed."""
    started(tmp_path)
    found = run(tmp_path, "rotate")

    assert found["workload"]["phase"] == "prepared"
    assert started(tmp_path).workload.slots.phase is Phase.PREPARED


def test_status_changes_nothing(tmp_path: Path) -> None:
    """Looking is free."""
    trust = started(tmp_path)

    assert run(tmp_path, "status")["workload"]["phase"] == "steady"
    assert started(tmp_path).status(OFFLINE) == trust.status(OFFLINE)


def test_a_missing_state_directory_is_not_made(tmp_path: Path) -> None:
    """A typo in --state is an error, not a new mesh."""
    found = CliRunner().invoke(command, ["rotate", "--state", str(tmp_path / "typo")])

    assert found.exit_code == 1
    assert not (tmp_path / "typo").exists()


def test_retiring_too_early_fails_with_the_reason(tmp_path: Path) -> None:
    """Exit code 1 and one sentence."""
    started(tmp_path)
    found = CliRunner().invoke(command, ["retire", "--state", str(tmp_path / "state")])

    assert found.exit_code == 1
    assert "nothing to retire" in found.output
