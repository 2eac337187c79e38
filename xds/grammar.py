"""What HTTP and Envoy allow in names, values and patterns, as readers that several features share.

It owns the grammar of header names and values, regexes, string matches and percentages; it
must never know which behaviour a value is for.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

import re2

from xds.fields import MAX_TEXT, ConfigError, Reader, show

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""A field name of RFC 9110 section 5.6.2."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label of RFC 1123, the form of Kubernetes' namespaces."""

_SUBSET: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
"""The form of Istio's subset names (pkg/config/labels)."""

_DNS_LABEL: Final = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_HOST: Final = re.compile(rf"(\*\.)?({_DNS_LABEL}\.)*{_DNS_LABEL}\.?")
"""A short name, a qualified name, or a wildcard whose first label is ``*`` (Istio's ValidateWildcardDomain)."""

_LAST_DOT: Final = re.compile(r"\.(:[^.]*)?\Z")

_COMMAND: Final = re.compile(
    r"%(?:%|(?:REQ|RESP)\(:?[\w-]+(?:\?:?[\w-]+)?\)(?::\d{1,4})?%|([A-Z_]+)%)", re.ASCII
)
"""The escape ``%%``, a header of the request or response with another in its place, or a plain substitution."""

_COMMANDS: Final = frozenset(
    {
        "BYTES_RECEIVED",
        "CONNECTION_ID",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_LOCAL_URI_SAN",
        "DOWNSTREAM_PEER_SUBJECT",
        "DOWNSTREAM_PEER_URI_SAN",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "DOWNSTREAM_TLS_VERSION",
        "DURATION",
        "HOSTNAME",
        "PROTOCOL",
        "REQUESTED_SERVER_NAME",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_FLAGS",
        "ROUTE_NAME",
        "START_TIME",
        "TRACE_ID",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_HOST",
        "UPSTREAM_PEER_URI_SAN",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    }
)
"""Substitutions that every supported Envoy knows, and that tell only of the request and its peers. ENVIRONMENT,
FILE_CONTENT and metadata are left out on purpose: a rule of one namespace runs in the proxies of all others."""

MAX_REGEX_PROGRAM: Final = 32_768
"""Largest RE2 program taken: the limit that the sidecars' bootstrap sets, and Istio's. Envoy refuses the whole
resource above it."""

_RE2_MEMORY_BYTES: Final = 8 << 20
"""RE2's default, said aloud: what compiling one pattern may use before it is refused."""


class MatchKind(enum.Enum):
    """How a text is compared; PRESENT asks only that there is one."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A comparison with one text; a regex must match all of it."""

    kind: MatchKind
    value: str = ""


PRESENT: Final = StringMatch(MatchKind.PRESENT)
"""Any value will do, as long as there is one."""


def read_string_match(reader: Reader) -> StringMatch:
    """Return Istio's StringMatch: exactly one of exact, prefix and regex."""
    kinds = [kind for kind in (MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX) if reader.has(kind.value)]
    for kind in MatchKind:
        if kind is not MatchKind.PRESENT:
            reader.raw(kind.value)
    reader.done()
    if len(kinds) != 1:
        raise ConfigError(reader.path, "must have exactly one of exact, prefix and regex")
    kind = kinds[0]
    if kind is MatchKind.REGEX:
        return StringMatch(kind, read_regex(reader, "regex"))
    value = reader.text(kind.value)
    if kind is MatchKind.PREFIX and not value:
        raise reader.fail("prefix", "must not be empty; leave the match out to take everything")
    return StringMatch(kind, value)


MAX_NAME: Final = 1024
"""Longest name of a query parameter that Envoy takes (QueryParameterMatcher.name)."""

MAX_HEADER_BYTES: Final = 16_384
"""Longest header value that Envoy takes in its configuration (core.v3.HeaderValue)."""


def read_string_matches(reader: Reader, name: str) -> tuple[tuple[str, StringMatch], ...]:
    """Return a map of names to comparisons as pairs sorted by name.

    An empty comparison and Istio's regex ``*`` mean: present with any value.
    """
    entries = reader.object(name)
    if entries is None:
        return ()
    out: list[tuple[str, StringMatch]] = []
    for key in sorted(entries.present()):
        if not 0 < len(key) <= MAX_NAME or not key.isprintable():
            raise ConfigError(
                entries.path, f"has a name that is empty, too long or not printable: {show(key)}"
            )
        entry = entries.object(key)
        if entry is not None:
            out.append((key, _match_or_present(entry)))
    return tuple(out)


def _match_or_present(entry: Reader) -> StringMatch:
    present = entry.present()
    if not present or (tuple(present) == ("regex",) and entry.raw("regex") == "*"):
        return PRESENT
    return read_string_match(entry)


def read_regex(reader: Reader, name: str) -> str:
    """Return a pattern in RE2's syntax: not empty, at most 1,024 characters, no larger than Envoy takes."""
    pattern = reader.text(name, limit=MAX_TEXT)
    if not pattern:
        raise reader.fail(name, "must not be empty")
    try:
        program = regex_program(pattern)
    except ValueError as error:
        raise reader.fail(name, f"is no RE2 regex: {error}") from None
    if program.programsize > MAX_REGEX_PROGRAM:
        size = program.programsize
        raise reader.fail(
            name, f"compiles to {size} instructions, Envoy takes {MAX_REGEX_PROGRAM}; simplify it"
        )
    return pattern


class RegexProgram(Protocol):
    """What Envoy must know of a compiled pattern: its instructions and its capture groups."""

    @property
    def programsize(self) -> int:
        """Instructions of the program."""
        ...

    @property
    def groups(self) -> int:
        """Capture groups."""
        ...


_compile: Final = cast("Callable[[str, re2.Options], RegexProgram]", getattr(re2, "compile"))  # noqa: B009 -- untyped
_REFUSED: Final = cast("type[Exception]", getattr(re2, "error"))  # noqa: B009 -- untyped


def regex_program(pattern: str) -> RegexProgram:
    """Compile a pattern with RE2, the engine that Envoy has; raise ValueError with its reason."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _RE2_MEMORY_BYTES
    try:
        return _compile(pattern, options)
    except (_REFUSED, UnicodeError) as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(
            reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        ) from None


def read_percent(reader: Reader, name: str, default: float) -> float:
    """Return Istio's Percent message, ``{value: 12.5}``, as 0..100; the default stands for an absent message."""
    percent = reader.object(name)
    if percent is None:
        return default
    value = percent.number("value", 0.0, low=0, high=100)
    percent.done()
    return value


def check_header_name(path: str, name: str) -> str:
    """Return a header name in lower case, as HTTP/2 has it; pseudo-headers and Host are refused."""
    if name.startswith("@request.auth.claims"):
        raise ConfigError(
            path, "JWT claims are not supported yet, and without them the rule would take other requests"
        )
    if name.startswith(":") or name.lower() == "host":
        raise ConfigError(
            path, f"{show(name)} is not a header that can be named here; use authority, method or uri"
        )
    if not _TOKEN.fullmatch(name):
        raise ConfigError(
            path, f"must be a header name of letters, digits and -_.!#$%&'*+^`|~, got {show(name)}"
        )
    return name.lower()


def check_header_value(path: str, value: str) -> str:
    """Return a header value that Envoy's formatter takes: no control characters, only known %SUBSTITUTIONS%."""
    if any((ord(c) < 0x20 and c != "\t") or ord(c) == 0x7F for c in value):
        raise ConfigError(path, f"must not hold control characters, got {show(value)}")
    if len(value.encode()) > MAX_HEADER_BYTES:
        raise ConfigError(path, f"must be at most {MAX_HEADER_BYTES} bytes, got {len(value.encode())}")
    for found in _COMMAND.finditer(value):
        command = cast("str | None", found.group(1))
        if command is not None and command not in _COMMANDS:
            raise ConfigError(path, f"%{command}% is not a substitution that can be used here")
    if "%" in _COMMAND.sub("", value):
        raise ConfigError(
            path, f"has a % that begins no substitution; write %% for a plain one, got {show(value)}"
        )
    return value


def check_plain(path: str, value: str) -> str:
    """Return a path or authority that goes into a header as it is: no spaces, no control characters."""
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in value):
        raise ConfigError(path, f"must hold no spaces and no control characters, got {show(value)}")
    return value


def check_host(path: str, host: str) -> str:
    """Return a host name (short, qualified, or a wildcard ``*.example.com``)."""
    if len(host) > 253 or not _HOST.fullmatch(host):  # 253: the longest DNS name in text form
        raise ConfigError(path, f"must be a host name or a wildcard such as *.example.com, got {show(host)}")
    return host


def undotted(authority: str) -> str:
    """Return a host, with its port if it has one, without the dot that may end a name written out in full.

    Envoy's ``strip_trailing_host_dot`` does the same to what requests say.
    """
    return _LAST_DOT.sub(r"\1", authority)


def check_label(path: str, name: str) -> str:
    """Return a DNS label, such as a namespace."""
    if not _NAME.fullmatch(name):
        raise ConfigError(path, f"must be letters a-z, digits and -, at most 63 characters, got {show(name)}")
    return name


def check_subset(path: str, name: str) -> str:
    """Return the name of a subset, in which upper case is another name."""
    if not _SUBSET.fullmatch(name):
        raise ConfigError(path, f"must be letters, digits and -, at most 63 characters, got {show(name)}")
    return name


def read_base64(reader: Reader, name: str, *, limit: int) -> bytes:
    """Return the bytes of a protobuf ``bytes`` field in JSON; either base64 alphabet, padding optional."""
    text = reader.text(name, limit=limit * 4 // 3 + 4).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise reader.fail(name, "must be base64") from None
