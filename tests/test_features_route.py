"""Behaviours of one route: rewrite, redirect, direct response, timeout, retries, fault, mirror."""

from __future__ import annotations

import pytest

from tests.fakes.reading import notes, present, reader, refusal, route
from xds.features import direct_response, fault, mirror, redirect, retry, rewrite, timeout
from xds.features.mirror import Mirror
from xds.pb.envoy.config.route.v3.route_components_pb2 import RedirectAction, RetryPolicy, Route, RouteAction
from xds.pb.envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from xds.pb.envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute
from xds.pb.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from xds.pb.envoy.type.v3.percent_pb2 import FractionalPercent

# -- rewrite ---------------------------------------------------------------------------------


def rewritten(text: str) -> RouteAction:
    """Return a forward with this rewrite."""
    message = route()
    present(rewrite.read(reader(f"rewrite: {text}"))).patch_route(message)
    return message.route


def test_rewrite_uri() -> None:
    """The matched prefix is replaced."""
    assert rewritten("{uri: /b}").prefix_rewrite == "/b"


def test_rewrite_authority() -> None:
    """The destination sees another Host."""
    assert rewritten("{authority: a.b}").host_rewrite_literal == "a.b"


def test_rewrite_by_regex() -> None:
    """Parts of the path can be kept."""
    found = rewritten(r"{uriRegexRewrite: {match: '^/a/(.*)$', rewrite: '/b/\1'}}").regex_rewrite

    assert (found.pattern.regex, found.substitution) == ("^/a/(.*)$", r"/b/\1")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.rewrite: must have uri, uriRegexRewrite or authority"),
        ("{uri: /a, uriRegexRewrite: {match: a, rewrite: b}}", "x.rewrite.uriRegexRewrite: excludes uri"),
        (
            r"{uriRegexRewrite: {match: '(a)', rewrite: '\2'}}",
            "x.rewrite.uriRegexRewrite.rewrite: refers to group 2",
        ),
        (
            r"{uriRegexRewrite: {match: a, rewrite: 'b\'}}",
            "x.rewrite.uriRegexRewrite.rewrite: has a \\ that begins no",
        ),
        (
            r"{uriRegexRewrite: {match: a, rewrite: '\x'}}",
            "x.rewrite.uriRegexRewrite.rewrite: has a \\ that begins no",
        ),
        ("{uriRegexRewrite: {rewrite: b}}", "x.rewrite.uriRegexRewrite.match: is required"),
        ("{uri: '/a b'}", "x.rewrite.uri: must hold no spaces"),
        ('{authority: "a\\r\\nb"}', "x.rewrite.authority: must hold no spaces"),
        ("{path: /a}", "x.rewrite.path: unknown field"),
    ],
)
def test_refused_rewrite(text: str, start: str) -> None:
    """Rewrites that say nothing, two things, or what Envoy cannot do are refused."""
    assert refusal(rewrite.read, f"rewrite: {text}").startswith(start)


# -- redirect --------------------------------------------------------------------------------


def redirected(text: str) -> RedirectAction:
    """Return this redirect as Envoy has it."""
    message = Route()
    present(redirect.read(reader(f"redirect: {text}"))).patch_route(message)

    assert message.WhichOneof("action") == "redirect"
    return message.redirect


def test_redirect_is_permanent_by_default() -> None:
    """Without a code it is 301."""
    found = redirected("{uri: /a, authority: b.c}")

    assert (found.path_redirect, found.host_redirect, found.response_code) == (
        "/a",
        "b.c",
        RedirectAction.MOVED_PERMANENTLY,
    )


@pytest.mark.parametrize(
    ("code", "envoy"),
    [
        (302, RedirectAction.FOUND),
        (303, RedirectAction.SEE_OTHER),
        (307, RedirectAction.TEMPORARY_REDIRECT),
        (308, RedirectAction.PERMANENT_REDIRECT),
    ],
)
def test_redirect_codes(code: int, envoy: int) -> None:
    """All redirect codes that a client follows can be asked for."""
    assert redirected(f"{{uri: /a, redirectCode: {code}}}").response_code == envoy


def test_redirect_to_https() -> None:
    """A scheme alone keeps host and path."""
    found = redirected("{scheme: https}")

    assert (found.scheme_redirect, found.host_redirect, found.path_redirect) == ("https", "", "")


@pytest.mark.parametrize(
    ("text", "port"), [("port: 8443, scheme: https", 8443), ("port: 443, scheme: https", 0), ("port: 80", 0)]
)
def test_redirect_port_that_goes_without_saying(text: str, port: int) -> None:
    """A scheme's own port is not shown to the client."""
    assert redirected(f"{{{text}}}").port_redirect == port


def test_redirect_keeps_percent_encoding() -> None:
    """A path may be percent-encoded; it is no format string."""
    assert redirected("{uri: /a%20b}").path_redirect == "/a%20b"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.redirect: must have uri, authority, scheme or port"),
        ("{redirectCode: 302}", "x.redirect: must have uri"),
        (
            "{uri: /a, redirectCode: 304}",
            "x.redirect.redirectCode: must be one of 301, 302, 303, 307, 308, got 304",
        ),
        ("{uri: /a, redirectCode: 200}", "x.redirect.redirectCode: must be one of"),
        ("{scheme: ftp}", "x.redirect.scheme: must be one of http, https"),
        ("{uri: /a, port: 1, derivePort: FROM_PROTOCOL_DEFAULT}", "x.redirect.derivePort: excludes port"),
        (
            "{uri: /a, derivePort: FROM_REQUEST_PORT}",
            "x.redirect.derivePort: FROM_REQUEST_PORT is not supported yet",
        ),
        ("{prefixRewrite: /a}", "x.redirect.prefixRewrite: is not supported yet"),
        ("{uri: /a, port: 65536}", "x.redirect.port: must be 0..65535"),
        ('{uri: "/a\\nb"}', "x.redirect.uri: must hold no spaces"),
    ],
)
def test_refused_redirect(text: str, start: str) -> None:
    """A redirect to nowhere, or in a way that clients do not know, is refused."""
    assert refusal(redirect.read, f"redirect: {text}").startswith(start)


# -- direct response -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("{status: 418}", b""),
        ("{status: 418, body: {string: é}}", "é".encode()),
        ("{status: 418, body: {bytes: AP8}}", b"\0\xff"),
    ],
)
def test_direct_response(text: str, body: bytes) -> None:
    """The proxy answers with a status and a body of text or bytes."""
    message = Route()
    present(direct_response.read(reader(f"directResponse: {text}"))).patch_route(message)

    assert (message.direct_response.status, message.direct_response.body.inline_bytes) == (418, body)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.directResponse.status: is required"),
        ("{status: 199}", "x.directResponse.status: must be 200..599, got 199"),
        ("{status: 600}", "x.directResponse.status: must be 200..599, got 600"),
        ("{status: 200, body: {string: a, bytes: YQ==}}", "x.directResponse.body.bytes: excludes string"),
        ("{status: 200, body: {bytes: '!'}}", "x.directResponse.body.bytes: must be base64"),
        ("{status: 200, body: text}", "x.directResponse.body: must be an object"),
    ],
)
def test_refused_direct_response(text: str, start: str) -> None:
    """A status that no server answers, and a body in two forms, are refused."""
    assert refusal(direct_response.read, f"directResponse: {text}").startswith(start)


def test_body_larger_than_the_table_allows() -> None:
    """A body is at most 1 MiB in bytes, whatever its characters."""
    text = f"directResponse: {{status: 200, body: {{string: {'é' * (1 << 19)}é}}}}"

    assert refusal(direct_response.read, text).endswith("must be at most 1048576 bytes, got 1048578")


# -- timeout ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "milliseconds"), [("2s", 2000), ("1ms", 1), ("1.5ms", 1), ("0s", 0)])
def test_timeout(text: str, milliseconds: int) -> None:
    """The timeout bounds the request, and what a gRPC client may ask for."""
    message = route()
    present(timeout.read(reader(f"timeout: {text}"))).patch_route(message)

    assert message.route.timeout.ToMilliseconds() == milliseconds
    assert message.route.max_grpc_timeout == message.route.timeout


def test_a_timeout_without_a_unit_is_refused_with_the_form() -> None:
    """``timeout: 2`` is a number to YAML; the user is told how a duration is written."""
    assert refusal(timeout.read, "timeout: 2") == (
        "x.timeout: must be a duration such as 500ms or 1.5s, got a number 2"
    )


def test_no_timeout_is_said_aloud() -> None:
    """Silence means 15 s to Envoy, so no timeout is a timeout of 0."""
    message = route()
    timeout.NONE.patch_route(message)

    assert message.route.HasField("timeout") and message.route.HasField("max_grpc_timeout")


@pytest.mark.parametrize("text", ["0.5ms", "-1s", "5", "soon", "100000h"])
def test_refused_timeout(text: str) -> None:
    """A timeout is a duration of at least a millisecond."""
    assert refusal(timeout.read, f"timeout: {text}").startswith("x.timeout: must be")


# -- retries ---------------------------------------------------------------------------------


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


# -- fault -----------------------------------------------------------------------------------


def faulty(text: str) -> HTTPFault:
    """Return the fault filter's configuration."""
    message = route()
    present(fault.read(reader(f"fault: {text}"))).patch_route(message)
    found = HTTPFault()

    assert message.typed_per_filter_config[fault.FILTER].Unpack(found)
    return found


def test_delay() -> None:
    """A share of the requests is held; percentages have four decimals."""
    found = faulty("{delay: {fixedDelay: 1.5s, percentage: {value: 0.25}}}")

    assert found.delay.fixed_delay.ToMilliseconds() == 1500
    assert found.delay.percentage == FractionalPercent(numerator=2500, denominator=FractionalPercent.MILLION)
    assert not found.HasField("abort")


def test_abort_with_an_http_status() -> None:
    """A share of the requests is answered with a status."""
    found = faulty("{abort: {httpStatus: 503, percentage: {value: 100}}}")

    assert (found.abort.http_status, found.abort.percentage.numerator) == (503, 1_000_000)


def test_abort_with_a_grpc_status() -> None:
    """Statuses of gRPC go by name."""
    assert faulty("{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}").abort.grpc_status == 14


def test_deprecated_percent() -> None:
    """Whole percents, Istio's older field, are still read."""
    assert faulty("{delay: {fixedDelay: 1s, percent: 10}}").delay.percentage.numerator == 100_000


def test_fault_without_a_share_is_told() -> None:
    """No percentage is no fault, as in Istio, and the user is told."""
    said = notes(fault.read, "fault: {abort: {httpStatus: 500}}")

    assert said == ["warning: x.fault.abort.percentage: is 0 or absent, so no request is aborted"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.fault: must have delay or abort"),
        ("{delay: {}}", "x.fault.delay.fixedDelay: is required"),
        ("{delay: {fixedDelay: 0s}}", "x.fault.delay.fixedDelay: must be at least 1ms"),
        ("{delay: {exponentialDelay: 1s}}", "x.fault.delay.exponentialDelay: is not supported yet"),
        (
            "{delay: {fixedDelay: 1s, percent: 1, percentage: {value: 1}}}",
            "x.fault.delay.percent: excludes percentage",
        ),
        (
            "{delay: {fixedDelay: 1s, percentage: {value: 101}}}",
            "x.fault.delay.percentage.value: must be 0..100",
        ),
        ("{abort: {}}", "x.fault.abort.httpStatus: must stand alone"),
        ("{abort: {httpStatus: 500, grpcStatus: INTERNAL}}", "x.fault.abort.httpStatus: must stand alone"),
        ("{abort: {httpStatus: 199}}", "x.fault.abort.httpStatus: must be 200..599"),
        ("{abort: {grpcStatus: unavailable}}", "x.fault.abort.grpcStatus: must be one of OK, CANCELLED"),
        ("{abort: {http2Error: a}}", "x.fault.abort.http2Error: is not supported yet"),
    ],
)
def test_refused_fault(text: str, start: str) -> None:
    """Faults that say nothing, or two things, are refused."""
    assert refusal(fault.read, f"fault: {text}").startswith(start)


# -- mirror ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mirror: {host: a}", (Mirror("a"),)),
        ("{mirror: {host: a, subset: v1, port: {number: 80}}}", (Mirror("a", "v1", 80),)),
        ("{mirror: {host: a}, mirrorPercentage: {value: 5}}", (Mirror("a", percent=5.0),)),
        ("{mirror: {host: a}, mirrorPercent: 5}", (Mirror("a", percent=5.0),)),
        ("{mirror: {host: a}, mirrorPercent: 5, mirrorPercentage: {value: 6}}", (Mirror("a", percent=6.0),)),
        ("{mirror: {host: a}, mirrorPercentage: {value: 0}}", ()),
        (
            "mirrors: [{destination: {host: a}}, {destination: {host: b}, percentage: {value: 1}}]",
            (Mirror("a"), Mirror("b", percent=1.0)),
        ),
        ("{}", ()),
    ],
)
def test_mirrors(text: str, found: tuple[Mirror, ...]) -> None:
    """One or several mirrors, each with a share; 100 % by default, and 0 % is none."""
    assert mirror.read(reader(text)) == found


def test_mirror_patch() -> None:
    """A mirror copies its share to its cluster, outside the request's trace."""
    message = route()
    Mirror("a", percent=0.5, cluster="c").patch_route(message)
    policy = message.route.request_mirror_policies[0]

    assert (policy.cluster, policy.runtime_fraction.default_value.numerator) == ("c", 5000)
    assert policy.HasField("trace_sampled") and not policy.trace_sampled.value


def test_mirror_without_a_cluster_copies_nothing() -> None:
    """A host that nobody found must not become an empty cluster name, which Envoy refuses."""
    message = route()
    Mirror("a").patch_route(message)

    assert message == route()


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{mirror: {host: a}, mirrors: [{destination: {host: a}}]}", "x.mirrors: excludes mirror"),
        ("{mirror: {}}", "x.mirror.host: is required"),
        ("{mirror: {host: '*'}}", "x.mirror.host: must be a host name"),
        ("{mirror: {host: a, subset: V1}}", "x.mirror.subset: must be letters a-z"),
        ("{mirror: {host: a, port: {number: 0}}}", "x.mirror.port.number: must be 1..65535"),
        ("{mirror: {host: a, port: 80}}", "x.mirror.port: must be an object"),
        ("{mirror: {host: a}, mirrorPercent: 101}", "x.mirrorPercent: must be 0..100"),
        (
            "{mirror: {host: a}, mirrorPercent: 1, mirror_percent: 1}",
            "x.mirror_percent: excludes mirrorPercent",
        ),
        ("mirrors: [{}]", "x.mirrors[0].destination: is required"),
    ],
)
def test_refused_mirror(text: str, start: str) -> None:
    """A mirror without a place, or in two fields, is refused."""
    assert refusal(mirror.read, text).startswith(start)
