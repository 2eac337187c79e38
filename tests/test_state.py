"""The state directory: private, atomic, locked, and never repaired in silence.

Owns the facts about files; it must never leave its temporary directory.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xds import settings
from xds.keys import SecretBytes
from xds.rotation import Phase, Root
from xds.state import (
    StateBusy,
    StateDirectory,
    StateError,
    create_private,
    load_trust,
    system_entropy,
    write_private,
)

NOW = 1_800_000_000.0
DOMAIN = "cluster.local"
FILES = ("channel-roots.json", "token-key.pem", "workload-roots.json")


def filled(path: Path) -> StateDirectory:
    """A state directory after a first start."""
    directory = StateDirectory.open(path / "state")
    load_trust(directory, DOMAIN, now=NOW)
    return directory


def test_the_directory_and_its_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """0700 and 0600, also where the user's umask would open them."""
    before = os.umask(0)
    try:
        directory = filled(tmp_path)
    finally:
        os.umask(before)

    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in directory.path.iterdir()} == dict.fromkeys(
        FILES, 0o600
    )


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """The error names the path and the command that closes it."""
    path = filled(tmp_path).path
    path.chmod(0o750)

    with pytest.raises(StateError, match=r"mode 0750 lets others in: chmod 0700 "):
        StateDirectory.open(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    """A key that somebody may have read is not used as if nobody had."""
    directory = filled(tmp_path)
    (directory.path / name).chmod(mode)

    with pytest.raises(StateError, match="lets others in"):
        load_trust(directory, DOMAIN, now=NOW)


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_is_refused(tmp_path: Path, name: str) -> None:
    """Nobody redirects a key to a file of theirs."""
    directory = filled(tmp_path)
    (directory.path / name).rename(tmp_path / "elsewhere")
    (directory.path / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StateError, match="symbolic link"):
        load_trust(directory, DOMAIN, now=NOW)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"-----BEGIN PRIVATE KEY-----", b"\xff\x00"])
def test_a_damaged_file_is_an_error_never_a_new_key(tmp_path: Path, name: str, content: bytes) -> None:
    """A fresh root in place of a broken one would cut off every proxy in silence."""
    directory = filled(tmp_path)
    directory.write(name, SecretBytes(content))

    with pytest.raises(StateError, match="damaged"):
        load_trust(directory, DOMAIN, now=NOW)
    assert (directory.path / name).read_bytes() == content


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    """Reading stops at a bound."""
    directory = filled(tmp_path)
    directory.write("token-key.pem", SecretBytes(b"x" * (settings.STATE_FILE_MAX_BYTES + 1)))

    with pytest.raises(StateError, match="larger than"):
        directory.token_key()


def test_the_trust_survives_a_restart(tmp_path: Path) -> None:
    """Roots and the version key are the same, byte for byte."""
    directory = filled(tmp_path)
    again = StateDirectory.open(directory.path)

    assert again.stored_roots(Root.WORKLOAD) is not None
    assert (
        load_trust(again, DOMAIN, now=NOW).issuer.bundle()
        == load_trust(directory, DOMAIN, now=NOW).issuer.bundle()
    )
    assert again.version_key() == directory.version_key()


@pytest.mark.parametrize("root", list(Root))
def test_a_rotation_survives_a_restart(tmp_path: Path, root: Root) -> None:
    """The phase and both roots are read back as they were saved."""
    directory = filled(tmp_path)
    trust = load_trust(directory, DOMAIN, now=NOW)
    trust.rotate(root, NOW + 1)
    slots = (trust.workload if root is Root.WORKLOAD else trust.channel).slots
    stored = directory.stored_roots(root)

    assert stored is not None
    assert (stored.phase, stored.entered) == (Phase.PREPARED, NOW + 1)
    assert [each.fingerprint for each in stored.trusted] == [each.fingerprint for each in slots.trusted]


def test_the_roots_of_another_trust_domain_are_refused(tmp_path: Path) -> None:
    """A changed trust domain needs a new state directory, and says so."""
    with pytest.raises(StateError, match=r"trust domain cluster\.local, not other"):
        load_trust(filled(tmp_path), "other", now=NOW)


def test_rotating_the_workload_root_leaves_the_channel_alone(tmp_path: Path) -> None:
    """A running pod's bootstrap never changes: `ca rotate` does not touch its root."""
    directory = filled(tmp_path)
    before = (directory.path / "channel-roots.json").read_bytes()
    load_trust(directory, DOMAIN, now=NOW).rotate(Root.WORKLOAD, NOW)

    assert (directory.path / "channel-roots.json").read_bytes() == before


def test_the_lock_excludes_and_says_whom_to_ask(tmp_path: Path) -> None:
    """A second process learns the admin address of the first, and may not write."""
    first, second = filled(tmp_path), StateDirectory.open(tmp_path / "state")
    first.lock("127.0.0.1:18001")

    with first, pytest.raises(StateBusy) as caught:
        second.lock()
    assert caught.value.admin == "127.0.0.1:18001"
    second.lock()
    second.close()


def test_a_first_key_is_made_once(tmp_path: Path) -> None:
    """Of two processes that start together one makes the key and the other reads it."""
    create_private(tmp_path / "key", b"first")

    with pytest.raises(FileExistsError):
        create_private(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    """The old content stays until the rename, and the temporary file goes."""
    (tmp_path / "occupied").mkdir()

    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "occupied", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["occupied"]


def test_a_write_replaces_the_inode(tmp_path: Path) -> None:
    """Readers see the old file or the new one, and a watcher of the directory sees a move."""
    write_private(tmp_path / "token", b"old")
    with (tmp_path / "token").open("rb") as reader:
        write_private(tmp_path / "token", b"new")

        assert reader.read() == b"old"
    assert (tmp_path / "token").read_bytes() == b"new"


def test_system_entropy_never_repeats() -> None:
    """Keys and serials come from the operating system."""
    entropy = system_entropy()

    assert len({entropy.octets(16) for _ in range(100)}) == 100
    assert entropy.new_key().public_key() != entropy.new_key().public_key()
