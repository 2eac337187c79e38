"""One object's JSON, as the API sends it, to the typed object that ``api`` makes of it.

Owns speed, and nothing else: it must never accept what ``api`` refuses, nor give another result. Endpoints are
decoded straight into structs, because every push waits for them; of Pods only what is read is decoded at all.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypedDict, cast

import msgspec

from xds.api.addresses import read_ip
from xds.api.core import Endpoint, EndpointSlice, Key, SlicePort, label
from xds.api.kubernetes import SERVICE_NAME_LABEL
from xds.api.manifest import Ignored, Object, Parsed, read, stand_in
from xds.api.meta import read_meta
from xds.fields import MAX_ITEMS, MAX_TEXT, ConfigError, Note, Reader
from xds.sources.envelope import shallow

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_ODD: Final = (b"\\u0000", b"\\ud", b"\\uD")
"""Escapes of what no text of ours may hold: the reader judges them."""


class _Metadata(TypedDict, total=False):
    """All of an object's metadata but managedFields, which are as large as the object and which nobody reads."""

    name: Any
    namespace: Any
    uid: Any
    labels: Any
    annotations: Any
    generation: Any
    creationTimestamp: Any
    deletionTimestamp: Any
    ownerReferences: Any


class _Container(TypedDict, total=False):
    name: Any
    ports: Any
    restartPolicy: Any
    livenessProbe: Any
    readinessProbe: Any
    startupProbe: Any


class _PodSpec(TypedDict, total=False):
    containers: list[_Container]
    initContainers: list[_Container]
    hostNetwork: Any
    nodeName: Any
    serviceAccount: Any
    serviceAccountName: Any


class _PodStatus(TypedDict, total=False):
    phase: Any
    podIP: Any
    podIPs: Any
    conditions: Any


class _Pod(TypedDict, total=False):
    metadata: _Metadata
    spec: _PodSpec
    status: _PodStatus


class _Conditions(msgspec.Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct, frozen=True, gc=False):
    kind: _Text = ""
    name: _Text = ""


_ANYWHERE: Final = _Conditions()
_NOBODY: Final = _Target()


class _Endpoint(msgspec.Struct, gc=False):
    addresses: Annotated[list[_Text], msgspec.Meta(max_length=MAX_ITEMS)]
    conditions: _Conditions = _ANYWHERE
    target: _Target = msgspec.field(default=_NOBODY, name="targetRef")
    zone: _Text = ""


class _SlicePort(msgspec.Struct, gc=False):
    name: _Text = ""
    port: _Port | None = None
    protocol: _Text = "TCP"


class _EndpointSlice(msgspec.Struct, gc=False):
    metadata: _Metadata
    address_type: _Text = msgspec.field(default="IPv4", name="addressType")
    endpoints: Annotated[list[_Endpoint], msgspec.Meta(max_length=MAX_ITEMS)] | None = None
    ports: Annotated[list[_SlicePort], msgspec.Meta(max_length=MAX_ITEMS)] | None = None


_POD = msgspec.json.Decoder(_Pod)
_SLICE = msgspec.json.Decoder(_EndpointSlice)


def decode(kind: str, version: str, raw: msgspec.Raw) -> Parsed | Ignored:
    """Return the typed object; raise ConfigError. The caller says kind and version: items of a list do not."""
    if kind == "EndpointSlice":
        found = _slice(raw)
        if found is not None:
            return Parsed(Key(kind, found.meta.namespace, found.meta.name), found)
    value = _pod(raw) if kind == "Pod" else None
    if value is None:
        value = _untyped(raw)
    if not isinstance(value, dict):
        raise ConfigError("", "must be an object")
    return read(cast("dict[str, object]", value) | {"kind": kind, "apiVersion": version})


def stand_in_of(kind: str, version: str, raw: msgspec.Raw) -> Object | None:
    """Return what is in force for an object that could never be read, None for nothing."""
    try:
        value = _untyped(raw)
    except ConfigError:
        return None
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return stand_in(fields | {"kind": kind, "apiVersion": version})


def _pod(raw: msgspec.Raw) -> _Pod | None:
    """Return the part of a Pod that is read, as the reader takes it; None for one that has another shape."""
    try:
        return _POD.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _untyped(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        return msgspec.json.decode(shallow(bytes(raw)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError("", f"is not JSON: {error}") from None


def _slice(raw: msgspec.Raw) -> EndpointSlice | None:
    """Return what ``read_endpoint_slice`` would; None where it would have something to say."""
    text = bytes(raw)
    if any(odd in text for odd in _ODD):
        return None
    notes: list[Note] = []
    try:
        form = _SLICE.decode(text)
        meta = read_meta(Reader({"metadata": form.metadata}, "", notes))
        endpoints = tuple(_endpoint(endpoint) for endpoint in form.endpoints or () if endpoint.addresses)
    except (msgspec.DecodeError, RecursionError, ConfigError):
        return None
    service = label(meta.labels, SERVICE_NAME_LABEL)
    if notes or not service or form.address_type not in {"IPv4", "IPv6"}:
        return None
    ports = tuple(
        SlicePort(port.name, port.port)
        for port in form.ports or ()
        if port.protocol == "TCP" and port.port is not None
    )
    return EndpointSlice(meta, service, ports, endpoints)


def _endpoint(form: _Endpoint) -> Endpoint:
    said, target = form.conditions, form.target
    ready = said.ready is not False
    return Endpoint(
        address=read_ip(form.addresses[0], ""),
        ready=ready,
        serving=ready if said.serving is None else said.serving,
        terminating=said.terminating is True,
        pod=target.name if target.kind == "Pod" else "",
        zone=form.zone,
    )
