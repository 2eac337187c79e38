"""Direct responses: a rule that the proxy answers itself.

It owns Istio's HTTPDirectResponse; it must never forward a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.grammar import read_base64

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    ("http[].directResponse.status", "direct_response.status", "200..599"),
    ("http[].directResponse.body.string, bytes", "direct_response.body", "at most 1 MiB"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

MAX_BODY_BYTES: Final = 1 << 20
"""Largest body: Istio's limit. Envoy's own is 4 KiB unless the route table raises it, which it must to this."""


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """The status and body of the answer."""

    status: int
    body: bytes = b""

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Make the answer the route's action."""
        route.direct_response.status = self.status
        if self.body:
            route.direct_response.body.inline_bytes = self.body


def read(parent: Reader) -> DirectResponse | None:
    """Return the direct response of a rule, None where there is none."""
    reader = parent.object("directResponse")
    if reader is None:
        return None
    status = reader.integer("status", low=200, high=599)
    body = reader.object("body")
    reader.done()
    return DirectResponse(status, b"" if body is None else _read_body(body))


def _read_body(reader: Reader) -> bytes:
    if reader.has("string") and reader.has("bytes"):
        raise reader.fail("bytes", "excludes string; keep one of them")
    if reader.has("bytes"):
        body = read_base64(reader, "bytes", limit=MAX_BODY_BYTES)
        reader.raw("string")
    else:
        body = reader.text("string", "", limit=MAX_BODY_BYTES).encode()
        reader.raw("bytes")
    reader.done()
    if len(body) > MAX_BODY_BYTES:
        raise reader.fail("string", f"must be at most {MAX_BODY_BYTES} bytes, got {len(body)}")
    return body
