"""A small cluster behind the fake apiserver: every group that a source asks for, and a source that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from tests.fakes.apiserver import Api, Raw
from xds.api import mesh
from xds.sources.directory import Batch
from xds.sources.kubernetes import Kubernetes
from xds.sources.transport import ApiError

DEADLINE_S: Final = 30.0
"""For what takes a few turns of the loop."""

CORE: Final = {
    "Namespace": "namespaces",
    "Node": "nodes",
    "Pod": "pods",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PODS: Final = "/api/v1/pods"
SERVICES: Final = "/api/v1/services"
FORBIDDEN: Final = ApiError(403, "Forbidden", "pods is forbidden")
SETTINGS: Final = f"/api/v1/namespaces/{mesh.HOME_NAMESPACE}/configmaps"


def api() -> Api:
    """Return an apiserver that serves Kubernetes' own kinds and no definition yet."""
    found = Api()
    found.group("/api/v1", **CORE, PodStatus="pods/status")
    for kind, plural in CORE.items():
        found.add(f"/api/v1/{plural}", kind, "v1")
    found.group("/apis/discovery.k8s.io/v1", EndpointSlice="endpointslices")
    found.add("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice", "discovery.k8s.io/v1")
    found.group("/apis/networking.k8s.io/v1", ServiceCIDR="servicecidrs", Ingress="ingresses")
    found.add("/apis/networking.k8s.io/v1/servicecidrs", "ServiceCIDR", "networking.k8s.io/v1")
    found.add(SETTINGS, "ConfigMap", "v1")
    found.add(DEFINITIONS, "PartialObjectMetadata", "meta.k8s.io/v1")
    return found


def define(found: Api, kind: str, plural: str, group: str, *versions: str, established: bool = True) -> str:
    """Create or change a CustomResourceDefinition and serve its versions; return the first one's path."""
    name = f"{plural}.{group}"
    found.collections[DEFINITIONS].put(("", name))
    conditions = [{"type": "Established", "status": "True"}] if established else []
    found.documents[f"{DEFINITIONS}/{name}"] = {
        "metadata": {"name": name, "uid": f"uid-of-{name}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": v, "served": True, "schema": {"deep": {}}} for v in versions],
        },
        "status": {"conditions": conditions},
    }
    paths = [f"/apis/{group}/{version}/{plural}" for version in versions]
    for path, version in zip(paths, versions, strict=True):
        if established and path not in found.collections:
            found.add(path, kind, f"{group}/{version}")
    return paths[0]


def undefine(found: Api, path: str) -> None:
    """Delete a definition: Kubernetes deletes its objects first, then the kind is no longer served."""
    _, _, group, _, plural = path.split("/")
    for key in list(found.collections[path].objects):
        found.collections[path].delete(key)
    del found.collections[path]
    del found.documents[f"{DEFINITIONS}/{plural}.{group}"]
    found.collections[DEFINITIONS].delete(("", f"{plural}.{group}"))


class Followed:
    """A source that runs, with the batches that came since the first."""

    def __init__(self, found: Api | None, source: Kubernetes) -> None:
        self.api = found
        self.source = source
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()

    async def load(self) -> Batch:
        """Return the first batch."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.source.load()

    async def next(self) -> Batch:
        """Let the source see what was written, and return the batch that comes of it."""
        await self.move()
        async with asyncio.timeout(DEADLINE_S):
            return await self.batches.get()

    async def move(self) -> None:
        """Let a fake apiserver's watches see what was written; a real one needs no help."""
        if self.api is not None:
            await self.api.move()

    async def quiet(self, turns: int = 50) -> None:
        """Let the loop turn, and hold that no batch came."""
        await self.move()
        for _ in range(turns):
            await asyncio.sleep(0)
        assert self.batches.empty()

    async def watch(self) -> None:
        """Collect batches."""
        async with aclosing(self.source.watch()) as batches:
            async for batch in batches:
                self.batches.put_nowait(batch)


@asynccontextmanager
async def following(found: Api) -> AsyncGenerator[Followed]:
    """Run a source over an apiserver until the block ends; watch from its load on."""
    followed = Followed(found, Kubernetes(found))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(followed.source.run(), name="source")]
        try:
            yield followed
        finally:
            for task in running:
                task.cancel()


@asynccontextmanager
async def loaded(found: Api) -> AsyncGenerator[tuple[Followed, Batch]]:
    """Run a source, load it, and watch it until the block ends."""
    async with following(found) as followed:
        first = await followed.load()
        watching = asyncio.create_task(followed.watch(), name="watch")
        try:
            yield followed, first
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def keys(batch: Batch) -> dict[str, bool]:
    """Return the changed keys as text, and whether the object is there."""
    return {str(key): new is not None for key, new in batch.changes}


def apply(found: Api, path: str, manifest: Raw | dict[str, Any]) -> None:
    """Create or update an object."""
    found.collections[path].apply(manifest)
