"""Limits that instances share: each request is described to a rate limit service, which counts for all of them.

It owns the field ``global`` of our kind ``RateLimit``; it must never know which service that is, nor what it allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.fields import ConfigError
from xds.grammar import check_header_name
from xds.pb.envoy.config.core.v3 import config_source_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from xds.pb.envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2

if TYPE_CHECKING:
    from xds.fields import Reader

SUPPORT: Final = (
    (
        "RateLimit spec.global.provider",
        "RateLimit.rate_limit_service, domain, timeout",
        "of extensionProviders",
    ),
    ("RateLimit spec.global.failOpen", "RateLimit.failure_mode_deny", "default: as the provider says"),
    (
        "RateLimit spec.global.descriptors[].entries[].key, value",
        "actions.generic_key",
        "as they are written",
    ),
    (
        "RateLimit spec.global.descriptors[].entries[].header, caller",
        "actions.extension (CEL)",
        "nobody: none",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

FILTER: Final = "envoy.filters.http.ratelimit"
"""The filter that asks."""

MAX_DESCRIPTORS: Final = 16
MAX_ENTRIES: Final = 8
"""All descriptors of a request travel in one message."""

_LONGEST: Final = 256
_NOBODY: Final = "nobody"
"""The value of callers without an identity, and of requests without the header: leaving it out sets nobody free."""

_CALLER: Final = f'connection.mtls ? connection.uri_san_peer_certificate : "{_NOBODY}"'

_Action = route_components_pb2.RateLimit.Action


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with a value of its own, or with that of a header, or with the caller's SPIFFE id."""

    key: str
    value: str = ""
    header: str = ""
    by_caller: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """Which provider is asked about which descriptors; None as ``fail_open`` leaves that to the provider."""

    provider: str
    descriptors: tuple[tuple[Entry, ...], ...]
    fail_open: bool | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """Where a provider is asked, and what it is asked for; an empty ``cluster`` is one that nobody has."""

    cluster: str
    domain: str
    timeout_ms: float
    fail_open: bool


def read(parent: Reader) -> Shared | None:
    """Return the shared limits of a RateLimit, None where there are none."""
    reader = parent.object("global")
    if reader is None:
        return None
    provider = reader.text("provider", limit=_LONGEST)
    readers = reader.objects("descriptors")
    if not 0 < len(readers) <= MAX_DESCRIPTORS:
        raise reader.fail("descriptors", f"must be 1..{MAX_DESCRIPTORS}, got {len(readers)}")
    fail_open = reader.boolean("failOpen") if reader.has("failOpen") else None
    reader.raw("failOpen")
    reader.done()
    return Shared(provider, tuple(map(_read_descriptor, readers)), fail_open)


def _read_descriptor(reader: Reader) -> tuple[Entry, ...]:
    readers = reader.objects("entries")
    reader.done()
    if not 0 < len(readers) <= MAX_ENTRIES:
        raise reader.fail("entries", f"must be 1..{MAX_ENTRIES}, got {len(readers)}")
    return tuple(map(_read_entry, readers))


def _read_entry(reader: Reader) -> Entry:
    key, value = reader.text("key", limit=_LONGEST), reader.text("value", "", limit=_LONGEST)
    header, by_caller = reader.text("header", ""), reader.boolean("caller")
    reader.done()
    if not key or not key.isprintable() or not value.isprintable():
        raise ConfigError(reader.path, "must have a key, and only printable text")
    if (bool(value), bool(header), by_caller).count(True) != 1:
        raise ConfigError(reader.path, "must have exactly one of value, header and caller: true")
    return Entry(key, value, check_header_name(reader.at("header"), header) if header else "", by_caller)


# -- Envoy -----------------------------------------------------------------------------------


def asking(service: Service, descriptors: tuple[tuple[Entry, ...], ...]) -> rate_limit_pb2.RateLimit:
    """Return the filter: a request passes if the service says so of all its descriptors, in time."""
    config = rate_limit_pb2.RateLimit(
        domain=service.domain,
        failure_mode_deny=not service.fail_open,
        rate_limited_as_resource_exhausted=True,
        enable_x_ratelimit_headers=rate_limit_pb2.RateLimit.DRAFT_VERSION_03,
    )
    config.timeout.FromMicroseconds(round(service.timeout_ms * 1000))
    config.rate_limit_service.transport_api_version = config_source_pb2.V3
    config.rate_limit_service.grpc_service.envoy_grpc.cluster_name = service.cluster
    for entries in descriptors:
        config.rate_limits.add(actions=map(_action, entries))
    return config


def _action(entry: Entry) -> _Action:
    if entry.value:
        return _Action(generic_key=_Action.GenericKey(descriptor_key=entry.key, descriptor_value=entry.value))
    # A header's name is a token (RFC 9110 §5.6.2), which has neither a quotation mark nor a backslash.
    named = f'"{entry.header}" in request.headers ? request.headers["{entry.header}"] : "{_NOBODY}"'
    action = _Action()
    action.extension.name = "envoy.rate_limit_descriptors.expr"
    described = expr_pb2.Descriptor(descriptor_key=entry.key, text=_CALLER if entry.by_caller else named)
    action.extension.typed_config.Pack(described, deterministic=True)
    return action
