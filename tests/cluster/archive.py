"""An image archive of one layer, written from files, without a daemon and without a registry.

It owns the layout that `docker save` introduced and containerd imports; it must never contain the time or a user of
this machine, so that equal files are equal archives.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What an image holds, and how its container starts."""

    name: str
    """With the tag, as a Pod names it."""
    files: Mapping[str, Path]
    """Path inside → file on this machine; all belong to root and may be executed by all."""
    entrypoint: Sequence[str]
    user: str = "65532:65532"
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path inside → words of a small file."""

    def key(self) -> str:
        """Return what names this image's content."""
        words = json.dumps([self.name, list(self.entrypoint), self.user, dict(self.texts)])
        digest = hashlib.sha256(words.encode())
        for path, source in sorted(self.files.items()):
            with source.open("rb") as file:
                digest.update(path.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def write(self, archive: Path) -> None:
        """Write the archive, whole or not at all."""
        layer = self._layer()
        digest = hashlib.sha256(layer).hexdigest()
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(self.entrypoint), "User": self.user, "Env": [_PATH]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        words = json.dumps(config).encode()
        of_config, of_layer = f"{hashlib.sha256(words).hexdigest()}.json", f"{digest}/layer.tar"
        manifest = [{"Config": of_config, "RepoTags": [self.name], "Layers": [of_layer]}]
        archive.parent.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".unfinished")
        with tarfile.open(unfinished, "w") as tar:
            for name, content in (
                (of_config, words),
                (of_layer, layer),
                ("manifest.json", json.dumps(manifest).encode()),
            ):
                _add(tar, name, content, 0o644)
        unfinished.replace(archive)

    def _layer(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            folder = tarfile.TarInfo("tmp")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder)
            for path, text in sorted(self.texts.items()):
                _add(tar, path.lstrip("/"), text.encode(), 0o644)
            for path, source in sorted(self.files.items()):
                _add(tar, path.lstrip("/"), source.read_bytes(), 0o755)
        return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
