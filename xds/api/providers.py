"""Services that the mesh settings name for others to use: Istio's ``extensionProviders``, one type and one reader each.

It owns what a provider is called and which fields it has; it must never decide who uses one, nor whether its
service exists.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from xds.api.provider_fields import (
    LogFormat,
    Pairs,
    ProviderService,
    RequestBody,
    read_body,
    read_form,
    read_header_pairs,
    read_headers,
    read_path,
    read_sent,
    read_service,
    read_status,
    read_tag_length,
    read_timeout,
)
from xds.fields import ConfigError, Reader, show

if TYPE_CHECKING:
    from collections.abc import Callable

_AUTHZ_TIMEOUT_MS: Final = 600_000.0
"""Istio's default for both forms of external authorization: its documentation says 600s."""

_RATE_LIMIT_TIMEOUT_MS: Final = 20.0
"""Envoy's default for its rate limit service (ratelimit.proto)."""

_EXPORT_TIMEOUT_MS: Final = 10_000.0
"""OpenTelemetry's default for one export (OTEL_EXPORTER_OTLP_TIMEOUT); nothing waits for it."""

STREAMS: Final = ("/dev/stdout", "/dev/stderr")
"""Where lines can go: to the streams of the sidecar's container, in whatever form a log collector reads these."""

_NO_FILE: Final = (
    "must be /dev/stdout or /dev/stderr: a file that Envoy may not open would refuse every listener"
)

_ONLY_W3C: Final = (
    "joins traces by W3C's headers alone, and B3's pass as they came; use the zipkin provider for both"
)

_NAME = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,126}[A-Za-z0-9])?")


class ExtAuthzHttp(msgspec.Struct, frozen=True, gc=False):
    """envoyExtAuthzHttp: a request is decided by an HTTP service. Header names may be Istio's patterns, ``x-*``."""

    name: str
    service: ProviderService
    timeout_ms: float = _AUTHZ_TIMEOUT_MS
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: int = 403
    path_prefix: str = ""
    headers_in_check: tuple[str, ...] = ()
    more_headers_in_check: Pairs = ()
    body: RequestBody | None = None
    headers_upstream_on_allow: tuple[str, ...] = ()
    headers_downstream_on_allow: tuple[str, ...] = ()
    headers_downstream_on_deny: tuple[str, ...] = ()


class ExtAuthzGrpc(msgspec.Struct, frozen=True, gc=False):
    """envoyExtAuthzGrpc: a request, or a connection, is decided by a service that speaks Envoy's protocol."""

    name: str
    service: ProviderService
    timeout_ms: float = _AUTHZ_TIMEOUT_MS
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: int = 403
    body: RequestBody | None = None


class TraceContext(enum.Enum):
    """Which headers carry a trace with Zipkin; the values are Istio's."""

    B3 = "USE_B3"
    B3_WITH_W3C = "USE_B3_WITH_W3C_PROPAGATION"


class Zipkin(msgspec.Struct, frozen=True, gc=False):
    """zipkin: spans are posted to it as JSON. ``context`` None: nothing was written, and the mesh's default holds."""

    name: str
    service: ProviderService
    path: str = "/api/v2/spans"
    max_tag_length: int = 0
    short_trace_ids: bool = False
    context: TraceContext | None = None


class OpenTelemetry(msgspec.Struct, frozen=True, gc=False):
    """opentelemetry: spans over OTLP, by gRPC unless ``http_path`` is set."""

    name: str
    service: ProviderService
    max_tag_length: int = 0
    timeout_ms: float = _EXPORT_TIMEOUT_MS
    http_path: str = ""
    headers: Pairs = ()


class FileAccessLog(msgspec.Struct, frozen=True, gc=False):
    """envoyFileAccessLog: lines to one of the sidecar's ``STREAMS``."""

    name: str
    path: str = "/dev/stdout"
    form: LogFormat = LogFormat()
    omit_empty: bool = False


class OtelAccessLog(msgspec.Struct, frozen=True, gc=False):
    """envoyOtelAls: records over OTLP by gRPC."""

    name: str
    service: ProviderService
    log_name: str = "otel_envoy_accesslog"
    form: LogFormat = LogFormat()


class Prometheus(msgspec.Struct, frozen=True, gc=False):
    """prometheus: metrics wait in the sidecar until somebody scrapes them."""

    name: str


class RateLimitService(msgspec.Struct, frozen=True, gc=False):
    """ratelimit, which is Proa's own: a service that speaks Envoy's rate limit protocol.

    ``fail_open``: requests pass while it cannot be asked, as Envoy's default has it.
    """

    name: str
    service: ProviderService
    domain: str
    timeout_ms: float = _RATE_LIMIT_TIMEOUT_MS
    fail_open: bool = True


Provider: TypeAlias = (
    ExtAuthzHttp
    | ExtAuthzGrpc
    | Zipkin
    | OpenTelemetry
    | FileAccessLog
    | OtelAccessLog
    | Prometheus
    | RateLimitService
)
"""Everything that a provider can be."""

BUILT_IN: Final[tuple[Provider, ...]] = (FileAccessLog("envoy"), Prometheus("prometheus"))
"""Providers that Istio has without being told of them; the settings may give their names another meaning."""


def read_providers(mesh: Reader) -> tuple[Provider, ...]:
    """Return the providers of the mesh settings in their order; of kinds that Proa does not have, a warning each.

    Raises ConfigError for two of one name: whoever names it could mean either.
    """
    found: list[Provider] = []
    names: dict[str, str] = {}
    for reader in mesh.objects("extensionProviders"):
        name = reader.text("name")
        if not _NAME.fullmatch(name):
            reason = f"must be at most 128 letters, digits, '-', '_' or '.', got {show(name)}"
            raise reader.fail("name", reason)
        if name in names:
            raise reader.fail("name", f"{name} is the name of {names[name]} already")
        names[name] = reader.path
        provider = _read(reader, name)
        if provider is not None:
            found.append(provider)
    return tuple(found)


def service_of_provider(provider: Provider) -> ProviderService | None:
    """Return what a provider calls, None for one that calls nothing."""
    return None if isinstance(provider, FileAccessLog | Prometheus) else provider.service


def _read(reader: Reader, name: str) -> Provider | None:
    kinds = sorted(reader.present() - {"name"})
    if len(kinds) != 1:
        listed = ", ".join(kinds) or "none"
        raise ConfigError(reader.path, f"must have exactly one of {', '.join(_READERS)}, got {listed}")
    read = _READERS.get(kinds[0])
    if read is None:
        reader.warn(kinds[0], f"is no provider that Proa has: {name} was left out")
        return None
    inner = Reader(reader.raw(kinds[0]), reader.at(kinds[0]), reader.notes)
    provider = read(inner, name)
    inner.done()
    return provider


def _http_authz(reader: Reader, name: str) -> Provider:
    deprecated = reader.texts("includeHeadersInCheck")
    return ExtAuthzHttp(
        name=name,
        service=read_service(reader),
        timeout_ms=read_timeout(reader, _AUTHZ_TIMEOUT_MS),
        fail_open=reader.boolean("failOpen"),
        clear_route_cache=reader.boolean("clearRouteCache"),
        status_on_error=read_status(reader),
        path_prefix=read_path(reader, "pathPrefix", ""),
        headers_in_check=read_headers(reader, "includeRequestHeadersInCheck") or deprecated,
        more_headers_in_check=read_header_pairs(reader, "includeAdditionalHeadersInCheck"),
        body=read_body(reader),
        headers_upstream_on_allow=read_headers(reader, "headersToUpstreamOnAllow"),
        headers_downstream_on_allow=read_headers(reader, "headersToDownstreamOnAllow"),
        headers_downstream_on_deny=read_headers(reader, "headersToDownstreamOnDeny"),
    )


def _grpc_authz(reader: Reader, name: str) -> Provider:
    return ExtAuthzGrpc(
        name=name,
        service=read_service(reader),
        timeout_ms=read_timeout(reader, _AUTHZ_TIMEOUT_MS),
        fail_open=reader.boolean("failOpen"),
        clear_route_cache=reader.boolean("clearRouteCache"),
        status_on_error=read_status(reader),
        body=read_body(reader),
    )


def _zipkin(reader: Reader, name: str) -> Provider:
    context = reader.choice("traceContextOption", TraceContext) if reader.has("traceContextOption") else None
    return Zipkin(
        name=name,
        service=read_service(reader),
        path=read_path(reader, "path", "/api/v2/spans"),
        max_tag_length=read_tag_length(reader),
        short_trace_ids=reader.boolean("enable64bitTraceId"),
        context=context,
    )


def _opentelemetry(reader: Reader, name: str) -> Provider:
    service, length = read_service(reader), read_tag_length(reader)
    http, grpc = reader.object("http"), reader.object("grpc")
    if http is not None and grpc is not None:
        raise reader.fail("grpc", "cannot stand beside http: spans go one way")
    context = reader.text("traceContextOption", "")
    if context:
        reader.warn("traceContextOption", f"{show(context)} is Zipkin's: {name} {_ONLY_W3C}")
    for field in ("resourceDetectors", "dynatraceSampler", "serviceAttributeEnrichment"):
        reader.leave(field, "spans carry service.name, service.namespace and the workload's labels")
    if http is not None:
        path = read_path(http, "path", "/v1/traces")
        found = OpenTelemetry(
            name, service, length, read_timeout(http, _EXPORT_TIMEOUT_MS), path, read_sent(http, "headers")
        )
        http.done()
        return found
    if grpc is not None:
        timeout_ms, headers = read_timeout(grpc, _EXPORT_TIMEOUT_MS), read_sent(grpc, "initialMetadata")
        grpc.done()
        return OpenTelemetry(name, service, length, timeout_ms, "", headers)
    return OpenTelemetry(name, service, length)


def _file_log(reader: Reader, name: str) -> Provider | None:
    path, form = reader.text("path", "/dev/stdout"), read_form(reader)
    omit_empty = reader.boolean("omitEmptyValues")
    if path not in STREAMS:
        reader.warn("path", f"{name} was left out: {_NO_FILE}, got {show(path)}")
        return None
    return FileAccessLog(name, path, form, omit_empty)


def _otel_log(reader: Reader, name: str) -> Provider:
    return OtelAccessLog(
        name=name,
        service=read_service(reader),
        log_name=reader.text("logName", "otel_envoy_accesslog"),
        form=read_form(reader),
    )


def _prometheus(reader: Reader, name: str) -> Provider:
    del reader
    return Prometheus(name)


def _ratelimit(reader: Reader, name: str) -> Provider:
    return RateLimitService(
        name=name,
        service=read_service(reader),
        domain=reader.text("domain", limit=256),
        timeout_ms=read_timeout(reader, _RATE_LIMIT_TIMEOUT_MS),
        fail_open=reader.boolean("failOpen", default=True),
    )


_READERS: Final[dict[str, Callable[[Reader, str], Provider | None]]] = {
    "envoyExtAuthzHttp": _http_authz,
    "envoyExtAuthzGrpc": _grpc_authz,
    "zipkin": _zipkin,
    "opentelemetry": _opentelemetry,
    "envoyFileAccessLog": _file_log,
    "envoyOtelAls": _otel_log,
    "prometheus": _prometheus,
    "ratelimit": _ratelimit,
}
