"""TCP probes of intercepted pods: what they add to a bootstrap that was parsed from JSON."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest

from xds import settings
from xds.bootstrap import Plaintext, Spec, build
from xds.bootstrap.probes import path, tcp_probes, watch
from xds.injection.probes import Watched


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """A transparent bootstrap."""
    return build(
        Spec(
            pod="web-1",
            namespace="shop",
            workload="web",
            service_account="web",
            is_transparent=True,
            xds_host="127.0.0.1",
            xds_port=18000,
            channel=Plaintext(),
        )
    )


def _filters(document: dict[str, Any]) -> list[dict[str, Any]]:
    ready = next(
        found
        for found in document["static_resources"]["listeners"]
        if found["address"]["socket_address"]["port_value"] == settings.READY_PORT
    )
    return ready["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]


def test_each_port_has_a_path_and_a_check(document: dict[str, Any]) -> None:
    """15021 answers /tcp/PORT by an active check of 127.0.0.1:PORT; the router stays the last filter."""
    changed = tcp_probes(document, [7000, 3306, 3306])
    probes = [found for found in _filters(changed) if found["name"].startswith("tcp-")]
    clusters = [
        found for found in changed["static_resources"]["clusters"] if found["name"].startswith("probe|")
    ]

    assert [found["typed_config"]["headers"][0]["string_match"]["exact"] for found in probes] == [
        path(3306),
        path(7000),
    ]
    assert [found["name"] for found in clusters] == ["probe|3306", "probe|7000"]
    assert all(found["health_checks"][0]["tcp_health_check"] == {} for found in clusters)
    assert _filters(changed)[-1]["name"] == "envoy.filters.http.router"


def test_an_https_probe_is_an_active_check_in_tls(document: dict[str, Any]) -> None:
    """The kubelet's request: its path, headers and timeout, no verification, TLS 1.2 and 1.3, 200..399 is good."""
    headers = (("Host", "shop.example"), ("X-Probe", "100%"))
    changed = watch(document, [Watched("/https/8443", 8443, "/a b?full=1&c=%20", headers, 3)])
    (cluster,) = [one for one in changed["static_resources"]["clusters"] if one["name"].startswith("probe|")]
    (check,) = cluster["health_checks"]

    assert cluster["name"] == "probe|/https/8443"
    assert cluster["transport_socket"]["typed_config"]["common_tls_context"] == {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
    }
    assert (check["timeout"], check["reuse_connection"]) == ("3s", False)
    assert check["http_health_check"] == {
        "host": "shop.example",
        "path": "/a%20b?full=1&c=%20",
        "expected_statuses": [{"start": 200, "end": 400}],
        "request_headers_to_add": [
            {
                "header": {"key": "X-Probe", "value": "100%%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def test_the_given_document_stays(document: dict[str, Any]) -> None:
    """One template serves every pod."""
    before = copy.deepcopy(document)
    tcp_probes(document, [3306])

    assert document == before
    assert tcp_probes(document, []) == before


def test_the_server_may_call_it() -> None:
    """Injection runs in the server, where envoy-data-plane must not be."""
    code = "import sys, xds.bootstrap.probes; sys.exit('envoy_data_plane' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
