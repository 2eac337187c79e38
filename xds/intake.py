"""What sidecars report, as it comes in: counters and sampled requests, each for who was authenticated.

It owns the clock of reports and the log of those that cannot be read; it must never take the report of a caller who has
proved nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from xds.repeats import repeats
from xds.traffic.evidence import Evidence
from xds.traffic.graph import Seen
from xds.traffic.otlp import TelemetryError
from xds.traffic.sightings import Sightings

if TYPE_CHECKING:
    from xds.control import ControlPlane
    from xds.gate import Caller
    from xds.traffic.amplification import Rules

log = logging.getLogger("xds")


class Intake:
    """The reports of one control plane's sidecars."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._evidence = Evidence()

    def on_metrics(self, caller: Caller, export: bytes) -> None:
        """Take counters."""
        if caller is None:
            return
        workload = f"{caller.workload}.{caller.namespace}"
        try:
            self._plane.telemetry.receive(caller.node_id, export, workload=workload, now_s=time.time())
        except TelemetryError:
            log.warning("telemetry refused", extra={"proxy": caller.node_id})

    def on_logs(self, caller: Caller, export: bytes) -> None:
        """Take sampled requests, as long as the mesh asks for them."""
        if caller is not None and self._plane.plan.world.settings.evidence:
            self._evidence.receive(caller.node_id, export, workload=f"{caller.workload}.{caller.namespace}")

    def counters(self) -> Mapping[str, int]:
        """Return what was not taken, by why."""
        return {**self._plane.telemetry.counters(), **self._evidence.counters()}

    def edges(self, window_s: float) -> Seen:
        """Return who calls whom, with the rates of the last seconds, and what the world knows of them."""
        telemetry, now = self._plane.telemetry, time.time()
        return Seen(
            tuple(telemetry.traffic(now_s=now, window_s=window_s)),
            tuple(telemetry.ports(now_s=now)),
            tuple(self._plane.workloads()),
        )

    def repeats(self) -> Rules:
        """Return which sidecars may repeat which of the calls that were seen."""
        telemetry, world = self._plane.telemetry, self._plane.plan.world
        return repeats(world, telemetry.traffic(now_s=time.time()))

    def sightings(self, limit: int) -> Sightings:
        """Return the newest sampled requests."""
        sampling = self._plane.plan.world.settings.evidence
        return Sightings(tuple(self._evidence.sightings(limit)), self._evidence.dropped, sampling)
