"""The files of a directory of manifests: which there are, what tells that one was touched, and their bytes.

It owns every system call of the directory source. It must never follow a link out of the directory,
read more than is allowed, or wait for anything but the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xds import settings
from xds.sources.manifest_file import SUFFIXES


class Signature(NamedTuple):
    """What tells that a file was touched; ctime moves with every write and rename."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class RefusedError(Exception):
    """A file that must not, or cannot, be read; the text says why and what to do."""


@dataclass(slots=True)
class Scan:
    """What one look found; names are paths as they are reported, below the root as it was given."""

    files: dict[str, Signature] = field(default_factory=dict[str, Signature])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    unlisted: list[str] = field(default_factory=list[str])
    """Directories that could not be listed: nothing may be concluded about what is below them."""

    def hides(self, name: str) -> bool:
        """Tell whether a path lies below a directory that could not be listed."""
        return any(name.startswith(f"{directory}{os.sep}") for directory in self.unlisted)


class Files:
    """The files of manifests below one directory; hidden ones (.git, swap files, ``..data``) are left alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def scan(self) -> Scan:
        """Look at the whole directory."""
        found = Scan()
        pending = [str(self._root)]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        self._consider(entry, found, pending)
            except OSError:
                found.unlisted.append(directory)
        return found

    def look(self, names: Iterable[str]) -> Scan:
        """Look at some files only."""
        found = Scan()
        for name in names:
            self._inspect(name, found)
        return found

    def affected(self, notices: Iterable[str], known: AbstractSet[str]) -> frozenset[str] | None:
        """Return the files that notices speak of; None where only a scan can tell (directories, links)."""
        names: set[str] = set()
        real_root = self._root.resolve()
        for notice in notices:
            inside = Path(os.path.relpath(notice, real_root))
            if any(part.startswith("..") for part in inside.parts):
                return None  # Kubernetes swaps the link ..data of a mounted ConfigMap
            if any(part.startswith(".") for part in inside.parts):
                continue
            path = self._root / inside
            if path.is_symlink() or path.is_dir():
                return None
            if path.name.endswith(SUFFIXES):
                names.add(str(path))
            elif any(name.startswith(f"{path}{os.sep}") for name in known):
                return None  # a directory that is gone
        return frozenset(names)

    def read(self, name: str) -> tuple[bytes, Signature]:
        """Return a file's bytes and its signature at that time; raise FileNotFoundError or RefusedError."""
        # O_NONBLOCK: opening a FIFO must not wait; O_NOFOLLOW: links were resolved, and must not come back.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(self._resolve(name), flags), "rb") as file:  # noqa: PTH123 -- a descriptor, not a path
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise RefusedError("is not a regular file")
                content = file.read(settings.DIRECTORY_FILE_MAX_BYTES + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RefusedError(f"cannot be read: {error.strerror}") from None
        if len(content) > settings.DIRECTORY_FILE_MAX_BYTES:
            raise RefusedError(f"is larger than {settings.DIRECTORY_FILE_MAX_BYTES >> 20} MiB; split it")
        return content, _signature(status)

    def _consider(self, entry: os.DirEntry[str], found: Scan, pending: list[str]) -> None:
        if entry.name.startswith("."):
            return
        if entry.is_dir(follow_symlinks=False):
            pending.append(entry.path)
        elif entry.name.endswith(SUFFIXES) or (entry.is_symlink() and entry.is_dir()):
            self._inspect(entry.path, found)

    def _inspect(self, name: str, found: Scan) -> None:
        try:
            found.files[name] = _signature(self._resolve(name).stat())
        except FileNotFoundError:
            return  # deleted while we looked
        except RefusedError as refusal:
            found.refused[name] = str(refusal)
        except OSError as error:
            found.refused[name] = f"cannot be read: {error.strerror}"

    def _resolve(self, name: str) -> Path:
        """Return the file behind a path; links may only lead to files of this directory."""
        path = Path(name)
        if not path.is_symlink():
            return path
        real = Path(os.path.realpath(path))  # Path.resolve raises for loops, this returns them unresolved
        if not os.path.lexists(real) or real.is_symlink():
            raise RefusedError("is a link to nothing; remove it")
        if not real.is_relative_to(self._root.resolve()):
            raise RefusedError("is a link that leads out of the directory; copy the file into it")
        if real.is_dir():
            raise RefusedError("is a link to a directory, which is not followed; remove it")
        return real


def _signature(status: os.stat_result) -> Signature:
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
