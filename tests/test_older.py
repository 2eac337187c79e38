"""What older Envoys get: the same listener in words that they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from xds import releases
from xds.access import Access, Named
from xds.api.conditions import Attribute, Condition
from xds.api.core import Protocol
from xds.api.istio_authorization import Rule
from xds.api.metering import SERIES
from xds.dialects import form_of
from xds.events import Node
from xds.ir import Inbound, InboundRoutes, MtlsMode, OutboundHttp, OutboundTcp, Workload
from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.resources import inbound_routes, listener, older, telemetry
from xds.snapshot import ResourceType, encode

WEB = Workload("web", "shop", "web", "web", "v1", "cluster.local")
ROLE = Condition(Attribute.HEADER, values=("admin",), key=("x-role",))
HTTP = listener.build(OutboundHttp("outbound", "10.0.0.1", 15001, "outbound", WEB))
TCP = listener.build(OutboundTcp("tcp", "10.0.0.1", 3306, "mysql", WEB))


def logs(body: bytes) -> list[accesslog_pb2.AccessLog]:
    """Return the access logs of a listener's only filter."""
    (chain,) = listener_pb2.Listener.FromString(body).filter_chains
    (proxy,) = chain.filters
    if proxy.name.endswith("tcp_proxy"):
        return list(tcp_proxy_pb2.TcpProxy.FromString(proxy.typed_config.value).access_log)
    manager = http_connection_manager_pb2.HttpConnectionManager
    return list(manager.FromString(proxy.typed_config.value).access_log)


@pytest.mark.parametrize("version", ["1.40.0", "1.39.3", "2.0.0", "0.0.0", "", "1", "x.y", "9" * 40 + ".1"])
def test_an_envoy_of_today_gets_what_was_built(version: str) -> None:
    """Also what is no Envoy, or says no version: nothing is asked of the bytes."""
    assert form_of(Node("web", version=version), ResourceType.LISTENER) is None


def test_other_types_are_the_same_for_all() -> None:
    """Only listeners differ."""
    assert form_of(Node("web", version="1.36.4"), ResourceType.CLUSTER) is None


@pytest.mark.parametrize("body", [HTTP, TCP])
def test_before_1_39_the_counters_have_a_prefix_and_no_cap(body: bytes) -> None:
    """The field of today is refused there as missing its prefix; both together are refused today."""
    before = [stats_pb2.Config.FromString(log.typed_config.value) for log in logs(body)]
    after = [
        stats_pb2.Config.FromString(log.typed_config.value) for log in logs(older.listener(body, (1, 38)))
    ]

    assert {config.stat_prefix for config in before} == {""}
    assert {config.stat_prefix for config in after} == {"istio"}
    assert [config.counters for config in after] == [config.counters for config in before]
    assert all(telemetry.scope(SERIES) in config.SerializeToString() for config in before)
    assert not any(telemetry.scope(SERIES) in config.SerializeToString() for config in after)


@pytest.mark.parametrize("body", [HTTP, TCP])
def test_before_1_37_nothing_is_counted(body: bytes) -> None:
    """An Envoy without the logger would refuse the whole listener."""
    assert logs(body)
    assert logs(older.listener(body, (1, 36))) == []


def test_before_1_37_a_proxy_of_bytes_does_not_wait_for_the_certificate() -> None:
    """An Envoy that does not know the field would refuse the whole listener."""
    port = Inbound("inbound|3306", "10.0.0.1", 3306, Protocol.TCP, MtlsMode.STRICT, "inbound|3306||", WEB)
    body = listener.build(port)

    def waits(found: bytes) -> tuple[bool, bool]:
        (chain,) = listener_pb2.Listener.FromString(found).filter_chains
        proxy = tcp_proxy_pb2.TcpProxy.FromString(chain.filters[-1].typed_config.value)
        return bool(proxy.upstream_connect_mode), proxy.HasField("max_early_data_bytes")

    assert waits(body) == waits(older.listener(body, (1, 37))) == (True, True)
    assert waits(older.listener(body, (1, 36))) == (False, False)


def test_before_1_38_only_a_ports_own_routes_are_changed() -> None:
    """Rules of access stand nowhere else; a table of a thousand hosts is not read again."""
    form = form_of(Node("web", version="1.37.0"), ResourceType.ROUTES)
    assert form is not None
    outbound = encode(ResourceType.ROUTES, "outbound", b"\xff")
    rules = Access(deny=(Named("AuthorizationPolicy/shop/p/0", Rule(when=(ROLE,))),))
    port = Inbound(
        "inbound|80", "", 80, Protocol.HTTP, MtlsMode.STRICT, "c", WEB, access=rules, is_older=True
    )
    own = encode(ResourceType.ROUTES, "inbound|80", inbound_routes.build(InboundRoutes("inbound|80", port)))

    assert form(outbound) is outbound
    assert b"(?:admin)" in form(own).body
    assert b"(?:admin)" not in own.body
    assert form(own).version == own.version
    assert form_of(Node("web", version="1.38.3"), ResourceType.ROUTES) is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.40.0", True), ("2.0.0", True), ("", True), ("1.39.3", False), ("1.36.4", False)],
)
def test_before_1_40_filters_stand_in_the_listener(version: str, expected: bool) -> None:  # noqa: FBT001
    """There a route cannot bring what verifies tokens; who names no version is of today."""
    assert releases.takes_filters(version) is expected


def test_the_form_keeps_name_and_version() -> None:
    """Nothing is sent again to a client that claims the version it holds."""
    form = form_of(Node("web", version="1.37.0"), ResourceType.LISTENER)
    today = encode(ResourceType.LISTENER, "outbound", HTTP, cause=("Pod shop/web",))
    assert form is not None
    found = form(today)

    assert (found.name, found.version, found.cause) == (today.name, today.version, today.cause)
    assert found.body != today.body


def test_the_page_says_what_each_release_lacks_in_the_same_words() -> None:
    """docs/envoys.md, `proa check` and `proa status` have one source."""
    text = (Path(__file__).parent.parent / "docs" / "envoys.md").read_text("utf-8")
    rows = [f"| {major}.{minor} | {words} |" for (major, minor), words in releases.LACKS]

    assert "\n".join(rows) in text
    assert list(releases.LACKS) == sorted(releases.LACKS, key=lambda row: row[0], reverse=True)


@pytest.mark.parametrize(
    ("version", "count"), [("1.40.1", 0), ("1.39.9", 1), ("1.38.0", 2), ("1.37.0", 4), ("1.36.4", 8), ("", 0)]
)
def test_an_older_envoy_lacks_what_began_later(version: str, count: int) -> None:
    """Newest first; a client that names no version lacks nothing."""
    assert releases.lacks(version) == tuple(words for _, words in releases.LACKS)[:count]
