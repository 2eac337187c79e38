"""The bytes of discovery responses, framed by hand from parts that are cached and shared between streams.

It owns the framing of `Resource`, `DeltaDiscoveryResponse` and `DiscoveryResponse`; it must never look into
the body of a resource, nor build a protobuf object.

Why by hand: a resource is encoded once, and a response to any stream is then one join of shared bytes. The
field numbers are those of envoy/service/discovery/v3/discovery.proto, and a property test parses every frame
back with the generated classes.
"""

from collections.abc import Iterable

from xds.wire import field, varint

_FIELD_2 = b"\x12"
"""The key of field 2, length-delimited: where the length is known before the content is joined."""


def any_field(type_url: bytes, body: bytes) -> bytes:
    """Return field 2 holding an `Any`: the same bytes in a DiscoveryResponse and in a delta `Resource`.

    `type_url` is the Any's own field, framed by `any_url_field`.
    """
    head = type_url + _FIELD_2 + varint(len(body))
    return b"".join((_FIELD_2, varint(len(head) + len(body)), head, body))


def any_url_field(type_url: str) -> bytes:
    """Return field 1, the type URL, of an `Any`."""
    return field(1, type_url.encode())


def delta_prefix(name: str, version: str, any_size: int) -> bytes:
    """Return what goes before `any_field` to make it field 2, a `Resource`, of a DeltaDiscoveryResponse."""
    head = field(1, version.encode()) + field(3, name.encode())
    return _FIELD_2 + varint(len(head) + any_size) + head


def type_url_field(type_url: str) -> bytes:
    """Return field 4, the type URL, of either response."""
    return field(4, type_url.encode())


def delta_response(parts: list[bytes], removed: Iterable[str], type_url: bytes, nonce: str) -> bytes:
    """Return a DeltaDiscoveryResponse; `parts` are prefixes and Any fields, `type_url` is already framed."""
    parts += [field(6, name.encode()) for name in removed]
    parts += (type_url, field(5, nonce.encode()))
    return b"".join(parts)


def sotw_response(parts: list[bytes], version: str, type_url: bytes, nonce: str) -> bytes:
    """Return a DiscoveryResponse; `parts` are Any fields, `type_url` is already framed."""
    parts.append(field(1, version.encode()))
    parts.append(type_url)
    parts.append(field(5, nonce.encode()))
    return b"".join(parts)
