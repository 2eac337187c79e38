"""Retries: how often, on what, and how long each attempt may take.

It owns Istio's HTTPRetry, the default that every route has, and which of its conditions hold for every request; a
request that an application may have begun to work on must never be repeated by two sidecars of one chain of calls, nor
a POST by any.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from google.protobuf import any_pb2

from xds.fields import show
from xds.pb.envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.fields import Reader

SUPPORT: Final = (
    ("http[].retries.attempts", "retry_policy.num_retries", "0 disables; default 2"),
    ("http[].retries.perTryTimeout", "retry_policy.per_try_timeout", "at least 1ms; default: none"),
    (
        "http[].retries.retryOn",
        "retry_policy.retry_on, retriable_status_codes; x-envoy-retry-on, x-envoy-retry-grpc-on",
        "Envoy's conditions and status codes; by one sidecar of a chain, never for POST (docs/retries.md)",
    ),
    (
        "http[].retries.backoff",
        "retry_policy.retry_back_off.base_interval",
        "at least 1ms; Envoy's default is 25ms",
    ),
    ("http[].retries.retryIgnorePreviousHosts", "retry_policy.retry_host_predicate", "default true"),
    ("http[].retries.retryRemoteLocalities", "", "left out: localities are not weighed yet"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

CONDITIONS: Final = frozenset(
    {
        # x-envoy-retry-on
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        # x-envoy-retry-grpc-on
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)
"""What ``retryOn`` can name besides status codes; Istio's list (pkg/config/validation, supportedRetryOnPolicies)."""

SAFE: Final = ("connect-failure", "reset-before-request", "refused-stream")
"""What says that no application has seen the request: these hold for every request, and repeat no work."""

_IMPLIES_SAFE: Final = frozenset({"5xx", "gateway-error", "reset"})
"""Conditions that hold for a broken connection as well, whenever it breaks."""

_OF_GRPC: Final = frozenset(
    {"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
)
"""Conditions that Envoy reads in a request header of their own."""

OWNER_FILTER: Final = "proa.retry_owner"
"""The filter that adds a route's other conditions to a request that may be repeated, and marks it; see ADR 31."""

GRPC_FILTER: Final = "proa.retry_owner_grpc"
"""The same for gRPC requests on routes with the default conditions: it knows these itself."""

MARKER: Final = "proa-retry-owner"
"""The member of ``baggage`` that says: a sidecar before this one repeats the whole call."""

SENT_ONCE: Final = ("POST", "PATCH")
"""Methods that RFC 9110 §9.2.2 does not call idempotent: what was sent is never sent again, unless it is gRPC."""

_STATUS_CODES: Final = "retriable-status-codes"

_HOST_SELECTION_ATTEMPTS: Final = 5
"""How often Envoy draws again when it drew a host that failed this request before; Istio's value."""

_MANY_ATTEMPTS: Final = 10
"""Above this a failing service gets so much more load that the user should have meant it."""

_PREVIOUS_HOSTS: Final = "envoy.retry_host_predicates.previous_hosts"
_PREVIOUS_HOSTS_TYPE: Final = (
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
)


@dataclass(frozen=True, slots=True)
class Retry:
    """``attempts`` counts retries, not the first try; 0 disables them, and 0 ms means: Envoy's default."""

    attempts: int
    conditions: tuple[str, ...]
    status_codes: tuple[int, ...] = ()
    per_try_timeout_ms: float = 0
    backoff_ms: float = 0
    avoids_previous_hosts: bool = True

    @property
    def safe(self) -> tuple[str, ...]:
        """Return the conditions that hold for every request."""
        if self.is_default:
            return (*SAFE, _STATUS_CODES)  # with no code of its own: for clients that send theirs
        if _IMPLIES_SAFE.intersection(self.conditions):
            return SAFE
        return tuple(condition for condition in self.conditions if condition in SAFE)

    @property
    def risky(self) -> tuple[str, ...]:
        """Return the conditions under which an application may have worked on the request."""
        return tuple(condition for condition in self.conditions if condition not in SAFE)

    @property
    def is_default(self) -> bool:
        """Whether the conditions are those that hold without any rule."""
        return self.conditions == DEFAULT.conditions and not self.status_codes

    def holding(self, method: str, headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the conditions, status codes among them, under which one request is repeated here."""
        found = list(headers)
        is_grpc = any(name == "content-type" and text.startswith("application/grpc") for name, text in found)
        is_owned = any(name == "baggage" and f"{MARKER}=" in text for name, text in found)
        is_sent_once = method in SENT_ONCE and not is_grpc
        if is_owned or is_sent_once or (self.is_default and not is_grpc):
            return self.safe
        return (*self.conditions, *map(str, self.status_codes))

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write the retry policy, or none, and what a request that may be repeated gets in addition."""
        if not self.attempts:
            _leave_alone(route)
            return
        policy = route.route.retry_policy
        policy.num_retries.value = self.attempts
        policy.retry_on = ",".join(self.safe)
        if not self.is_default:
            if self.risky:
                mutations = header_mutation_pb2.HeaderMutationPerRoute()
                mutations.mutations.request_mutations.extend(own(self.risky))
                route.typed_per_filter_config[OWNER_FILTER].Pack(mutations, deterministic=True)
            else:
                _leave_alone(route)
        policy.retriable_status_codes.extend(self.status_codes)
        if self.per_try_timeout_ms:
            policy.per_try_timeout.FromMicroseconds(round(self.per_try_timeout_ms * 1000))
        if self.backoff_ms:
            policy.retry_back_off.base_interval.FromMicroseconds(round(self.backoff_ms * 1000))
        if self.avoids_previous_hosts:
            # An empty message: its type says all.
            config = any_pb2.Any(type_url=_PREVIOUS_HOSTS_TYPE)
            policy.retry_host_predicate.add(name=_PREVIOUS_HOSTS, typed_config=config)
        policy.host_selection_retry_max_attempts = _HOST_SELECTION_ATTEMPTS


def own(conditions: Iterable[str]) -> list[mutation_rules_pb2.HeaderMutation]:
    """Return what makes a request one that is repeated under these conditions, here and at no later sidecar.

    Envoy adds the conditions of these headers to those of the route, and sends them to nobody. The marker is a line of
    its own: joined with what the application wrote it would have to be taken apart by whoever reads that.
    """
    listed = list(conditions)
    headers = {
        "baggage": f"{MARKER}=1",
        "x-envoy-retry-on": ",".join(c for c in listed if c not in _OF_GRPC),
        "x-envoy-retry-grpc-on": ",".join(c for c in listed if c in _OF_GRPC),
    }
    found: list[mutation_rules_pb2.HeaderMutation] = []
    for name, text in headers.items():
        if text:
            mutation = mutation_rules_pb2.HeaderMutation()
            mutation.append.header.key, mutation.append.header.value = name, text
            mutation.append.append_action = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
            found.append(mutation)
    return found


def _leave_alone(route: route_components_pb2.Route) -> None:
    """Keep the listener's conditions for gRPC away from a route that asks for others, or for none."""
    config = route_components_pb2.FilterConfig(disabled=True)
    route.typed_per_filter_config[GRPC_FILTER].Pack(config, deterministic=True)


DEFAULT: Final = Retry(
    attempts=2,
    conditions=(
        "connect-failure",  # no byte was sent
        "reset-before-request",  # an idle connection went away before the request was written
        "refused-stream",  # the server says that it did not begin
        "unavailable",  # gRPC statuses: only gRPC requests are repeated for them
        "cancelled",
        _STATUS_CODES,  # with no code of its own: for clients that send x-envoy-retriable-status-codes
    ),
)
"""Istio's default (pilot retry.go), plus reset-before-request, which it has for inbound traffic only.

503 is not in it, as in Istio since istio/istio#50506: an application that answers 503 may have
worked on the request, and two sidecars of one chain would multiply it.
"""

OF_GRPC: Final = tuple(condition for condition in DEFAULT.conditions if condition in _OF_GRPC)
"""The default's conditions that only gRPC has."""


def read(parent: Reader) -> Retry | None:
    """Return the retries of a rule, None where the default holds."""
    reader = parent.object("retries")
    if reader is None:
        return None
    attempts = reader.integer("attempts", 0, low=0, high=2**31 - 1)
    if attempts > _MANY_ATTEMPTS:
        reader.warn("attempts", f"a request that fails reaches the service {attempts + 1} times")
    conditions, status_codes = _read_conditions(reader)
    retry = Retry(
        attempts=attempts,
        conditions=conditions,
        status_codes=status_codes,
        per_try_timeout_ms=reader.duration_ms("perTryTimeout", low_ms=1) or 0,
        backoff_ms=reader.duration_ms("backoff", low_ms=1) or 0,
        avoids_previous_hosts=reader.boolean("retryIgnorePreviousHosts", default=True),
    )
    reader.leave("retryRemoteLocalities", "retries stay with the endpoints that the balancer chooses")
    reader.done()  # before what follows: a misspelt `attempts` is absent
    if not attempts:
        for name in ("perTryTimeout", "retryOn", "backoff", "retryRemoteLocalities"):
            if reader.has(name):
                raise reader.fail(name, "has no effect without attempts; set attempts, or remove it")
    return retry


def _read_conditions(reader: Reader) -> tuple[tuple[str, ...], tuple[int, ...]]:
    parts = [part.strip() for part in reader.text("retryOn", "").split(",")]
    parts = list(dict.fromkeys(part for part in parts if part))
    if not parts:
        return DEFAULT.conditions, DEFAULT.status_codes
    codes = tuple(sorted(int(part) for part in parts if _is_status(part)))
    conditions = [part for part in parts if not _is_status(part)]
    for condition in conditions:
        if condition not in CONDITIONS:
            known = ", ".join(sorted(CONDITIONS))
            raise reader.fail("retryOn", f"{show(condition)} is no status code and not one of {known}")
    if codes and _STATUS_CODES not in conditions:
        conditions.append(_STATUS_CODES)
    return tuple(conditions), codes


def _is_status(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdecimal() and int(text) in _STATUSES


_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
