"""Istio's security kinds: PeerAuthentication, which says whether an inbound port takes mutual TLS.

These are frozen values and their readers; which policy wins for a port is decided in ``compile``, never here.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

import msgspec

from xds.api.core import Labels, Meta
from xds.api.meta import read_labels
from xds.fields import Reader, show

if TYPE_CHECKING:
    from collections.abc import Iterator

_PORT = re.compile(r"[1-9]\d{0,4}")
_PORT_MAX = 65535


class MtlsMode(enum.Enum):
    """What an inbound port takes: only mutual TLS, both, or only plaintext."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


class PeerAuthentication(msgspec.Struct, frozen=True, gc=False):
    """A PeerAuthentication; a mode of None (UNSET) inherits from the wider policy.

    ``selector`` is empty for the whole namespace (the whole mesh in the root namespace);
    ``ports`` are the workload's own port numbers, sorted.
    """

    meta: Meta
    selector: Labels = ()
    mode: MtlsMode | None = None
    ports: tuple[tuple[int, MtlsMode | None], ...] = ()


class _Mode(enum.Enum):
    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


def read_peer_authentication(spec: Reader, meta: Meta) -> PeerAuthentication:
    """Return a PeerAuthentication; modes for single ports need a selector, as in Istio."""
    selector = _selector(spec)
    ports = tuple(sorted(_ports(spec)))
    if ports and not selector:
        raise spec.fail("portLevelMtls", "needs a selector with matchLabels: ports are those of a workload")
    mode = _mode(spec.object("mtls"))
    spec.done()
    return PeerAuthentication(meta, selector, mode, ports)


def _selector(spec: Reader) -> Labels:
    reader = spec.object("selector")
    if reader is None:
        return ()
    labels = read_labels(reader, "matchLabels")
    reader.done()
    return labels


def _mode(reader: Reader | None) -> MtlsMode | None:
    if reader is None:
        return None
    mode = reader.choice("mode", _Mode, _Mode.UNSET)
    reader.done()
    return None if mode is _Mode.UNSET else MtlsMode(mode.value)


def _ports(spec: Reader) -> Iterator[tuple[int, MtlsMode | None]]:
    reader = spec.object("portLevelMtls")
    if reader is None:
        return
    for name in sorted(reader.present()):
        if not _PORT.fullmatch(name) or int(name) > _PORT_MAX:
            raise reader.fail(name, f"must be a port of the workload, 1..{_PORT_MAX}, got {show(name)}")
        yield int(name), _mode(reader.object(name))
    reader.done()
