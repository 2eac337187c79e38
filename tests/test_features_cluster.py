"""Behaviours of one cluster: load balancer, connection pool, outlier detection, client TLS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.wrappers_pb2 import UInt32Value

from tests.fakes.reading import cluster, notes, present, reader, refusal, route
from xds.features import connection_pool, load_balancer, outlier, tls
from xds.features.load_balancer import ConsistentHash
from xds.features.tls import ClientTlsSettings, Mode
from xds.fields import Reader
from xds.pb.envoy.config.cluster.v3.cluster_pb2 import Cluster
from xds.pb.envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from xds.pb.envoy.config.route.v3.route_components_pb2 import RouteAction
from xds.pb.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

# -- load balancer ---------------------------------------------------------------------------


def balanced(text: str) -> Cluster:
    """Return a cluster with this load balancer."""
    message = cluster()
    present(load_balancer.read(reader(f"loadBalancer: {text}"))).patch_cluster(message)
    return message


@pytest.mark.parametrize(
    ("simple", "policy"),
    [
        ("ROUND_ROBIN", Cluster.ROUND_ROBIN),
        ("RANDOM", Cluster.RANDOM),
        ("LEAST_REQUEST", Cluster.LEAST_REQUEST),
        ("LEAST_CONN", Cluster.LEAST_REQUEST),
        ("UNSPECIFIED", Cluster.LEAST_REQUEST),
    ],
)
def test_simple_balancer(simple: str, policy: int) -> None:
    """Istio's names for balancers, the deprecated one and its default included."""
    assert balanced(f"{{simple: {simple}}}").lb_policy == policy


def test_ring() -> None:
    """A consistent hash is a ring of Istio's size by default."""
    message = balanced("{consistentHash: {httpHeaderName: X-User}}")

    assert (message.lb_policy, message.ring_hash_lb_config.minimum_ring_size.value) == (
        Cluster.RING_HASH,
        1024,
    )


@pytest.mark.parametrize("size", ["minimumRingSize: 64", "ringHash: {minimumRingSize: 64}"])
def test_ring_size(size: str) -> None:
    """The ring's size can be given in the new field and in the old one."""
    message = balanced(f"{{consistentHash: {{useSourceIp: true, {size}}}}}")

    assert message.ring_hash_lb_config.minimum_ring_size.value == 64


def test_maglev() -> None:
    """A consistent hash can be a Maglev table."""
    message = balanced("{consistentHash: {useSourceIp: true, maglev: {}}}")

    assert (message.lb_policy, message.maglev_lb_config.table_size.value) == (Cluster.MAGLEV, 65_537)


def hashed(text: str) -> RouteAction.HashPolicy:
    """Return the hash policy of a route to such a cluster."""
    found = load_balancer.read(reader(f"loadBalancer: {{consistentHash: {text}}}"))
    message = route()

    assert isinstance(found, ConsistentHash)
    found.patch_route(message)
    return message.route.hash_policy[0]


def test_hash_of_a_header() -> None:
    """The route says which header is hashed."""
    assert hashed("{httpHeaderName: X-User}").header.header_name == "x-user"


def test_hash_of_a_query_parameter() -> None:
    """The route says which query parameter is hashed."""
    assert hashed("{httpQueryParameterName: user}").query_parameter.name == "user"


@pytest.mark.parametrize("text", ["{useSourceIp: true}"])
def test_hash_of_the_source_address(text: str) -> None:
    """The route says that the caller's address is hashed."""
    assert hashed(text).connection_properties.source_ip is True


def test_hash_of_a_cookie_that_envoy_sets() -> None:
    """A TTL, 0 included, makes Envoy set a missing cookie."""
    cookie = hashed("{httpCookie: {name: u, path: /, ttl: 0s}}").cookie

    assert (cookie.name, cookie.path, cookie.HasField("ttl")) == ("u", "/", True)


def test_hash_of_a_cookie_that_the_application_sets() -> None:
    """Without a TTL the cookie is only read."""
    assert not hashed("{httpCookie: {name: u}}").cookie.HasField("ttl")


def test_unused_key_does_not_count() -> None:
    """useSourceIp: false beside another key is how generated YAML looks."""
    assert hashed("{httpHeaderName: a, useSourceIp: false}").header.header_name == "a"


@pytest.mark.parametrize("field", ["warmup: {duration: 30s}", "warmupDurationSecs: 30s"])
def test_warmup(field: str) -> None:
    """New endpoints get their share slowly."""
    config = balanced(f"{{simple: ROUND_ROBIN, {field}}}").round_robin_lb_config.slow_start_config

    assert (config.slow_start_window.seconds, config.min_weight_percent.value) == (30, 10.0)


def test_warmup_of_the_default_balancer() -> None:
    """Warmup alone keeps the default balancer."""
    config = balanced("{warmup: {duration: 30s, aggression: 2, minimumPercent: 5}}").least_request_lb_config

    assert config.slow_start_config.aggression.default_value == 2.0
    assert config.slow_start_config.min_weight_percent.value == 5.0


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            "{simple: RANDOM, warmup: {duration: 1s}}",
            "warning: x.loadBalancer.warmup: has an effect only with",
        ),
        (
            "{localityLbSetting: {enabled: true}}",
            "warning: x.loadBalancer.localityLbSetting: is not supported yet and was left",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, attributes: [{name: b}]}}}",
            "warning: x.loadBalancer.consistentHash.httpCookie.attributes: is not supported yet",
        ),
    ],
)
def test_balancer_fields_without_effect_are_told(text: str, start: str) -> None:
    """What is left out cannot misroute, and the user is told."""
    assert notes(load_balancer.read, f"loadBalancer: {text}")[0].startswith(start)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{simple: PASSTHROUGH}", "x.loadBalancer.simple: PASSTHROUGH is not supported yet"),
        ("{simple: FASTEST}", "x.loadBalancer.simple: must be one of UNSPECIFIED, LEAST_REQUEST"),
        (
            "{simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "x.loadBalancer.consistentHash: excludes simple",
        ),
        ("{consistentHash: {}}", "x.loadBalancer.consistentHash.httpHeaderName: must stand alone"),
        (
            "{consistentHash: {useSourceIp: false}}",
            "x.loadBalancer.consistentHash.httpHeaderName: must stand alone",
        ),
        (
            "{consistentHash: {useSourceIp: true, httpHeaderName: a}}",
            "x.loadBalancer.consistentHash.httpHeaderName: must",
        ),
        (
            "{consistentHash: {httpHeaderName: ':path'}}",
            'x.loadBalancer.consistentHash.httpHeaderName: ":path" is not',
        ),
        (
            "{consistentHash: {httpQueryParameterName: ''}}",
            "x.loadBalancer.consistentHash.httpQueryParameterName: must not",
        ),
        ("{consistentHash: {httpCookie: {}}}", "x.loadBalancer.consistentHash.httpCookie.name: is required"),
        (
            "{consistentHash: {httpCookie: {name: 'a=b'}}}",
            "x.loadBalancer.consistentHash.httpCookie.name: must be a cookie",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, path: 'a;b'}}}",
            "x.loadBalancer.consistentHash.httpCookie.path: must be",
        ),
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 8388609}}",
            "x.loadBalancer.consistentHash.minimumRingSize",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
            "x.loadBalancer.consistentHash.maglev.tableSize: must be a prime",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {}, ringHash: {}}}",
            "x.loadBalancer.consistentHash.maglev: ringHash",
        ),
        ("{warmup: {}}", "x.loadBalancer.warmup.duration: is required"),
        (
            "{warmup: {duration: 1s}, warmupDurationSecs: 1s}",
            "x.loadBalancer.warmupDurationSecs: excludes warmup",
        ),
    ],
)
def test_refused_balancer(text: str, start: str) -> None:
    """Balancers that would send requests elsewhere than the user thinks are refused."""
    assert refusal(load_balancer.read, f"loadBalancer: {text}").startswith(start)


# -- connection pool -------------------------------------------------------------------------


def http_options(message: Cluster) -> HttpProtocolOptions:
    """Return what a cluster says about HTTP."""
    options = HttpProtocolOptions()
    message.typed_extension_protocol_options[connection_pool.HTTP_OPTIONS].Unpack(options)
    return options


def pooled(text: str, *, http: HttpProtocolOptions | None = None) -> Cluster:
    """Return a cluster with this connection pool."""
    message = cluster()
    if http is not None:
        message.typed_extension_protocol_options[connection_pool.HTTP_OPTIONS].Pack(http)
    present(connection_pool.read(reader(f"connectionPool: {text}"))).patch_cluster(message)
    return message


def as_received() -> HttpProtocolOptions:
    """Return the HTTP options of a plain HTTP cluster."""
    options = HttpProtocolOptions()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    return options


def test_limits() -> None:
    """All four limits are the circuit breaker's."""
    text = (
        "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4}}"
    )
    limits = pooled(text).circuit_breakers.thresholds[0]

    assert [
        limits.max_connections.value,
        limits.max_pending_requests.value,
        limits.max_requests.value,
        limits.max_retries.value,
    ] == [1, 2, 3, 4]


def test_limits_that_are_not_set_do_not_become_envoys() -> None:
    """One limit must not bring in Envoy's other three, such as 3 retries at once."""
    limits = pooled("{tcp: {maxConnections: 1}}").circuit_breakers.thresholds[0]

    assert limits.max_retries.value == 2**32 - 1


def test_limits_of_the_cluster_are_kept() -> None:
    """A cluster's own limits stay where the user sets none, and no second threshold is added."""
    message = cluster()
    message.circuit_breakers.thresholds.add().max_requests.value = 7
    present(connection_pool.read(reader("connectionPool: {tcp: {maxConnections: 1}}"))).patch_cluster(message)

    assert [t.max_requests.value for t in message.circuit_breakers.thresholds] == [7]


def test_connect_timeout() -> None:
    """How long a connection may take to open."""
    assert pooled("{tcp: {connectTimeout: 30ms}}").connect_timeout.ToMilliseconds() == 30


def test_tcp_keepalive() -> None:
    """Probes, and seconds until and between them; what is not given stays the cluster's."""
    keepalive = pooled(
        "{tcp: {tcpKeepalive: {time: 7200s, probes: 3}}}"
    ).upstream_connection_options.tcp_keepalive

    assert (keepalive.keepalive_time.value, keepalive.keepalive_probes.value) == (7200, 3)
    assert not keepalive.HasField("keepalive_interval")


def test_http_lifetimes() -> None:
    """How long, and for how many requests, an HTTP connection is kept."""
    text = "{tcp: {maxConnectionDuration: 1h}, http: {idleTimeout: 30s, maxRequestsPerConnection: 9}}"
    common = http_options(pooled(text, http=as_received())).common_http_protocol_options

    assert (common.max_connection_duration.seconds, common.idle_timeout.seconds) == (3600, 30)
    assert common.max_requests_per_connection.value == 9


def test_http_options_keep_what_the_cluster_says() -> None:
    """The version that a cluster speaks is not changed by a timeout."""
    options = http_options(pooled("{http: {idleTimeout: 30s}}", http=as_received()))

    assert options.HasField("use_downstream_protocol_config")


def test_upgrade_to_http2() -> None:
    """h2UpgradePolicy UPGRADE speaks HTTP/2 to a plain HTTP port."""
    options = http_options(pooled("{http: {h2UpgradePolicy: UPGRADE}}", http=as_received()))

    assert options.explicit_http_config.HasField("http2_protocol_options")


def test_client_protocol() -> None:
    """With useClientProtocol the cluster speaks what the client spoke."""
    options = http_options(pooled("{http: {useClientProtocol: true}}", http=HttpProtocolOptions()))

    assert options.HasField("use_downstream_protocol_config")


def test_concurrent_streams() -> None:
    """Requests at once on one HTTP/2 connection are limited where HTTP/2 is spoken."""
    options = http_options(pooled("{http: {maxConcurrentStreams: 5}}", http=as_received()))

    assert options.use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams.value == 5


def test_http_settings_do_nothing_to_a_tcp_cluster() -> None:
    """A cluster without HTTP options does not get any."""
    assert not pooled("{http: {idleTimeout: 30s}}").typed_extension_protocol_options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("{tcp: {idleTimeout: 7s}}", 7), ("{tcp: {idleTimeout: 7s}, http: {idleTimeout: 3s}}", 3)],
)
def test_idle_timeout_of_tcp_stands_in_for_that_of_http(text: str, seconds: int) -> None:
    """For HTTP ports it is what http does not say; for TCP ports it does nothing yet, and that is told."""
    options = http_options(pooled(text, http=as_received()))
    said = notes(connection_pool.read, f"connectionPool: {text}")

    assert options.common_http_protocol_options.idle_timeout.seconds == seconds
    assert said[0].startswith("warning: x.connectionPool.tcp.idleTimeout: holds for HTTP ports only")


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        (
            connection_pool.read,
            "connectionPool: {http: {http2KeepAlive: {timeout: 1s}}}",
            "connectionPool.http.http2KeepAlive",
        ),
        (
            outlier.read,
            "outlierDetection: {outlierDetectionHttpErrorCodes: [429]}",
            "outlierDetection.outlierDetectionHttpErrorCodes",
        ),
        (
            load_balancer.read,
            "loadBalancer: {zoneAwareLbSetting: {enabled: true}}",
            "loadBalancer.zoneAwareLbSetting",
        ),
    ],
)
def test_new_fields_of_istio_are_left_out_and_told(
    read: Callable[[Reader], object], text: str, field: str
) -> None:
    """What cannot misroute is a warning, and no error."""
    assert notes(read, text)[0].startswith(f"warning: x.{field}: is not supported yet and was left out")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.connectionPool: must have tcp or http"),
        ("{tcp: {maxConnections: -1}}", "x.connectionPool.tcp.maxConnections: must be 0.."),
        ("{tcp: {connectTimeout: 0s}}", "x.connectionPool.tcp.connectTimeout: must be at least 1ms"),
        (
            "{tcp: {tcpKeepalive: {time: 10ms}}}",
            "x.connectionPool.tcp.tcpKeepalive.time: must be at least 1000ms",
        ),
        (
            "{http: {http2MaxRequests: 2147483648}}",
            "x.connectionPool.http.http2MaxRequests: must be 0..2147483647",
        ),
        ("{http: {h2UpgradePolicy: MAYBE}}", "x.connectionPool.http.h2UpgradePolicy: must be one of DEFAULT"),
        (
            "{http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}",
            "x.connectionPool.http.useClientProtocol: excludes",
        ),
        ("{http: {maxRequest: 1}}", "x.connectionPool.http.maxRequest: unknown field"),
    ],
)
def test_refused_pool(text: str, start: str) -> None:
    """Limits below zero, timeouts of nothing and two protocols at once are refused."""
    assert refusal(connection_pool.read, f"connectionPool: {text}").startswith(start)


# -- outlier detection -----------------------------------------------------------------------


def ejecting(text: str) -> OutlierDetection:
    """Return this outlier detection as Envoy has it."""
    message = cluster()
    present(outlier.read(reader(f"outlierDetection: {text}"))).patch_cluster(message)
    return message.outlier_detection


def test_empty_detection_is_envoys_defaults() -> None:
    """Defaults are Envoy's, which are Istio's; only the success rate, which Istio has not, is off."""
    assert ejecting("{}") == OutlierDetection(enforcing_success_rate=UInt32Value(value=0))


def test_detection_never_panics() -> None:
    """Ejected endpoints get nothing even if they are the majority; Envoy's default is to panic at 50 %."""
    message = cluster()
    present(outlier.read(reader("outlierDetection: {}"))).patch_cluster(message)

    assert message.common_lb_config.HasField("healthy_panic_threshold")
    assert message.common_lb_config.healthy_panic_threshold.value == 0


def test_min_health_percent() -> None:
    """The user can want panic below a share of healthy endpoints."""
    message = cluster()
    present(outlier.read(reader("outlierDetection: {minHealthPercent: 30}"))).patch_cluster(message)

    assert message.common_lb_config.healthy_panic_threshold.value == 30


def test_consecutive_errors() -> None:
    """A count that is reached ejects always."""
    found = ejecting("{consecutive5xxErrors: 7, consecutiveGatewayErrors: 3}")

    assert (found.consecutive_5xx.value, found.enforcing_consecutive_5xx.value) == (7, 100)
    assert (found.consecutive_gateway_failure.value, found.enforcing_consecutive_gateway_failure.value) == (
        3,
        100,
    )


def test_count_of_0_disables() -> None:
    """0 is never, not after every request."""
    assert ejecting("{consecutive5xxErrors: 0}").enforcing_consecutive_5xx.value == 0


def test_deprecated_consecutive_errors() -> None:
    """Istio's older field counts gateway errors only, and the user is told."""
    found = ejecting("{consecutiveErrors: 4}")

    assert (found.consecutive_gateway_failure.value, found.enforcing_consecutive_5xx.value) == (4, 0)
    assert "is deprecated" in notes(outlier.read, "outlierDetection: {consecutiveErrors: 4}")[0]


def test_local_errors_apart() -> None:
    """Failures to connect can be counted apart from answers."""
    found = ejecting("{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}")

    assert (found.split_external_local_origin_errors, found.consecutive_local_origin_failure.value) == (
        True,
        2,
    )


def test_times_and_share() -> None:
    """How often endpoints are looked at, how long they are out, and how many may be."""
    found = ejecting("{interval: 1s, baseEjectionTime: 15m, maxEjectionPercent: 100}")

    assert (found.interval.seconds, found.base_ejection_time.seconds, found.max_ejection_percent.value) == (
        1,
        900,
        100,
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{consecutive5xxErrors: -1}", "x.outlierDetection.consecutive5xxErrors: must be 0.."),
        ("{interval: 0s}", "x.outlierDetection.interval: must be at least 1ms"),
        ("{baseEjectionTime: 30}", "x.outlierDetection.baseEjectionTime: must be a duration"),
        ("{maxEjectionPercent: 101}", "x.outlierDetection.maxEjectionPercent: must be 0..100"),
        ("{minHealthPercent: -1}", "x.outlierDetection.minHealthPercent: must be 0..100"),
        (
            "{consecutiveLocalOriginFailures: 1}",
            "x.outlierDetection.consecutiveLocalOriginFailures: needs split",
        ),
        (
            "{consecutive5xxError: 1}",
            "x.outlierDetection.consecutive5xxError: unknown field; did you mean consecutive5xx",
        ),
    ],
)
def test_refused_detection(text: str, start: str) -> None:
    """Counts below zero, shares above 100 and misspelt fields are refused."""
    assert refusal(outlier.read, f"outlierDetection: {text}").startswith(start)


# -- client TLS ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("{mode: DISABLE}", ClientTlsSettings(Mode.DISABLE)),
        ("{mode: ISTIO_MUTUAL, sni: a}", ClientTlsSettings(Mode.ISTIO_MUTUAL, sni="a")),
        (
            "{mode: SIMPLE, caCertificates: /ca, subjectAltNames: [a]}",
            ClientTlsSettings(Mode.SIMPLE, sans=("a",), ca_file="/ca"),
        ),
        (
            "{mode: SIMPLE, insecureSkipVerify: true}",
            ClientTlsSettings(Mode.SIMPLE, insecure_skip_verify=True),
        ),
        (
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k}",
            ClientTlsSettings(Mode.MUTUAL, certificate_file="/c", key_file="/k"),
        ),
        ("{}", ClientTlsSettings(Mode.DISABLE)),
    ],
)
def test_tls(text: str, settings: ClientTlsSettings) -> None:
    """Modes and what belongs to each; an empty message is DISABLE, protobuf's first value, as in Istio."""
    assert tls.read(reader(f"tls: {text}")) == settings


def test_no_tls_settings() -> None:
    """An absent field is automatic mutual TLS, which is not a setting."""
    assert tls.read(reader("{}")) is None


def test_system_stands_for_the_roots_of_the_system() -> None:
    """It is a word and no file, and means what absence means."""
    assert tls.read(reader("tls: {mode: SIMPLE, caCertificates: system}")) == ClientTlsSettings(Mode.SIMPLE)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{mode: mutual}", "x.tls.mode: must be one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
        ("{mode: MUTUAL, clientCertificate: /c}", "x.tls.privateKey: is required by mode MUTUAL"),
        ("{mode: SIMPLE, privateKey: /k}", "x.tls.clientCertificate: and privateKey belong to mode MUTUAL"),
        (
            "{mode: ISTIO_MUTUAL, caCertificates: /ca}",
            "x.tls.caCertificates: has no place in mode ISTIO_MUTUAL",
        ),
        (
            "{mode: ISTIO_MUTUAL, insecureSkipVerify: true}",
            "x.tls.insecureSkipVerify: has no place in mode ISTIO_MUTUAL",
        ),
        ("{mode: SIMPLE, credentialName: a}", "x.tls.credentialName: is not supported yet"),
        ("{mode: SIMPLE, caCrl: /crl}", "x.tls.caCrl: is not supported yet"),
        ("{mode: SIMPLE, subjectAltNames: ['']}", "x.tls.subjectAltNames: must not hold an empty name"),
    ],
)
def test_refused_tls(text: str, start: str) -> None:
    """Settings that would trust, or show, something else than the user thinks are refused."""
    assert refusal(tls.read, f"tls: {text}").startswith(start)
