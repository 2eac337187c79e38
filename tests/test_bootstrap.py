"""What `xds.bootstrap` promises about the document that an Envoy starts with; must never start a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from xds import settings
from xds.bootstrap import TEMPLATE, Collector, Plaintext, Spec, Tls, build, render_secret, template

ROOT = "-----BEGIN CERTIFICATE-----\nAAECAwQ=\n-----END CERTIFICATE-----\n"
NEWEST = "08bb5e5d"
CHANNEL = Tls(roots=(ROOT,), newest_root=NEWEST, token_file="/var/run/secrets/proa/token")


@pytest.fixture
def spec() -> Spec:
    """A sidecar of pod shop/web-1 with a TLS channel."""
    return Spec(
        pod="web-1",
        namespace="shop",
        workload="web",
        service_account="web",
        pod_ip="127.0.1.2",
        xds_host="127.0.0.1",
        xds_port=18000,
        channel=Tls(roots=(ROOT,), newest_root=NEWEST, token_file="/var/run/proa/token"),
        zone="z1",
    )


def _cluster(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in document["static_resources"]["clusters"] if item["name"] == name)


def _options(document: dict[str, Any]) -> dict[str, Any]:
    options = _cluster(document, "xds")["typed_extension_protocol_options"]
    return options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]


def test_node_says_who_and_under_which_channel_root(spec: Spec) -> None:
    """The node carries POD.NAMESPACE, zone and the fingerprint of the root that the sidecar trusts."""
    node = build(spec)["node"]

    assert node["id"] == "web-1.shop"
    assert node["cluster"] == "web.shop"
    assert node["locality"] == {"zone": "z1"}
    assert node["metadata"]["proa.dev/channel-root"] == NEWEST


def test_channel_is_tls_13_for_one_name_under_inlined_roots(spec: Spec) -> None:
    """Nothing but TLS 1.3 to the holder of the control plane's name is accepted."""
    context = _cluster(build(spec), "xds")["transport_socket"]["typed_config"]["common_tls_context"]

    assert context["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    }
    assert context["validation_context"]["trusted_ca"] == {"inline_string": ROOT}
    names = context["validation_context"]["match_typed_subject_alt_names"]
    assert names == [{"san_type": "DNS", "matcher": {"exact": settings.CHANNEL_SERVER_NAME}}]


def test_two_roots_are_both_trusted_and_the_newest_is_reported(spec: Spec) -> None:
    """While the channel root rotates, a new sidecar trusts the old root and the new one."""
    document = build(
        replace(spec, channel=Tls(roots=(ROOT, ROOT), newest_root="ab12", token_file="/t/token"))
    )
    context = _cluster(document, "xds")["transport_socket"]["typed_config"]["common_tls_context"]

    assert document["node"]["metadata"]["proa.dev/channel-root"] == "ab12"
    assert context["validation_context"]["trusted_ca"] == {"inline_string": ROOT + ROOT}


def test_token_comes_from_a_watched_file_and_is_never_in_the_document(spec: Spec) -> None:
    """The injector's secret is a file of secrets that is re-read when the token's directory changes."""
    injector = _options(build(spec))["http_filters"][0]["typed_config"]
    source = injector["credential"]["typed_config"]["credential"]["sds_config"]["path_config_source"]

    assert source == {
        "path": "/var/run/proa/token.sds.json",
        "watched_directory": {"path": "/var/run/proa"},
    }
    assert injector["overwrite"] is True
    channel = spec.channel
    assert isinstance(channel, Tls)
    assert '"filename": "/var/run/proa/token"' in render_secret(channel)


def test_readiness_waits_for_configuration_for_ever(spec: Spec) -> None:
    """LDS and CDS have no fetch timeout: a sidecar without configuration must not turn ready."""
    resources = build(spec)["dynamic_resources"]

    assert resources["lds_config"]["initial_fetch_timeout"] == "0s"
    assert resources["cds_config"]["initial_fetch_timeout"] == "0s"


def test_reconnects_within_two_seconds(spec: Spec) -> None:
    """The stream is delta ADS, sends the node once, and is retried after 0.2 to 2 s."""
    ads = build(spec)["dynamic_resources"]["ads_config"]
    service = ads["grpc_services"][0]["envoy_grpc"]

    assert ads["api_type"] == "DELTA_GRPC"
    assert ads["set_node_on_first_message_only"] is True
    assert service["retry_policy"]["retry_back_off"] == {"base_interval": "0.200s", "max_interval": "2s"}


def test_dead_control_plane_is_noticed_by_keepalive(spec: Spec) -> None:
    """HTTP/2 pings every 30 s, and the connection is given up 5 s after an unanswered one."""
    http2 = _options(build(spec))["explicit_http_config"]["http2_protocol_options"]

    assert http2["connection_keepalive"] == {"interval": "30s", "timeout": "5s"}


def test_admin_stays_on_a_loopback_address(spec: Spec) -> None:
    """A pod with a loopback address has its admin there; a routable pod has it on 127.0.0.1."""
    routable = replace(spec, pod_ip="10.1.2.3")

    assert build(spec)["admin"]["address"]["socket_address"]["address"] == "127.0.1.2"
    assert build(routable)["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert _cluster(build(routable), "admin")["load_assignment"]["endpoints"][0]["lb_endpoints"][0][
        "endpoint"
    ]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}


def test_admin_allows_no_path_that_stops_or_alters_the_process(spec: Spec) -> None:
    """Every process of the machine can reach a loopback address, so the admin endpoint only shows."""
    allowed = [entry["prefix"] for entry in build(spec)["admin"]["allow_paths"]]

    assert not [
        path for path in allowed if path.startswith(("/quit", "/runtime_modify", "/heap", "/cpu", "/reset"))
    ]


def test_static_doors_open_exactly_one_path_each(spec: Spec) -> None:
    """15021 serves GET /ready, 15090 GET /stats/prometheus, both on the pod's address."""
    doors: dict[int, list[str]] = {}
    for listener in build(spec)["static_resources"]["listeners"]:
        config = listener["filter_chains"][0]["filters"][0]["typed_config"]
        routes = config["route_config"]["virtual_hosts"][0]["routes"]
        assert listener["address"]["socket_address"]["address"] == "127.0.1.2"
        doors[listener["address"]["socket_address"]["port_value"]] = [
            item["match"]["path"] for item in routes
        ]

    assert doors == {15021: ["/ready"], 15090: ["/stats/prometheus"]}


def test_insecure_channel_has_neither_tls_nor_token(spec: Spec) -> None:
    """With --insecure the cluster is plaintext and no credential is configured."""
    document = build(replace(spec, channel=Plaintext()))

    assert "transport_socket" not in _cluster(document, "xds")
    assert "http_filters" not in _options(document)
    assert "proa.dev/channel-root" not in document["node"]["metadata"]


def test_insecure_is_refused_beyond_loopback(spec: Spec) -> None:
    """A plaintext channel to another machine is an error, not a warning."""
    with pytest.raises(ValueError, match="--insecure"):
        build(replace(spec, channel=Plaintext(), xds_host="10.0.0.1"))


def test_missing_pod_address_names_the_pod_and_the_field(spec: Spec) -> None:
    """A Pod without an address is an error that names object and field."""
    with pytest.raises(ValueError, match=r"Pod shop/web-1: status\.podIP"):
        build(replace(spec, pod_ip=""))


def test_relative_token_file_is_refused(spec: Spec) -> None:
    """Envoy's working directory need not be ours."""
    with pytest.raises(ValueError, match="--token-file"):
        build(replace(spec, channel=Tls(roots=(ROOT,), newest_root=NEWEST, token_file="token")))


def test_hosts_by_name_are_resolved_and_addresses_are_not(spec: Spec) -> None:
    """In a cluster the control plane is a DNS name."""
    named = _cluster(build(replace(spec, xds_host="proa.proa-system.svc")), "xds")

    assert _cluster(build(spec), "xds").get("type", "STATIC") == "STATIC"
    assert named["cluster_type"]["name"] == "envoy.clusters.dns"
    assert named["cluster_type"]["typed_config"]["dns_failure_refresh_rate"]["max_interval"] == "2s"


def test_importing_bootstrap_loads_no_envoy_types() -> None:
    """envoy-data-plane costs 0.8 s of import: only building pays for it."""
    code = "import sys, xds.bootstrap; sys.exit('envoy_data_plane' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_intercepted_sidecar_says_so_and_names_no_address() -> None:
    """What its listeners look like is chosen by INTERCEPTION_MODE; its doors are on every address."""
    document = build(template(xds_host="proa.proa-system.svc", xds_port=15010, channel=CHANNEL))
    listeners = document["static_resources"]["listeners"]

    assert document["node"]["metadata"]["INTERCEPTION_MODE"] == "REDIRECT"
    assert "INSTANCE_IPS" not in document["node"]["metadata"]
    assert [found["address"]["socket_address"] for found in listeners] == [
        {"address": "::", "port_value": port, "ipv4_compat": True}
        for port in (settings.READY_PORT, settings.METRICS_PORT)
    ]
    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_template_leaves_the_pod_to_kubernetes() -> None:
    """Its node comes from the command line; what else names the pod are references that the kubelet expands."""
    document = build(template(xds_host="proa.proa-system.svc", xds_port=15010, channel=CHANNEL))
    text = json.dumps(document)

    assert "id" not in document["node"]
    assert "cluster" not in document["node"]
    assert set(re.findall(r"\$[^\"]*?\)", text)) == set(TEMPLATE.values())
    assert len(text) < 12_000


@pytest.mark.parametrize(
    ("host", "kind", "sni"),
    [("otlp.example.com", "DNS", "otlp.example.com"), ("10.0.0.9", "IP_ADDRESS", None)],
)
def test_a_collector_with_authorities_is_asked_by_tls(
    spec: Spec, host: str, kind: str, sni: str | None
) -> None:
    """Under those alone, for the host that was named; and it is shown no certificate."""
    document = build(replace(spec, collector=Collector(host, 4317, "PEM")))
    (found,) = [one for one in document["static_resources"]["clusters"] if one["name"] == "collector"]
    context = found["transport_socket"]["typed_config"]
    common = context["common_tls_context"]

    assert context.get("sni") == sni
    assert common["validation_context"] == {
        "trusted_ca": {"inline_string": "PEM"},
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
    }
    assert common.keys() == {"alpn_protocols", "validation_context"}


def test_before_1_37_nothing_is_in_it_that_envoy_does_not_read(spec: Spec) -> None:
    """No list of admin paths, no statistic that is left out, and "Bearer" by a filter of its own."""
    document = build(replace(spec, is_older=True, collector=Collector("127.0.0.1", 4317)))
    names = [found["name"] for found in _options(document)["http_filters"]]
    (sink,) = document["stats_sinks"]

    assert "allow_paths" not in document["admin"]
    assert "DropAction" not in json.dumps(document)
    assert sink["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] == "xds"
    assert "header_value_prefix" not in json.dumps(document)
    assert [name.rpartition(".")[2] for name in names] == [
        "credential_injector",
        "header_mutation",
        "upstream_codec",
    ]
