"""Copies of the requests of one route."""

from __future__ import annotations

import pytest

from tests.fakes.reading import reader, refusal, route
from xds.features import mirror
from xds.features.mirror import Mirror


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
        ("{mirror: {host: a, subset: v_1}}", "x.mirror.subset: must be letters, digits and -"),
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
