"""Conditions of access: what of a connection or request is looked at, and the texts that it is compared with.

These are frozen values and the grammar of their texts; what a proxy does with them must never be known here.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

import msgspec

from xds.api.addresses import read_cidr
from xds.fields import MAX_TEXT, ConfigError, show
from xds.grammar import undotted

if TYPE_CHECKING:
    from collections.abc import Callable


class Attribute(enum.Enum):
    """What a condition looks at; the values are Istio's words for it in ``when``, where it has one."""

    PRINCIPAL = "source.principal"
    NAMESPACE = "source.namespace"
    SERVICE_ACCOUNT = "source.serviceAccount"
    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    DESTINATION_IP = "destination.ip"
    PORT = "destination.port"
    SNI = "connection.sni"
    REQUEST_PRINCIPAL = "request.auth.principal"
    AUDIENCE = "request.auth.audiences"
    PRESENTER = "request.auth.presenter"
    CLAIM = "request.auth.claims"
    HEADER = "request.headers"
    HOST = "hosts"
    METHOD = "methods"
    PATH = "paths"

    @property
    def is_http(self) -> bool:
        """Tell whether only a request has it, and a connection of bytes has not."""
        return self in _HTTP

    @property
    def is_identity(self) -> bool:
        """Tell whether only a peer with a certificate of the mesh has it."""
        return self in _IDENTITY

    @property
    def is_destination(self) -> bool:
        """Tell whether it says what is asked for; the others say who asks."""
        return self in _DESTINATION


_IDENTITY: Final = frozenset({Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT})
_DESTINATION: Final = frozenset(
    {
        Attribute.DESTINATION_IP,
        Attribute.PORT,
        Attribute.SNI,
        Attribute.HOST,
        Attribute.METHOD,
        Attribute.PATH,
    }
)
_HTTP: Final = frozenset(
    {
        Attribute.REQUEST_PRINCIPAL,
        Attribute.AUDIENCE,
        Attribute.PRESENTER,
        Attribute.CLAIM,
        Attribute.HEADER,
        Attribute.HOST,
        Attribute.METHOD,
        Attribute.PATH,
    }
)


class Condition(msgspec.Struct, frozen=True, gc=False):
    """One of ``values`` (empty: any) and none of ``not_values``; ``key`` is a header's name or a claim's path.

    Texts are exact, ``prefix*``, ``*suffix`` or ``*`` (present and not empty); a path may hold ``{*}`` and ``{**}``.
    """

    attribute: Attribute
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()
    key: tuple[str, ...] = ()


ONE_SEGMENT: Final = "{*}"
REST: Final = "{**}"
"""What a path template may hold: one segment, and any number of them."""

_NAMESPACE: Final = re.compile(r"(?=.)\*?[a-z0-9-]{0,63}\*?")
_ACCOUNT: Final = re.compile(r"(?:[a-z0-9-]{1,63}/)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_PORT: Final = re.compile(r"[1-9]\d{0,4}")
_PORT_MAX: Final = 65535
_ODD: Final = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@%/\[\]-]")
"""What no path of a request holds as it is (RFC 3986 section 3.3): normalisation escapes it, except for brackets."""


def check(attribute: Attribute, value: str, path: str) -> str:
    """Return a value in the form in which it is compared; raise ConfigError for one that means nothing."""
    if not value:
        raise ConfigError(path, "must not be empty")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
        raise ConfigError(path, f"must not hold control characters, got {show(value)}")
    checker = _CHECKERS.get(attribute)
    return checker(value, path) if checker else value


def _check_principal(value: str, path: str) -> str:
    if value.startswith("spiffe:"):
        raise ConfigError(path, f"must be written without spiffe://, got {show(value)}")
    return value


def _check_host(value: str, path: str) -> str:
    """Return a host without the dot that may end its name: requests have lost theirs before they are compared."""
    if value == "*.":
        raise ConfigError(path, "must have a name behind *., or be * for any host")
    return undotted(value)


def _check_namespace(value: str, path: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        raise ConfigError(path, f"must be a namespace, prefix*, *suffix or *, got {show(value)}")
    return value


def _check_account(value: str, path: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ConfigError(path, f"must be NAMESPACE/NAME or NAME of a ServiceAccount, got {show(value)}")
    return value


def _check_port(value: str, path: str) -> str:
    if not _PORT.fullmatch(value) or int(value) > _PORT_MAX:
        raise ConfigError(path, f'must be a port in quotes, "1".."{_PORT_MAX}", got {show(value)}')
    return value


def _check_path(value: str, path: str) -> str:
    if value[0] not in "/*":
        raise ConfigError(path, f"must begin with / or *, or it never matches, got {show(value)}")
    if "?" in value or "#" in value:
        raise ConfigError(path, f"is compared without query and fragment, so it never matches: {show(value)}")
    odd = _ODD.search(value.replace(ONE_SEGMENT, "").replace(REST, ""))
    if odd and odd[0] not in "{}":
        raise ConfigError(
            path, f"holds {show(odd[0])}, which requests hold escaped, so it never matches: {show(value)}"
        )
    if ONE_SEGMENT in value or REST in value:
        _check_template(value, path)
    elif "{" in value or "}" in value:
        raise ConfigError(path, f"may hold {{*}} and {{**}} only, each a whole segment, got {show(value)}")
    return value


def _check_template(value: str, path: str) -> None:
    segments = value.removeprefix("/").removesuffix("/").split("/")
    for i, segment in enumerate(segments):
        if segment == REST and {ONE_SEGMENT, REST} & set(segments[i + 1 :]):
            raise ConfigError(
                path, f"has {{*}} or {{**}} behind {{**}}, which must be the last: {show(value)}"
            )
        if segment not in {ONE_SEGMENT, REST} and any(c in segment for c in "{}*"):
            reason = f"may hold {{*}} and {{**}} only as whole segments, and no other *, got {show(value)}"
            raise ConfigError(path, reason)


_CHECKERS: Final[dict[Attribute, Callable[[str, str], str]]] = {
    Attribute.PRINCIPAL: _check_principal,
    Attribute.NAMESPACE: _check_namespace,
    Attribute.SERVICE_ACCOUNT: _check_account,
    Attribute.SOURCE_IP: read_cidr,
    Attribute.REMOTE_IP: read_cidr,
    Attribute.DESTINATION_IP: read_cidr,
    Attribute.PORT: _check_port,
    Attribute.HOST: _check_host,
    Attribute.PATH: _check_path,
}

_KEY: Final = re.compile(r"([A-Za-z.]+)((?:\[[^\[\]]+\])*)")
_PART: Final = re.compile(r"\[([^\[\]]+)\]")

MAX_CLAIM_DEPTH: Final = 16
"""Deepest claim that can be named: real tokens nest two or three levels, and every level is a step for each request."""

_IN_WHEN: Final = frozenset(Attribute) - {Attribute.HOST, Attribute.METHOD, Attribute.PATH}


def read_key(key: str, path: str) -> tuple[Attribute, tuple[str, ...]]:
    """Return what a ``when`` key looks at, and the parts in its brackets."""
    if key.startswith("experimental."):
        raise ConfigError(path, f"{show(key)} is not supported: it depends on filters that Proa does not run")
    found = _KEY.fullmatch(key) if len(key) <= MAX_TEXT else None
    names = {attribute.value: attribute for attribute in _IN_WHEN}
    if found is None or found[1] not in names:
        known = ", ".join(sorted(names))
        raise ConfigError(path, f"must be one of {known}, got {show(key)}")
    attribute, parts = names[found[1]], tuple(_PART.findall(found[2]))
    wanted = {Attribute.HEADER: 1, Attribute.CLAIM: MAX_CLAIM_DEPTH}.get(attribute, 0)
    if len(parts) > wanted or (wanted and not parts):
        form = {0: "", 1: "[NAME]"}.get(wanted, f"[NAME][NAME]…, at most {wanted} levels")
        raise ConfigError(path, f"must be {found[1]}{form}, got {show(key)}")
    return attribute, parts
