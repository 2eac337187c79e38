"""What a Pod's `prometheus.io` annotations say: where Prometheus reads its application's own metrics, in plaintext.

It owns these words; it must never name a port of the sidecar, nor more than one exact path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.address import PORT_MAX
from xds.api.core import Labels, Probe, ProbeKind
from xds.fields import show

if TYPE_CHECKING:
    from xds.fields import Reader

SCRAPE: Final = "prometheus.io/scrape"
PORT: Final = "prometheus.io/port"
PATH: Final = "prometheus.io/path"
SCHEME: Final = "prometheus.io/scheme"
"""The annotations that Prometheus' own example configuration made a convention."""

PLAINTEXT: Final = "proa.dev/plaintext-metrics"
"""Pod annotation: ``"false"`` keeps a STRICT port shut for whoever reads metrics without a certificate."""

_RESERVED: Final = range(15000, 15100)
"""The sidecar's own ports; 15090 is where injection points annotations of a Pod that has none."""

_PATH_MAX: Final = 1024


def scraped(annotations: Labels, metadata: Reader) -> tuple[Probe, ...]:
    """Return the path that stays readable in plaintext under STRICT, none where nothing or nothing usable is said."""
    said = dict(annotations)
    if said.get(SCRAPE) != "true" or said.get(PLAINTEXT) == "false" or said.get(SCHEME, "http") != "http":
        return ()
    port, path = said.get(PORT, ""), said.get(PATH, "") or "/metrics"
    if not port:
        return ()  # Prometheus then asks every declared port, of which nobody said that it serves metrics
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_MAX)) else 0
    if not 0 < number <= PORT_MAX:
        metadata.warn(
            f"annotations[{PORT}]", f"must be 1..{PORT_MAX}, got {show(port)}: nothing is opened for it"
        )
        return ()
    path = path.partition("?")[0]
    path = path if path.startswith("/") else f"/{path}"
    if len(path) > _PATH_MAX or not (path.isascii() and path.isprintable()) or " " in path:
        metadata.warn(f"annotations[{PATH}]", f"is no path: {show(path)}: nothing is opened for it")
        return ()
    return () if number in _RESERVED else (Probe(number, path, ProbeKind.HTTP),)
