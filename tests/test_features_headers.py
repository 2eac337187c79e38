"""Header operations on requests and responses."""

from __future__ import annotations

import pytest

from tests.fakes.reading import present, reader, refusal, route
from xds.features import headers
from xds.pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from xds.pb.envoy.config.route.v3.route_components_pb2 import Route, WeightedCluster


def ops(text: str) -> headers.HeaderOps:
    """Read operations that must be there."""
    return present(headers.read(reader(f"headers: {text}")))


def patched(text: str) -> Route:
    """Return a route with these operations."""
    message = route()
    ops(text).patch_route(message)
    return message


@pytest.mark.parametrize("text", ["{}", "headers: {}", "headers: {request: {}, response: {set: {}}}"])
def test_nothing_to_do(text: str) -> None:
    """Operations that change nothing are none."""
    assert headers.read(reader(text)) is None


def test_set_replaces_and_add_appends() -> None:
    """Set overwrites what is there, add keeps it."""
    added = patched("{request: {set: {X-A: '1'}, add: {x-b: '2'}}}").request_headers_to_add

    assert [(h.header.key, h.header.value, h.append_action) for h in added] == [
        ("x-a", "1", HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        ("x-b", "2", HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
    ]


def test_empty_value_is_kept() -> None:
    """Setting a header to nothing sets it; Envoy would otherwise leave it out."""
    assert patched("{request: {set: {x-a: ''}}}").request_headers_to_add[0].keep_empty_value is True


def test_remove() -> None:
    """Removed headers are removed from the side they are named for."""
    message = patched("{request: {remove: [X-A]}, response: {remove: [server]}}")

    assert (list(message.request_headers_to_remove), list(message.response_headers_to_remove)) == (
        ["x-a"],
        ["server"],
    )


def test_response_headers() -> None:
    """Operations on responses do not touch requests."""
    message = patched("{response: {add: {x-v: '1'}}}")

    assert (len(message.response_headers_to_add), len(message.request_headers_to_add)) == (1, 0)


@pytest.mark.parametrize("name", ["Host", ":authority"])
def test_setting_the_authority_rewrites_the_host(name: str) -> None:
    """Host is no header to Envoy, so setting it is a rewrite."""
    message = patched(f"{{request: {{set: {{'{name}': a.b}}}}}}")

    assert (message.route.host_rewrite_literal, len(message.request_headers_to_add)) == ("a.b", 0)


def test_authority_does_not_turn_a_redirect_into_a_forward() -> None:
    """Operations on a rule that answers itself leave its action alone."""
    message = Route()
    message.redirect.path_redirect = "/"
    ops("{request: {set: {Host: a}}}").patch_route(message)

    assert message.WhichOneof("action") == "redirect"


def test_destination_has_operations_of_its_own() -> None:
    """The same operations apply to one of several destinations."""
    share = WeightedCluster.ClusterWeight()
    ops("{request: {set: {Host: a, x-a: '1'}}, response: {remove: [x-b]}}").patch_destination(share)

    assert (share.host_rewrite_literal, share.request_headers_to_add[0].header.key) == ("a", "x-a")
    assert list(share.response_headers_to_remove) == ["x-b"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{request: {set: {':path': /}}}", 'x.headers.request.set.:path: ":path" is not a header'),
        ("{response: {set: {Host: a}}}", 'x.headers.response.set.Host: "Host" is not a header'),
        ("{request: {remove: [':authority']}}", "x.headers.request.remove[0]"),
        ("{request: {remove: [host]}}", "x.headers.request.remove[0]"),
        ("{request: {set: {x-a: '1', X-A: '2'}}}", "x.headers.request.set: has x-a twice"),
        ("{request: {set: {x-a: '50%'}}}", "x.headers.request.set.x-a: has a % that begins no substitution"),
        ("{request: {set: {x-a: '%ENVIRONMENT(HOME)%'}}}", "x.headers.request.set.x-a: has a %"),
        (
            "{request: {set: {Host: a, ':authority': b}}}",
            "x.headers.request.set: must set the authority once",
        ),
        ("{request: {set: {Host: a}, add: {host: b}}}", "x.headers.request.set: must set the authority once"),
        (
            "{request: {set: {Host: '%REQ(x)%'}}}",
            "x.headers.request.set: x.headers.request.set.Host must be plain",
        ),
        ("{request: {set: {x-a: 1}}}", "x.headers.request.set.x-a: must be a string"),
        ("{request: {append: {x-a: '1'}}}", "x.headers.request.append: unknown field"),
        ("{requests: {}}", "x.headers.requests: unknown field; did you mean request?"),
    ],
)
def test_refused(text: str, start: str) -> None:
    """Names that are no headers, values that Envoy would refuse, and two answers to one question are refused."""
    assert refusal(headers.read, f"headers: {text}").startswith(start)


def test_more_headers_than_envoy_takes() -> None:
    """A route adds at most a thousand headers."""
    many = ", ".join(f"x-{i}: a" for i in range(1001))

    assert refusal(headers.read, f"headers: {{request: {{set: {{{many}}}}}}}").endswith(
        "at most 1000 headers together"
    )
