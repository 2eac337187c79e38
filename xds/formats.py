"""Envoy's command operators in the words of logs and spans: which there are, and whether a text uses them rightly.

It owns that list and the check; it must never know what a text is for. An operator that Envoy does not know makes it
refuse the whole listener.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from xds.fields import ConfigError, show

PLAIN: Final = frozenset(
    re.findall(
        r"\w+",
        """
    ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_SENT CONNECTION_ID CONNECTION_TERMINATION_DETAILS
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT
    DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_DNS_SAN
    DOWNSTREAM_LOCAL_PORT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT_V_END
    DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_ISSUER
    DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_REMOTE_ADDRESS
    DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_SESSION_ID
    DOWNSTREAM_TLS_VERSION DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED
    DOWNSTREAM_WIRE_BYTES_SENT DURATION EMIT_TIME FILTER_CHAIN_NAME GRPC_STATUS GRPC_STATUS_NUMBER HOSTNAME
    PROTOCOL REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_CODE
    RESPONSE_CODE_DETAILS RESPONSE_DURATION RESPONSE_FLAGS RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES
    RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION ROUNDTRIP_DURATION ROUTE_NAME SPAN_ID START_TIME STREAM_ID TRACE_ID
    UNIQUE_ID UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID UPSTREAM_HEADER_BYTES_RECEIVED
    UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT
    UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_URI_SAN UPSTREAM_PEER_ISSUER UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN
    UPSTREAM_PROTOCOL UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT
    UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_TLS_CIPHER UPSTREAM_TLS_VERSION UPSTREAM_TRANSPORT_FAILURE_REASON
    UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME
    """,
    )
)
"""Operators that need no argument."""

WITH_ARGUMENT: Final = {
    "CEL": r"[^)]+(?:\([^)]*\)[^)]*)*",
    "CLUSTER_METADATA": r"[^()%]+",
    "DYNAMIC_METADATA": r"[^()%]+",
    "ENVIRONMENT": r"[A-Za-z_][A-Za-z0-9_]*",
    "FILTER_STATE": r"[^()%]+",
    "METADATA": r"(?:DYNAMIC|CLUSTER|ROUTE|UPSTREAM_HOST|LISTENER):[^()%]+",
    "PATH": r"(?:WQ|NQ)(?::(?:ORIG|PATH|ORIG_OR_PATH))?",
    "REQ": r":?[\w-]+(?:\?:?[\w-]+)?",
    "RESP": r":?[\w-]+(?:\?:?[\w-]+)?",
    "TRAILER": r":?[\w-]+(?:\?:?[\w-]+)?",
    "UPSTREAM_METADATA": r"[^()%]+",
}
"""Operators with an argument, and the form of it."""

OPTIONAL: Final = {
    "GRPC_STATUS": r"CAMEL_STRING|SNAKE_STRING|NUMBER",
    "START_TIME": r"[^()]*",
}
"""Operators that may have one."""

_OPERATOR: Final = re.compile(r"%(?:%|([A-Z][A-Z0-9_]*)(?:\((.*?)\))?(?::\d{1,5})?%)", re.ASCII)
_TIME: Final = re.compile(r"%START_TIME\(((?:[^()%]|%%|%[0-9]?[A-Za-z*])*)\)%", re.ASCII)
_LONGEST: Final = 1 << 14


def check_format(text: str, path: str) -> str:
    """Return a text as it is; raise ConfigError where Envoy would refuse it.

    Line breaks are refused within a text and at its end: one event is one line, and the sidecar ends it.
    """
    if len(text) > _LONGEST:
        raise ConfigError(path, f"must be at most {_LONGEST} characters, got {len(text)}")
    line = text.removesuffix("\n")
    if any((ord(c) < 0x20 and c != "\t") or ord(c) == 0x7F for c in line):
        raise ConfigError(path, f"must be one line without control characters, got {show(line)}")
    rest = _TIME.sub("", line)  # its argument holds per cent signs of its own
    for found in _OPERATOR.finditer(rest):
        name = found.group(1)
        if name is not None:
            _check_operator(name, found.group(2), path)
    left = _OPERATOR.sub("", rest)
    if "%" in left:
        reason = f"has a % that begins no operator; write %% for a plain one, got {show(text)}"
        raise ConfigError(path, reason)
    return line


def _check_operator(name: str, argument: str | None, path: str) -> None:
    form = WITH_ARGUMENT.get(name) or OPTIONAL.get(name)
    if form is None and name not in PLAIN:
        near = difflib.get_close_matches(name, {*PLAIN, *WITH_ARGUMENT}, n=1)
        hint = f"; did you mean %{near[0]}%?" if near else ""
        raise ConfigError(path, f"%{name}% is no operator that Envoy has{hint}")
    if argument is None:
        if name in WITH_ARGUMENT:
            raise ConfigError(path, f"%{name}% needs an argument in brackets")
    elif form is None or not re.fullmatch(form, argument):
        raise ConfigError(path, f"%{name}({show(argument)})% has an argument that Envoy does not take")
