"""The filters by which one sidecar of a chain of calls owns its retries: the first one that may repeat the call.

They own which requests a sidecar may repeat although an application has seen them; they must never take away the
retries of a request that no application has seen, which are the route's. See docs/adr/0031.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.features import retry
from xds.pb.envoy.extensions.common.matching.v3 import extension_matcher_pb2
from xds.pb.envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from xds.pb.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from xds.pb.envoy.type.matcher.v3 import http_inputs_pb2
from xds.pb.xds.core.v3 import extension_pb2
from xds.pb.xds.type.matcher.v3 import matcher_pb2, regex_pb2, string_pb2
from xds.resources import evidence
from xds.resources.filters import http_filter
from xds.resources.parts import pack

if TYPE_CHECKING:
    from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

_Predicate = matcher_pb2.Matcher.MatcherList.Predicate
_String = string_pb2.StringMatcher

_MARKED: Final = _String(contains=f"{retry.MARKER}=")
_GRPC: Final = _String(prefix="application/grpc")
_UNSAFE: Final = _String(
    safe_regex=regex_pb2.RegexMatcher(
        google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex="|".join(retry.SENT_ONCE)
    )
)


def filters(*, watched: bool) -> tuple[http_connection_manager_pb2.HttpFilter, ...]:
    """Return the filters for an outbound connection manager, to stand right before the router.

    The first brings the conditions of a route's own retries, the second the default's for gRPC; it does not see what
    the first has marked. ``watched``: one before them remembers what the application sent.
    """
    nothing, of_grpc = header_mutation_pb2.HeaderMutation(), header_mutation_pb2.HeaderMutation()
    of_grpc.mutations.request_mutations.extend(retry.own(retry.OF_GRPC))
    marked, is_grpc = _header("baggage", _MARKED), _header("content-type", _GRPC)
    sent_once = _all(_header(":method", _UNSAFE), _not(is_grpc))
    return (
        *((evidence.arrival(),) if watched else ()),
        _unless(_any(marked, sent_once), retry.OWNER_FILTER, nothing),
        _unless(_any(_not(is_grpc), marked), retry.GRPC_FILTER, of_grpc),
    )


def _unless(
    skipped: _Predicate, name: str, mutation: header_mutation_pb2.HeaderMutation
) -> http_connection_manager_pb2.HttpFilter:
    """Return a filter that changes every request but those that a predicate skips."""
    config = extension_matcher_pb2.ExtensionWithMatcher()
    config.extension_config.name = "envoy.filters.http.header_mutation"
    config.extension_config.typed_config.CopyFrom(pack(mutation))
    found = config.xds_matcher.matcher_list.matchers.add(predicate=skipped)
    skip = extension_pb2.TypedExtensionConfig(name="skip", typed_config=pack(skip_action_pb2.SkipFilter()))
    found.on_match.action.CopyFrom(skip)
    return http_filter(name, config)


def _header(name: str, value: _String) -> _Predicate:
    """Return the predicate of a request header: all of its lines, joined with commas."""
    header = http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name)
    asked = extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(header))
    return _Predicate(single_predicate=_Predicate.SinglePredicate(input=asked, value_match=value))


def _any(*predicates: _Predicate) -> _Predicate:
    return _Predicate(or_matcher=_Predicate.PredicateList(predicate=predicates))


def _all(*predicates: _Predicate) -> _Predicate:
    return _Predicate(and_matcher=_Predicate.PredicateList(predicate=predicates))


def _not(predicate: _Predicate) -> _Predicate:
    return _Predicate(not_matcher=predicate)
