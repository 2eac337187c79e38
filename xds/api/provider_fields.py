"""Fields that several providers have: where a service is, how long it is waited for, what it is shown.

It owns these values and their readers; it must never know which provider a field belongs to.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from xds.api.meta import check_dns_label, check_dns_subdomain
from xds.fields import ConfigError, Reader, show
from xds.formats import check_format

Pairs = tuple[tuple[str, str], ...]
"""Names with texts, in the order in which they were written."""

_BODY_MAX: Final = 16 << 20
"""Most of a request's body that is held back for a decision."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~A-Za-z0-9-]{1,256}")
"""A header's name: RFC 9110 §5.1, a token."""


class ProviderService(msgspec.Struct, frozen=True, gc=False):
    """A port of a Service or ServiceEntry; ``namespace`` is empty where only the host was written."""

    host: str
    port: int
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.host}" if self.namespace else self.host


class RequestBody(msgspec.Struct, frozen=True, gc=False):
    """How much of a request's body an authorization service sees."""

    max_bytes: int
    allow_partial: bool = False
    as_bytes: bool = False


class LogFormat(msgspec.Struct, frozen=True, gc=False):
    """Words of an access log: a line of ``text``, or ``labels`` of an object; both empty mean the mesh's own."""

    text: str = ""
    labels: Pairs = ()


def read_service(reader: Reader) -> ProviderService:
    """Return a service in Istio's form, ``[NAMESPACE/]HOST``, and its port."""
    text = reader.text("service", limit=512)
    namespace, slash, host = text.rpartition("/")
    path = reader.at("service")
    if slash:
        check_dns_label(namespace, path)
    check_dns_subdomain(host, path)
    return ProviderService(host, reader.integer("port", low=1, high=65535), namespace)


def read_timeout(reader: Reader, default: float) -> float:
    """Return a timeout in milliseconds, at least one."""
    found = reader.duration_ms("timeout", default, low_ms=1)
    return default if found is None else found


def read_status(reader: Reader) -> int:
    """Return the status of an answer without a decision; Istio writes the number as text."""
    text = reader.text("statusOnError", "403")
    if not re.fullmatch(r"[2-5]\d\d", text):
        raise reader.fail("statusOnError", f"must be an HTTP status such as '503', got {show(text)}")
    return int(text)


def read_path(reader: Reader, name: str, default: str) -> str:
    """Return a path of HTTP that holds nothing odd."""
    text = reader.text(name, default)
    if text and (not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text):
        raise reader.fail(name, f"must be a path that begins with '/', got {show(text)}")
    return text


def read_tag_length(reader: Reader, name: str = "maxTagLength") -> int:
    """Return the longest value of a tag in bytes, 0 for the tracer's own limit."""
    return reader.integer(name, 0, low=0, high=1 << 16)


def read_headers(reader: Reader, name: str) -> tuple[str, ...]:
    """Return names of headers in lower case, Istio's patterns (``x-*``) among them."""
    found = reader.texts(name)
    for index, text in enumerate(found):
        if not _HEADER.fullmatch(text):
            reason = f"must be a header's name, or one with '*' at an end, got {show(text)}"
            raise ConfigError(f"{reader.at(name)}[{index}]", reason)
    return tuple(text.lower() for text in found)


def read_header_pairs(reader: Reader, name: str) -> Pairs:
    """Return a map of headers, names in lower case."""
    found = reader.labels(name)
    for key, value in found:
        _check_header(key, value, f"{reader.at(name)}.{key}")
    return tuple((key.lower(), value) for key, value in found)


def read_sent(reader: Reader, name: str) -> Pairs:
    """Return headers in Istio's form: a list of objects with a name and a value."""
    out: list[tuple[str, str]] = []
    for header in reader.objects(name):
        header.refuse("envName", "a header would carry nothing")
        key, value = header.text("name"), header.text("value", limit=4096)
        _check_header(key, value, header.path)
        header.done()
        out.append((key.lower(), value))
    return tuple(out)


def _check_header(key: str, value: str, path: str) -> None:
    if not _HEADER.fullmatch(key):
        raise ConfigError(path, f"must have a header's name, got {show(key)}")
    if not value.isascii() or not value.isprintable():
        raise ConfigError(path, f"must have a printable value, got {show(value)}")


def read_body(reader: Reader) -> RequestBody | None:
    """Return how much of a body is shown, None for nothing."""
    inner = reader.object("includeRequestBodyInCheck")
    if inner is None:
        return None
    found = RequestBody(
        inner.integer("maxRequestBytes", low=1, high=_BODY_MAX),
        inner.boolean("allowPartialMessage"),
        inner.boolean("packAsBytes"),
    )
    inner.done()
    return found


def read_form(reader: Reader) -> LogFormat:
    """Return the words of an access log."""
    inner = reader.object("logFormat")
    if inner is None:
        return LogFormat()
    text = check_format(inner.text("text", "", limit=1 << 14), inner.at("text"))
    labels = tuple(
        (key, check_format(value, f"{inner.at('labels')}.{key}")) for key, value in inner.labels("labels")
    )
    inner.done()
    return LogFormat(text, labels)
