"""Rate limits: how many requests one instance of a workload takes, by route, header value or caller.

It owns the rules of our kind ``RateLimit`` and of the Service annotation ``proa.dev/rate-limit``; it must never limit
a request that no rule matches.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import re2

from xds.fields import ConfigError, show
from xds.grammar import (
    MAX_REGEX_PROGRAM,
    PRESENT,
    MatchKind,
    StringMatch,
    check_header_name,
    read_string_match,
    read_string_matches,
    regex_program,
)
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from xds.pb.envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from xds.pb.envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xds.fields import Reader
    from xds.pb.envoy.type.v3 import token_bucket_pb2

SUPPORT: Final = (
    (
        "RateLimit spec.rules[].requests, interval, burst",
        "descriptors.token_bucket",
        "default burst: requests",
    ),
    ("RateLimit spec.rules[].match.methods, path, headers", "actions.header_value_match", "all must hold"),
    ("RateLimit spec.rules[].by.header", "actions.request_headers", "a bucket for each value"),
    ("RateLimit spec.rules[].by.caller", "actions.extension (CEL)", "a bucket for each SPIFFE id"),
    ("RateLimit spec.concurrency", "circuit_breakers.max_requests", "of the inbound cluster; 503 above it"),
    ("RateLimit spec.targetRef, selector", "", "a Service, the namespace, or Pods by their labels"),
    ("Service metadata.annotations[proa.dev/rate-limit]", "", "10/s burst 20 by caller; concurrency 10"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

FILTER: Final = "envoy.filters.http.local_ratelimit"
"""The filter whose configuration the inbound route table brings."""

ANNOTATION: Final = "proa.dev/rate-limit"
"""The same for one Service, as text."""

MAX_RULES: Final = 32
"""Each rule costs every request a lookup."""

MAX_METHODS: Final = 32
"""They become one regex."""

MAX_VALUES: Final = 10_000
"""Buckets of one rule with ``by``; the one that has not been asked for the longest time makes room (some 300 bytes
each). Envoy's 20 would let any client with 21 names begin with a full bucket for ever."""

LEAST_INTERVAL_MS: Final = 50
"""Envoy takes no shorter ``fill_interval``."""

MOST_INTERVAL_MS: Final = 86_400_000
MOST: Final = 1_000_000_000
"""Requests and tokens are uint32 in Envoy."""

_UNLIMITED: Final = 2**32 - 1
"""A filter on a route must have a bucket of its own besides those of its rules; it is never empty."""

_NOBODY: Final = "nobody"
"""The value that callers without an identity share, and requests without the header."""

_CALLER: Final = f"connection.mtls ? connection.uri_san_peer_certificate : '{_NOBODY}'"
"""CEL: the first URI of the client's certificate, which the handshake has verified."""

_METHODS: Final = re.compile(r"[A-Z]{1,32}")
_ITEM: Final = re.compile(
    r"(?P<requests>\d{1,10})/(?P<unit>s|m|h|d)(?: burst (?P<burst>\d{1,10}))?"
    r"(?: by (?:(?P<caller>caller)|header (?P<header>\S{1,256})))?",
    re.ASCII,
)
_CONCURRENCY: Final = re.compile(r"concurrency (\d{1,10})", re.ASCII)
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_Action = route_components_pb2.RateLimit.Action


@dataclass(frozen=True, slots=True)
class Rule:
    """A token bucket, or one for each value: ``burst`` tokens at most, ``requests`` new ones in each interval.

    All conditions must hold; none means every request. ``header`` is in lower case, empty for none.
    """

    requests: int
    interval_ms: float
    burst: int
    methods: tuple[str, ...] = ()
    path: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()
    header: str = ""
    by_caller: bool = False

    @property
    def wait_s(self) -> int:
        """The time until an empty bucket has a token again, in whole seconds, rounded up."""
        return max(1, math.ceil(self.interval_ms / self.requests / 1000))


def read(spec: Reader) -> tuple[Rule, ...] | None:
    """Return the rules of a RateLimit, None where it has none of its own."""
    if not spec.has("rules"):
        spec.raw("rules")
        return None
    rules = tuple(_read_rule(rule) for rule in spec.objects("rules"))
    if len(rules) > MAX_RULES:
        raise spec.fail("rules", f"must be at most {MAX_RULES}, got {len(rules)}")
    return rules


def _read_rule(reader: Reader) -> Rule:
    requests = reader.integer("requests", low=1, high=MOST)
    interval_ms = reader.duration_ms("interval", 1000.0, low_ms=LEAST_INTERVAL_MS) or 1000.0
    if interval_ms > MOST_INTERVAL_MS:
        raise reader.fail("interval", "must be at most 24h")
    burst = reader.integer("burst", requests, low=1, high=MOST)
    match, by = reader.object("match"), reader.object("by")
    reader.done()
    methods, path, headers = _read_match(match) if match is not None else ((), None, ())
    header, by_caller = _read_by(by) if by is not None else ("", False)
    return Rule(requests, interval_ms, burst, methods, path, headers, header, by_caller)


def _read_match(
    reader: Reader,
) -> tuple[tuple[str, ...], StringMatch | None, tuple[tuple[str, StringMatch], ...]]:
    methods = reader.texts("methods")
    if len(methods) > MAX_METHODS:
        raise reader.fail("methods", f"must be at most {MAX_METHODS}, got {len(methods)}")
    for i, method in enumerate(methods):
        if not _METHODS.fullmatch(method):
            raise reader.fail(f"methods[{i}]", f"must be an HTTP method in capitals, got {show(method)}")
    holder = reader.object("path")
    path = None if holder is None else _read_path(holder)
    at = reader.at("headers")
    pairs = read_string_matches(reader, "headers")
    reader.done()
    if not methods and path is None and not pairs:
        raise ConfigError(
            reader.path, "must have methods, path or headers; leave match out for every request"
        )
    headers = sorted((check_header_name(f"{at}.{key}", key), found) for key, found in pairs)
    return tuple(sorted(set(methods))), path, tuple(headers)


def _read_path(reader: Reader) -> StringMatch:
    """Return a comparison that is still one with a query behind it, which an open quotation would swallow."""
    path = read_string_match(reader)
    if path.kind is MatchKind.REGEX:
        try:
            program = regex_program(_with_query(path).value)
        except ValueError as error:
            raise reader.fail("regex", f"must stand alone: {error}") from None
        if program.programsize > MAX_REGEX_PROGRAM:
            raise reader.fail("regex", "is too large with a query behind it; simplify it")
    return path


def _read_by(reader: Reader) -> tuple[str, bool]:
    header, by_caller = reader.text("header", ""), reader.boolean("caller")
    reader.done()
    if bool(header) == by_caller:
        raise ConfigError(reader.path, "must be header: NAME or caller: true")
    return check_header_name(reader.at("header"), header) if header else "", by_caller


def read_text(text: str, path: str) -> tuple[tuple[Rule, ...] | None, int | None]:
    """Return the rules and the concurrency of an annotation: ``10/s burst 20 by caller; concurrency 10``."""
    rules: list[Rule] = []
    concurrency: int | None = None
    for item in (" ".join(part.split()) for part in text.split(";")):
        found, at_once = _ITEM.fullmatch(item), _CONCURRENCY.fullmatch(item)
        if at_once is not None and concurrency is None:
            concurrency = _count(at_once[1], path, low=0)
        elif found is not None:
            requests = _count(found["requests"], path)
            burst = _count(found["burst"], path) if found["burst"] else requests
            header = check_header_name(path, found["header"]) if found["header"] else ""
            interval_ms = float(_UNITS_MS[found["unit"]])
            rules.append(Rule(requests, interval_ms, burst, header=header, by_caller=bool(found["caller"])))
        else:
            form = "N/s [burst N] [by caller|by header NAME], or concurrency N; several with ; between them"
            raise ConfigError(path, f"must be {form}, got {show(item)}")
    if len(rules) > MAX_RULES:
        raise ConfigError(path, f"must be at most {MAX_RULES} rules, got {len(rules)}")
    return tuple(rules) or None, concurrency


def _count(text: str, path: str, low: int = 1) -> int:
    if not low <= int(text) <= MOST:
        raise ConfigError(path, f"must have numbers of {low}..{MOST}, got {show(text)}")
    return int(text)


# -- Envoy -----------------------------------------------------------------------------------


def local(stat_prefix: str, rules: Iterable[tuple[str, Rule]]) -> local_rate_limit_pb2.LocalRateLimit:
    """Return the filter's configuration for a route table: a request passes if every rule that it meets has a token."""
    named = tuple(rules)
    config = idle(stat_prefix)
    # gRPC's word for it; by default a call would end as UNAVAILABLE, which clients try again.
    config.rate_limited_as_resource_exhausted = True
    for share in (config.filter_enabled, config.filter_enforced):
        share.default_value.numerator = 100
    config.enable_x_ratelimit_headers = ratelimit_pb2.DRAFT_VERSION_03
    config.always_consume_default_token_bucket.value = False
    config.max_dynamic_descriptors.value = MAX_VALUES
    retry_after = config.response_headers_to_add.add()
    retry_after.append_action = retry_after.OVERWRITE_IF_EXISTS_OR_ADD
    retry_after.header.key = "retry-after"
    retry_after.header.value = str(max(rule.wait_s for _, rule in named))
    for name, rule in named:
        config.rate_limits.extend(_descriptions(name, rule))
        entries = [ratelimit_pb2.RateLimitDescriptor.Entry(key="rule", value=name)]
        if rule.header or rule.by_caller:
            # Without a value: any value, each with a bucket of its own.
            entries.append(ratelimit_pb2.RateLimitDescriptor.Entry(key="by"))
        bucket = config.descriptors.add(entries=entries).token_bucket
        _fill(bucket, rule)
    return config


def idle(stat_prefix: str) -> local_rate_limit_pb2.LocalRateLimit:
    """Return the filter's configuration where nothing is limited."""
    config = local_rate_limit_pb2.LocalRateLimit(stat_prefix=stat_prefix)
    config.token_bucket.max_tokens = _UNLIMITED
    config.token_bucket.tokens_per_fill.value = _UNLIMITED
    config.token_bucket.fill_interval.FromSeconds(1)
    return config


def _fill(bucket: token_bucket_pb2.TokenBucket, rule: Rule) -> None:
    bucket.max_tokens = rule.burst
    bucket.tokens_per_fill.value = rule.requests
    bucket.fill_interval.FromMicroseconds(round(rule.interval_ms * 1000))


def _descriptions(name: str, rule: Rule) -> Iterator[route_components_pb2.RateLimit]:
    """Yield how requests are recognised; of those with and without the header, one each."""
    if rule.header:
        yield _description(name, rule, _header_value(rule.header))
        yield _description(name, rule, _no_header(rule.header))
    elif rule.by_caller:
        yield _description(name, rule, _caller())
    else:
        yield _description(name, rule)


def _description(name: str, rule: Rule, *by: _Action) -> route_components_pb2.RateLimit:
    match = _Action.HeaderValueMatch(descriptor_key="rule", descriptor_value=name)
    match.headers.extend(_conditions(rule))
    generic = _Action.GenericKey(descriptor_key="rule", descriptor_value=name)
    first = _Action(header_value_match=match) if match.headers else _Action(generic_key=generic)
    return route_components_pb2.RateLimit(actions=[first, *by])


def _header_value(header: str) -> _Action:
    return _Action(request_headers=_Action.RequestHeaders(header_name=header, descriptor_key="by"))


def _no_header(header: str) -> _Action:
    """Return the description of requests without the header, which would otherwise be free."""
    absent = _Action.HeaderValueMatch(descriptor_key="by", descriptor_value=_NOBODY)
    absent.headers.add(name=header, present_match=True, invert_match=True)
    return _Action(header_value_match=absent)


def _caller() -> _Action:
    action = _Action()
    action.extension.name = "envoy.rate_limit_descriptors.expr"
    action.extension.typed_config.Pack(
        expr_pb2.Descriptor(descriptor_key="by", text=_CALLER), deterministic=True
    )
    return action


def _conditions(rule: Rule) -> Iterator[route_components_pb2.HeaderMatcher]:
    if rule.methods:
        yield _matcher(":method", StringMatch(MatchKind.REGEX, "|".join(rule.methods)))
    if rule.path is not None:
        yield _matcher(":path", _with_query(rule.path))
    for name, wanted in rule.headers:
        yield _matcher(name, wanted)


def _with_query(path: StringMatch) -> StringMatch:
    """Return the same comparison for a path that may have a query behind it, which no rule is about."""
    match path.kind:
        case MatchKind.EXACT:
            return StringMatch(MatchKind.REGEX, f"{_quoted(path.value)}(?:\\?.*)?")
        case MatchKind.REGEX:
            return StringMatch(MatchKind.REGEX, f"(?:{path.value})(?:\\?.*)?")
        case _:
            return path


def _quoted(text: str) -> str:
    return str(re2.escape(text))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # untyped


def _matcher(name: str, wanted: StringMatch) -> route_components_pb2.HeaderMatcher:
    matcher = route_components_pb2.HeaderMatcher(name=name)
    if wanted == PRESENT:
        matcher.present_match = True
        return matcher
    match wanted.kind:
        case MatchKind.EXACT:
            matcher.string_match.exact = wanted.value
        case MatchKind.PREFIX:
            matcher.string_match.prefix = wanted.value
        case _:
            matcher.string_match.safe_regex.regex = wanted.value
    return matcher
