"""What the mesh settings say of traces, access logs and metrics, in the words of Istio's MeshConfig.

It owns these settings and their defaults, which hold where no Telemetry says otherwise; it must never decide what
holds for a workload.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from xds.api.istio_telemetry import read_tag
from xds.api.provider_fields import LogFormat, ProviderService, read_tag_length
from xds.api.providers import STREAMS
from xds.fields import ConfigError, Reader, show
from xds.formats import check_format
from xds.observed import Redaction

if TYPE_CHECKING:
    from xds.observed import Tag

KNOWN: Final = (
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "accessLogRedaction",
    "defaultConfig",
    "defaultProviders",
    "enableTracing",
)
"""The settings that are read here."""

SAMPLING: Final = 1.0
"""Per cent of requests that begin a trace where nothing is said; Istio's default. Envoy's own is all of them, which
costs more than the proxying itself."""

SECRET_PARAMETERS: Final = (
    "access_token",
    "api_key",
    "apikey",
    "client_secret",
    "code",
    "id_token",
    "key",
    "password",
    "refresh_token",
    "secret",
    "sig",
    "signature",
    "token",
)
"""Parameters of a query whose values nobody should find in a log: those of OAuth 2.0 (RFC 6749, RFC 6750 §2.3 warns of
exactly this), of signed URLs, and what people name keys."""

LINE: Final = (
    "%START_TIME% %PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %PATH(WQ:PATH)% %RESPONSE_CODE% "
    "%RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %DOWNSTREAM_REMOTE_ADDRESS% %UPSTREAM_HOST% %UPSTREAM_CLUSTER_RAW% "
    "%REQ(X-REQUEST-ID)% %TRACE_ID%"
)
"""The line of text of who wants no JSON and gives no words of their own: no value in it can hold a space."""

_PARAMETER_MAX: Final = 128
_LIST_MAX: Final = 64
"""Most entries of a redaction list: each is a part of a pattern that every logged request is compared with."""


class Encoding(enum.Enum):
    """The form of an access log; the values are Istio's."""

    TEXT = "TEXT"
    JSON = "JSON"


class DefaultProviders(msgspec.Struct, frozen=True, gc=False):
    """Names of the providers that are used where no Telemetry names any."""

    tracing: tuple[str, ...] = ()
    logging: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


class MeshTelemetry(msgspec.Struct, frozen=True, gc=False):
    """Traces, access logs and metrics of the whole mesh.

    ``log_file`` is empty for no access log, the ``log_form`` of whose words is JSON. ``zipkin`` is where spans go with
    ``enableTracing`` alone.
    """

    defaults: DefaultProviders = DefaultProviders()
    log_file: str = ""
    log_form: LogFormat = LogFormat()
    redaction: Redaction = Redaction(SECRET_PARAMETERS)
    is_tracing: bool = False
    sampling: float = SAMPLING
    tags: tuple[Tag, ...] = ()
    max_tag_length: int = 0
    zipkin: ProviderService | None = None


def read_mesh_telemetry(reader: Reader) -> MeshTelemetry:
    """Return these settings; raise ConfigError for the first that is wrong."""
    log_file = reader.text("accessLogFile", "")
    if log_file and log_file not in STREAMS:
        reason = f"must be {' or '.join(STREAMS)}: a file that Envoy may not open would refuse every listener"
        raise reader.fail("accessLogFile", f"{reason}, got {show(log_file)}")
    form = _form(reader)
    found = MeshTelemetry(
        defaults=_defaults(reader),
        log_file=log_file,
        log_form=form,
        redaction=_redaction(reader),
        is_tracing=reader.boolean("enableTracing"),
    )
    return _with_proxy_config(reader.object("defaultConfig"), found)


def _form(reader: Reader) -> LogFormat:
    """Return the words of all access logs: a line, or an object that is written as a text, as in Istio."""
    name = "accessLogFormat"
    text = reader.text(name, "", limit=1 << 14)
    is_object = text.lstrip().startswith("{")
    likely = Encoding.TEXT if text and not is_object else Encoding.JSON
    if reader.choice("accessLogEncoding", Encoding, likely) is Encoding.TEXT:
        return LogFormat(check_format(text, reader.at(name)) or LINE)
    if not text:
        return LogFormat()
    try:
        labels: object = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise reader.fail(name, f"must be a JSON object where accessLogEncoding is JSON: {error}") from None
    fields = Reader({"labels": labels}, reader.at(name), reader.notes).labels("labels")
    return LogFormat("", tuple((key, check_format(value, reader.at(name))) for key, value in fields))


def _defaults(reader: Reader) -> DefaultProviders:
    inner = reader.object("defaultProviders")
    if inner is None:
        return DefaultProviders()
    found = DefaultProviders(inner.texts("tracing"), inner.texts("accessLogging"), inner.texts("metrics"))
    inner.done()
    return found


def _redaction(reader: Reader) -> Redaction:
    inner = reader.object("accessLogRedaction")
    if inner is None:
        return Redaction(SECRET_PARAMETERS)
    given = inner.has("queryParameters")
    parameters = inner.texts("queryParameters") if given else SECRET_PARAMETERS
    paths = inner.texts("paths")
    for name, texts in (("queryParameters", parameters), ("paths", paths)):
        if len(texts) > _LIST_MAX:
            raise inner.fail(name, f"must have at most {_LIST_MAX} entries, got {len(texts)}")
    for index, text in enumerate(parameters):
        if not 0 < len(text) <= _PARAMETER_MAX or not text.isascii() or not text.isprintable():
            path = f"{inner.at('queryParameters')}[{index}]"
            raise ConfigError(path, f"must be the name of a parameter, got {show(text)}")
    for index, text in enumerate(paths):
        if not text.startswith("/") or not text.isascii() or not text.isprintable() or "?" in text:
            path = f"{inner.at('paths')}[{index}]"
            raise ConfigError(path, f"must be the beginning of a path, /…, without a query, got {show(text)}")
    inner.done()
    return Redaction(tuple(sorted(set(parameters))), tuple(sorted(set(paths))))


def _with_proxy_config(config: Reader | None, found: MeshTelemetry) -> MeshTelemetry:
    """Return the settings with what Istio keeps in the part about proxies; of that, only traces are read."""
    tracing = config.object("tracing") if config else None
    for name in sorted(config.present() - {"tracing"}) if config else ():
        config.warn(name, "is not known and was left out")  # type: ignore[union-attr]  # the condition above
    if tracing is None:
        return found
    tags = tracing.object("customTags")
    zipkin = tracing.object("zipkin")
    for name in sorted(tracing.present() - {"sampling", "customTags", "maxPathTagLength", "zipkin"}):
        tracing.warn(name, "is not known and was left out; name a provider in defaultProviders.tracing")
    return msgspec.structs.replace(
        found,
        sampling=tracing.number("sampling", SAMPLING, low=0, high=100),
        tags=tuple(read_tag(tags, name) for name in sorted(tags.present())) if tags else (),
        max_tag_length=read_tag_length(tracing, "maxPathTagLength"),
        zipkin=_address(zipkin) if zipkin else None,
    )


def _address(zipkin: Reader) -> ProviderService:
    text = zipkin.text("address")
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise zipkin.fail("address", f"must be HOST:PORT, got {show(text)}")
    zipkin.done()
    # Istio's default is written short, `zipkin.istio-system:9411`: a Service and its namespace.
    return ProviderService(f"{host}.svc.cluster.local" if host.count(".") == 1 else host, int(port))
