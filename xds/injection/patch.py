"""JSON Patch (RFC 6902) as far as an admission response needs it: the three operations and their application.

It owns the form of an operation; it must never change the document that it is applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import msgspec

Json: TypeAlias = "dict[str, object]"


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: where, and what comes there (nothing for a removal)."""

    op: Literal["add", "replace", "remove"]
    path: str
    value: object = msgspec.UNSET


def pointer(*steps: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of a place in a document."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def apply(document: Json, operations: Sequence[Operation]) -> Json:
    """Return the document with all operations done in order, sharing what they leave alone.

    A path that does not exist raises KeyError or IndexError: the operations are ours, made for this document.
    """
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation.path.split("/")[1:]]
        document = cast("Json", _put(document, steps, operation))
    return document


def _put(at: object, steps: list[str], operation: Operation) -> object:
    step, *rest = steps
    if isinstance(at, list):
        items = list(cast("list[object]", at))
        place = len(items) if step == "-" else int(step)
        if rest:
            items[place] = _put(items[place], rest, operation)
        elif operation.op == "add":
            items.insert(place, operation.value)
        elif operation.op == "replace":
            items[place] = operation.value
        else:
            del items[place]
        return items
    fields = dict(cast("Json", at))
    if rest:
        fields[step] = _put(fields[step], rest, operation)
    elif operation.op == "remove":
        del fields[step]
    else:
        fields[step] = operation.value
    return fields
