"""Objects read from the apiserver outside any watch: a list page by page, one by its path.

Owns these requests; it must never judge what it reads.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from xds.api.core import Meta
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.api.manifest import read as read_manifest
from xds.fields import ConfigError
from xds.kube.client import Client
from xds.sources.transport import ApiError

T = TypeVar("T")

_NOT_FOUND: Final = 404
_PAGE: Final = 500
"""Objects in one answer: client-go's default page."""


async def listed(client: Client, path: str, **query: str) -> list[dict[str, object]]:
    """Return the objects of a list, page by page."""
    found: list[dict[str, object]] = []
    after = ""
    while True:
        asked = {"limit": str(_PAGE)} | ({"continue": after} if after else {}) | query
        page = msgspec.json.decode(await client.call("GET", path, query=asked), type=_Page)
        found += page.items
        after = page.metadata.after
        if not after:
            return found


async def single(client: Client, path: str, kind: type[T]) -> T | None:
    """Return one object, None if it does not exist."""
    try:
        return msgspec.json.decode(await client.call("GET", path), type=kind)
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise


async def authentications(client: Client) -> tuple[PeerAuthentication, ...]:
    """Return the PeerAuthentications in whatever version they are served; none where the kind is missing."""
    for version in ("v1", "v1beta1"):
        group = f"security.istio.io/{version}"
        try:
            items = await listed(client, f"/apis/{group}/peerauthentications")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                continue
            raise
        return tuple(
            _authentication({**item, "apiVersion": group, "kind": "PeerAuthentication"}) for item in items
        )
    return ()


def _authentication(item: dict[str, object]) -> PeerAuthentication:
    try:
        found = read_manifest(item)
    except ConfigError:
        found = None
    authentication = getattr(found, "object", None)
    if isinstance(authentication, PeerAuthentication):
        return authentication
    # What cannot be read closes, as in the control plane; the oldest decides.
    raw = msgspec.convert(item, _RawPolicy).metadata
    meta = Meta(raw.namespace, raw.name, created=raw.creationTimestamp or "")
    return PeerAuthentication(meta, mode=MtlsMode.STRICT)


class _ListMeta(msgspec.Struct, frozen=True):
    after: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[dict[str, object]] = []


class _RawPolicyMeta(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    creationTimestamp: str | None = None  # noqa: N815


class _RawPolicy(msgspec.Struct, frozen=True):
    metadata: _RawPolicyMeta
