"""Redirects: a rule that answers with another place to ask.

It owns Istio's HTTPRedirect; it must never forward a request.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xds.grammar import check_plain
from xds.pb.envoy.config.route.v3.route_components_pb2 import RedirectAction

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    ("http[].redirect.uri", "redirect.path_redirect", "absent: the request's path"),
    ("http[].redirect.authority", "redirect.host_redirect", "absent: the request's host"),
    ("http[].redirect.scheme", "redirect.scheme_redirect", "http or https"),
    (
        "http[].redirect.port",
        "redirect.port_redirect",
        "1..65535; 80 for http and 443 for https are left out",
    ),
    ("http[].redirect.derivePort", "redirect.port_redirect", "FROM_REQUEST_PORT: the port that was called"),
    ("http[].redirect.prefixRewrite", "", "refused: not supported yet"),
    ("http[].redirect.redirectCode", "redirect.response_code", "301 (default), 302, 303, 307, 308"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_CODES: Final = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}


class Scheme(enum.Enum):
    """The schemes that a redirect can name."""

    HTTP = "http"
    HTTPS = "https"


class DerivePort(enum.Enum):
    """Where the port of the new place comes from, when none is named."""

    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to go and with which status; empty texts and port 0 keep what the request has.

    With ``is_port_kept`` the port is the one that was called, which `on` fills in.
    """

    uri: str = ""
    authority: str = ""
    scheme: str = ""
    port: int = 0
    code: int = 301
    is_port_kept: bool = False

    def on(self, port: int) -> Redirect:
        """Return the redirect as requests to one port get it."""
        return (
            replace(self, port=_shown(port, self.scheme), is_port_kept=False) if self.is_port_kept else self
        )

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Make the redirect the route's action."""
        action = route.redirect
        action.SetInParent()
        if self.uri:
            action.path_redirect = self.uri
        action.host_redirect = self.authority
        if self.scheme:
            action.scheme_redirect = self.scheme
        action.port_redirect = self.port
        action.response_code = _CODES[self.code]


def read(parent: Reader) -> Redirect | None:
    """Return the redirect of a rule, None where there is none."""
    reader = parent.object("redirect")
    if reader is None:
        return None
    reader.refuse("prefixRewrite", "clients would be sent to the path that they came from")
    redirect = Redirect(
        uri=check_plain(reader.at("uri"), reader.text("uri", "")),
        authority=check_plain(reader.at("authority"), reader.text("authority", "")),
        scheme=reader.choice("scheme", Scheme).value if reader.has("scheme") else reader.text("scheme", ""),
        port=_port(reader),
        code=_code(reader),
        is_port_kept=_is_port_kept(reader),
    )
    reader.done()
    if not any(map(reader.raw, ("uri", "authority", "scheme", "port"))):
        raise parent.fail("redirect", "must have uri, authority, scheme or port")
    return redirect


def _port(reader: Reader) -> int:
    port = reader.integer("port", 0, low=0, high=65_535)
    return _shown(port, reader.text("scheme", ""))


def _is_port_kept(reader: Reader) -> bool:
    derived = reader.choice("derivePort", DerivePort, DerivePort.FROM_PROTOCOL_DEFAULT)
    if reader.has("derivePort") and reader.raw("port"):
        raise reader.fail("derivePort", "excludes port; keep one of them")
    return derived is DerivePort.FROM_REQUEST_PORT


def _shown(port: int, scheme: str) -> int:
    """Return the port to show, 0 for the scheme's own: with https://host:443 cookies and links would go by it."""
    return 0 if (port, scheme or "http") in ((80, "http"), (443, "https")) else port


def _code(reader: Reader) -> int:
    code = reader.integer("redirectCode", 301, low=0, high=399) or 301
    if code not in _CODES:
        raise reader.fail("redirectCode", f"must be one of {', '.join(map(str, _CODES))}, got {code}")
    return code
