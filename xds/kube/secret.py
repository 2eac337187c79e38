"""One Secret of our namespace as a few named files, with every write fenced by the version that it replaces.

Owns the requests; it must never log a body, create what it may not replace, or touch a key that it was not given.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from xds import settings
from xds.keys import SecretBytes
from xds.sources.transport import ApiError, Transport

_NOT_FOUND: Final = 404
_MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A Secret as the apiserver has it."""

    files: Mapping[str, SecretBytes] = field(repr=False)
    version: str
    """`metadata.resourceVersion`."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Metadata
    data: dict[str, str] | None = None

    def __repr__(self) -> str:
        return "[redacted]"


class _Watched(msgspec.Struct, frozen=True):
    """The part of an event's object that says which one it is: of a Secret, or of a Status without a version."""

    metadata: _Metadata = _Metadata()


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: _Watched


class SecretFile:
    """One Secret by its name."""

    def __init__(self, api: Transport, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._all = f"/api/v1/namespaces/{namespace}/secrets"
        self._path = f"{self._all}/{name}"

    def __str__(self) -> str:
        """``Secret namespace/name``, as in every message."""
        return f"Secret {self._namespace}/{self._name}"

    async def read(self) -> Kept | None:
        """Return the Secret, None if there is none; raises ApiError."""
        try:
            return _kept(await self._api.call("GET", self._path, timeout_s=settings.CA_CALL_S))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def create(self, files: Mapping[str, SecretBytes]) -> Kept:
        """Make the Secret; raises ApiError, with status 409 if there is one already."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "type": "Opaque",
            "data": _encoded(files),
        }
        return _kept(await self._api.call("POST", self._all, body=body, timeout_s=settings.CA_CALL_S))

    async def write(self, files: Mapping[str, SecretBytes], version: str) -> Kept:
        """Set these files and leave the others; raises ApiError, with status 409 if it is no longer at `version`."""
        # A patch keeps labels and annotations of others; the version in it makes the apiserver compare.
        body = {"metadata": {"resourceVersion": version}, "data": _encoded(files)}
        return _kept(
            await self._api.call(
                "PATCH", self._path, body=body, content_type=_MERGE, timeout_s=settings.CA_CALL_S
            )
        )

    async def changes(self, version: Callable[[], str]) -> AsyncGenerator[None]:
        """Yield at once, and then whenever the Secret may differ from `version()`: a watch's event, or `CA_POLL_S`.

        A watch only says *that* it changed; what it is now is read. So neither a lost event nor a lost watch matters.
        """
        while True:
            yield
            try:
                async with asyncio.timeout(settings.CA_POLL_S):
                    await self._event(version())
            except TimeoutError:
                continue
            except ApiError:
                # No watch (yet): the pause keeps a broken one from being asked in a loop, and the next read counts.
                await asyncio.sleep(settings.CA_PAUSE_S)

    async def _event(self, version: str) -> None:
        """Return when the Secret is not at `version`, or the watch has ended.

        It starts with what there is, whatever its version: one that began at ours would be told after minutes, and
        at once each time, that nobody remembers that version any more (410).
        """
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={self._name}",
            "timeoutSeconds": str(int(settings.CA_POLL_S)),
        }
        async with self._api.lines(self._all, query=query, read_timeout_s=settings.CA_POLL_S) as lines:
            async for line in lines:
                event = _event_of(line)
                if event.type == "ERROR":
                    raise ApiError(0, "Watch", f"{self}: the watch says that it failed")
                if event.type == "DELETED" or event.object.metadata.resource_version != version:
                    return


def _event_of(line: bytes) -> _Event:
    try:
        return msgspec.json.decode(line, type=_Event)
    except msgspec.MsgspecError:
        raise ApiError(0, "Malformed", "the watch's line is no event") from None


def _encoded(files: Mapping[str, SecretBytes]) -> dict[str, str]:
    return {name: base64.b64encode(octets.reveal()).decode() for name, octets in files.items()}


def _kept(answer: bytes) -> Kept:
    try:
        found = msgspec.json.decode(answer, type=_Secret)
        files = {
            name: SecretBytes(base64.b64decode(text, validate=True))
            for name, text in (found.data or {}).items()
        }
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise ApiError(0, "Malformed", "the answer is no Secret") from None
    return Kept(files, found.metadata.resource_version)
