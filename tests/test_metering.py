"""What sidecars count: the mesh setting `metrics`, overrides as formats, and the loggers that come of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from tests.props.strategies import meterings
from xds.api.core import Protocol
from xds.api.metering import (
    DEFAULT,
    METRICS,
    Change,
    Metering,
    read_label_name,
    read_label_value,
    read_metering,
)
from xds.fields import ConfigError, Reader
from xds.ir import Inbound, MtlsMode, Workload
from xds.observed import Metric, MetricOverride, Observed
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.resources import telemetry

WEB = Workload("web", "shop", "web", "web", "v1", "cluster.local")
PORT = Inbound(
    "inbound|80", "10.0.0.1", 80, Protocol.HTTP, MtlsMode.STRICT, "inbound|80", WEB, "web.shop.svc"
)


def config(metering: Metering = DEFAULT) -> stats_pb2.Config:
    """Return the HTTP logger of a source."""
    (log,) = telemetry.http_logs(telemetry.at_source(WEB), metering)
    return stats_pb2.Config.FromString(log.typed_config.value)


def labels(stat: stats_pb2.Config.Stat) -> dict[str, str]:
    """Return a stat's tags."""
    return {tag.name: tag.value_format for tag in stat.tags}


def test_the_setting_is_read() -> None:
    """Istio's words become our metric names; a removed label is removed of every metric."""
    found = read_metering(
        Reader(
            {
                "metrics": {
                    "sizes": True,
                    "maxSeries": 2000,
                    "disabled": ["TCP_SENT_BYTES", "REQUEST_DURATION"],
                    "removedLabels": ["response_flags"],
                }
            },
            "",
            [],
        )
    )

    assert found.sizes
    assert found.series == 2000
    assert found.off == ("request_duration_milliseconds", "tcp_sent_bytes_total")
    assert found.changes == tuple(Change(metric, "response_flags") for metric in METRICS.values())


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"maxSeries": 1}, "metrics.maxSeries: must be 100..1000000, got 1"),
        ({"disabled": ["REQUESTS"]}, "metrics.disabled[0]: must be one of REQUEST_COUNT, "),
        (
            {"removedLabels": ["reporter"]},
            "metrics.removedLabels[0]: must be one of source_workload_namespace, ",
        ),
        ({"size": True}, "metrics.size: unknown field; did you mean sizes?"),
        ([], "metrics: must be an object, got a list"),
    ],
)
def test_a_wrong_setting_is_refused(value: object, error: str) -> None:
    """With its path; an edge keeps the labels that make it one."""
    with pytest.raises(ConfigError) as found:
        read_metering(Reader({"metrics": value}, "", []))

    assert str(found.value).startswith(error)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'canary'", "canary"),
        ('"a b"', "a b"),
        ("''", "-"),
        ("request.method", "%REQ(:METHOD)%"),
        ("request.headers['x-team']", "%REQ(x-team)%"),
        ("response.code", "%RESPONSE_CODE%"),
        ("string(response.code)", "%RESPONSE_CODE%"),
    ],
)
def test_an_expression_becomes_a_format(expression: str, value: str) -> None:
    """The subset of CEL that command operators say as well."""
    assert read_label_value(expression, "value") == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "%REQ(x)%",
        "'%REQ(x)%'",
        "request.headers['x)%%']",
        "'a' + 'b'",
        "string(response.code",
        "response.code)",
        "string('a')",
        "filter_state.upstream_peer.app",
        "'\n'",
    ],
)
def test_any_other_expression_is_refused(expression: str) -> None:
    """An override can never hand Envoy a format of its own."""
    with pytest.raises(ConfigError):
        read_label_value(expression, "value")


@pytest.mark.parametrize("name", ["", "a-b", "__name__", "0a", "a\n", "a" * 65])
def test_a_label_that_prometheus_refuses_is_refused(name: str) -> None:
    """Before a scrape fails over it."""
    with pytest.raises(ConfigError):
        read_label_name(name, "value")


def test_sizes_are_counted_only_where_asked_for() -> None:
    """And by the labels of the edge: the outcome of a request is not among them."""
    bare, full = config(), config(Metering(sizes=True))

    assert [h.stat.name for h in bare.histograms] == ["request_duration_milliseconds"]
    assert [h.stat.name for h in full.histograms][1:] == ["request_bytes", "response_bytes"]
    assert "response_code" not in labels(full.histograms[1].stat)
    assert labels(full.histograms[1].stat)["destination_service"] == "%CLUSTER_METADATA(proa:service)%"


def test_a_metric_that_is_off_is_not_counted() -> None:
    """Of a logger with nothing to count nothing is left, so no request pays for it."""
    everything = Metering(off=tuple(METRICS.values()))

    assert not config(Metering(off=("requests_total",))).counters
    assert telemetry.http_logs(telemetry.at_source(WEB), everything) == []
    assert telemetry.tcp_logs(telemetry.at_source(WEB), everything) == []


def test_the_last_change_of_a_label_holds() -> None:
    """Of one metric alone; the others keep theirs."""
    changes = (
        Change("requests_total", "response_flags"),
        Change("requests_total", "team", "%REQ(x-team)%"),
        Change("requests_total", "team", "a"),
    )
    found = config(Metering(changes=changes))

    assert labels(found.counters[0].stat)["team"] == "a"
    assert "response_flags" not in labels(found.counters[0].stat)
    assert "response_flags" in labels(found.histograms[0].stat)


def test_a_percent_sign_is_no_format() -> None:
    """A label of a Pod in a directory may hold any character."""
    odd = Workload("web", "shop", "web", "%REQ(x)%", "v1", "cluster.local")
    (log,) = telemetry.http_logs(telemetry.at_source(odd), DEFAULT)
    found = stats_pb2.Config.FromString(log.typed_config.value)

    assert labels(found.counters[0].stat)["source_app"] == "%%REQ(x)%%"


def test_no_label_is_a_callers_choice() -> None:
    """Nothing that a request carries is in a label, on either side."""
    both = (*telemetry.at_source(WEB), *telemetry.at_destination(PORT, telemetry.MUTUAL_TLS))

    assert not [text for _, text in both if "%REQ" in text or "%PATH" in text or "%QUERY" in text]


@given(meterings())
def test_every_metering_makes_loggers(metering: Metering) -> None:
    """Names and labels are each unique in a logger, whatever is changed."""
    for log in telemetry.http_logs(telemetry.at_destination(PORT, telemetry.NO_TLS), metering):
        found = stats_pb2.Config.FromString(log.typed_config.value)
        stats = [item.stat for item in (*found.counters, *found.histograms)]
        assert len({stat.name for stat in stats}) == len(stats)
        assert all(len(labels(stat)) == len(stat.tags) for stat in stats)


def test_a_telemetry_override_comes_after_the_meshs_word() -> None:
    """It switches metrics off and changes labels; of gRPC messages nothing is counted, so nothing changes."""
    overrides = (
        MetricOverride(Metric.REQUEST_SIZE, disabled=True),
        MetricOverride(Metric.REQUEST_COUNT, tags=(("a", "%REQ(a)%"), ("reporter", None))),
        MetricOverride(Metric.GRPC_REQUEST_MESSAGES, disabled=True),
    )
    node = replace(PORT, observed=Observed(metrics=overrides))
    found = telemetry.metering_of(node)

    assert found.off == ("request_bytes",)
    assert found.changes == (Change("requests_total", "a", "%REQ(a)%"), Change("requests_total", "reporter"))
    assert telemetry.metering_of(PORT) is PORT.workload.metering
