"""RateLimit and the annotation that says the same: what is read, what is refused, which of several holds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fakes.manifests import objects
from tests.fakes.objects import Raw, raw, service
from tests.fakes.taken import taken
from xds.api.core import Service
from xds.api.manifest import Parsed, read
from xds.api.rate_limit import RateLimit, Target, annotated
from xds.features.rate_limit import Rule, read_text
from xds.fields import ConfigError
from xds.grammar import MatchKind, StringMatch
from xds.plan import Plan
from xds.resources import names
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

ALL: Raw = {"targetRef": {"kind": "Namespace"}}
ONE: Raw = {"rules": [{"requests": 1}]}


def limit(**spec: Any) -> RateLimit:
    """Read a RateLimit that must be taken."""
    return taken(raw("RateLimit", "one", api="proa.dev/v1alpha1", spec=spec), RateLimit)


def test_targets() -> None:
    """A Service, the namespace, or Pods by their labels."""
    assert limit(**ALL, **ONE).target is Target.NAMESPACE
    assert limit(targetRef={"kind": "Service", "name": "orders"}, **ONE).service == "orders"
    assert limit(selector={"matchLabels": {"app": "a"}}, **ONE).selector == (("app", "a"),)


def test_a_rule_in_full() -> None:
    """Every field."""
    match: Raw = {"methods": ["PUT", "GET"], "path": {"prefix": "/a"}, "headers": {"X-Any": {}}}
    rule: Raw = {"requests": 5, "interval": "1m", "burst": 8, "match": match, "by": {"header": "X-User"}}
    path = StringMatch(MatchKind.PREFIX, "/a")
    headers = (("x-any", StringMatch(MatchKind.PRESENT)),)

    assert limit(**ALL, rules=[rule]).ceiling.rules == (
        Rule(5, 60_000, 8, ("GET", "PUT"), path, headers, "x-user"),
    )


def test_defaults() -> None:
    """A second, and a burst of as many as there come in one."""
    assert limit(**ALL, **ONE).ceiling.rules == (Rule(1, 1000, 1),)


@pytest.mark.parametrize(
    ("rule", "wait_s"), [(Rule(10, 1000, 20), 1), (Rule(5, 60_000, 5), 12), (Rule(7, 60_000, 7), 9)]
)
def test_the_wait_for_a_token(rule: Rule, wait_s: int) -> None:
    """Whole seconds, rounded up."""
    assert rule.wait_s == wait_s


def asked(**fields: Any) -> Raw:
    """Return a spec that asks a provider; by default about one descriptor."""
    whole: Raw = {"provider": "a", "descriptors": [{"entries": [{"key": "b", "value": "c"}]}]}
    return ALL | {"global": whole | fields}


def entry(**fields: Any) -> Raw:
    """Return a spec that asks about one entry."""
    return asked(descriptors=[{"entries": [fields]}])


REFUSED: list[tuple[Raw, str]] = [
    (asked(provider=None), "spec.global.provider: is required"),
    (asked(descriptors=[]), "spec.global.descriptors: must be 1..16, got 0"),
    (asked(descriptors=[None]), "spec.global.descriptors[0]: must be an object, got null"),
    (asked(descriptors=[{"entries": []}]), "spec.global.descriptors[0].entries: must be 1..8, got 0"),
    (asked(failOpen="yes"), "spec.global.failOpen: must be true or false"),
    (asked(failureMode="Open"), "spec.global.failureMode: unknown field"),
    (
        entry(key="a"),
        "spec.global.descriptors[0].entries[0]: must have exactly one of value, header and caller",
    ),
    (
        entry(key="a", value="b", caller=True),
        "spec.global.descriptors[0].entries[0]: must have exactly one of",
    ),
    (entry(key="", value="b"), "spec.global.descriptors[0].entries[0]: must have a key"),
    (
        entry(key="a", value="b\nc"),
        "spec.global.descriptors[0].entries[0]: must have a key, and only printable",
    ),
    (entry(key="a", header='x"'), "spec.global.descriptors[0].entries[0].header: must be a header name"),
    ({}, "spec.rules: must be given, or concurrency"),
    (ONE, "spec.targetRef: must stand alone, or selector in its place"),
    (ONE | ALL | {"selector": {"matchLabels": {"a": "b"}}}, "spec.targetRef: must stand alone"),
    (ONE | {"selector": {"matchLabels": {}}}, "spec.selector.matchLabels: must not be empty"),
    (ONE | {"selector": {"labels": {}}}, "spec.selector.labels: unknown field; known: matchLabels"),
    (ONE | {"targetRef": {"kind": "Pod"}}, "spec.targetRef.kind: must be one of Namespace, Service, got"),
    (ONE | {"targetRef": {"kind": "Service"}}, "spec.targetRef.name: is required"),
    (
        ONE | {"targetRef": {"kind": "Namespace", "name": "b"}},
        "spec.targetRef.name: must be the object's own",
    ),
    (
        ONE | {"targetRef": {"kind": "Service", "name": "b", "group": "apps"}},
        "spec.targetRef.group: must be empty",
    ),
    (ONE | ALL | {"rule": []}, "spec.rule: unknown field; did you mean rules?"),
    (ALL | {"concurrency": -1}, "spec.concurrency: must be 0..1000000000, got -1"),
    (ALL | {"rules": [{}]}, "spec.rules[0].requests: is required"),
    (ALL | {"rules": [None]}, "spec.rules[0]: must be an object, got null"),
    (ALL | {"rules": [{"requests": 0}]}, "spec.rules[0].requests: must be 1..1000000000, got 0"),
    (ALL | {"rules": [{"requests": 1, "interval": "1ms"}]}, "spec.rules[0].interval: must be at least 50ms"),
    (ALL | {"rules": [{"requests": 1, "interval": "25h"}]}, "spec.rules[0].interval: must be at most 24h"),
    (ALL | {"rules": [{"requests": 1, "burst": 0}]}, "spec.rules[0].burst: must be 1.."),
    (ALL | {"rules": [{"requests": 1}] * 33}, "spec.rules: must be at most 32, got 33"),
    (
        ALL | {"rules": [{"requests": 1, "match": {}}]},
        "spec.rules[0].match: must have methods, path or headers",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"methods": ["get"]}}]},
        "spec.rules[0].match.methods[0]: must be an",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"methods": [""]}}]},
        "spec.rules[0].match.methods[0]: must be an",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"path": {"regex": "("}}}]},
        "spec.rules[0].match.path.regex: is no RE2 regex",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"path": {"regex": "\\Qa"}}}]},
        "spec.rules[0].match.path.regex: must stand alone: missing )",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"methods": ["GET"] * 33}}]},
        "spec.rules[0].match.methods: must be at most 32, got 33",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"path": {"regex": "a" * 1025}}}]},
        "spec.rules[0].match.path.regex: must be at most 1024 characters",
    ),
    (
        ALL | {"rules": [{"requests": 1, "match": {"headers": {":path": {}}}}]},
        'spec.rules[0].match.headers.:path: ":path" is not a header',
    ),
    (ALL | {"rules": [{"requests": 1, "by": {}}]}, "spec.rules[0].by: must be header: NAME or caller: true"),
    (
        ALL | {"rules": [{"requests": 1, "by": {"header": "a", "caller": True}}]},
        "spec.rules[0].by: must be header: NAME or caller: true",
    ),
    (
        ALL | {"rules": [{"requests": 1, "by": {"header": "a b"}}]},
        "spec.rules[0].by.header: must be a header name",
    ),
]


@pytest.mark.parametrize(("spec", "words"), REFUSED)
def test_refused(spec: Raw, words: str) -> None:
    """Each with its field path and what would be right."""
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        limit(**spec)


def test_the_annotation() -> None:
    """Rules and concurrency, with semicolons between them and any spaces."""
    found = read_text("10/s burst 20;  600/m   by caller ; 5/h by header X-User; concurrency 3", "a")

    assert found[0] == (
        Rule(10, 1000, 20),
        Rule(600, 60_000, 600, by_caller=True),
        Rule(5, 3_600_000, 5, header="x-user"),
    )
    assert found[1] == 3


@pytest.mark.parametrize(
    "text",
    [
        "10", "10/w", "ten/s", "0/s", "10/s burst", "10/s burst 0", "10/s by", "10/s by header a b", "concurrency",
        "10/s; ", "concurrency 1; concurrency 2", "99999999999/s", "10/s by header :path", "\uff110/s",
    ],
)  # fmt: skip
def test_an_annotation_that_is_none(text: str) -> None:
    """The Service is refused at this annotation, so that its last good version stays as a whole."""
    with pytest.raises(ConfigError, match=re.escape("metadata.annotations[proa.dev/rate-limit]")):
        read(
            service("orders") | {"metadata": {"name": "orders", "annotations": {"proa.dev/rate-limit": text}}}
        )


def test_a_service_without_the_annotation() -> None:
    """Nothing is said, which is not the same as no limit."""
    found = read(service("orders"))
    assert isinstance(found, Parsed)
    assert isinstance(found.object, Service)
    assert annotated(found.object) is None


WORLD = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {proa.dev/inject: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop, annotations: {proa.dev/rate-limit: 4/s}}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-0, namespace: shop, labels: {app: orders}}
spec: {containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.0.1.2}
"""
LIMIT = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: NAME, namespace: shop, creationTimestamp: "2026-01-0DAYT00:00:00Z"}
spec: {TARGET, rules: [{requests: RATE}]}
"""


def written(name: str, target: str, rate: int, day: int = 1) -> str:
    """Return a RateLimit of so many requests a second."""
    text = LIMIT.replace("NAME", name).replace("TARGET", target)
    return text.replace("RATE", str(rate)).replace("DAY", str(day))


NAMESPACE, SERVICE = "targetRef: {kind: Namespace}", "targetRef: {kind: Service, name: orders}"
PODS = "selector: {matchLabels: {app: orders}}"


@pytest.mark.parametrize(
    ("others", "rate"),
    [
        ((), 4),
        ((written("n", NAMESPACE, 5),), 4),
        ((written("n", NAMESPACE, 5), written("s", SERVICE, 6)), 6),
        ((written("s", SERVICE, 6), written("p", PODS, 7)), 7),
        ((written("s", SERVICE, 6, day=2), written("t", SERVICE, 8, day=1)), 8),
        ((written("p", "selector: {matchLabels: {app: other}}", 7),), 4),
    ],
)
def test_the_most_specific_holds(others: tuple[str, ...], rate: int) -> None:
    """Pods before Service before its annotation before namespace, the oldest of two; in any order of arrival."""
    for documents in (others, others[::-1]):
        snapshot = Snapshot()
        plan, store = Plan(snapshot), Store()
        for text in (WORLD, *documents):
            plan.apply(store.apply_all(objects(text)))
        plan.view(("shop", "orders-0"))
        table = snapshot.get("proxy/shop/orders-0", ResourceType.ROUTES, names.inbound_listener(8080))

        assert table is not None
        assert f"\x08{chr(rate)}\x12\x02\x08{chr(rate)}".encode() in table.body
