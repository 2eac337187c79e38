"""Matches: the conditions of HTTPMatchRequest that the proxy decides."""

from __future__ import annotations

import pytest

from tests.fakes.reading import notes, present, reader, refusal, route
from xds.features import match
from xds.pb.envoy.config.route.v3.route_components_pb2 import RouteMatch


def patched(text: str) -> RouteMatch:
    """Return the match of a route."""
    message = route()
    present(match.read(reader(text))).patch_route(message)
    return message.match


def test_no_condition_is_no_match() -> None:
    """An empty match takes every request, which is no match at all."""
    assert match.read(reader("{}")) is None


def test_uri_exact() -> None:
    """An exact uri is Envoy's path."""
    assert patched("uri: {exact: /a}") == RouteMatch(path="/a")


def test_uri_prefix_is_not_cut_at_slashes() -> None:
    """A prefix is a prefix of the text, so /a takes /ab as well, as in Istio."""
    assert patched("uri: {prefix: /a}") == RouteMatch(prefix="/a")


def test_uri_regex() -> None:
    """A regex has to match the whole path."""
    assert patched("uri: {regex: /a.*}").safe_regex.regex == "/a.*"


def test_ignore_uri_case() -> None:
    """Case is ignored in the path only."""
    found = patched("{uri: {prefix: /a}, ignoreUriCase: true}")

    assert found.HasField("case_sensitive") and not found.case_sensitive.value


def test_ignore_uri_case_of_a_regex_is_told() -> None:
    """Envoy compares regexes as they are, so the user is told how to write one that ignores case."""
    said = notes(match.read, "{uri: {regex: /a}, ignoreUriCase: true}")

    assert said == [
        "warning: x.ignoreUriCase: has an effect only on uri.exact and uri.prefix; begin a regex with (?i)"
    ]


def test_header_match_alone_takes_every_path() -> None:
    """A match without a uri holds for every path."""
    assert patched("headers: {x-user: {exact: qa}}").prefix == "/"


def test_headers_are_sorted_and_in_lower_case() -> None:
    """The order and case in which headers are written makes no difference."""
    one = match.read(reader("headers: {X-B: {exact: b}, x-a: {prefix: a}}"))

    assert one == match.read(reader("headers: {x-a: {prefix: a}, x-b: {exact: b}}"))


@pytest.mark.parametrize("text", ["headers: {x: {}}", "headers: {x: {regex: '*'}}"])
def test_header_present(text: str) -> None:
    """An empty comparison, and Istio's regex *, ask only whether the header is there."""
    assert patched(text).headers[0].present_match is True


def test_without_header_of_a_value_holds_when_it_is_missing() -> None:
    """A missing header does not have the value either."""
    header = patched("withoutHeaders: {x: {exact: a}}").headers[0]

    assert (header.invert_match, header.treat_missing_header_as_empty) == (True, True)


def test_without_header_at_all() -> None:
    """A presence test, inverted, must not count a missing header as present."""
    header = patched("withoutHeaders: {x: {}}").headers[0]

    assert (header.present_match, header.invert_match, header.treat_missing_header_as_empty) == (
        True,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("field", "header"), [("method", ":method"), ("authority", ":authority"), ("scheme", ":scheme")]
)
def test_pseudo_headers(field: str, header: str) -> None:
    """Method, authority and scheme are pseudo-headers to Envoy."""
    found = patched(f"{field}: {{exact: a}}").headers[0]

    assert (found.name, found.string_match.exact) == (header, "a")


def test_an_exact_authority_loses_its_last_dot() -> None:
    """As the request has, before it is compared."""
    assert patched("authority: {exact: 'a.b.:80'}").headers[0].string_match.exact == "a.b:80"


def test_query_parameters() -> None:
    """A query parameter is compared, or only has to be there."""
    parameters = patched("queryParams: {b: {}, a: {exact: '1'}}").query_parameters

    assert [(p.name, p.string_match.exact, p.present_match) for p in parameters] == [
        ("a", "1", False),
        ("b", "", True),
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("headers: {':path': {exact: /}}", 'x.headers.:path: ":path" is not a header that can be named here'),
        ("headers: {Host: {exact: a}}", 'x.headers.Host: "Host" is not a header'),
        (
            "headers: {'@request.auth.claims.sub': {exact: a}}",
            "x.headers.@request.auth.claims.sub: JWT claims are not",
        ),
        ("headers: {x: a}", "x.headers.x: must be an object"),
        ("withoutHeaders: {x: {regex: '('}}", "x.withoutHeaders.x.regex: is no RE2 regex"),
        ("authority: {prefix: ''}", "x.authority.prefix: must not be empty"),
        ("uri: /a", "x.uri: must be an object"),
        ("ignoreUriCase: 'yes'", "x.ignoreUriCase: must be true or false"),
        ("queryParams: {'': {exact: a}}", "x.queryParams: has a name that is empty"),
    ],
)
def test_refused(text: str, start: str) -> None:
    """A condition that cannot be decided as it is written is refused with its field."""
    assert refusal(match.read, text).startswith(start)


def test_an_empty_uri_prefix_takes_every_path() -> None:
    """Istio takes it for uri alone, where it is how generated YAML says: any."""
    assert match.read(reader("uri: {prefix: ''}")) is None
    assert refusal(match.read, "method: {prefix: ''}").startswith("x.method.prefix: must not be empty")
