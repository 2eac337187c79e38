"""Who refuses: the object behind a guard that cannot name it itself is written down before that guard is asked.

It owns this word, which access logs read; it must never decide anything, nor leave a name behind a guard that has let
the request pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from xds.pb.envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2

if TYPE_CHECKING:
    from xds.resources.access import Part

_NAMESPACE: Final = "proa"
_KEY: Final = "refused_by"

WORD: Final = f"%DYNAMIC_METADATA({_NAMESPACE}:{_KEY})%"
"""Who has refused a request, as the filters of ``told`` leave it; empty for none."""


def told(parts: Iterable[Part], objects: Mapping[str, str]) -> Iterator[Part]:
    """Yield the same filters, with the word before each that ``objects`` has under its name, and taken back behind.

    Envoy's filters of tokens and of limits say that they refused, not for whom (docs/telemetry.md).
    """
    said = ""
    for name, config in parts:
        found = objects.get(name, "")
        if found != said:
            yield f"before {name}", _saying(found)
            said = found
        yield name, config
    if said:
        yield "passed", _saying("")


def _saying(found: str) -> set_metadata_pb2.Config:
    config = set_metadata_pb2.Config()
    entry = config.metadata.add(metadata_namespace=_NAMESPACE, allow_overwrite=True)
    if found:
        entry.value.fields[_KEY].string_value = found
    else:
        entry.value.fields[_KEY].null_value = 0  # type: ignore[assignment]  # an enum of one
    return config
