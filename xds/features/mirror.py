"""Mirrors: a copy of a share of the requests goes somewhere else, and its answer is dropped.

It owns Istio's mirror fields; it must never decide which cluster a host means, the compiler fills that in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.grammar import check_host, check_subset, read_percent
from xds.pb.envoy.type.v3 import percent_pb2

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    ("http[].mirror", "route.request_mirror_policies", "host, subset, port"),
    ("http[].mirrors[].destination, percentage", "route.request_mirror_policies", "excludes mirror"),
    (
        "http[].mirrorPercentage, mirrorPercent",
        "request_mirror_policies[].runtime_fraction",
        "0..100, default 100",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where a share of the requests is copied to; ``cluster`` is empty until the compiler has found it."""

    host: str
    subset: str = ""
    port: int = 0
    percent: float = 100.0
    cluster: str = ""

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Add the mirror to the route; one whose cluster was not found copies nothing."""
        if not self.cluster:
            return
        policy = route.route.request_mirror_policies.add(cluster=self.cluster)
        # Of a million, as Istio does: percentages have four decimals.
        policy.runtime_fraction.default_value.numerator = round(self.percent * 10_000)
        policy.runtime_fraction.default_value.denominator = percent_pb2.FractionalPercent.MILLION
        # A copy is no part of the request's trace.
        policy.trace_sampled.value = False


def read(parent: Reader) -> tuple[Mirror, ...]:
    """Return the mirrors of a rule; those with 0 percent are left out."""
    if parent.has("mirror") and parent.has("mirrors"):
        raise parent.fail("mirrors", "excludes mirror; keep mirrors")
    percent = _read_percentage(parent)
    single = parent.object("mirror")
    mirrors = [] if single is None else [_read_destination(single, percent)]
    if single is None and (parent.has("mirrorPercentage") or parent.has("mirrorPercent")):
        parent.warn("mirrorPercentage", "has no effect without mirror")
    for policy in parent.objects("mirrors"):
        share = read_percent(policy, "percentage", 100.0)
        destination = policy.object("destination")
        policy.done()
        if destination is None:
            raise policy.fail("destination", "is required")
        mirrors.append(_read_destination(destination, share))
    return tuple(mirror for mirror in mirrors if mirror.percent)


def _read_percentage(parent: Reader) -> float:
    # Istio had mirrorPercent, and mirror_percent in its proto form, before mirrorPercentage, which wins.
    names = [name for name in ("mirrorPercent", "mirror_percent") if parent.has(name)]
    whole = [parent.integer(name, 100, low=0, high=100) for name in ("mirrorPercent", "mirror_percent")]
    if len(names) > 1:
        raise parent.fail("mirror_percent", "excludes mirrorPercent; use mirrorPercentage")
    if names:
        parent.warn(names[0], "is deprecated; use mirrorPercentage")
    return read_percent(parent, "mirrorPercentage", float(min(whole)))


def _read_destination(reader: Reader, percent: float) -> Mirror:
    host = check_host(reader.at("host"), reader.text("host"))
    subset = reader.text("subset", "")
    if subset:
        check_subset(reader.at("subset"), subset)
    port = reader.object("port")
    reader.done()
    if port is None:
        return Mirror(host, subset, 0, percent)
    number = port.integer("number", low=1, high=65_535)
    port.done()
    return Mirror(host, subset, number, percent)
