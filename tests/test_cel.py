"""CEL in filters of access logs: what Envoy takes, and what would make it refuse a listener."""

from __future__ import annotations

import pytest

from xds.cel import check_expression
from xds.fields import ConfigError

TAKEN = (
    "response.code >= 400",
    "has(request.user_agent) && 'x-a' in request.headers && request.headers['x-a'] == \"b\"",
    "!(connection.mtls) || size(request.path) > 3u",
    "response.code in [1, 2,]",
    "request.path.matches('^/a.*') // comment",
    "response.duration > duration('1s')",
    "true ? 1 == 1 : -2 < 0x1F",
    "metadata.filter_metadata['envoy.filters.http.rbac']['shadow_engine_result'] == 'denied'",
    r"xds.route_name == r'\d' || request.path == '\?'",
    "{'a': 1}.size() == 1",
)
"""Shared with the test that shows them to a real Envoy."""


@pytest.mark.parametrize("text", TAKEN)
def test_an_expression_is_taken(text: str) -> None:
    """As it is."""
    assert check_expression(f" {text}\n", "x") == text


def test_nothing_is_no_filter() -> None:
    """Everything is logged."""
    assert check_expression("  ", "x") == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("response.code >", "has the end where a value should be"),
        ("response.code = 3", 'has "=", which begins nothing'),
        ("response.code == 'a", 'has "\'", which begins nothing'),
        ("foo == 1", "names foo; known are connection,"),
        ("h.startsWith('x')", "names h;"),
        ("1 1", 'has "1" where it should end'),
        ("size(1, 2)", "calls size with 2 arguments, it takes 1"),
        ("nope(1)", "calls nope, which is no function"),
        ("request.path.nope()", "calls nope, which is no method"),
        ("request.headers.exists(h, true)", "calls exists: Envoy walks over no list"),
        ("request.path.matches('(')", "has a pattern that is no RE2 regex"),
        ("has(request)", "has a has() of something else than a field"),
        ("has(request.headers['x-a'])", "has a has() of something else than a field"),
        ("request.'a'", "has \"'a'\" where the name of a field should be"),
        ("while", "has the reserved word while"),
        (r"request.path == '\x'", "has a text with an escape that there is not"),
        ("(" * 40 + "1" + ")" * 40, "is nested deeper than 32"),
        ("a.b.C{x: 1}", "names a;"),
    ],
)
def test_an_expression_is_refused(text: str, reason: str) -> None:
    """With what is wrong."""
    with pytest.raises(ConfigError) as caught:
        check_expression(text, "spec.x")

    assert str(caught.value).startswith(f"spec.x: is no CEL expression that Envoy takes: it {reason}")
