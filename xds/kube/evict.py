"""Taking a Pod away as a drain does: by the Eviction API, which asks every disruption budget.

It owns what must hold before that; it must never delete a Pod in any other way.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from xds.api.core import Pod
from xds.api.manifest import Parsed, read
from xds.api.mesh import DOCUMENT, HOME_NAMESPACE, NAME, MeshSettings
from xds.fields import ConfigError
from xds.sources.transport import ApiError, Transport

_NOT_FOUND = 404
_TOO_MANY = 429


class NotEvicted(Exception):  # noqa: N818 -- a fact, told to the user
    """The Pod stays, and why."""


async def evict(client: Transport, namespace: str, name: str) -> None:
    """Evict a Pod of the mesh.

    Raises NotEvicted where the settings, the mesh or a disruption budget forbid it, ApiError for any other failure.
    """
    if not await _may_evict(client):
        where = f"ConfigMap {HOME_NAMESPACE}/{NAME} data.{DOCUMENT}"
        raise NotEvicted(f"the mesh does not allow it; set evictPods: true in {where}")
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
    pod = await _object(client, path)
    if not isinstance(pod, Pod):
        raise NotEvicted(f"there is no Pod {namespace}/{name}")
    if not pod.has_sidecar:
        raise NotEvicted(f"Pod {namespace}/{name} is outside the mesh")
    meta = {"name": name, "namespace": namespace}
    # The uid that was looked at: a Pod of the same name that has come since is another one.
    options = {"preconditions": {"uid": pod.uid}}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta, "deleteOptions": options}
    try:
        await client.call("POST", f"{path}/eviction", body=body)
    except ApiError as error:
        if error.status == _TOO_MANY:
            raise NotEvicted(f"a disruption budget holds Pod {namespace}/{name}: {error.message}") from None
        raise


async def _may_evict(client: Transport) -> bool:
    found = await _object(client, f"/api/v1/namespaces/{HOME_NAMESPACE}/configmaps/{NAME}")
    return isinstance(found, MeshSettings) and found.evict_pods


async def _object(client: Transport, path: str) -> object:
    """Return an object as it is read, None where there is none or it cannot be read."""
    try:
        found = read(msgspec.json.decode(await client.call("GET", path)))
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    except ConfigError:
        return None
    return found.object if isinstance(found, Parsed) else None
