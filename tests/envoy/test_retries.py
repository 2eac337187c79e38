"""Retries through real sidecars: what one call becomes three hops on, and what is never sent twice."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any, Final

import hops
import netns
import pytest
from click.testing import CliRunner
from hops import Hop
from rig import STRICT, App, Container, MeshUnderTest, StartMesh
from transparent import StartPods

from xds.__main__ import main

NEEDS = netns.NEEDS

pytestmark = pytest.mark.envoy

RETRIES: Final = "{attempts: 2, retryOn: '503', backoff: 1ms}"
TRIES: Final = 3
"""What the client's own loop adds."""

EVIDENCE: Final = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    evidence: {sampling: 100}
"""

WAY: Final = ["web.shop", "a.shop", "b.shop", "c.shop"]

TOLD_S: Final = 60.0
"""Sidecars push counters every 5 s and evidence every second."""

WITHOUT_COPY: Final = tuple(name for name in hops.COPIED if name != "baggage")


def start(start_mesh: StartMesh, chain: list[Hop], retries: str = RETRIES) -> MeshUnderTest:
    """Start a chain whose calls are all retried."""
    mesh = start_mesh(*hops.apps(chain), manifests="---".join((STRICT, EVIDENCE, hops.services(retries))))
    hops.tell_sidecars(mesh, chain)
    return mesh


def analysis(mesh: MeshUnderTest, *arguments: str) -> str:
    """What `proa analyze retries` prints."""
    admin = f"127.0.0.1:{mesh.mesh.admin_port}"
    found = CliRunner().invoke(main, ["analyze", "retries", "--above", "2", "--admin", admin, *arguments])
    assert found.exit_code == 0, found.output
    return found.output


def analysed(mesh: MeshUnderTest, tries: int) -> dict[str, Any]:
    """The worst chain, once all hops and the client's tries are told."""

    def worst() -> dict[str, Any] | None:
        chains = json.loads(analysis(mesh, "-o", "json"))["chains"]
        is_told = chains and chains[0]["workloads"] == WAY and chains[0]["factor"] % tries == 0
        return chains[0] if is_told and not chains[0]["unknown"] else None

    mesh.wait("the chain is told", lambda: worst() is not None, timeout_s=TOLD_S)
    found = worst()
    assert found is not None
    return found


def most(chain: list[Hop]) -> int:
    """The most hits that one case has made of the backend."""
    return max(chain[-1].hits.values())


def test_only_the_first_sidecar_of_a_chain_repeats_a_call(start_mesh: StartMesh) -> None:
    """Three tries of the client, three attempts of its sidecar: 9 hits, where each hop for itself would make 81."""
    chain = hops.chain()
    mesh = start(start_mesh, chain)

    alone = hops.ask(mesh, ["one"], tries=TRIES, concurrency=1)
    assert alone == [503]
    assert chain[-1].hits["one"] == 9

    many = [f"case-{number}" for number in range(50)]
    assert hops.ask(mesh, many, tries=TRIES, concurrency=50) == [503] * 50
    assert most(chain) <= 9
    marks = [[value for name, value in seen if name == "baggage"] for seen in chain[-1].seen]
    assert all(values == ["proa-retry-owner=1"] for values in marks)
    found = analysed(mesh, TRIES)
    assert (found["factor"], found["owned"], found["drops"]) == (9, 9, [])
    assert not any(name.startswith("x-envoy-retry") for seen in chain[0].seen for name, _ in seen)


def test_without_copied_baggage_every_hop_multiplies(start_mesh: StartMesh) -> None:
    """An application that drops the marker makes its sidecar the first again: 3 × 27, which `analyze` says before."""
    chain = hops.chain(copied=WITHOUT_COPY)
    mesh = start(start_mesh, chain)

    hops.ask(mesh, ["one"], tries=TRIES, concurrency=1)

    assert chain[-1].hits["one"] == 81
    found = analysed(mesh, TRIES)
    assert (found["factor"], found["owned"], found["drops"]) == (81, 9, ["a.shop", "b.shop"])
    words = analysis(mesh)
    assert "web.shop → a.shop → b.shop → c.shop: one call can become 81" in words
    assert "× 3  application web.shop: repeats failed calls to hop-a.shop.svc.cluster.local" in words
    assert "× 3  mesh b.shop → c.shop: VirtualService/shop/hop-c/0: retriable-status-codes,503" in words
    assert "mend: let a.shop, b.shop copy every line of baggage" in words


def test_a_marked_call_keeps_the_baggage_of_its_client(start_mesh: StartMesh) -> None:
    """The marker is a line of its own; what the client wrote arrives as it was."""
    chain = hops.chain()
    mesh = start(start_mesh, chain)

    hops.call(mesh.pods["web"].pod_ip, "hop-a", [("baggage", "user=7"), ("baggage", "b=2")])

    lines = [value for name, value in chain[-1].seen[0] if name == "baggage"]
    assert ",".join(lines).split(",") == ["user=7", "b=2", "proa-retry-owner=1"]
    assert chain[-1].hits[""] == 3


def test_an_answered_post_is_never_repeated(start_mesh: StartMesh) -> None:
    """Whatever the rule says: the application has seen it. A GET under the same rule is repeated."""
    chain = [Hop("a")]
    manifests = "---".join((STRICT, hops.services("{attempts: 2, retryOn: '5xx,503', backoff: 1ms}")))
    mesh = start_mesh(App("web"), *hops.apps(chain)[1:], manifests=manifests)

    hops.ask(mesh, ["post"], tries=1, concurrency=1, method="POST")
    hops.ask(mesh, ["get"], tries=1, concurrency=1)

    assert chain[0].hits == {"post": 1, "get": 3}


class Cutter:
    """A server that takes a whole request and then resets the connection."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def listen(self, host: str, port: int) -> object:
        """Serve in the background."""
        server = socket.create_server((host, port), backlog=64)
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()
        return server

    def _serve(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._cut, args=(connection,), daemon=True).start()

    def _cut(self, connection: socket.socket) -> None:
        with connection:
            found = b""
            while b"\r\n\r\n" not in found or (found.startswith(b"POST") and not found.endswith(b"order")):
                chunk = connection.recv(65536)
                if not chunk:
                    return
                found += chunk
            self.requests.append(found)
            # Linger 0: close() resets instead of ending in order.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("rule", ["default", "5xx,reset"], ids=str)
def test_a_post_whose_bytes_were_sent_is_never_sent_again(start_mesh: StartMesh, rule: str) -> None:
    """The connection is reset after the request's last byte: nobody knows whether the order was taken."""
    cutter = Cutter()
    retries = "{attempts: 2, backoff: 1ms}" if rule == "default" else f"{{attempts: 2, retryOn: '{rule}'}}"
    apps = (App("web"), App("a", more=(Container("chain", hops.PORT, listen=cutter.listen),)))
    mesh = start_mesh(*apps, manifests="---".join((STRICT, hops.services(retries))))

    status = hops.ask(mesh, ["post"], tries=1, concurrency=1, method="POST")

    assert status == [503]
    assert len(cutter.requests) == 1


RULED: Final = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - retries: {attempts: 2, retryOn: '503', backoff: 1ms}
    route: [{destination: {host: orders}}]
"""


def test_an_intercepted_call_has_one_owner_too(start_pods: StartPods) -> None:
    """The rule holds for the dialled address; marked, or a POST, the same call is made once."""
    mesh = start_pods(App("client"), App("orders"), manifests="---".join((STRICT, RULED)))

    def hits(headers: dict[str, str], method: str = "GET") -> int:
        before = arrived(mesh)
        failing = {"x-shop-status": "503", **headers}
        reply = mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo", failing, method)
        assert reply.status == 503
        return arrived(mesh) - before

    assert hits({}) == 3
    assert hits({"baggage": "a=b,proa-retry-owner=1"}) == 1
    assert hits({}, "POST") == 1
    reply = mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo")
    assert "proa-retry-owner=1" in str(reply.json["headers"])


def arrived(mesh: MeshUnderTest) -> int:
    """How many requests the orders' sidecar has answered."""
    return sum(mesh.stats("orders", r"^http\.inbound.*downstream_rq_completed$").values())


def test_grpc_without_conditions_is_repeated_by_its_first_sidecar(start_mesh: StartMesh) -> None:
    """UNAVAILABLE is repeated as in Istio, though gRPC is always a POST; a marked call is made once."""
    chain = [Hop("a")]
    manifests = "---".join((STRICT, hops.services("{attempts: 2, backoff: 1ms}")))
    mesh = start_mesh(*hops.apps(chain), manifests=manifests)
    sidecar, grpc = mesh.pods["web"].pod_ip, ("content-type", "application/grpc")

    for case, more in (("free", []), ("owned", [("baggage", "proa-retry-owner=1")])):
        hops.call(sidecar, "hop-a", [("x-case", case), grpc, *more], "POST", b"order")
    hops.call(sidecar, "hop-a", [("x-case", "no grpc")], "POST", b"order")

    assert chain[0].hits == {"free": 3, "owned": 1, "no grpc": 1}
