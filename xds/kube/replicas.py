"""This replica's own Lease, which says what its proxies trust, and the Leases of the others.

Owns the requests and when they are made; it must never decide what a barrier needs (`xds.trust.joined` does).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from xds import settings
from xds.kube.election import LeaseFile
from xds.lease import LeaseObject, LeaseSpec, Write, micro_time
from xds.replicas import LABEL, Report, Roll, read, write
from xds.sources.transport import ApiError, Transport

log = logging.getLogger(__name__)

_CONFLICT: Final = 409
_NOT_FOUND: Final = 404


class _Leases(msgspec.Struct, frozen=True):
    items: list[LeaseObject] = []


class Replicas:
    """All replicas, as this one sees them."""

    def __init__(  # noqa: PLR0913  # what a Pod knows of itself, and its clocks
        self,
        api: Transport,
        namespace: str,
        pod: str,
        *,
        pod_uid: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`pod_uid` makes the Pod the owner of the Lease, so that a killed replica's is collected with it."""
        self._api = api
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = f"proa-replica-{pod}"
        self._lease = LeaseFile(api, namespace, self._name)
        owner: dict[str, object] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod_uid}
        self._owners = [owner] if pod_uid else None
        self._clock = clock
        self._wall = wall
        self._roll = Roll()
        self._version: str | None = None
        self._published: Report | None = None
        self._renewed_at = float("-inf")
        self._listed_at = float("-inf")

    async def publish(self, report: Report) -> bool:
        """Say what our proxies trust, if it is news or the Lease is due; False if that failed.

        Once before the xDS port opens: who has proxies has a Lease.
        """
        now = self._clock()
        if report == self._published and now < self._renewed_at + settings.REPLICA_RENEW_S:
            return True
        try:
            await self._write(report)
        except ApiError as error:
            if error.status in {_CONFLICT, _NOT_FOUND}:
                self._version = None
            log.warning("replica lease not written", extra={"status": error.status, "why": error.message})
            return False
        self._published, self._renewed_at = report, now
        return True

    def others(self) -> Sequence[Report] | None:
        """Return what all other live replicas say; None if their Leases were not read lately (`refresh`)."""
        now = self._clock()
        if now >= self._listed_at + settings.REPLICA_FRESH_S:
            return None
        return self._roll.alive(now, but=self._name)

    async def refresh(self) -> bool:
        """Read the Leases of all replicas; False if that failed. The leader needs it while a rotation is under way."""
        try:
            answer = await self._api.call(
                "GET", self._all, query={"labelSelector": f"{LABEL}=true"}, timeout_s=settings.LEASE_CALL_S
            )
            found = msgspec.json.decode(answer, type=_Leases).items
        except (ApiError, msgspec.MsgspecError) as error:
            log.warning("replica leases not read", extra={"why": str(error)})
            return False
        now = self._clock()
        self._roll.heard(
            {
                lease.metadata.name: (
                    lease.metadata.resource_version,
                    lease.spec.lease_duration_seconds,
                    read(lease.metadata.annotations),
                )
                for lease in found
            },
            now,
        )
        self._listed_at = now
        return True

    async def run(self, report: Callable[[], Report], *, looks: Callable[[], bool]) -> None:
        """Publish and, while `looks()`, read the others, for ever; when cancelled, leave the roll."""
        try:
            while True:
                await self.publish(report())
                if looks():
                    await self.refresh()
                await asyncio.sleep(settings.REPLICA_LOOK_S)
        finally:
            await self._leave()

    async def _write(self, report: Report) -> None:
        if self._version is None:
            found = await self._lease.read()
            self._version = found.version if found else ""
        spec = LeaseSpec(
            holder_identity=self._name,
            lease_duration_seconds=int(settings.REPLICA_LEASE_S),
            renew_time=micro_time(self._wall()),
        )
        written = await self._lease.write(
            Write(spec, self._version), labels={LABEL: "true"}, annotations=write(report), owners=self._owners
        )
        self._version = written.version

    async def _leave(self) -> None:
        """Delete our Lease: our proxies are about to connect elsewhere."""
        try:
            await self._lease.delete()
        except ApiError as error:
            log.warning("replica lease not deleted", extra={"why": error.message})
