"""Our own kind Fault: an injected fault for everybody who calls a Service, until a moment at which it ends by itself.

It holds what the user wrote; whether that moment has come is decided where a clock is given, never here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from xds.api.meta import check_dns_label
from xds.features import fault
from xds.fields import show

if TYPE_CHECKING:
    from xds.api.core import Meta
    from xds.fields import Reader


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong on purpose for a Service of its own namespace; ``expires_at`` is in seconds since the epoch."""

    meta: Meta
    service: str
    expires_at: float
    fault: fault.Fault


def read_fault(spec: Reader, meta: Meta) -> Fault:
    """Return a Fault; raise ConfigError for the first field that is wrong."""
    target = spec.object("targetRef")
    if target is None:
        raise spec.fail("targetRef", "is required: {kind: Service, name: …}")
    kind, group, name = target.text("kind"), target.text("group", ""), target.text("name")
    target.done()
    if kind != "Service" or group not in {"", "core"}:
        raise target.fail("kind", f"must be Service, got {show(kind)}")
    check_dns_label(name, target.at("name"))
    expires_at = _moment(spec, "expiresAt")
    spec.need("fault")
    found = fault.read(spec)
    spec.done()
    if found is None:
        raise spec.fail("fault", "must have delay or abort")
    return Fault(meta, name, expires_at, found)


def _moment(reader: Reader, name: str) -> float:
    text = reader.text(name)
    try:
        found = datetime.fromisoformat(text)
        moment = found.timestamp()
    except (ValueError, OverflowError):
        raise reader.fail(name, f"must be a moment such as 2026-01-31T12:00:00Z, got {show(text)}") from None
    if found.tzinfo is None:
        raise reader.fail(name, f"must say its time zone, as in 2026-01-31T12:00:00Z, got {show(text)}")
    return moment
