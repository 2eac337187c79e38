"""The election at a real apiserver: read and write one Lease, again and again, as the candidate says.

Owns the requests and the waits; it must never decide who leads (`xds.lease` does), and never write a Lease
without the version that it replaces.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from xds import settings
from xds.lease import Candidate, Found, Write, read
from xds.sources.transport import ApiError, Transport

log = logging.getLogger(__name__)

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class LeaseFile:
    """One Lease of our namespace, read and replaced."""

    def __init__(self, api: Transport, namespace: str, name: str) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def read(self) -> Found | None:
        """Return the Lease, None if there is none; raises ApiError."""
        try:
            return _found(
                await self._api.call("GET", f"{self._all}/{self._name}", timeout_s=settings.LEASE_CALL_S)
            )
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def write(
        self,
        write: Write,
        *,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        owners: list[dict[str, object]] | None = None,
    ) -> Found:
        """Create or replace the Lease; raises ApiError, with status 409 if it is not at the version named."""
        metadata: dict[str, object] = {"name": self._name, "namespace": self._namespace}
        metadata |= {"labels": labels} if labels else {}
        metadata |= {"annotations": annotations} if annotations else {}
        metadata |= {"ownerReferences": owners} if owners else {}
        metadata |= {"resourceVersion": write.version} if write.version else {}
        body: dict[str, object] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": msgspec.to_builtins(write.spec),
        }
        method, path = ("PUT", f"{self._all}/{self._name}") if write.version else ("POST", self._all)
        return _found(await self._api.call(method, path, body=body, timeout_s=settings.LEASE_CALL_S))

    async def delete(self) -> None:
        """Delete the Lease; one that is gone is gone. Raises ApiError."""
        try:
            await self._api.call("DELETE", f"{self._all}/{self._name}", timeout_s=settings.LEASE_CALL_S)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise


class Elector:
    """One candidate at a Lease; run it as a task of its own."""

    def __init__(
        self,
        lease: LeaseFile,
        candidate: Candidate,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`clock` is monotonic and decides; `wall` is what people read in the Lease; `draw` gives 0..1."""
        self._lease = lease
        self._candidate = candidate
        self._clock = clock
        self._wall = wall
        self._draw = draw
        self._led = False

    @classmethod
    def of(cls, api: Transport, namespace: str, name: str, identity: str) -> Elector:
        """Return the elector of a process; `identity` is its own, also after a restart: POD plus a random part."""
        return cls(LeaseFile(api, namespace, name), Candidate(identity))

    def leads(self) -> bool:
        """Whether this process may write as the leader now; ask right before every write."""
        return self._candidate.leads(self._clock())

    @property
    def holder(self) -> str:
        """Who was last seen to hold the Lease."""
        return self._candidate.holder

    async def run(self) -> None:
        """Try to lead for ever; when cancelled, give the Lease back, so that another need not wait for it."""
        try:
            while True:
                await self.attempt()
                await asyncio.sleep(self._candidate.pause_s(self._clock(), self._draw()))
        finally:
            await self._release()

    async def attempt(self) -> None:
        """Renew the Lease, or try to take it; what fails is tried again after the pause."""
        try:
            await self._try()
        except ApiError as error:
            if error.status in {_CONFLICT, _NOT_FOUND}:
                self._candidate.refused()
            else:
                log.warning("lease not written", extra={"status": error.status, "why": error.message})
        leads = self.leads()
        if leads is not self._led:
            self._led = leads
            log.info("leading" if leads else "no longer leading", extra={"holder": self.holder})

    async def _try(self) -> None:
        began = self._clock()
        write = self._candidate.renewal(self._wall()) if self.leads() else None
        if write is None:
            found = await self._lease.read()
            write = self._candidate.heard(found, self._clock(), self._wall())
            began = self._clock()
        if write is not None:
            self._candidate.wrote(await self._lease.write(write), began)

    async def _release(self) -> None:
        write = self._candidate.release(self._wall())
        if write is None:
            return
        try:
            await self._lease.write(write)
        except ApiError as error:
            log.warning("lease not given back", extra={"status": error.status, "why": error.message})


def _found(answer: bytes) -> Found:
    try:
        return read(answer)
    except (msgspec.MsgspecError, ValueError):
        raise ApiError(0, "Malformed", "the answer is no Lease") from None
