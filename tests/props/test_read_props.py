"""Whatever text or JSON comes in: a typed object, a reason to pass it over, or a ConfigError. Nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objects import Raw, endpoint_slice, peer_authentication, pod, raw, service
from xds.api.manifest import Ignored, Parsed, key_of, read
from xds.documents import DocumentError, locate, parse_json, parse_yaml
from xds.fields import ConfigError
from xds.sources.manifest_file import read_file

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["shop", "orders", "80", "10.0.0.1", "1s", "%", "*", "a.b", "\x00", "é", "-", "http"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)

GOOD: list[Raw] = [
    service(clusterIPs=["10.0.0.1"], type="ClusterIP", publishNotReadyAddresses=True),
    service(type="ExternalName", externalName="example.com"),
    endpoint_slice(
        endpoints=[
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": "a"},
            }
        ]
    ),
    pod(
        metadata={
            "labels": {"app": "a"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "a-1", "controller": True}],
        },
        spec={
            "serviceAccountName": "a",
            "hostNetwork": False,
            "containers": [
                {
                    "name": "a",
                    "ports": [{"containerPort": 80, "name": "http"}],
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}},
                    "readinessProbe": {"grpc": {"port": 80}},
                }
            ],
            "initContainers": [{"name": "b", "restartPolicy": "Always"}],
        },
        status={"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    ),
    raw("Namespace", "shop", namespace=None, metadata={"labels": {"proa.dev/inject": "enabled"}}),
    raw("ServiceAccount", "orders"),
    peer_authentication(
        selector={"matchLabels": {"app": "a"}},
        mtls={"mode": "STRICT"},
        portLevelMtls={"80": {"mode": "DISABLE"}},
    ),
    raw(
        "ConfigMap",
        "proa",
        namespace="proa-system",
        data={"mesh": "trustDomain: a\noutboundTrafficPolicy: {}"},
    ),
    raw(
        "VirtualService",
        "orders",
        api="networking.istio.io/v1",
        spec={
            "hosts": ["orders"],
            "http": [
                {
                    "match": [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "y"}}, "port": 80}],
                    "route": [
                        {
                            "destination": {"host": "orders", "subset": "v1", "port": {"number": 80}},
                            "weight": 1,
                        }
                    ],
                    "timeout": "1s",
                    "retries": {"attempts": 2, "perTryTimeout": "1s", "retryOn": "5xx"},
                    "fault": {"abort": {"httpStatus": 500, "percentage": {"value": 1.5}}},
                    "rewrite": {"uri": "/"},
                    "mirror": {"host": "orders"},
                    "headers": {"request": {"set": {"a": "b"}}},
                }
            ],
        },
    ),
    raw(
        "DestinationRule",
        "orders",
        api="networking.istio.io/v1",
        spec={
            "host": "orders",
            "trafficPolicy": {
                "tls": {"mode": "ISTIO_MUTUAL"},
                "loadBalancer": {"consistentHash": {"httpHeaderName": "x"}},
                "connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http2MaxRequests": 1}},
                "outlierDetection": {"consecutive5xxErrors": 1, "interval": "1s"},
            },
            "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        },
    ),
]


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value within a value."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            found += places(inner, (*path, index))
    return found


def put(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    """Return the value with something else at a path."""
    if not path:
        return new
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """Draw a valid object of which one or two values are replaced, or a key misspelt."""
    value: Any = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(value)))
        if path and isinstance(path[-1], str) and draw(st.booleans()):
            value = put(value, path[:-1], {draw(st.text(max_size=8)): draw(JSON)})
        else:
            value = put(value, path, draw(JSON))
    return value


def outcome(value: object) -> str:
    """Read a value and name what came out."""
    try:
        found = read(value)
    except ConfigError as error:
        return "refused" if error.reason else "refused without a reason"
    if isinstance(found, Ignored):
        return "ignored"
    assert hash(found.object) is not None
    return "parsed"


def test_the_examples_are_good() -> None:
    """Bending them must start from something that is taken."""
    assert {outcome(value) for value in GOOD} == {"parsed"}


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    """With arbitrary shapes."""
    key_of(value)

    assert outcome(value) in {"parsed", "ignored", "refused"}


@given(bent())
@settings(max_examples=400)
def test_a_bent_object_is_read_or_refused(value: object) -> None:
    """With shapes that are almost right, where readers go deep; a taken object has the key that key_of sees."""
    key = key_of(value)
    came_out = outcome(value)

    assert came_out in {"parsed", "ignored", "refused"}
    if came_out == "parsed":
        found = read(value)
        assert isinstance(found, Parsed)
        assert found.key == key


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_file(content: bytes) -> None:
    """Reading a file never raises, and everything that it says has a place."""
    for name in ("a.yaml", "a.json"):
        assert all(problem.where.startswith(f"{name}:") for problem in read_file(name, content).problems)


@given(bent())
def test_any_document_is_a_file(value: object) -> None:
    """Written as YAML, an object gives the same result as from JSON, and its problems have places."""
    try:
        text = yaml.safe_dump(value, allow_unicode=True)
    except yaml.YAMLError:
        return  # what YAML cannot write
    found = read_file("a.yaml", text.encode(errors="replace"))

    assert all(problem.where.startswith("a.yaml:") for problem in found.problems)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_json_text_is_read_back(value: object) -> None:
    """The parser neither loses nor invents anything."""
    assert parse_json(json.dumps(value)).value == value


@given(PLAIN)
def test_yaml_text_is_read_back(value: object) -> None:
    """With all scalars quoted and tagged: what is unquoted means what Kubernetes takes it for, not PyYAML."""
    documents = list(parse_yaml(yaml.safe_dump(value, default_style='"')))

    assert [document.value for document in documents] == [value]


@given(st.text("[]{}:,-&*!|>'\"%@`#? \nabc01\t\x00é", max_size=60), st.text(max_size=20))
def test_any_text_is_yaml_or_refused(text: str, path: str) -> None:
    """The grammar's own characters, in every order; asking for places never fails."""
    try:
        documents = list(parse_yaml(text))
    except DocumentError as error:
        documents = []
        is_placed = min(error.place.line, error.place.column) >= 1
    else:
        is_placed = True
    located = locate(text, [(index, path) for index in range(len(documents) + 1)])

    assert is_placed
    assert len(located) >= len(documents)
