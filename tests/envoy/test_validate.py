"""Facts that only Envoy can tell: it accepts every kind of resource that the builders can make."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from tests.envoy import static_envoy
from xds import ir
from xds.api.core import Protocol
from xds.resources import cluster, listener
from xds.resources.inbound_routes import GRPC_PROBE

pytestmark = pytest.mark.envoy

WORKLOAD = ir.Workload("orders-v1", "shop", "orders", "orders", "v1", "cluster.local")
ORDERS = ("spiffe://cluster.local/ns/shop/sa/orders",)
TLS: tuple[ir.ClientTls, ...] = (
    ir.AutoMtls(ORDERS, "outbound_.80_._.orders.shop.svc.cluster.local"),
    ir.AutoMtls((), ""),
    ir.Mtls(ORDERS, "orders"),
    ir.Plaintext(),
    ir.OriginateTls("api.example.com", (), "", "", "", insecure_skip_verify=False),
    ir.OriginateTls("", (), "", "", "", insecure_skip_verify=False),
    ir.OriginateTls("", ("api.example.com", *ORDERS), "", "", "", insecure_skip_verify=True),
)


def test_every_kind_of_listener_is_accepted(tmp_path: Path) -> None:
    """Each mode, protocol and set of probes makes a listener that Envoy takes."""
    inbound = [
        ir.Inbound(
            name=f"inbound|{port}",
            address="127.0.0.1",
            port=port,
            protocol=protocol,
            mode=mode,
            cluster="inbound|8080||",
            workload=WORKLOAD,
            service=service,
            probes=probes,
        )
        for port, (protocol, mode, service, probes) in enumerate(
            itertools.product(
                Protocol,
                ir.MtlsMode,
                ("", "orders.shop.svc.cluster.local"),
                ((), ("/healthz?full=1", GRPC_PROBE)),
            ),
            start=8000,
        )
    ]
    nodes: list[ir.Listener] = [
        ir.OutboundHttp("outbound", "127.0.0.1", 15001, "outbound", WORKLOAD),
        ir.OutboundTcp("tcp|127.0.0.1:3306", "127.0.0.1", 3306, "inbound|8080||", WORKLOAD),
        *inbound,
    ]
    app = cluster.build_inbound(ir.InboundCluster("inbound|8080||", "127.0.0.1", 8080, Protocol.HTTP))

    static_envoy.validate(static_envoy.bootstrap(map(listener.build, nodes), [app]), tmp_path)


NAMED = ir.Endpoint("api.example.com", 443, "", "shop", mtls=False)
ADDRESSED = ir.Endpoint("10.0.0.1", 443, "", "shop", mtls=True, zone="a", weight=3)
ENDPOINTS: dict[ir.Discovery, tuple[ir.Endpoint, ...]] = {
    ir.Discovery.EDS: (),
    ir.Discovery.ORIGINAL_DST: (),
    ir.Discovery.STATIC: (ADDRESSED, replace(ADDRESSED, address="fd00::1", zone="b", weight=1)),
    ir.Discovery.STRICT_DNS: (NAMED, replace(NAMED, address="db.example.com", weight=2, zone="a")),
    ir.Discovery.LOGICAL_DNS: (NAMED,),
}
"""What each source of endpoints brings along."""


def test_every_kind_of_cluster_is_accepted(tmp_path: Path) -> None:
    """Each protocol, way to trust and source of endpoints makes a cluster that Envoy takes."""
    outbound = [
        ir.Cluster(
            name=f"outbound|{port}||orders.shop.svc.cluster.local",
            host="orders.shop.svc.cluster.local",
            namespace="shop",
            service="orders",
            port=port,
            subset="",
            protocol=protocol,
            tls=tls,
            discovery=discovery,
            endpoints=ENDPOINTS[discovery],
        )
        for port, (protocol, tls, discovery) in enumerate(
            itertools.product(Protocol, TLS, ir.Discovery), start=80
        )
    ]
    own = [
        ir.InboundCluster(f"inbound|{port}||", "127.0.0.1", port, protocol)
        for port, protocol in enumerate(Protocol, start=8080)
    ]
    bodies = [*map(cluster.build, outbound), *map(cluster.build_inbound, own)]

    static_envoy.validate(static_envoy.bootstrap([], bodies), tmp_path)
