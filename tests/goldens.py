"""Golden cases: a few objects in, what one proxy is told in canonical text.

It owns the way from a folder to that text; it must never decide whether the text is right: people do, in review.

A case is ``tests/golden/<a-sentence>/in.yaml`` on top of ``base.yaml``. What it shows is what differs from the
base alone, as the proxy named in its first line sees it (``# proxy: shop/web-0``; that one is the default, and
``# proxy: shop/web-0 transparent`` is one to which its Pod's traffic is redirected, ``older`` one whose Envoy takes no
filters from routes):
new resources whole, of others the fields that differ. ``defaults`` shows the base itself.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2, symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.endpoint.v3 import endpoint_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.pb.envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.directory import Directory
from xds.sources.store import Store

ROOT: Final = Path(__file__).parent / "golden"
BASE: Final = ROOT / "base.yaml"
INPUT: Final = "in.yaml"
PROBLEMS: Final = "problems.txt"

_NAMED_ONLY: Final = (previous_hosts_pb2,)
"""Messages that the code under test writes by their type's name alone, and that are read here."""

_PROXY_LINE: Final = "# proxy: "
_DEFAULT_PROXY: Final = "shop/web-0"
_SECRET_FIELDS: Final = frozenset({"private_key", "password"})

MESSAGES: Final[dict[ResourceType, type[Message]]] = {
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    ResourceType.LISTENER: listener_pb2.Listener,
    ResourceType.ROUTES: route_pb2.RouteConfiguration,
}
_FILES: Final = {
    ResourceType.CLUSTER: "clusters.yaml",
    ResourceType.ENDPOINTS: "endpoints.yaml",
    ResourceType.LISTENER: "listeners.yaml",
    ResourceType.ROUTES: "routes.yaml",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one proxy is told, by type and name, and what is wrong with the objects."""

    bodies: dict[tuple[ResourceType, str], bytes]
    problems: tuple[str, ...]


def sentences() -> list[str]:
    """The names of all cases."""
    return sorted(path.parent.name for path in ROOT.glob(f"*/{INPUT}"))


@cache
def compiled(sentence: str, *, older: bool = False) -> Compiled:
    """Compile a case with the server's own reader and compiler; an empty sentence is the base alone.

    ``older``: for an Envoy that takes no filters from routes, whatever the case says.
    """
    proxy = _proxy(sentence) if sentence else _DEFAULT_PROXY
    return _compile(ROOT / sentence / INPUT if sentence else None, f"{proxy} older" if older else proxy)


def rendered(sentence: str) -> dict[str, str]:
    """The golden files of a case, by name: only what differs from the base, only files with content."""
    found = compiled(sentence)
    before = _compile(None, _proxy(sentence)).bodies if sentence != "defaults" else {}
    out: dict[str, str] = {}
    for kind, file_name in _FILES.items():
        now, then = _entries(kind, found.bodies), _entries(kind, before)
        changed = _difference(now, then)
        if changed:
            out[file_name] = yaml.safe_dump(changed, width=110, allow_unicode=True)
    if found.problems:
        out[PROBLEMS] = "".join(f"{line}\n" for line in found.problems)
    return out


def _difference(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {key: "absent" for key in then if key not in now}
    for key, value in now.items():
        before = then.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            value = _difference(value, before)  # pyright: ignore[reportUnknownArgumentType]  # noqa: PLW2901
            if value:
                out[key] = value
        elif value != before:
            out[key] = value
    return out


def canonical(message: Message) -> dict[str, Any]:
    """A message as plain values: unset fields dropped, keys sorted, ``1.5s``, secrets redacted."""
    fields = sorted(message.ListFields(), key=lambda found: found[0].name)
    return {field.name: _field(field, value) for field, value in fields}


def _field(field: FieldDescriptor, value: Any) -> Any:
    if field.name in _SECRET_FIELDS:
        return "[redacted]"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _value(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return _by_name([_value(field, item) for item in value])
    return _value(field, value)


def _by_name(items: list[Any]) -> Any:
    """A list of no more than names with one value each, such as labels, reads better as a mapping."""
    pairs: dict[str, object] = {}
    for item in items:
        match item:
            case {"name": str(name), **rest} if len(rest) == 1 and name not in pairs:
                (pairs[name],) = rest.values()
            case _:
                return items
    return pairs if pairs and all(isinstance(value, str) for value in pairs.values()) else items


def _value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return _message(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _message(value: Message) -> Any:
    match value:
        case duration_pb2.Duration():
            return f"{value.seconds + value.nanos / 1e9:.9f}".rstrip("0").rstrip(".") + "s"
        case any_pb2.Any():
            kind = value.type_url.rpartition("/")[2]
            inner = symbol_database.Default().GetSymbol(kind)()
            value.Unpack(inner)
            return {"@type": kind, **canonical(inner)}
        case struct_pb2.Struct() | struct_pb2.Value():
            return json_format.MessageToDict(value)
        case _ if value.DESCRIPTOR.full_name.startswith("google.protobuf."):
            return getattr(value, "value", {})
        case _:
            return canonical(value)


def _entries(kind: ResourceType, bodies: dict[tuple[ResourceType, str], bytes]) -> dict[str, dict[str, Any]]:
    """Resources by name; a route table falls apart into its virtual hosts, of which few differ."""
    out: dict[str, dict[str, Any]] = {}
    for (found, name), body in bodies.items():
        if found is not kind:
            continue
        entry = canonical(MESSAGES[kind].FromString(body))
        for host in entry.pop("virtual_hosts", ()):
            out[f"{name}/{host.pop('name')}"] = host
        entry.pop("name", None)
        out[name] = entry
    return out


def _proxy(sentence: str) -> str:
    first = (ROOT / sentence / INPUT).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix(_PROXY_LINE).strip() if first.startswith(_PROXY_LINE) else _DEFAULT_PROXY


@cache
def _compile(case: Path | None, proxy: str) -> Compiled:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(BASE, scratch)
        if case is not None:
            shutil.copy(case, scratch)
        source = Directory(Path(scratch))
        batch = source.load()
        plan = Plan(Snapshot())
        plan.apply(Store().apply_all(batch.changes), batch.broken)
        pod, *forms = proxy.split()
        namespace, _, name = pod.partition("/")
        view, _ = plan.view((namespace, name), transparent="transparent" in forms, older="older" in forms)
        found = map(str, (*batch.problems, *source.placed(plan.problems())))
        problems = tuple(line.replace(f"{scratch}/", "") for line in found)
    return Compiled(dict(_bodies(plan.snapshot, view)), problems)


def _bodies(snapshot: Snapshot, view: tuple[str, ...]) -> Iterator[tuple[tuple[ResourceType, str], bytes]]:
    for kind in MESSAGES:
        for name in sorted(snapshot.names(view, kind)):
            resource = snapshot.resolve(view, kind, name)
            assert resource is not None
            yield (kind, name), resource.body
