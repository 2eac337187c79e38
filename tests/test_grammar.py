"""What HTTP and Envoy allow in names, values and patterns."""

from __future__ import annotations

import pytest

from tests.fakes.reading import reader, refusal
from xds import grammar
from xds.fields import ConfigError, Reader
from xds.grammar import MatchKind, StringMatch


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{exact: a}", StringMatch(MatchKind.EXACT, "a")),
        ("{exact: ''}", StringMatch(MatchKind.EXACT, "")),
        ("{prefix: /a}", StringMatch(MatchKind.PREFIX, "/a")),
        ("{regex: 'a|b'}", StringMatch(MatchKind.REGEX, "a|b")),
    ],
)
def test_string_match(text: str, match: StringMatch) -> None:
    """A string match is one of exact, prefix and regex."""
    assert grammar.read_string_match(reader(text)) == match


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "x: must have exactly one of exact, prefix and regex"),
        ("{exact: a, prefix: a}", "x: must have exactly one of exact, prefix and regex"),
        ("{prefix: ''}", "x.prefix: must not be empty; leave the match out to take everything"),
        ("{regex: ''}", "x.regex: must not be empty"),
        ("{prefx: a}", "x.prefx: unknown field; did you mean prefix?"),
        ("{exact: 1}", "x.exact: must be a string, got a number 1"),
    ],
)
def test_refused_string_match(text: str, reason: str) -> None:
    """A string match that compares with nothing, or with two things, is refused."""
    assert refusal(grammar.read_string_match, text) == reason


def read_regex(reader: Reader) -> str:
    """Read the field ``r``."""
    return grammar.read_regex(reader, "r")


def test_regex_of_another_dialect_is_refused_with_re2s_reason() -> None:
    """Lookahead is Perl's, not RE2's, and the reason is RE2's own."""
    assert refusal(read_regex, "r: 'a(?=b)'") == "x.r: is no RE2 regex: invalid perl operator: (?="


def test_unclosed_regex_is_refused() -> None:
    """A pattern that does not compile is refused."""
    assert refusal(read_regex, "r: 'a('") == "x.r: is no RE2 regex: missing ): a("


def test_long_regex_is_refused() -> None:
    """A pattern has at most 1,024 characters, as in Istio."""
    assert refusal(read_regex, f"r: {'a' * 1025}") == "x.r: must be at most 1024 characters, got 1025"


def test_regex_that_explodes_is_refused() -> None:
    """A short pattern whose program Envoy would refuse is refused here, where it has a field."""
    assert "instructions, Envoy takes 32768" in refusal(read_regex, r"r: '\pL{200}'")


def test_regex_that_needs_too_much_memory_is_refused() -> None:
    """A pattern that RE2 itself gives up on is refused."""
    assert "pattern too large" in refusal(read_regex, r"r: '(\pL{30}){30}'")


@pytest.mark.parametrize("name", ["x-user", "X-User", "a.b", "_"])
def test_header_name(name: str) -> None:
    """A header's name comes back in lower case."""
    assert grammar.check_header_name("x", name) == name.lower()


@pytest.mark.parametrize(
    "name", ["", ":path", "Host", "host", "a b", "a:b", "é", "a\n", "@request.auth.claims.sub"]
)
def test_refused_header_name(name: str) -> None:
    """Pseudo-headers, Host, claims and what is no token are refused."""
    with pytest.raises(ConfigError):
        grammar.check_header_name("x", name)


@pytest.mark.parametrize(
    "value",
    ["", "a b", "100%%", "%REQ(x-a)%", "%REQ(:path?x-b):20%", "a %PROTOCOL% b", "é", "%RESPONSE_CODE%%%"],
)
def test_header_value(value: str) -> None:
    """Text, escaped percent signs and substitutions about the request are taken."""
    assert grammar.check_header_value("x", value) == value


@pytest.mark.parametrize(
    "value",
    [
        "%",
        "50%",
        "%REQ%",
        "%REQ()%",
        "%NOPE%",
        "a\r\nb: c",
        "\x7f",
        "%ENVIRONMENT(TOKEN)%",
        "%FILE_CONTENT(/etc/passwd)%",
    ],
)
def test_refused_header_value(value: str) -> None:
    """Loose percent signs, header injection, and substitutions that tell what the proxy knows are refused."""
    with pytest.raises(ConfigError):
        grammar.check_header_value("x", value)


def test_header_value_longer_than_envoy_takes() -> None:
    """A header value has at most 16 KiB, counted in bytes."""
    with pytest.raises(ConfigError, match="at most 16384 bytes, got 16386"):
        grammar.check_header_value("x", "é" * 8193)


@pytest.mark.parametrize(
    "host", ["orders", "orders.shop", "*.example.com", "a_b.c", "10.0.0.1", "example.com."]
)
def test_host(host: str) -> None:
    """Short names, qualified names and wildcards are hosts."""
    assert grammar.check_host("x", host) == host


@pytest.mark.parametrize(
    "host", ["", "*", "a..b", "-a", "a b", "a.*", "*a.b", "a/b", "a:80", "a" * 254, "é.b"]
)
def test_refused_host(host: str) -> None:
    """What no DNS name can be is no host."""
    with pytest.raises(ConfigError):
        grammar.check_host("x", host)


@pytest.mark.parametrize(("text", "percent"), [("p: {value: 12.5}", 12.5), ("p: {}", 0.0), ("{}", 7.0)])
def test_percent(text: str, percent: float) -> None:
    """A percentage is a message with a value; the default stands for an absent message only."""
    assert grammar.read_percent(reader(text), "p", 7.0) == percent


@pytest.mark.parametrize(
    "text", ["p: 5", "p: {value: 101}", "p: {value: -1}", "p: {value: .nan}", "p: {valeu: 1}"]
)
def test_refused_percent(text: str) -> None:
    """A bare number, a share outside 0..100 and a misspelt field are refused."""
    assert refusal(lambda r: grammar.read_percent(r, "p", 0), text).startswith("x.p")
