"""The counters that Prometheus reads are pushed to a user's collector as well, where one is named."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from cryptography import x509
from rig import STRICT, App, MeshUnderTest

from tests.fakes import otlp
from tests.fakes.authorities import Authorities, pem
from xds.bootstrap import Collector

PUSHED_S = 30.0
"""Sidecars push every 5 s."""


def test_a_collector_gets_the_counters_that_prometheus_reads(tmp_path: Path) -> None:
    """Both sides' requests, with their labels, under the names that Envoy pushes; and nothing of its own."""
    with otlp.sink(tmp_path) as sink:
        called(tmp_path, Collector("127.0.0.1", sink.port), sink)
        names = {name for name, _, _ in sink.counters}
        who = {labels["service.name"] for _, labels, _ in sink.counters}

    assert names == {"istio.requests_total"}
    assert who == {"client", "orders"}


def test_a_collector_is_asked_by_tls_under_authorities_of_its_own(tmp_path: Path) -> None:
    """It takes nothing else; one that another authority vouches for is told nothing, and no request waits for it."""
    ours, strange = Authorities("ours"), Authorities("strange")
    with otlp.sink(tmp_path, identity=identity(ours)) as sink:
        called(tmp_path, Collector("127.0.0.1", sink.port, pem(ours.root).decode()), sink)
    folder = tmp_path / "strange"
    folder.mkdir()
    with otlp.sink(folder, identity=identity(strange)) as refused:
        mesh = started(folder, Collector("127.0.0.1", refused.port, pem(ours.root).decode()))
        try:
            assert mesh.get("client", "http://orders/echo").status == 200
            mesh.wait("the certificate is refused", lambda: is_refused(mesh), timeout_s=PUSHED_S)
        finally:
            mesh.stop()

        assert refused.counters == []


def identity(authorities: Authorities) -> tuple[bytes, bytes]:
    """Return a certificate for 127.0.0.1 and its key."""
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    secret = authorities.secret("otlp", is_ca=False, extra=loopback)
    return secret["tls.crt"], secret["tls.key"]


def called(folder: Path, collector: Collector, sink: otlp.Sink) -> None:
    """Send 20 requests through a mesh, and wait until both sides have reported them."""
    mesh = started(folder, collector)
    try:
        for _ in range(20):
            assert mesh.get("client", "http://orders/echo").status == 200
        wanted = {("source", 20), ("destination", 20)}
        mesh.wait("both sides are pushed", lambda: requests(sink) == wanted, timeout_s=PUSHED_S)
    finally:
        mesh.stop()


def started(folder: Path, collector: Collector) -> MeshUnderTest:
    """Return a running mesh of two sidecars that push to a collector."""
    mesh = MeshUnderTest(folder / "mesh", (App("client"), App("orders")), STRICT, is_insecure=False)
    mesh.mesh.collector = collector
    try:
        return mesh.start()
    except BaseException:
        mesh.stop()
        raise


def is_refused(mesh: MeshUnderTest) -> bool:
    """Tell whether the client's sidecar has refused the collector's certificate."""
    found = mesh.stats("client", r"^cluster\.collector\.ssl\.fail_verify_(error|san)$")
    return any(found.values())


def requests(sink: otlp.Sink) -> set[tuple[str, int]]:
    """Return who has reported how many requests."""
    return {
        (labels["reporter"], value)
        for name, labels, value in sink.counters
        if name == "istio.requests_total" and labels["response_code"] == "200"
    }
