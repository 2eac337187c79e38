"""What a Pod means to its callers and to its own sidecar: identity, labels, and what its ports take.

It is a frozen value; it must never look anything up.
"""

from __future__ import annotations

from dataclasses import dataclass

from xds.api.core import Labels
from xds.api.istio_security import MtlsMode


@dataclass(frozen=True, slots=True)
class Backend:
    """What a Pod means to its callers and to its own sidecar: identity, labels, and what its ports take."""

    workload: str
    namespace: str
    service_account: str
    labels: Labels
    is_meshed: bool
    mode: MtlsMode
    port_modes: tuple[tuple[int, MtlsMode], ...] = ()
    zone: str = ""
    bypassed: tuple[int, ...] = ()
    """Ports on which the application is reached past its sidecar."""

    def mode_of(self, port: int) -> MtlsMode:
        """Return the mode of one workload port; the port's own setting wins."""
        for number, mode in self.port_modes:
            if number == port:
                return mode
        return self.mode

    def takes_mtls(self, port: int) -> bool:
        """Tell whether a client may speak mutual TLS to this port."""
        is_open = self.mode_of(port) is not MtlsMode.DISABLE
        return self.is_meshed and is_open and port not in self.bypassed


NOBODY = Backend("", "", "", (), is_meshed=False, mode=MtlsMode.DISABLE)
"""An address without a known Pod: no identity, no mutual TLS."""
