"""An apiserver as far as list and watch go: revisions, history, compaction, continue tokens, bookmarks.

It keeps to what Kubernetes promises, so that whatever else arrives is a fault that a test has put in; it must
never use the code under test but for the shapes of its answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from xds.sources.transport import ApiError

Key = tuple[str, str]
Raw = dict[str, Any]

EXPIRED = "too old resource version"


class Revisions:
    """The revision of one etcd, which all kinds share."""

    def __init__(self, start: int = 100) -> None:
        self.now = start

    def next(self) -> int:
        """Return the revision of a write."""
        self.now += 1
        return self.now


class Collection:
    """One kind: what is there now, and every event since the last compaction."""

    def __init__(self, kind: str, version: str, revisions: Revisions) -> None:
        self.kind = kind
        self.version = version
        self.revisions = revisions
        self.objects: dict[Key, Raw] = {}
        self.history: list[tuple[int, str, Raw]] = []
        self.deleted: dict[Key, int] = {}
        self.floor = 0
        self.lists = 0
        self._snapshots: dict[str, tuple[int, list[Raw]]] = {}

    def put(self, key: Key, **fields: Any) -> int:
        """Create or update an object; return its revision."""
        revision = self.revisions.next()
        metadata = {**fields.pop("metadata", {}), "name": key[1], "resourceVersion": str(revision)}
        if key[0]:
            metadata["namespace"] = key[0]
        verb = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = {"metadata": metadata, **fields}
        self.history.append((revision, verb, self.objects[key]))
        return revision

    def apply(self, manifest: Raw) -> int:
        """Create or update an object that is written as a manifest."""
        metadata = manifest["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        return self.put(key, **{k: v for k, v in manifest.items() if k not in {"kind", "apiVersion"}})

    def delete(self, key: Key) -> None:
        """Delete an object; its event carries the revision of the deletion."""
        revision = self.revisions.next()
        last = self.objects.pop(key)
        self.deleted[key] = revision
        gone = {**last, "metadata": {**last["metadata"], "resourceVersion": str(revision)}}
        self.history.append((revision, "DELETED", gone))

    def compact(self) -> None:
        """Forget all history: watches from before and tokens of lists under way are expired."""
        self.floor = self.revisions.now
        self.history.clear()
        self._snapshots.clear()

    def page(self, query: Mapping[str, str]) -> bytes:
        """Return a page; raise ApiError for a token that has expired."""
        token, limit = query.get("continue", ""), int(query.get("limit", "0")) or 10**6
        if not token:
            self.lists += 1
            revision, rest = self.revisions.now, [self.objects[key] for key in sorted(self.objects)]
        elif token in self._snapshots:
            revision, rest = self._snapshots[token]
        else:
            raise ApiError(410, "Expired", "The provided continue parameter is too old")
        metadata: Raw = {"resourceVersion": str(revision)}
        if rest[limit:]:
            metadata["continue"] = f"{revision}/{len(rest) - limit}"
            self._snapshots[metadata["continue"]] = (revision, rest[limit:])
        listed = {"kind": f"{self.kind}List", "apiVersion": self.version, "metadata": metadata}
        return json.dumps({**listed, "items": rest[:limit]}).encode()

    def lines(self, after: int) -> list[bytes]:
        """Return the lines of a watch so far; raise ApiError where its history is compacted."""
        if after < self.floor:
            raise ApiError(410, "Expired", f"{EXPIRED}: {after} ({self.floor})")
        return [self._line(verb, raw) for revision, verb, raw in self.history if revision > after]

    def bookmark(self) -> bytes:
        """Return a bookmark of now."""
        return self._line("BOOKMARK", {"metadata": {"resourceVersion": str(self.revisions.now)}})

    def _line(self, verb: str, raw: Raw) -> bytes:
        typed = {"kind": self.kind, "apiVersion": self.version, **raw}
        return json.dumps({"type": verb, "object": typed}).encode()


def error_line(code: int, reason: str = "", message: str = "", retry_after_s: int | None = None) -> bytes:
    """Return an ERROR event."""
    status: Raw = {"kind": "Status", "code": code, "reason": reason, "message": message}
    if retry_after_s is not None:
        status["details"] = {"retryAfterSeconds": retry_after_s}
    return json.dumps({"type": "ERROR", "object": status}).encode()


class Api:
    """Several kinds behind the transport of a source; ``outage`` makes every request fail."""

    def __init__(self) -> None:
        self.revisions = Revisions()
        self.collections: dict[str, Collection] = {}
        self.documents: dict[str, Raw] = {"/readyz": {}}
        self.refused: dict[str, ApiError] = {}
        self.outage: ApiError | None = None
        self.calls: list[str] = []
        self._moved = asyncio.Condition()

    def add(self, path: str, kind: str, version: str) -> Collection:
        """Serve a kind below a path."""
        self.collections[path] = Collection(kind, version, self.revisions)
        return self.collections[path]

    def group(self, path: str, **kinds: str) -> None:
        """Say in a group's discovery document which kinds it has, with their plurals."""
        resources = [{"name": plural, "kind": kind} for kind, plural in kinds.items()]
        self.documents[path] = {"kind": "APIResourceList", "resources": resources}

    async def move(self) -> None:
        """Let every open watch see what was written since, or that an outage has begun."""
        async with self._moved:
            self._moved.notify_all()

    async def call(  # noqa: PLR0913 -- the transport's signature
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = {},
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = 10.0,
    ) -> bytes:
        """Return a document or a page of a list."""
        del body, content_type, accept, timeout_s
        self.calls.append(f"{method} {path}")
        await asyncio.sleep(0)
        self._fail(path)
        if path in self.documents:
            return json.dumps(self.documents[path]).encode()
        if path not in self.collections:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return self.collections[path].page(query)

    def lines(
        self,
        path: str,
        *,
        query: Mapping[str, str],
        read_timeout_s: float,
        accept: str = "application/json",
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Watch a kind."""
        del read_timeout_s, accept
        return self._lines(path, int(query["resourceVersion"]))

    @asynccontextmanager
    async def _lines(self, path: str, after: int) -> AsyncGenerator[AsyncIterator[bytes]]:
        self._fail(path)
        if path not in self.collections:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        self.collections[path].lines(after)
        yield self._events(path, after)

    async def _events(self, path: str, after: int) -> AsyncGenerator[bytes]:
        while path in self.collections:
            lines = self.collections[path].lines(after)
            after = self.revisions.now
            for line in lines:
                yield line
            async with self._moved:
                if after == self.revisions.now and self.outage is None:
                    await self._moved.wait()
            self._fail(path)

    def _fail(self, path: str) -> None:
        if self.outage is not None:
            raise self.outage
        if path in self.refused:
            raise self.refused[path]
