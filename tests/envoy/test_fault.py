"""`proa fault` against real Envoys: a service is slow or fails for a while, and mends by itself with nobody's help."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner
from rig import STRICT, App, MeshUnderTest, StartMesh

from xds.__main__ import main

RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http: [{timeout: 5s, route: [{destination: {host: orders}}]}]
"""


def fault(mesh: MeshUnderTest, *words: str) -> None:
    """Run `proa fault` on the mesh's directory."""
    result = CliRunner().invoke(main, ("fault", *words, "--dir", str(mesh.mesh.manifests)))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("rules", ["", RULE], ids=["without a rule", "beside a rule"])
def test_an_abort_ends_by_itself(start_mesh: StartMesh, rules: str) -> None:
    """For its seconds every request is answered so; then, with no program running, none is. Others never notice."""
    mesh = start_mesh(App("client"), App("orders"), App("stock"), manifests=f"{STRICT}---{rules}")

    def status(host: str) -> int:
        return mesh.get("client", f"http://{host}/echo").status

    assert (status("orders"), status("stock")) == (200, 200)
    began = time.monotonic()
    fault(mesh, "abort", "orders.shop", "418", "--for", "10s")
    mesh.wait("the abort holds", lambda: status("orders") == 418)
    assert status("stock") == 200
    mesh.wait("the abort is over", lambda: status("orders") == 200)
    assert 9 <= time.monotonic() - began < 10 + 30
    assert "is over" in str(mesh.mesh.api.problems())


def test_a_delay_takes_the_place_of_the_last_word(start_mesh: StartMesh) -> None:
    """The newest command counts, a share of 100 percent is every request, and `end` ends it at once."""
    mesh = start_mesh(App("client"), App("orders"))

    def took_s() -> float:
        began = time.monotonic()
        assert mesh.get("client", "http://orders/echo").status in {200, 418}
        return time.monotonic() - began

    fault(mesh, "abort", "orders.shop", "418")
    mesh.wait("the abort holds", lambda: mesh.get("client", "http://orders/echo").status == 418)
    fault(mesh, "delay", "orders.shop", "1s")
    mesh.wait("the delay holds", lambda: mesh.get("client", "http://orders/echo").status == 200)
    # Envoy counts from when its loop last looked at the clock, before it may have waited for a processor.
    assert min(took_s() for _ in range(5)) >= 0.8
    fault(mesh, "end", "orders.shop")
    mesh.wait("the delay is gone", lambda: took_s() < 0.5)
