"""Which statistics a sidecar keeps, how they are named, and which of them it pushes to the control plane.

It owns tags, buckets, exclusions and the OTLP sink; it must never drop a counter that the mesh's own verdicts
(mTLS on every hop, ejections, open circuit breakers) are read from.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.metrics import v3 as metrics
from envoy_data_plane.envoy.extensions.matching.common_inputs.stats import v3 as inputs
from envoy_data_plane.envoy.extensions.stat_sinks.open_telemetry import v3 as sink
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.resource_detectors import v3 as detectors
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as xds_matcher

from xds.bootstrap import Spec
from xds.bootstrap.channel import collector_service, control_plane_service, pack

# Istio's buckets in milliseconds, so that dashboards made for Istio read ours unchanged.
MILLISECOND_BUCKETS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
    3_600_000,
)  # fmt: skip

# Per cluster Envoy has about 130 counters (27 KB a service). Kept: connections and requests by number, what was
# refused or ran out, retries, members, ejections, open circuit breakers, TLS handshakes and their failures. Dropped:
# what the RED metrics say better (response codes, times), and what only Envoy's authors read. Our stat names hold no
# dot, so `[^.]*` is the whole name.
_UNREAD_CLUSTER_STATS: Final = (
    r"cluster\.(outbound|inbound|passthrough|blackhole|o\||tcp\|)[^.]*\."
    r"(internal\..*|external\..*|canary\..*|zone\..*|http1\..*|http2\..*|http3\..*|default\..*|lb_.*"
    r"|upstream_rq_([1-5]xx|[1-5][0-9][0-9]|time|completed|0rtt|maintenance_mode)"
    r"|upstream_rq_([a-z_]*_exhausted|drop_.*|[rt]x_.*)"
    r"|upstream_rq_(max_duration_reached|active_overflow|pending_failure_eject|retry_backoff_.*|per_cx)"
    r"|upstream_rq_per_try_idle_timeout"
    r"|upstream_cx_(length_ms|connect_ms|http[123]_total|protocol_error|close_notify|none_healthy|[rt]x_.*"
    r"|destroy.*|idle_timeout|max_.*|pool_.*|connect_attempts_exceeded|connect_with_0_rtt|preconnect_.*)"
    r"|upstream_(internal_redirect|flow_control|http3|queue).*|retry_or_shadow_abandoned|max_host_weight"
    r"|ssl\.((ciphers|curves|sigalgs|versions|ocsp_|certificate\.).*|no_certificate|fail_verify_cert_hash)"
    r"|client_ssl_socket_factory\..*|[^.]*\.total_match_count|circuit_breakers\.high\..*"
    r"|membership_(change|degraded|excluded)|update_(attempt|duration|empty|no_rebuild|success|time)|init_fetch_timeout"
    r"|original_dst_.*|assignment_.*|bind_errors|warming_state|version|version_text)"
)

# What travels to the control plane: RED of every edge, the counters from which it tells whether a hop was TLS, and
# whom the sidecar has ejected.
_PUSHED: Final = (
    r"istio\.(requests_total|request_duration_milliseconds|tcp_[a-z]*_bytes_total|tcp_connections_[a-z]*_total)(\..*)?"
    r"|listener\.inbound(\|[0-9]+)?\."
    r"(downstream_cx_total|downstream_cx_active|ssl\.handshake|ssl\.fail_.*|ssl\.connection_error)"
    # Only clusters whose endpoints can be ejected have gauges of endpoints.
    r"|cluster\.(outbound|o)\|[^.]*\.(endpoint\..*\.healthy|outlier_detection\.ejections_active)"
    # Services that are asked about requests, and do not answer.
    r"|cluster\.inbound\|[^.]*\.(ratelimit|ext_authz)\.error|filter_chain\.jwt_authn\.jwks_fetch_failed"
    r"|http\.inbound[^.]*\.jwt_authn\.jwks_fetch_failed"  # where the listener has the filter (docs/adr/0036)
    # Services that providers name, and those that have keys: a collector answers nothing, but it takes connections.
    r"|cluster\.(provider|jwks)\|[^.]*\.upstream_cx_connect_fail"
)


def stats_config() -> metrics.StatsConfig:
    """Tags, buckets and exclusions."""
    return metrics.StatsConfig(
        use_all_default_tags=True,
        stats_matcher=metrics.StatsMatcher(
            exclusion_list=matcher.ListStringMatcher(patterns=[_regex(_UNREAD_CLUSTER_STATS)])
        ),
        histogram_bucket_settings=[
            metrics.HistogramBucketSettings(
                match=matcher.StringMatcher(prefix="istio"), buckets=list(MILLISECOND_BUCKETS)
            )
        ],
    )


def sinks(spec: Spec) -> list[metrics.StatsSink]:
    """The OTLP push of the chosen stats over the control channel, so that it is authenticated like any request.

    A user's collector gets everything that is counted of traffic; an older Envoy counts nothing of it.
    """
    if spec.is_older:
        return [_sink(spec, control_plane_service(), _PUSHED, _renamed())]
    own = _sink(spec, control_plane_service(), _PUSHED, _dropped())
    return [own, _sink(spec, collector_service(), r"istio\..*", _dropped())] if spec.collector else [own]


def _sink(
    spec: Spec, service: core.GrpcService, pushed: str, other: xds_core.TypedExtensionConfig
) -> metrics.StatsSink:
    attributes = {
        "service.name": spec.workload,
        "service.namespace": spec.namespace,
        "service.instance.id": spec.node_id,
    }
    detector = detectors.StaticConfigResourceDetectorConfig(attributes=attributes)
    config = sink.SinkConfig(
        grpc_service=service,
        resource_detectors=[
            core.TypedExtensionConfig(
                name="envoy.tracers.opentelemetry.resource_detectors.static_config",
                typed_config=pack(detector),
            )
        ],
        emit_tags_as_attributes=True,
        use_tag_extracted_name=True,
        custom_metric_conversions=_all_but(pushed, other),
    )
    return metrics.StatsSink(name="envoy.stat_sinks.open_telemetry", typed_config=pack(config))


def _dropped() -> xds_core.TypedExtensionConfig:
    """Leave a statistic out."""
    return xds_core.TypedExtensionConfig(name="drop", typed_config=pack(sink.SinkConfigDropAction()))


def _renamed() -> xds_core.TypedExtensionConfig:
    """Add a statistic to one that nobody reads: an older sink cannot leave any out."""
    unread = sink.SinkConfigConversionAction(metric_name="unread")
    return xds_core.TypedExtensionConfig(name="unread", typed_config=pack(unread))


def _all_but(regex: str, other: xds_core.TypedExtensionConfig) -> xds_matcher.Matcher:
    """What matches nothing is pushed as it is (documented behaviour of the sink), so the matcher finds the others."""
    name = xds_core.TypedExtensionConfig(
        name="stat_full_name", typed_config=pack(inputs.StatFullNameMatchInput())
    )
    pushed = xds_matcher.MatcherMatcherListPredicate(
        single_predicate=xds_matcher.MatcherMatcherListPredicateSinglePredicate(
            input=name,
            value_match=xds_matcher.StringMatcher(
                safe_regex=xds_matcher.RegexMatcher(
                    google_re2=xds_matcher.RegexMatcherGoogleRe2(), regex=regex
                )
            ),
        )
    )
    return xds_matcher.Matcher(
        matcher_list=xds_matcher.MatcherMatcherList(
            matchers=[
                xds_matcher.MatcherMatcherListFieldMatcher(
                    predicate=xds_matcher.MatcherMatcherListPredicate(not_matcher=pushed),
                    on_match=xds_matcher.MatcherOnMatch(action=other),
                )
            ]
        )
    )


def _regex(pattern: str) -> matcher.StringMatcher:
    return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=pattern))
