"""Which requests of one route are repeated, how often, and where."""

from __future__ import annotations

import pytest

from tests.fakes.reading import notes, present, reader, refusal, route
from xds.features import retry
from xds.pb.envoy.config.route.v3.route_components_pb2 import RetryPolicy
from xds.pb.envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute
from xds.pb.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate


def retried(text: str) -> RetryPolicy:
    """Return these retries as Envoy has them."""
    message = route()
    present(retry.read(reader(f"retries: {text}"))).patch_route(message)
    return message.route.retry_policy


def test_default_repeats_only_what_cannot_have_begun() -> None:
    """The route has no condition that repeats a request after its bytes were sent: no 5xx, reset or status code."""
    message = route()
    retry.DEFAULT.patch_route(message)
    policy = message.route.retry_policy
    safe = {"connect-failure", "reset-before-request", "refused-stream", "retriable-status-codes"}

    assert set(policy.retry_on.split(",")) == safe
    assert retry.OF_GRPC == ("unavailable", "cancelled")
    assert not message.typed_per_filter_config
    assert list(policy.retriable_status_codes) == []
    assert policy.num_retries.value == 2


def test_attempts_0_disables_retries() -> None:
    """No attempts is no policy, not the default one."""
    message = route()
    present(retry.read(reader("retries: {attempts: 0}"))).patch_route(message)

    assert not message.route.HasField("retry_policy")
    assert list(message.typed_per_filter_config) == [retry.GRPC_FILTER]


def test_attempts_alone_keep_the_default_conditions() -> None:
    """Conditions that are not given are the default's."""
    policy = retried("{attempts: 5}")

    assert (policy.num_retries.value, policy.retry_on) == (5, ",".join(retry.DEFAULT.safe))


def test_status_codes_among_conditions() -> None:
    """Numbers in retryOn are status codes, which need a condition of their own."""
    policy = retried("{attempts: 1, retryOn: '503, reset,429,reset'}")
    found = present(retry.read(reader("retries: {attempts: 1, retryOn: '503, reset,429,reset'}")))

    assert found.conditions == ("reset", "retriable-status-codes")
    assert list(policy.retriable_status_codes) == [429, 503]


@pytest.mark.parametrize(
    ("asked", "always", "owned"),
    [
        ("5xx", "connect-failure,reset-before-request,refused-stream", {"x-envoy-retry-on": "5xx"}),
        ("503", "", {"x-envoy-retry-on": "retriable-status-codes"}),
        ("internal", "", {"x-envoy-retry-grpc-on": "internal"}),
        (
            "refused-stream,gateway-error,unavailable",
            "connect-failure,reset-before-request,refused-stream",
            {"x-envoy-retry-on": "gateway-error", "x-envoy-retry-grpc-on": "unavailable"},
        ),
    ],
    ids=str,
)
def test_what_may_repeat_work_is_brought_by_the_owner(asked: str, always: str, owned: dict[str, str]) -> None:
    """The route itself keeps what repeats no work; the rest comes in headers, to requests that nobody owns yet."""
    message = route()
    present(retry.read(reader(f"retries: {{attempts: 1, retryOn: '{asked}'}}"))).patch_route(message)
    mutations = HeaderMutationPerRoute()
    message.typed_per_filter_config[retry.OWNER_FILTER].Unpack(mutations)
    headers = {
        mutation.append.header.key: mutation.append.header.value
        for mutation in mutations.mutations.request_mutations
    }

    assert message.route.retry_policy.retry_on == always
    assert headers == {"baggage": "proa-retry-owner=1", **owned}


@pytest.mark.parametrize(
    ("method", "headers", "is_repeated"),
    [
        ("GET", (), True),
        ("POST", (), False),
        ("PATCH", (("content-type", "application/json"),), False),
        ("POST", (("content-type", "application/grpc+proto"),), True),
        ("GET", (("baggage", "a=b,proa-retry-owner=1"),), False),
    ],
    ids=str,
)
def test_which_request_may_be_repeated_after_it_was_seen(
    method: str, headers: tuple[tuple[str, str], ...], *, is_repeated: bool
) -> None:
    """What `explain` says of a request is what the filters do with it."""
    found = present(retry.read(reader("retries: {attempts: 1, retryOn: '5xx,503'}")))
    risky = ("5xx", "retriable-status-codes", "503")

    assert found.holding(method, headers) == (risky if is_repeated else retry.SAFE)


def test_safe_conditions_alone_own_nothing() -> None:
    """What repeats no work needs no owner; the listener's conditions for gRPC were not asked for."""
    message = route()
    present(retry.read(reader("retries: {attempts: 1, retryOn: connect-failure}"))).patch_route(message)

    assert message.route.retry_policy.retry_on == "connect-failure"
    assert list(message.typed_per_filter_config) == [retry.GRPC_FILTER]


def test_timeout_of_each_attempt() -> None:
    """Each attempt can have a timeout, and the first pause between them a length."""
    policy = retried("{attempts: 1, perTryTimeout: 250ms, backoff: 10ms}")

    assert (
        policy.per_try_timeout.ToMilliseconds(),
        policy.retry_back_off.base_interval.ToMilliseconds(),
    ) == (250, 10)


def test_retries_go_to_another_host() -> None:
    """A retry avoids the hosts that failed this request, and stops looking for another after five draws."""
    policy = retried("{attempts: 1}")

    assert policy.retry_host_predicate[0].typed_config.Unpack(PreviousHostsPredicate())
    assert policy.host_selection_retry_max_attempts == 5


def test_retries_may_go_to_the_same_host() -> None:
    """The user can want it otherwise."""
    assert not retried("{attempts: 1, retryIgnorePreviousHosts: false}").retry_host_predicate


def test_remote_localities_are_left_out_and_told() -> None:
    """A field that Proa has not yet is left out where it cannot misroute."""
    said = notes(retry.read, "retries: {attempts: 1, retryRemoteLocalities: true}")

    assert said[0].startswith(
        "warning: x.retries.retryRemoteLocalities: is not supported yet and was left out"
    )


def test_many_attempts_are_told() -> None:
    """The user learns how often a failing request reaches the service."""
    said = notes(retry.read, "retries: {attempts: 20}")

    assert said == ["warning: x.retries.attempts: a request that fails reaches the service 21 times"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{attempts: -1}", "x.retries.attempts: must be 0.."),
        ("{attempts: '3'}", "x.retries.attempts: must be 0.."),
        ("{perTryTimeout: 1s}", "x.retries.perTryTimeout: has no effect without attempts"),
        ("{attempts: 0, retryOn: 5xx}", "x.retries.retryOn: has no effect without attempts"),
        ("{attempts: 1, perTryTimeout: 0s}", "x.retries.perTryTimeout: must be at least 1ms"),
        ("{attempts: 1, retryOn: 5xxx}", 'x.retries.retryOn: "5xxx" is no status code and not one of 5xx'),
        ("{attempts: 1, retryOn: '999'}", 'x.retries.retryOn: "999" is no status code'),
        ("{attemps: 3, perTryTimeout: 1s}", "x.retries.attemps: unknown field; did you mean attempts?"),
        ("{attempts: 1, retryon: 5xx}", "x.retries.retryon: unknown field; did you mean retryOn?"),
    ],
)
def test_refused_retries(text: str, start: str) -> None:
    """Retries on what does not exist, and settings without effect, are refused."""
    assert refusal(retry.read, f"retries: {text}").startswith(start)
