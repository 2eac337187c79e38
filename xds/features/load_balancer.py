"""How a cluster chooses among its endpoints: by turns, by load, at random, or by what a request says.

It owns Istio's LoadBalancerSettings; it must never choose endpoints by place, which is not supported yet.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.fields import show
from xds.grammar import check_header_name
from xds.pb.envoy.config.cluster.v3.cluster_pb2 import Cluster

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.cluster.v3 import cluster_pb2
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    (
        "trafficPolicy.loadBalancer.simple",
        "lb_policy",
        "ROUND_ROBIN, LEAST_REQUEST, RANDOM; LEAST_CONN is LEAST_REQUEST",
    ),
    (
        "trafficPolicy.loadBalancer.warmup, warmupDurationSecs",
        "slow_start_config",
        "ROUND_ROBIN, LEAST_REQUEST",
    ),
    ("trafficPolicy.loadBalancer.consistentHash", "lb_policy RING_HASH or MAGLEV, route.hash_policy", ""),
    (
        "trafficPolicy.loadBalancer.localityLbSetting, zoneAwareLbSetting",
        "",
        "left out: endpoints are chosen without regard to place",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

MAX_RING_SIZE: Final = 8 * 1024 * 1024
"""Envoy's largest ring (cluster.proto, RingHashLbConfig.maximum_ring_size)."""

MAX_TABLE_SIZE: Final = 5_000_011
"""Envoy's largest Maglev table (cluster.proto, MaglevLbConfig.table_size)."""

DEFAULT_RING_SIZE: Final = 1024
"""Istio's default for minimumRingSize, and Envoy's."""


class Simple(enum.Enum):
    """Istio's balancers that look at endpoints only."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_REQUEST = "LEAST_REQUEST"
    LEAST_CONN = "LEAST_CONN"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"


class HashKey(enum.Enum):
    """What of a request decides where it goes; the values are Istio's fields."""

    HEADER = "httpHeaderName"
    COOKIE = "httpCookie"
    SOURCE_IP = "useSourceIp"
    QUERY = "httpQueryParameterName"


@dataclass(frozen=True, slots=True)
class Warmup:
    """How traffic to a new endpoint grows; ``aggression`` 1 is linear."""

    duration_ms: float
    minimum_percent: float = 10.0
    aggression: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """One of the balancers that look at endpoints only."""

    simple: Simple = Simple.LEAST_REQUEST
    warmup: Warmup | None = None

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write the balancer into the cluster."""
        match self.simple:
            case Simple.ROUND_ROBIN:
                cluster.lb_policy = Cluster.ROUND_ROBIN
                if self.warmup is not None:
                    _patch_warmup(cluster.round_robin_lb_config.slow_start_config, self.warmup)
            case Simple.RANDOM:
                cluster.lb_policy = Cluster.RANDOM
            case _:
                cluster.lb_policy = Cluster.LEAST_REQUEST
                if self.warmup is not None:
                    _patch_warmup(cluster.least_request_lb_config.slow_start_config, self.warmup)


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """Requests with an equal key go to one endpoint; it shapes the cluster and every route to it.

    ``name`` is the header, cookie or query parameter (empty for the source address). A cookie
    without a TTL is only read; with one, 0 included, Envoy sets it where it is missing.
    """

    key: HashKey
    name: str = ""
    cookie_path: str = ""
    cookie_ttl_ms: float | None = None
    ring_size: int = DEFAULT_RING_SIZE
    maglev_table_size: int = 0
    """0: a ring is used instead."""

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write the ring or table into the cluster."""
        if self.maglev_table_size:
            cluster.lb_policy = Cluster.MAGLEV
            cluster.maglev_lb_config.table_size.value = self.maglev_table_size
        else:
            cluster.lb_policy = Cluster.RING_HASH
            cluster.ring_hash_lb_config.minimum_ring_size.value = self.ring_size

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write what is hashed into a route to the cluster."""
        policy = route.route.hash_policy.add()
        match self.key:
            case HashKey.HEADER:
                policy.header.header_name = self.name
            case HashKey.QUERY:
                policy.query_parameter.name = self.name
            case HashKey.SOURCE_IP:
                policy.connection_properties.source_ip = True
            case HashKey.COOKIE:
                policy.cookie.name = self.name
                policy.cookie.path = self.cookie_path
                if self.cookie_ttl_ms is not None:
                    policy.cookie.ttl.FromMicroseconds(round(self.cookie_ttl_ms * 1000))


def read(parent: Reader) -> LoadBalancer | ConsistentHash | None:
    """Return the load balancer of a traffic policy, None where there is none."""
    reader = parent.object("loadBalancer")
    if reader is None:
        return None
    reader.leave("localityLbSetting", "endpoints are chosen without regard to their place")
    reader.leave("zoneAwareLbSetting", "endpoints are chosen without regard to their zone")
    warmup = _read_warmup(reader)
    if reader.has("simple") and reader.has("consistentHash"):
        raise reader.fail("consistentHash", "excludes simple; keep one of them")
    simple = reader.choice("simple", Simple, Simple.UNSPECIFIED)
    hashed = reader.object("consistentHash")
    reader.done()
    if simple is Simple.PASSTHROUGH:
        raise reader.fail(
            "simple", "PASSTHROUGH is not supported yet, and another balancer would misroute; remove it"
        )
    if warmup is not None and (hashed is not None or simple is Simple.RANDOM):
        reader.warn("warmup", "has an effect only with ROUND_ROBIN and LEAST_REQUEST")
        warmup = None
    if hashed is not None:
        return _read_hash(hashed)
    is_turns = simple in (Simple.ROUND_ROBIN, Simple.RANDOM)
    return LoadBalancer(simple if is_turns else Simple.LEAST_REQUEST, warmup)


def _read_warmup(reader: Reader) -> Warmup | None:
    if reader.has("warmup") and reader.has("warmupDurationSecs"):
        raise reader.fail("warmupDurationSecs", "excludes warmup; keep warmup")
    short = reader.duration_ms("warmupDurationSecs", low_ms=1)
    warmup = reader.object("warmup")
    if warmup is None:
        return None if short is None else Warmup(short)
    duration_ms = warmup.duration_ms("duration", low_ms=1)
    if duration_ms is None:
        raise warmup.fail("duration", "is required")
    percent = warmup.number("minimumPercent", 10.0, low=0, high=100)
    # Envoy takes only what is above 0; below 1 traffic comes late, above it early.
    aggression = warmup.number("aggression", 1.0, low=0.01, high=1000)
    warmup.done()
    return Warmup(duration_ms, percent, aggression)


def _patch_warmup(config: cluster_pb2.Cluster.SlowStartConfig, warmup: Warmup) -> None:
    config.slow_start_window.FromMicroseconds(round(warmup.duration_ms * 1000))
    config.min_weight_percent.value = warmup.minimum_percent
    if warmup.aggression != 1.0:
        config.aggression.default_value = warmup.aggression
        config.aggression.runtime_key = "proa.warmup_aggression"


def _read_hash(reader: Reader) -> ConsistentHash:
    keys = [key for key in HashKey if reader.has(key.value)]
    # useSourceIp: false is how generated YAML says that it is another one.
    if HashKey.SOURCE_IP in keys and not reader.boolean("useSourceIp"):
        keys.remove(HashKey.SOURCE_IP)
    if len(keys) != 1:
        known = ", ".join(key.value for key in HashKey)
        raise reader.fail("httpHeaderName", f"must stand alone, or another of {known} in its place")
    name = _read_key_name(reader, keys[0])
    path, ttl_ms = "", None
    cookie = reader.object("httpCookie")
    if cookie is not None:
        name, path, ttl_ms = _read_cookie(cookie)
    ring_size, table_size = _read_sizes(reader)
    for key in HashKey:
        reader.raw(key.value)
    reader.done()
    return ConsistentHash(keys[0], name, path, ttl_ms, ring_size, table_size)


def _read_key_name(reader: Reader, key: HashKey) -> str:
    if key is HashKey.HEADER:
        return check_header_name(reader.at(key.value), reader.text(key.value))
    if key is HashKey.QUERY:
        name = reader.text(key.value)
        if not name:
            raise reader.fail(key.value, "must not be empty")
        return name
    return ""


def _read_cookie(reader: Reader) -> tuple[str, str, float | None]:
    name = reader.text("name")
    path = reader.text("path", "")
    ttl_ms = reader.duration_ms("ttl")
    reader.leave("attributes", "the cookie is set without them")
    reader.done()
    if not name or any(c in name for c in "=;, \t\r\n"):
        raise reader.fail("name", f"must be a cookie name, got {show(name)}")
    if any(not 0x20 < ord(c) < 0x7F or c == ";" for c in path):
        raise reader.fail("path", f"must be a cookie path, got {show(path)}")
    return name, path, ttl_ms


def _read_sizes(reader: Reader) -> tuple[int, int]:
    """Return the ring's least size and the table's size (0: a ring); minimumRingSize is Istio's older field."""
    ring_size = reader.integer("minimumRingSize", DEFAULT_RING_SIZE, low=1, high=MAX_RING_SIZE)
    ring = reader.object("ringHash")
    maglev = reader.object("maglev")
    if sum((reader.has("minimumRingSize"), ring is not None, maglev is not None)) > 1:
        raise reader.fail("maglev", "ringHash and minimumRingSize exclude each other; keep one of them")
    if ring is not None:
        ring_size = ring.integer("minimumRingSize", DEFAULT_RING_SIZE, low=1, high=MAX_RING_SIZE)
        ring.done()
    if maglev is None:
        return ring_size, 0
    # 65,537 is Envoy's default and Istio's. Any other must be prime too, or Envoy refuses the cluster.
    table_size = maglev.integer("tableSize", 65_537, low=2, high=MAX_TABLE_SIZE)
    maglev.done()
    if any(table_size % divisor == 0 for divisor in range(2, int(table_size**0.5) + 1)):
        raise maglev.fail("tableSize", f"must be a prime number, got {table_size}")
    return ring_size, table_size
