"""Two stock Envoys with the least that passes a request on over mutual TLS: the floor under what a sidecar costs.

It owns their configuration, which has no control plane, metric, log, name or rule; it must never get anything of ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xds import ca
from xds.demo import programs
from xds.demo.mesh import is_taken
from xds.demo.processes import Child, Family, wait_until
from xds.identity import Identity
from xds.state import system_entropy

START_S: Final = 30.0
"""On two busy cores an Envoy needs some seconds for a start that takes 0.3 s on idle ones."""

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_TRUST_DOMAIN: Final = "cluster.local"

Address = tuple[str, int]
_Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """The two processes, and where the first of them takes requests."""

    outbound: str
    client: Child
    server: Child


@contextmanager
def pair(work: Path, client: Address, server: Address, application: Address) -> Generator[Pair]:
    """Start both, the first before the second before the application, and stop them in the end."""
    root = ca.new_root(_TRUST_DOMAIN, now=time.time(), entropy=system_entropy())
    family = Family(work)
    try:
        listens = {"client": client, "server": server}
        documents = {
            "client": _document(client, server, upstream=_tls("Upstream", root, "client")),
            "server": _document(server, application, downstream=_tls("Downstream", root, "server")),
        }
        found: dict[str, Child] = {}
        for name, document in documents.items():
            path = work / f"stock-{name}.json"
            path.write_text(json.dumps(document), "utf-8")
            argv = [str(programs.envoy()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart"]
            found[name] = family.start(f"stock-{name}", [*argv, "-l", "warning"])
        for name, child in found.items():
            wait_until(
                f"the stock Envoy of the {name} listens",
                lambda name=name: is_taken(*listens[name]),
                timeout_s=START_S,
                child=child,
            )
        yield Pair(f"{client[0]}:{client[1]}", found["client"], found["server"])
    finally:
        family.stop()


def _document(
    listens: Address,
    goes_to: Address,
    *,
    upstream: _Document | None = None,
    downstream: _Document | None = None,
) -> _Document:
    """Return a bootstrap: everything that comes in here goes out there."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next"}}
    connections = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stock",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}
    chain: _Document = {"filters": [manager]}
    endpoint = {"endpoint": {"address": _address(goes_to)}}
    cluster: _Document = {
        "name": "next",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if downstream:
        chain["transport_socket"] = downstream
    if upstream:
        cluster["transport_socket"] = upstream
    listener = {"name": "stock", "address": _address(listens), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(address: Address) -> _Document:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _tls(side: str, root: ca.Authority, name: str) -> _Document:
    """Return TLS 1.3 with a certificate of its own and a peer under the root, as sidecars have it.

    Sessions do not resume, so that a new connection costs what it costs sidecars.
    """
    who = Identity(
        pod=name, namespace="stock", service_account=name, workload=name, trust_domain=_TRUST_DOMAIN
    )
    leaf = ca.issue_leaf(root, who, now=time.time(), entropy=system_entropy())
    common = {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": leaf.certificate_pem.decode()},
                "private_key": {"inline_string": bytes(leaf.key_pem.reveal()).decode()},
            }
        ],
        "validation_context": {"trusted_ca": {"inline_string": root.pem.decode()}},
    }
    config: _Document = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.{side}TlsContext",
        "common_tls_context": common,
    }
    if side == "Downstream":
        config |= {
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}
