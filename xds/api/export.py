"""The field ``exportTo`` of Istio's traffic kinds: which namespaces see an object.

It must never decide who sees what: it reads names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.api.core import EVERYWHERE
from xds.grammar import check_label

if TYPE_CHECKING:
    from xds.fields import Reader


def read_export_to(spec: Reader) -> tuple[str, ...]:
    """Return the namespaces that see an object; ``.`` is its own, ``*`` all (the default), ``~`` none."""
    names = spec.texts("exportTo")
    for i, name in enumerate(names):
        if name not in (".", "*", "~"):
            check_label(f"{spec.at('exportTo')}[{i}]", name)
    if len(names) > 1 and {"*", "~"} & set(names):
        raise spec.fail("exportTo", "must hold * or ~ alone")
    return tuple(dict.fromkeys(names)) or EVERYWHERE
