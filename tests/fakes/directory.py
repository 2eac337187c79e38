"""Files of manifests as a test writes them, and what came of them as text."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.objects import Raw
from xds.api.core import Key
from xds.sources.directory import Batch

ORDERS = Key("Service", "shop", "orders")


def write(path: Path, *values: Raw | str) -> Path:
    """Write objects as documents of one file, by a rename as editors do it; text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("\n---\n".join(v if isinstance(v, str) else json.dumps(v, indent=1) for v in values))
    return fresh.rename(path)


def keys(batch: Batch) -> dict[str, bool]:
    """Return the changed keys as text, and whether the object is there."""
    return {str(key): new is not None for key, new in batch.changes}


def said(batch: Batch, root: Path) -> list[str]:
    """Return the problems as lines with paths below the root."""
    return [str(problem).replace(f"{root}/", "") for problem in batch.problems]
