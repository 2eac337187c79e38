"""Asking somebody else: Envoy's external authorization, for the requests and connections that CUSTOM rules match.

It owns how a matching rule switches the question on; where nobody answers, only the provider's own word
(``failOpen``) may let anything through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.api.providers import ExtAuthzGrpc
from xds.pb.envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from xds.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from xds.pb.envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from xds.pb.envoy.type.matcher.v3 import metadata_pb2, string_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.access import Asked
    from xds.api.providers import ExtAuthzHttp

HTTP_RBAC: Final = "envoy.filters.http.rbac"
NETWORK_RBAC: Final = "envoy.filters.network.rbac"
"""Where the two RBAC filters tell their verdicts (source/extensions/filters/common/rbac)."""

_V3: Final = config_source_pb2.V3

_Metadata = metadata_pb2.MetadataMatcher
_Matcher = string_pb2.StringMatcher
_Http = ext_authz_pb2.ExtAuthz
_Network = network_ext_authz_pb2.ExtAuthz


def prefix(index: int) -> str:
    """Return how the keys begin under which it is told that a rule of this question matched."""
    return f"custom_{index}_"


def of_requests(index: int, asked: Asked) -> _Http:
    """Return the filter that asks about a request; the rules before it decide which."""
    found = asked.provider
    config = _Http(
        transport_api_version=_V3,
        failure_mode_allow=found.fail_open,
        clear_route_cache=found.clear_route_cache,
        filter_enabled_metadata=_matched(HTTP_RBAC, index),
    )
    config.status_on_error.code = found.status_on_error  # type: ignore[assignment]  # an open enum
    if found.body is not None:
        config.with_request_body.max_request_bytes = found.body.max_bytes
        config.with_request_body.allow_partial_message = found.body.allow_partial
        config.with_request_body.pack_as_bytes = found.body.as_bytes
    if isinstance(found, ExtAuthzGrpc):
        config.grpc_service.CopyFrom(_grpc(found, asked.cluster))
    else:
        _ask_over_http(config, found, asked.cluster)
    return config


def of_connections(name: str, index: int, asked: Asked) -> _Network:
    """Return the filter that asks about a connection of bytes."""
    found = asked.provider
    if not isinstance(found, ExtAuthzGrpc):
        raise TypeError("over HTTP nobody can be asked about bytes")
    return _Network(
        stat_prefix=name,
        transport_api_version=_V3,
        failure_mode_allow=found.fail_open,
        filter_enabled_metadata=_matched(NETWORK_RBAC, index),
        grpc_service=_grpc(found, asked.cluster),
    )


def _grpc(found: ExtAuthzGrpc, cluster: str) -> grpc_service_pb2.GrpcService:
    service = grpc_service_pb2.GrpcService()
    service.envoy_grpc.cluster_name = cluster
    service.envoy_grpc.authority = found.service.host
    service.timeout.FromMilliseconds(int(found.timeout_ms))
    return service


def _ask_over_http(config: _Http, found: ExtAuthzHttp, cluster: str) -> None:
    service = config.http_service
    service.server_uri.uri = f"http://{found.service.host}"
    service.server_uri.cluster = cluster
    service.server_uri.timeout.FromMilliseconds(int(found.timeout_ms))
    service.path_prefix = found.path_prefix
    service.authorization_request.headers_to_add.extend(
        base_pb2.HeaderValue(key=key, value=value) for key, value in found.more_headers_in_check
    )
    answer = service.authorization_response
    for names, place in (
        (found.headers_in_check, config.allowed_headers),
        (found.headers_upstream_on_allow, answer.allowed_upstream_headers),
        (found.headers_downstream_on_allow, answer.allowed_client_headers_on_success),
        (found.headers_downstream_on_deny, answer.allowed_client_headers),
    ):
        if names:  # Envoy refuses an empty list
            place.patterns.extend(_patterns(names))


def _patterns(names: Iterable[str]) -> list[_Matcher]:
    return [_pattern(name) for name in names]


def _pattern(name: str) -> _Matcher:
    if name.endswith("*") and len(name) > 1:
        return _Matcher(prefix=name[:-1], ignore_case=True)
    if name.startswith("*") and len(name) > 1:
        return _Matcher(suffix=name[1:], ignore_case=True)
    return _Matcher(exact=name, ignore_case=True)


def _matched(where: str, index: int) -> _Metadata:
    """Return "a rule of this question matched", as the RBAC filter before it has told."""
    found = _Metadata(filter=where, path=[_Metadata.PathSegment(key=f"{prefix(index)}shadow_engine_result")])
    found.value.string_match.exact = "denied"
    return found
