"""Behaviours of one route: rewrite, redirect, direct response, timeout."""

from __future__ import annotations

import pytest

from tests.fakes.reading import present, reader, refusal, route
from xds.features import direct_response, redirect, rewrite, timeout
from xds.pb.envoy.config.route.v3.route_components_pb2 import RedirectAction, Route, RouteAction


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


@pytest.mark.parametrize(
    ("text", "called", "shown"),
    [
        ("scheme: https, derivePort: FROM_REQUEST_PORT", 8080, 8080),
        ("scheme: https, derivePort: FROM_REQUEST_PORT", 443, 0),
        ("uri: /a, derivePort: FROM_REQUEST_PORT", 80, 0),
        ("uri: /a, derivePort: FROM_PROTOCOL_DEFAULT", 8080, 0),
        ("uri: /a, port: 81", 8080, 81),
    ],
)
def test_redirect_to_the_port_that_was_called(text: str, called: int, shown: int) -> None:
    """Envoy cannot derive it, but a route belongs to one port; the scheme's own port is never shown."""
    found = present(redirect.read(reader(f"redirect: {{{text}}}")))

    assert found.on(called).port == shown


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
        ("{uri: /a, derivePort: FROM_A}", "x.redirect.derivePort: must be one of FROM_PROTOCOL_DEFAULT"),
        ("{prefixRewrite: /a}", "x.redirect.prefixRewrite: is not supported yet"),
        ("{uri: /a, port: 65536}", "x.redirect.port: must be 0..65535"),
        ('{uri: "/a\\nb"}', "x.redirect.uri: must hold no spaces"),
    ],
)
def test_refused_redirect(text: str, start: str) -> None:
    """A redirect to nowhere, or in a way that clients do not know, is refused."""
    assert refusal(redirect.read, f"redirect: {text}").startswith(start)


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
