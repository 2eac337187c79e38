"""The end of clusters, of either form and in any state: also of those whose owner was killed.

It owns what must be gone afterwards: processes, control groups, the folder; it must never touch a cluster that
somebody else still uses. Mounts, links and rules are the kernel's to remove (see `namespaces.py`).
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cluster import control_groups, processes

_PREFIX: Final = "proa-cluster-"
_OWNER: Final = "owner"


def remove(folder: Path) -> None:
    """End a cluster in whatever state it is, and remove all that it made on this machine."""
    processes.end(folder, "node")  # the first process of their namespace: the kernel ends all others with it
    processes.end(folder)
    control_groups.remove(folder)
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def temporary() -> Generator[Path]:
    """Yield a new folder for a cluster that ends with this program, and remove both afterwards.

    As long as this program lives, the folder is not among the `orphans`.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / _OWNER).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            remove(folder)


def orphans() -> Iterator[Path]:
    """Yield the folders of temporary clusters whose owner has died without removing them."""
    for file in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}")):
        with file.open("r+") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
        yield file.parent
