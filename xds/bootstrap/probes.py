"""TCP probes of a Pod whose traffic is redirected: a port is alive when the application accepts, not its sidecar.

It owns what they add to a bootstrap: an active health check of each port and a path that tells its result. It must
never import envoy-data-plane: injection calls it inside the server, on a document that was parsed from JSON.

Through interception a connection to a dead port succeeds, because the sidecar accepts it. So a probe
``tcpSocket: {port: 3306}`` becomes ``httpGet: {port: 15021, path: /tcp/3306}``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, cast

from xds import settings

_INTERVAL: Final = "2s"
"""How old the answer to a probe may be. The kubelet's own period is 10 s by default and 1 s at least."""

_RECOVERY: Final = "0.5s"
"""The same while the port is dead: an application that has just started should not wait for its first traffic."""

_TIMEOUT: Final = "1s"
"""The kubelet's default (`timeoutSeconds`)."""

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck"


def path(port: int) -> str:
    """Return the path on the readiness port that tells whether the application accepts on a port."""
    return f"/tcp/{port}"


def tcp_probes(document: dict[str, Any], ports: Iterable[int]) -> dict[str, Any]:
    """Return the bootstrap with a probe for each port; the given document stays as it is.

    The port is asked on 127.0.0.1: an application that listens on the Pod's address alone counts as dead.
    Raises KeyError or StopIteration for a document that `xds.bootstrap` did not make.
    """
    changed = copy.deepcopy(document)
    resources = changed["static_resources"]
    filters = _filters(resources["listeners"])
    for port in sorted(set(ports)):
        filters.insert(-1, _filter(port))
        resources["clusters"].append(_cluster(port))
    return changed


def _filters(listeners: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ready = next(listener for listener in listeners if _port(listener) == settings.READY_PORT)
    manager = ready["filter_chains"][0]["filters"][0]["typed_config"]
    return cast("list[dict[str, Any]]", manager["http_filters"])


def _port(listener: dict[str, Any]) -> int:
    return cast("int", listener["address"]["socket_address"]["port_value"])


def _name(port: int) -> str:
    return f"probe|{port}"


def _filter(port: int) -> dict[str, Any]:
    """Answer the path with 200 if the application accepts, else with 503."""
    config = {
        "@type": _TYPE,
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": path(port)}}],
        "cluster_min_healthy_percentages": {_name(port): {"value": 100.0}},
    }
    return {"name": f"tcp-{port}", "typed_config": config}


def _cluster(port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    check: dict[str, Any] = {
        "timeout": _TIMEOUT,
        "interval": _INTERVAL,
        # No request ever uses this cluster, and then Envoy asks once a minute only.
        "no_traffic_interval": _INTERVAL,
        "no_traffic_healthy_interval": _INTERVAL,
        "unhealthy_interval": _RECOVERY,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "tcp_health_check": {},
    }
    return {
        "name": _name(port),
        "type": "STATIC",
        "connect_timeout": _TIMEOUT,
        "load_assignment": {
            "cluster_name": _name(port),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "health_checks": [check],
    }
