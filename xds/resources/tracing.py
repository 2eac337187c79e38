"""Spans: the tracer of a connection manager, how many requests begin a trace, and what each span is tagged with.

It owns the two protocols that Proa speaks to collectors; it must never make a request wait for one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from xds.observed import OtlpTracer, Tag, TagSource, Tracing, ZipkinTracer
from xds.pb.envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from xds.pb.envoy.extensions.request_id.uuid.v3 import uuid_pb2
from xds.pb.envoy.extensions.tracers.opentelemetry.samplers.v3 import (
    parent_based_sampler_pb2,
    trace_id_ratio_based_sampler_pb2,
)
from xds.pb.envoy.type.tracing.v3 import custom_tag_pb2
from xds.pb.envoy.type.v3 import percent_pb2
from xds.resources.parts import pack

if TYPE_CHECKING:
    from xds.ir import Workload
    from xds.resources.filters import Hcm

_Zipkin = zipkin_pb2.ZipkinConfig

_ZIPKIN: Final = "envoy.tracers.zipkin"
_OTLP: Final = "envoy.tracers.opentelemetry"
_SAMPLERS: Final = "envoy.tracers.opentelemetry.samplers"
_MILLION: Final = 1_000_000


def trace(hcm: Hcm, tracing: Tracing | None, workload: Workload) -> None:
    """Give a connection manager its tracer; None leaves the headers of a trace as they come."""
    if tracing is None:
        return
    config = hcm.tracing
    match tracing.tracer:
        case ZipkinTracer():
            config.provider.name = _ZIPKIN
            config.provider.typed_config.CopyFrom(pack(_zipkin(tracing.tracer)))
        case OtlpTracer():
            config.provider.name = _OTLP
            config.provider.typed_config.CopyFrom(pack(_otlp(tracing.tracer, workload, tracing.sampling)))
    # With OTLP the tracer's own sampler decides, which asks the caller first; this one never does, and goes first.
    config.random_sampling.value = 100.0 if isinstance(tracing.tracer, OtlpTracer) else tracing.sampling
    if tracing.max_tag_length:
        config.max_path_tag_length.value = tracing.max_tag_length
    config.custom_tags.extend(map(_tag, tracing.tags))
    if not tracing.use_request_id:
        # By default the request's id is what decides, so that proxies which trust it agree.
        extension = uuid_pb2.UuidRequestIdConfig()
        extension.use_request_id_for_trace_sampling.value = False
        hcm.request_id_extension.typed_config.CopyFrom(pack(extension))


def _zipkin(tracer: ZipkinTracer) -> _Zipkin:
    config = _Zipkin(
        collector_cluster=tracer.cluster,
        collector_endpoint=tracer.path,
        collector_hostname=tracer.host,
        collector_endpoint_version=_Zipkin.HTTP_JSON,
        trace_id_128bit=not tracer.short_ids,
    )
    # A caller's span and the server's are two: with one id for both, as Zipkin once had it, no parent can be told.
    config.shared_span_context.value = False
    if tracer.w3c:
        config.trace_context_option = _Zipkin.USE_B3_WITH_W3C_PROPAGATION
    return config


def _otlp(tracer: OtlpTracer, workload: Workload, sampling: float) -> opentelemetry_pb2.OpenTelemetryConfig:
    # Zipkin's tracer takes the same name from the node; see xds.bootstrap.
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=f"{workload.name}.{workload.namespace}")
    config.sampler.name = f"{_SAMPLERS}.parent_based"
    config.sampler.typed_config.CopyFrom(pack(_caller_decides(sampling)))
    timeout = timedelta(milliseconds=tracer.timeout_ms)
    if tracer.path:
        config.http_service.http_uri.uri = f"http://{tracer.host}{tracer.path}"
        config.http_service.http_uri.cluster = tracer.cluster
        config.http_service.http_uri.timeout.FromTimedelta(timeout)
        for key, value in tracer.headers:
            header = config.http_service.request_headers_to_add.add().header
            header.key, header.value = key, value
        return config
    config.grpc_service.envoy_grpc.cluster_name = tracer.cluster
    config.grpc_service.timeout.FromTimedelta(timeout)
    for key, value in tracer.headers:
        config.grpc_service.initial_metadata.add(key=key, value=value)
    return config


def _caller_decides(sampling: float) -> parent_based_sampler_pb2.ParentBasedSamplerConfig:
    """Return the sampler that does as the caller did, and takes a share of what begins here."""
    share = trace_id_ratio_based_sampler_pb2.TraceIdRatioBasedSamplerConfig()
    share.sampling_percentage.numerator = round(sampling * _MILLION / 100)
    share.sampling_percentage.denominator = percent_pb2.FractionalPercent.MILLION
    config = parent_based_sampler_pb2.ParentBasedSamplerConfig()
    config.wrapped_sampler.name = f"{_SAMPLERS}.trace_id_ratio_based"
    config.wrapped_sampler.typed_config.CopyFrom(pack(share))
    return config


def _tag(tag: Tag) -> custom_tag_pb2.CustomTag:
    found = custom_tag_pb2.CustomTag(tag=tag.name)
    match tag.source:
        case TagSource.LITERAL:
            found.literal.value = tag.value
        case TagSource.ENVIRONMENT:
            found.environment.name, found.environment.default_value = tag.value, tag.default
        case TagSource.HEADER:
            found.request_header.name, found.request_header.default_value = tag.value, tag.default
        case TagSource.FORMATTER:
            found.value = tag.value
    return found
