"""What is worth looking at: three dashboards and the alerts, as one list of queries.

It owns every query that we ship; it must never name a metric or a label that neither the mesh nor Prometheus writes
(tests/envoy/test_dashboards.py asks them all of a real Prometheus).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RATE: Final = "$__rate_interval"
"""Grafana's word for a window that holds at least four scrapes."""

REQUESTS: Final = "istio_requests_total"
DURATION: Final = "istio_request_duration_milliseconds_bucket"


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel; ``legend`` is Grafana's template of its name."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; ``unit`` is Grafana's word. ``width`` is in Grafana's 24 columns."""

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 12


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a metric."""

    name: str
    metric: str
    label: str

    @property
    def query(self) -> str:
        """Grafana's function that lists them."""
        return f"label_values({self.metric}, {self.label})"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file for Grafana."""

    slug: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule: it fires when ``value`` has been beyond a bound for so long.

    ``value`` always says something, so that silence is never taken for health; ``advice`` is what to do.
    """

    name: str
    value: str
    bound: str
    lasts: str
    severity: str
    summary: str
    advice: str

    @property
    def expr(self) -> str:
        """The rule's condition."""
        return f"{self.value} {self.bound}"


def _rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{labels}}}[{RATE}])"


def _by(labels: str, inner: str) -> str:
    return f"sum by ({labels}) ({inner})" if labels else f"sum({inner})"


def _ratio(part: str, whole: str) -> str:
    """Return a share that is 0, not absent, when there is no part yet."""
    return f"(({part}) or 0 * ({whole})) / ({whole})"


def _quantile(share: float, labels: str, by: str = "") -> str:
    inside = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_by(inside, _rate(DURATION, labels))})"


def _percentiles(labels: str) -> tuple[Query, ...]:
    return tuple(
        Query(_quantile(share, labels), name) for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


_SERVER: Final = 'reporter="destination"'
_FAILED: Final = 'response_code=~"5..|0"'
_EDGE: Final = "source_workload, source_workload_namespace, destination_service"
_SENT: Final = "istio_tcp_sent_bytes_total"
_RECEIVED: Final = "istio_tcp_received_bytes_total"
_OPENED: Final = "istio_tcp_connections_opened_total"
_CLOSED: Final = "istio_tcp_connections_closed_total"

MESH: Final = Dashboard(
    "mesh",
    "Proa / Mesh",
    (
        Panel(
            "Requests",
            "Requests per second that servers have answered.",
            "reqps",
            (Query(_by("", _rate(REQUESTS, _SERVER)), "all"),),
            "stat",
            6,
        ),
        Panel(
            "Success",
            "Share of requests that did not fail by the server's fault.",
            "percentunit",
            (
                Query(
                    "1 - "
                    + _ratio(
                        _by("", _rate(REQUESTS, f"{_SERVER}, {_FAILED}")), _by("", _rate(REQUESTS, _SERVER))
                    ),
                    "success",
                ),
            ),
            "stat",
            6,
        ),
        Panel(
            "Mutual TLS",
            "Share of requests that came over mutual TLS.",
            "percentunit",
            (
                Query(
                    _ratio(
                        _by("", _rate(REQUESTS, f'{_SERVER}, connection_security_policy="mutual_tls"')),
                        _by("", _rate(REQUESTS, _SERVER)),
                    ),
                    "mutual TLS",
                ),
            ),
            "stat",
            6,
        ),
        Panel(
            "Sidecars",
            "Sidecars that Prometheus reads, and those whose control plane is connected.",
            "short",
            (
                Query("count(envoy_server_live)", "sidecars"),
                Query("sum(envoy_control_plane_connected_state)", "connected"),
            ),
            "stat",
            6,
        ),
        Panel(
            "Requests by service",
            "What servers have answered.",
            "reqps",
            (Query(_by("destination_service", _rate(REQUESTS, _SERVER)), "{{destination_service}}"),),
        ),
        Panel(
            "Failures by service",
            "Share of requests that failed by the server's fault.",
            "percentunit",
            (
                Query(
                    _ratio(
                        _by("destination_service", _rate(REQUESTS, f"{_SERVER}, {_FAILED}")),
                        _by("destination_service", _rate(REQUESTS, _SERVER)),
                    ),
                    "{{destination_service}}",
                ),
            ),
        ),
        Panel("Duration", "Of all requests, as servers' sidecars see them.", "ms", _percentiles(_SERVER)),
        Panel(
            "Slowest services",
            "The 99th percentile by service.",
            "ms",
            (
                Query(
                    f"topk(10, {_quantile(0.99, _SERVER, 'destination_service')})", "{{destination_service}}"
                ),
            ),
        ),
        Panel(
            "Who calls whom",
            "Requests per second on each edge, as the callers see them.",
            "reqps",
            (
                Query(
                    _by(_EDGE, _rate(REQUESTS, 'reporter="source"')),
                    "{{source_workload}}.{{source_workload_namespace}} → {{destination_service}}",
                ),
            ),
        ),
        Panel(
            "Failures by flag",
            "Why requests failed between two sidecars, in Envoy's flags; '-' is the application's own answer.",
            "reqps",
            (
                Query(
                    _by("response_flags, response_code", _rate(REQUESTS, 'reporter="source"')),
                    "{{response_code}} {{response_flags}}",
                ),
            ),
        ),
        Panel(
            "TCP connections",
            "Opened and closed per second, as the callers see them.",
            "cps",
            (
                Query(
                    _by("destination_service", _rate(_OPENED, 'reporter="source"')),
                    "opened {{destination_service}}",
                ),
                Query(
                    _by("destination_service", _rate(_CLOSED, 'reporter="source"')),
                    "closed {{destination_service}}",
                ),
            ),
        ),
        Panel(
            "TCP bytes",
            "Sent and received on connections that have ended.",
            "Bps",
            (
                Query(
                    _by("destination_service", _rate(_SENT, 'reporter="source"')),
                    "sent {{destination_service}}",
                ),
                Query(
                    _by("destination_service", _rate(_RECEIVED, 'reporter="source"')),
                    "received {{destination_service}}",
                ),
            ),
        ),
        Panel(
            "Ejected hosts",
            "Endpoints that outlier detection keeps out now, by caller.",
            "short",
            (
                Query(
                    "sum by (pod) (envoy_cluster_outlier_detection_ejections_active) or vector(0)", "{{pod}}"
                ),
            ),
        ),
        Panel(
            "Overflows",
            "Requests per second that a circuit breaker refused.",
            "reqps",
            (
                Query(
                    f"sum(rate(envoy_cluster_upstream_rq_pending_overflow[{RATE}])) or vector(0)", "refused"
                ),
            ),
        ),
        Panel(
            "Sidecar memory",
            "What Envoy has allocated.",
            "bytes",
            (Query("envoy_server_memory_allocated", "{{pod}}"),),
        ),
        Panel(
            "Series of a sidecar",
            "Counters of requests in one sidecar; at the cap (metrics.maxSeries) new ones are not counted.",
            "short",
            (Query(f"count by (pod) ({REQUESTS})", "{{pod}}"),),
        ),
    ),
)

_IN: Final = f'{_SERVER}, destination_service="$service"'
_OUT: Final = 'reporter="source", destination_service="$service"'
_CALLER: Final = "source_workload, source_workload_namespace"


def _sizes(metric: str) -> tuple[Query, ...]:
    return tuple(
        Query(f"histogram_quantile({share}, {_by('le', _rate(f'{metric}_bucket', _IN))})", name)
        for share, name in ((0.5, "p50"), (0.99, "p99"))
    )


SERVICE: Final = Dashboard(
    "service",
    "Proa / Service",
    (
        Panel(
            "Requests by caller",
            "As the server's sidecars count them, by the caller's certificate.",
            "reqps",
            (Query(_by(_CALLER, _rate(REQUESTS, _IN)), "{{source_workload}}.{{source_workload_namespace}}"),),
        ),
        Panel(
            "Requests by code",
            "What was answered; gRPC's own status beside it.",
            "reqps",
            (
                Query(
                    _by("response_code, grpc_response_status", _rate(REQUESTS, _IN)),
                    "{{response_code}} {{grpc_response_status}}",
                ),
            ),
        ),
        Panel(
            "Requests by version",
            "How a canary's share is kept.",
            "reqps",
            (
                Query(
                    _by("destination_workload, destination_version", _rate(REQUESTS, _IN)),
                    "{{destination_workload}} {{destination_version}}",
                ),
            ),
        ),
        Panel(
            "Success by version",
            "Share of requests that did not fail by the server's fault.",
            "percentunit",
            (
                Query(
                    "1 - "
                    + _ratio(
                        _by("destination_version", _rate(REQUESTS, f"{_IN}, {_FAILED}")),
                        _by("destination_version", _rate(REQUESTS, _IN)),
                    ),
                    "{{destination_version}}",
                ),
            ),
        ),
        Panel(
            "Duration at the server", "Without the network and the caller's sidecar.", "ms", _percentiles(_IN)
        ),
        Panel("Duration at the callers", "With network, retries and waiting.", "ms", _percentiles(_OUT)),
        Panel(
            "p99 by version",
            "The 99th percentile at the server.",
            "ms",
            (Query(_quantile(0.99, _IN, "destination_version"), "{{destination_version}}"),),
        ),
        Panel(
            "Why callers failed",
            "Requests without a good answer, by caller and Envoy's flag.",
            "reqps",
            (
                Query(
                    f"{_by('source_workload, response_flags', _rate(REQUESTS, f'{_OUT}, {_FAILED}'))} or vector(0)",
                    "{{source_workload}} {{response_flags}}",
                ),
            ),
        ),
        Panel(
            "Request size", "Needs the mesh setting metrics.sizes.", "bytes", _sizes("istio_request_bytes")
        ),
        Panel(
            "Response size", "Needs the mesh setting metrics.sizes.", "bytes", _sizes("istio_response_bytes")
        ),
    ),
    (Variable("service", REQUESTS, "destination_service"),),
)


_LIVE: Final = f"histogram_quantile({{}}, sum by (le) (rate(proa_push_live_seconds_bucket[{RATE}])))"

CONTROL_PLANE: Final = Dashboard(
    "control-plane",
    "Proa / Control plane",
    (
        Panel("Proxies", "Connected, by replica.", "short", (Query("proa_proxies", "{{pod}}"),), "stat", 6),
        Panel(
            "Answers awaited",
            "What proxies still owe to the pushes on their way.",
            "short",
            (Query("proa_answers_awaited", "{{pod}}"),),
            "stat",
            6,
        ),
        Panel(
            "Rejected",
            "Responses that proxies refused in the last hour.",
            "short",
            (Query('sum(increase(proa_pushes_total{answer="nack"}[1h])) or vector(0)', "NACKs"),),
            "stat",
            6,
        ),
        Panel(
            "CA ends in",
            "Days until the newest root of each authority ends.",
            "d",
            (Query("min by (ca) (proa_ca_expiry_timestamp_seconds - time()) / 86400", "{{ca}}"),),
            "stat",
            6,
        ),
        Panel(
            "Change to live",
            "From the detection of a change to the last proxy's answer.",
            "s",
            tuple(Query(_LIVE.format(share), name) for share, name in ((0.5, "p50"), (0.99, "p99"))),
        ),
        Panel(
            "Pushes",
            "Answered responses by type and by what proxies said.",
            "ops",
            (Query(f"sum by (type, answer) (rate(proa_pushes_total[{RATE}]))", "{{type}} {{answer}}"),),
        ),
        Panel(
            "Changes",
            "Objects that came, changed or went, by kind.",
            "ops",
            (Query(f"sum by (kind) (rate(proa_changes_total[{RATE}]))", "{{kind}}"),),
        ),
        Panel(
            "Problems",
            "Of user objects, by severity.",
            "short",
            (Query("max by (severity) (proa_problems)", "{{severity}}"),),
        ),
        Panel(
            "Silence of the API",
            "How long nothing was heard of the quietest kind; bookmarks come each minute. 0 beside a directory.",
            "s",
            (Query("max by (kind) (proa_kind_silence_seconds) or vector(0)", "{{kind}}"),),
        ),
        Panel(
            "Requests to the API",
            "Lists, watches and failures by kind. 0 beside a directory.",
            "ops",
            (
                Query(
                    f"sum by (kind, request) (rate(proa_kind_requests[{RATE}])) or vector(0)",
                    "{{kind}} {{request}}",
                ),
            ),
        ),
        Panel(
            "Event loop",
            "How much later than asked the last tick came.",
            "s",
            (Query("proa_event_loop_lag_seconds", "{{pod}}"),),
        ),
        Panel(
            "Streams and refusals",
            "What the xDS server has seen.",
            "ops",
            (Query(f"sum by (event) (rate(proa_server_events_total[{RATE}]))", "{{event}}"),),
        ),
        Panel(
            "CPU",
            "Of the control plane's process, in cores.",
            "short",
            (Query(f'rate(process_cpu_seconds_total{{job="proa-control-plane"}}[{RATE}])', "{{pod}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory of the control plane's process.",
            "bytes",
            (Query('process_resident_memory_bytes{job="proa-control-plane"}', "{{pod}}"),),
        ),
        Panel(
            "Leaves", "Certificates that connected proxies hold.", "short", (Query("proa_leaves", "{{pod}}"),)
        ),
        Panel(
            "Open pushes",
            "Pushes that not every proxy has answered.",
            "short",
            (Query("proa_pushes_open", "{{pod}}"),),
        ),
    ),
)

DASHBOARDS: Final = (MESH, SERVICE, CONTROL_PLANE)

_ERRORS: Final = "sum by (destination_service) (rate(istio_requests_total{{{}}}[5m]))"
_ALL_ERRORS: Final = _ERRORS.format(f"{_SERVER}, {_FAILED}")
_ALL: Final = _ERRORS.format(_SERVER)

ALERTS: Final = (
    Alert(
        "ProaControlPlaneDown",
        'sum(up{job="proa-control-plane"}) or vector(0)',
        "< 1",
        "2m",
        "critical",
        "No replica of the control plane answers.",
        "Sidecars keep their configuration; new Pods wait. `kubectl -n proa-system get pods`, then its log.",
    ),
    Alert(
        "ProaConfigurationRejected",
        'sum by (type) (increase(proa_pushes_total{answer="nack"}[5m])) or vector(0)',
        "> 0",
        "0m",
        "warning",
        "A sidecar refused a {{ $labels.type }}.",
        "`proa status` names the proxy and the object; the last accepted version stays in force.",
    ),
    Alert(
        "ProaPushSlow",
        "histogram_quantile(0.99, sum by (le) (rate(proa_push_live_seconds_bucket[5m])))",
        "> 1",
        "10m",
        "warning",
        "Changes take {{ $value }} s to be live.",
        "Look at the panels Event loop, CPU and Answers awaited of Proa / Control plane.",
    ),
    Alert(
        "ProaAnswersMissing",
        "sum(proa_answers_awaited)",
        "> 0",
        "5m",
        "warning",
        "Proxies have owed {{ $value }} answers for five minutes.",
        "`proa status` shows which are not synced; a sidecar may be out of CPU or cut off.",
    ),
    Alert(
        "ProaCaEndsSoon",
        "min by (ca) (proa_ca_expiry_timestamp_seconds - time()) / 86400",
        "< 30",
        "1h",
        "warning",
        "The {{ $labels.ca }} CA ends in {{ $value }} days.",
        "`proa ca rotate`.",
    ),
    Alert(
        "ProaApiSilent",
        "max by (kind) (proa_kind_silence_seconds) or vector(0)",
        "> 300",
        "2m",
        "warning",
        "The API has said nothing of {{ $labels.kind }} for {{ $value }} s.",
        "The last known objects stay in force. Is the apiserver reachable from the control plane?",
    ),
    Alert(
        "ProaEventLoopLate",
        "max by (pod) (proa_event_loop_lag_seconds)",
        "> 1",
        "5m",
        "warning",
        "The control plane is {{ $value }} s late.",
        "It needs more CPU, or another replica.",
    ),
    Alert(
        "ProaObjectsBroken",
        'max(proa_problems{severity="error"})',
        "> 0",
        "10m",
        "warning",
        "{{ $value }} objects have errors; their last good version is in force.",
        "`proa validate` or `kubectl describe` of the object says what and where.",
    ),
    Alert(
        "ProaSidecarCutOff",
        "min by (namespace, pod) (envoy_control_plane_connected_state)",
        "< 1",
        "10m",
        "warning",
        "The sidecar of {{ $labels.namespace }}/{{ $labels.pod }} has no control plane.",
        "It serves its last configuration; its certificate ends within a day. Look at its log.",
    ),
    Alert(
        "ProaSeriesAtCap",
        f"max by (namespace, pod) (count by (namespace, pod) ({REQUESTS}))",
        "> 4500",
        "10m",
        "warning",
        "{{ $labels.namespace }}/{{ $labels.pod }} counts {{ $value }} series of requests; a listener stops at 5,000.",
        "Remove a label or raise the cap: mesh setting metrics (docs/metrics.md).",
    ),
    Alert(
        "ProaServiceFails",
        _ratio(_ALL_ERRORS, _ALL),
        "> 0.05",
        "5m",
        "warning",
        "{{ $labels.destination_service }} fails {{ $value | humanizePercentage }} of its requests.",
        "The dashboard Proa / Service shows the version and the flag.",
    ),
    Alert(
        "ProaPlaintextTraffic",
        'sum by (destination_service) (rate(istio_requests_total{reporter="destination", '
        'connection_security_policy!="mutual_tls"}[5m])) or vector(0)',
        "> 0",
        "15m",
        "info",
        "{{ $labels.destination_service }} takes requests in plaintext.",
        "`proa edges` shows from whom; PeerAuthentication STRICT ends it.",
    ),
)
