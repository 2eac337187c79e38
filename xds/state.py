"""The state directory: keys and roots on disk, and the lock that says who may change them.

Owns modes, atomic writes and the lock; it must never keep a file that others can read, repair a mode in
silence, or decide what a key is for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from xds import ca, settings, stored
from xds.ca import Authority
from xds.keys import Entropy, SecretBytes
from xds.rotation import Phase, Root, Slots
from xds.stored import DAMAGED, ROOTS, TOKEN_KEY
from xds.svid import InvalidCertificate
from xds.tokens import TokenKey
from xds.trust import Trust

_LOCK: Final = "lock"
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_T = TypeVar("_T")


class StateError(Exception):
    """The state directory cannot be used; the text names the path and the fix."""


class StateBusy(StateError):  # noqa: N818  # a fact about another process
    """Another process holds the lock; `admin` is the admin address that it left there, "" if none."""

    def __init__(self, path: Path, admin: str) -> None:
        super().__init__(f"{path}: in use by a running control plane")
        self.admin = admin


def system_entropy() -> Entropy:
    """Keys and octets from the operating system's generator."""
    return Entropy(new_key=lambda: ec.generate_private_key(ec.SECP256R1()), octets=os.urandom)


class StateDirectory:
    """One directory of mode 0700 with files of mode 0600; wider ones are refused, not repaired."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open, or create with mode 0700; raises StateError if it is not ours alone."""
        try:
            path.mkdir(mode=_DIRECTORY_MODE, parents=True)
        except FileExistsError:
            pass
        except OSError as error:
            message = f"{path}: cannot be created: {error.strerror}"
            raise StateError(message) from None
        _check_private(path, path.lstat(), stat.S_ISDIR, _DIRECTORY_MODE)
        return cls(path)

    # --- lock -----------------------------------------------------------------------------

    def lock(self, admin: str = "") -> None:
        """Take the directory for this process until :meth:`close`; raises StateBusy if another has it.

        `admin` is the address of this process's admin API: it tells `proa ca` where to ask.
        """
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 256, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StateBusy(self.path, holder) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, admin.encode("ascii"), 0)
        self._lock_fd = fd

    def close(self) -> None:
        """Give the lock back; harmless without one."""
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it holds --------------------------------------------------------------------

    def workload_roots(self, trust_domain: str, *, now: float, entropy: Entropy) -> Slots:
        """The workload roots, made at the first call; raises StateError if of another trust domain."""
        slots = self._roots(Root.WORKLOAD, lambda: ca.new_root(trust_domain, now=now, entropy=entropy), now)
        try:
            for root in slots.trusted:
                ca.check_root(root, trust_domain)
        except InvalidCertificate as error:
            message = f"{self.path / ROOTS[Root.WORKLOAD]}: {error}"
            raise StateError(message) from None
        return slots

    def channel_roots(self, *, now: float, entropy: Entropy) -> Slots:
        """The control channel's roots, made at the first call."""
        return self._roots(Root.CHANNEL, lambda: ca.new_channel_root(now=now, entropy=entropy), now)

    def stored_roots(self, root: Root) -> Slots | None:
        """The roots as they are on disk, None before the first start."""
        octets = self.read(ROOTS[root])
        return self._parsed(ROOTS[root], lambda: stored.unpack(octets)) if octets is not None else None

    def save_roots(self, root: Root, slots: Slots) -> None:
        """Persist one step of a rotation; it is on disk when this returns."""
        self.write(ROOTS[root], stored.pack(slots))

    def token_key(self) -> TokenKey:
        """The key of join tokens, made at the first call."""
        return TokenKey(self._ed25519())

    def version_key(self) -> SecretBytes:
        """A key for the versions of leaf secrets (HKDF of the token key): equal after every restart."""
        return stored.version_key(self._ed25519())

    # --- files ----------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None if there is none; raises StateError if others may read or swap it."""
        path = self.path / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = (
                "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
            )
            message = f"{path}: {reason}"
            raise StateError(message) from None
        with os.fdopen(fd, "rb") as file:
            _check_private(path, os.fstat(fd), stat.S_ISREG, _FILE_MODE)
            octets = file.read(settings.STATE_FILE_MAX_BYTES + 1)
        if len(octets) > settings.STATE_FILE_MAX_BYTES:
            message = f"{path}: larger than {settings.STATE_FILE_MAX_BYTES} bytes"
            raise StateError(message)
        return octets

    def write(self, name: str, secret: SecretBytes) -> None:
        """Replace a file atomically and durably: readers see the old or the new one, also after a crash."""
        try:
            write_private(self.path / name, secret.reveal())
        except OSError as error:
            message = f"{self.path / name}: cannot be written: {error.strerror}"
            raise StateError(message) from None

    def _roots(self, root: Root, make: Callable[[], Authority], now: float) -> Slots:
        name = ROOTS[root]
        octets = self._read_or_create(name, lambda: stored.pack(Slots(Phase.STEADY, make(), None, now)))
        return self._parsed(name, lambda: stored.unpack(octets))

    def _ed25519(self) -> ed25519.Ed25519PrivateKey:
        octets = self._read_or_create(TOKEN_KEY, stored.new_token_key)
        return self._parsed(TOKEN_KEY, lambda: stored.read_token_key(octets))

    def _read_or_create(self, name: str, make: Callable[[], SecretBytes]) -> bytes:
        octets = self.read(name)
        if octets is not None:
            return octets
        try:
            create_private(self.path / name, make().reveal())
        except FileExistsError:
            pass  # another process was first: its key is the key
        except OSError as error:
            message = f"{self.path / name}: cannot be written: {error.strerror}"
            raise StateError(message) from None
        return self.read(name) or b""

    def _parsed(self, name: str, parse: Callable[[], _T]) -> _T:
        # Never a fresh key in place of a broken file: that would cut off every proxy in silence.
        try:
            return parse()
        except DAMAGED:
            message = f"{self.path / name}: damaged; restore it, or remove it to start a new trust"
            raise StateError(message) from None


def load_trust(
    directory: StateDirectory, trust_domain: str, *, now: float, leaf_ttl_s: int = settings.LEAF_TTL_S
) -> Trust:
    """The trust of a state directory, made at the first call; its steps are persisted as they happen."""
    entropy = system_entropy()
    return Trust.assemble(
        directory.workload_roots(trust_domain, now=now, entropy=entropy),
        directory.channel_roots(now=now, entropy=entropy),
        trust_domain=trust_domain,
        version_key=directory.version_key(),
        entropy=entropy,
        save=directory.save_roots,
        started=now,
        leaf_ttl_s=leaf_ttl_s,
    )


def write_private(path: Path, octets: bytes) -> None:
    """Put a file of mode 0600 in place with one rename, durably: the move that Envoy watches for."""
    with _temporary(path, octets) as temporary:
        temporary.replace(path)


def create_private(path: Path, octets: bytes) -> None:
    """As :func:`write_private`, but raises FileExistsError rather than replace what is there."""
    with _temporary(path, octets) as temporary:
        path.hardlink_to(temporary)


@contextmanager
def _temporary(path: Path, octets: bytes) -> Generator[Path]:
    """A complete file beside `path`; whatever of it is left is removed, and the directory synced."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 whatever the umask
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(fd)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_private(path: Path, found: os.stat_result, kind: Callable[[int], bool], widest: int) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not kind(found.st_mode):
        message = f"{path}: not a plain {'directory' if kind is stat.S_ISDIR else 'file'}"
        raise StateError(message)
    if found.st_uid != os.geteuid():
        message = f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}"
        raise StateError(message)
    if mode & ~widest:
        message = f"{path}: mode {mode:04o} lets others in: chmod {widest:04o} {path}"
        raise StateError(message)
