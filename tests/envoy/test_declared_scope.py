"""Intercepted sidecars that cannot ask for clusters: the state-of-the-world variant, told of everything that they see.

Each test sends traffic through real Envoys in network namespaces; nothing here reads a configuration to pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import netns
import pytest
from rig import STRICT, App
from test_on_demand import ABORT, BANNER, OUTSIDE, ruled, words
from transparent import TransparentMesh

NEEDS = netns.NEEDS

CLIENT, ORDERS, PLAIN = App("client"), App("orders"), App("plain", labels=OUTSIDE)
NARROW = App("narrow")
LINES = App("lines", serves="tcp", protocol="tcp", service_port=80, port=7000, args=("--banner", BANNER))
"""Bytes on the port number that is HTTP elsewhere."""

SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: narrow}}
  egress: [{hosts: [./plain.shop.svc.cluster.local]}]
"""

ABORTED, LATER = "10.96.7.1", "10.96.7.9"
MANIFESTS = f"{STRICT}\n---\n{SIDECAR}\n---\n{ruled('aborted', ABORTED, ABORT)}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransparentMesh]:
    """A mesh whose Envoys ask for the state of the world."""
    work: Path = tmp_path_factory.mktemp("declared") / "mesh"
    mesh = TransparentMesh(work, (CLIENT, ORDERS, LINES, PLAIN, NARROW), MANIFESTS)
    mesh.mesh.ads_variant = "GRPC"
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_strict_service_answers(mesh: TransparentMesh, family: str) -> None:
    """Its cluster was there before anybody called, and speaks mutual TLS."""
    address = mesh.vip("orders") if family == "ip" else mesh.vip6("orders")
    reply = mesh.ask("client", address, 80, "http://orders/echo")

    assert (reply.status, reply.workload) == (200, "orders")
    assert "x-forwarded-client-cert" in reply.json["headers"]


def test_rules_hold_for_the_first_request(mesh: TransparentMesh) -> None:
    """A VirtualService's abort, for a POST too."""
    replies = [mesh.ask("client", ABORTED, 80, "http://aborted/echo", None, way) for way in ("POST", "GET")]

    assert [reply.status for reply in replies] == [418, 418]


def test_bytes_are_told_from_requests_by_the_address(mesh: TransparentMesh) -> None:
    """A server that speaks first is reached at once, on a port number that is HTTP for others."""
    with mesh.connect("client", mesh.vip("lines"), 80) as raw:
        assert words(raw) == BANNER


def test_who_has_no_sidecar_is_called_in_plaintext(mesh: TransparentMesh) -> None:
    """As a Service; and by its own address, which no cluster IP is: as it is."""
    replies = [
        mesh.ask("client", mesh.vip("plain"), 80, "http://plain/echo"),
        mesh.ask("client", mesh.at("plain").ip, 8080, "http://x/echo"),
    ]

    assert [(reply.status, reply.workload) for reply in replies] == [(200, "plain")] * 2


def test_a_sidecar_object_narrows_it(mesh: TransparentMesh) -> None:
    """What it imports answers; what it does not import has no cluster."""
    seen = mesh.ask("narrow", mesh.vip("plain"), 80, "http://plain/echo")

    assert seen.status == 200
    assert "outbound|80||orders.shop" in mesh.admin("client", "/clusters")
    assert "orders.shop" not in mesh.admin("narrow", "/clusters")


def test_a_service_that_comes_later_is_told_of(mesh: TransparentMesh) -> None:
    """Without a word of the proxy, and gone again without one."""
    mesh.edit("later.yaml", ruled("later", LATER, ABORT))
    mesh.wait("the worker has it", lambda: mesh.ask("client", LATER, 80, "http://later/echo").status == 418)
