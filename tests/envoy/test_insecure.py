"""`--insecure`: a laptop's mesh without TLS, in which no secret is ever served."""

from __future__ import annotations

import json

from rig import App, StartMesh


def test_names_route_in_plaintext_and_no_secret_is_served(start_mesh: StartMesh) -> None:
    """Requests arrive without TLS, whatever PeerAuthentication says, and no sidecar holds a certificate."""
    mesh = start_mesh(App("client"), App("orders"), is_insecure=True)

    assert mesh.get("client", "http://orders/echo").workload == "orders"
    tls, plaintext = mesh.hops("orders")
    assert (tls, plaintext > 0) == (0, True)
    assert "BEGIN CERTIFICATE" not in json.dumps(mesh.config_dump("orders"))
    assert "BEGIN CERTIFICATE" not in json.dumps(mesh.config_dump("client"))
