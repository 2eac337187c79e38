"""TCP and HTTPS probes of a Pod whose traffic is redirected: the application answers them, not its sidecar.

It owns what they add to a bootstrap: an active health check for each and a path that tells its result. It must
never import envoy-data-plane: injection calls it inside the server, on a document that was parsed from JSON.

Through interception a connection to a dead port succeeds, because the sidecar accepts it. So a probe
``tcpSocket: {port: 3306}`` becomes ``httpGet: {port: 15021, path: /tcp/3306}``. TLS of a kubelet has no certificate of
ours: ``httpGet: {port: 8443, scheme: HTTPS}`` becomes ``{port: 15021, path: /https/8443}``.
"""

from __future__ import annotations

import copy
import urllib.parse
from collections.abc import Iterable
from typing import Any, Final, cast

from xds import settings
from xds.injection.probes import Watched

_INTERVAL: Final = "2s"
"""How old the answer to a probe may be. The kubelet's own period is 10 s by default and 1 s at least."""

_RECOVERY: Final = "0.5s"
"""The same while the port is dead: an application that has just started should not wait for its first traffic."""

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck"
_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"

_IN_PATHS: Final = "/?&=%:@!$'()*+,;~-._"
"""What a path may have as it is (RFC 3986, section 3.3, and what is encoded already)."""


def path(port: int) -> str:
    """Return the path on the readiness port that tells whether the application accepts on a port."""
    return f"/tcp/{port}"


def tcp_probes(document: dict[str, Any], ports: Iterable[int]) -> dict[str, Any]:
    """Return the bootstrap with a TCP probe for each port, as `watch` does."""
    return watch(document, [Watched(path(port), port) for port in sorted(set(ports))])


def watch(document: dict[str, Any], watched: Iterable[Watched]) -> dict[str, Any]:
    """Return the bootstrap with what is asked in place of probes; the given document stays as it is.

    The port is asked on 127.0.0.1: an application that listens on the Pod's address alone counts as dead.
    Raises KeyError or StopIteration for a document that `xds.bootstrap` did not make.
    """
    changed = copy.deepcopy(document)
    resources = changed["static_resources"]
    filters = _filters(resources["listeners"])
    for one in watched:
        filters.insert(-1, _filter(one))
        resources["clusters"].append(_cluster(one))
    return changed


def _filters(listeners: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ready = next(listener for listener in listeners if _port(listener) == settings.READY_PORT)
    manager = ready["filter_chains"][0]["filters"][0]["typed_config"]
    return cast("list[dict[str, Any]]", manager["http_filters"])


def _port(listener: dict[str, Any]) -> int:
    return cast("int", listener["address"]["socket_address"]["port_value"])


def _name(one: Watched) -> str:
    return f"probe|{one.asked_at.removeprefix('/tcp/')}"


def _filter(one: Watched) -> dict[str, Any]:
    """Answer the path with 200 if the application is well, else with 503."""
    config = {
        "@type": _TYPE,
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": one.asked_at}}],
        "cluster_min_healthy_percentages": {_name(one): {"value": 100.0}},
    }
    return {"name": one.asked_at.removeprefix("/").replace("/", "-"), "typed_config": config}


def _cluster(one: Watched) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": one.port}}
    check: dict[str, Any] = {
        "timeout": f"{one.timeout_s}s",
        "interval": _INTERVAL,
        # No request ever uses this cluster, and then Envoy asks once a minute only.
        "no_traffic_interval": _INTERVAL,
        "no_traffic_healthy_interval": _INTERVAL,
        "unhealthy_interval": _RECOVERY,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        **(_https(one) if one.path else {"tcp_health_check": {}}),
    }
    return {
        "name": _name(one),
        "type": "STATIC",
        "connect_timeout": f"{one.timeout_s}s",
        "load_assignment": {
            "cluster_name": _name(one),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "health_checks": [check],
        **({"transport_socket": _tls()} if one.path else {}),
    }


def _https(one: Watched) -> dict[str, Any]:
    """Return the request of a kubelet's HTTPS probe: 200..399 is good, each on a connection of its own."""
    host = next((value for name, value in one.headers if name.lower() == "host"), f"127.0.0.1:{one.port}")
    headers = [
        {
            "header": {"key": name, "value": value.replace("%", "%%")},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in one.headers
        if name.lower() != "host"
    ]
    request = {
        "host": host,
        "path": urllib.parse.quote(one.path, safe=_IN_PATHS),
        "expected_statuses": [{"start": 200, "end": 400}],
        **({"request_headers_to_add": headers} if headers else {}),
    }
    return {"http_health_check": request, "reuse_connection": False}


def _tls() -> dict[str, Any]:
    """Return TLS that verifies nobody, as the kubelet's probes do, in the versions that it speaks (Go's crypto/tls)."""
    versions = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
    return {
        "name": "tls",
        "typed_config": {"@type": _TLS, "common_tls_context": {"tls_params": versions}},
    }
