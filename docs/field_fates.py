"""What becomes of every field of Istio's API: each is put into a small object, and the reader is watched.

Owns the list's form and the small objects; it must never hold what becomes of a field, only find it out.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from xds.api.core import Meta
from xds.api.istio_authorization import read_authorization_policy
from xds.api.istio_entry import read_service_entry
from xds.api.istio_jwt import read_request_authentication
from xds.api.istio_security import read_peer_authentication
from xds.api.istio_sidecar import read_sidecar
from xds.api.istio_telemetry import read_telemetry
from xds.api.istio_traffic import read_destination_rule, read_virtual_service
from xds.fields import ConfigError, Note, Reader

LIST: Final = Path(__file__).with_name("istio_fields.txt")

SUPPORTED, LEFT_OUT, REFUSED, UNKNOWN = "supported", "left out", "refused", "unknown"

READERS: Final = {
    "VirtualService": read_virtual_service,
    "DestinationRule": read_destination_rule,
    "PeerAuthentication": read_peer_authentication,
    "AuthorizationPolicy": read_authorization_policy,
    "RequestAuthentication": read_request_authentication,
    "ServiceEntry": read_service_entry,
    "Sidecar": read_sidecar,
    "Telemetry": read_telemetry,
}

_ROUTE: Final[dict[str, Any]] = {"route": [{"destination": {"host": "a"}}]}
_SKELETONS: Final[dict[str, dict[str, Any]]] = {
    "VirtualService": {"hosts": ["a"], "http": [_ROUTE]},
    "DestinationRule": {"host": "a"},
    "PeerAuthentication": {"selector": {"matchLabels": {"app": "a"}}},
    "AuthorizationPolicy": {},
    "RequestAuthentication": {"jwtRules": [{"issuer": "a", "jwksUri": "https://a/keys"}]},
    "ServiceEntry": {
        "hosts": ["a"],
        "ports": [{"number": 80, "name": "http"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.0.0.1"}],
    },
    "Sidecar": {"egress": [{"hosts": ["./*"]}]},
    "Telemetry": {},
}
"""The least that a reader needs before it comes to most fields."""

_NEEDS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (r"\.retries ", {"attempts": 1}),
    (r"\.fault\.delay ", {"fixedDelay": "1s"}),
    (r"\.directResponse ", {"status": 200}),
    (r"\.uriRegexRewrite ", {"match": "a"}),
    (r"(\.mirror|\.destination) ", {"host": "a"}),
    (r"\.mirrors\[\] ", {"destination": {"host": "a"}}),
    (r"\.warmup ", {"duration": "1s"}),
    (r"\.httpCookie ", {"name": "a"}),
    (
        r"\.consistentHash .*\.(ringHash|maglev|consistentHash)\.(minimumRingSize|tableSize)",
        {"useSourceIp": True},
    ),
    (r"\.portLevelSettings\[\] ", {"port": {"number": 80}}),
    (r"targetRefs?(\[\])? targetRef", {"kind": "Service", "name": "a"}),
    (r"\.fromHeaders\[\] ", {"name": "a"}),
    (r"\.outputClaimToHeaders\[\] ", {"header": "a", "claim": "a"}),
    (r"\.when\[\] ", {"key": "source.ip", "values": ["10.0.0.1"]}),
    (r"^subsets\[\] ", {"name": "a"}),
)
"""What an object must have besides, by its place and the field that is looked into (``PLACE FIELD``)."""

_ANSWERS: Final = ("http[].redirect.", "http[].directResponse.")
"""Fields of rules that answer themselves, beside which no route may stand."""


@dataclass(frozen=True, slots=True)
class Fate:
    """One field of the API, what becomes of it, and the words that a user gets (empty: none)."""

    kind: str
    field: str
    status: str
    words: str = ""


class _Watched(dict[object, object]):
    """A JSON object that remembers which of its fields somebody asked for."""

    def __init__(self, fields: dict[object, object]) -> None:
        super().__init__(fields)
        self.asked: set[object] = set()

    def get(self, key: object, default: object = None) -> Any:
        """Remember the key."""
        self.asked.add(key)
        return super().get(key, default)


def fates() -> Iterator[Fate]:
    """Yield every field of the list with its fate, in the list's order."""
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, _, field = line.partition(" ")
            yield fate(kind, field)


def fate(kind: str, field: str) -> Fate:
    """Find out what becomes of one field, written as ``http[].match[].uri``."""
    spec, leaf = _object_with(kind, field)
    notes: list[Note] = []
    error = _read(kind, spec, notes)
    if error is not None and "not supported yet" in error.reason and _holds(error.path, field):
        return Fate(kind, field, REFUSED, _effect(error.reason))
    for note in notes:
        if "left out" in note.reason and _holds(note.path, field):
            return Fate(kind, field, LEFT_OUT, _effect(note.reason))
    return Fate(kind, field, SUPPORTED if _name(field) in leaf.asked else UNKNOWN)


def _effect(reason: str) -> str:
    """Return a message without what the status says already."""
    for said in ("is not supported yet, and without it ", "is not supported yet and was left out: "):
        reason = reason.removeprefix(said)
    return reason.removesuffix("; remove it")


def _read(kind: str, spec: dict[object, object], notes: list[Note]) -> ConfigError | None:
    try:
        READERS[kind](Reader(spec, "", notes), Meta("a", "a"))
    except ConfigError as error:
        return error
    return None


def _holds(path: str, field: str) -> bool:
    """Tell whether a place in an object is a field or holds it."""
    plain = path.replace("[0]", "[]")
    return field == plain or field.startswith((f"{plain}.", f"{plain}[]"))


def _name(field: str) -> str:
    return field.rpartition(".")[2].removesuffix("[]")


def _object_with(kind: str, field: str) -> tuple[dict[Any, Any], _Watched]:
    """Return an object in which the field has a value that no reader takes, and the innermost part of it."""
    spec: dict[Any, Any] = copy.deepcopy(_SKELETONS[kind])
    if field.startswith(_ANSWERS):
        spec["http"] = [{}]
    *way, last = field.split(".")
    whole: dict[Any, Any] = {"": spec}
    above, name = whole, ""
    for i, step in enumerate(way):
        above, name = _below(above, name), step
        place = f"{'.'.join(way[: i + 1])} {field}"
        inner = _first(above.get(_key(step))) | _needed(place)
        above[_key(step)] = [inner] if step.endswith("[]") else inner
    leaf = _Watched(_below(above, name))
    leaf.setdefault(_key(last), _Wrong())
    above[_key(name)] = [leaf] if name.endswith("[]") else leaf
    return whole[""], leaf


def _key(step: str) -> str:
    return "80" if step == "PORT" else step.removesuffix("[]")


def _below(above: dict[Any, Any], step: str) -> dict[Any, Any]:
    return _first(above[_key(step)])


def _first(found: Any) -> dict[Any, Any]:
    start = cast("list[Any]", found)[0] if isinstance(found, list) else found
    return cast("dict[Any, Any]", start) if isinstance(start, dict) else {}


def _needed(place: str) -> dict[str, Any]:
    needed: dict[str, Any] = {}
    for pattern, fields in _NEEDS:
        if re.search(pattern, place):
            needed |= copy.deepcopy(fields)
    return needed


class _Wrong:
    """A value of no JSON type: whoever reads the field must say so."""
