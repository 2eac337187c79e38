"""The fast way from bytes to objects against the reader of every other source: equal values, equal refusals."""

# pyright: reportPrivateUsage=false
# What is decoded of a Pod is nobody's business but this test's.

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objects import endpoint_slice, pod
from xds.api.core import Endpoint, EndpointSlice
from xds.api.manifest import Ignored, Parsed, read
from xds.fields import ConfigError
from xds.sources import decoding
from xds.sources.decoding import decode

words = st.sampled_from(["", "a", "http", "Pod", "TCP", "UDP", "x" * 1025, "n\x00l", "\ud800", "é", "A_b"])
oddities = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70000), words, st.just([]), st.just({}), st.just([1])
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what is right nine times of ten."""
    return st.one_of(*[good] * 9, oddities)


def fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return an object in which each field may be absent."""
    return mostly(st.fixed_dictionaries({}, optional={name: mostly(s) for name, s in strategies.items()}))


names = st.sampled_from(["a", "b", "orders"])
addresses = st.lists(st.sampled_from(["10.0.0.1", "fd00::1", "FD00:0::2", "10.0.0.256", ""]), max_size=2)
flags = fields(ready=st.booleans(), serving=st.booleans(), terminating=st.booleans())
targets = fields(kind=st.sampled_from(["Pod", "Node"]), name=names)
endpoints = fields(addresses=addresses, conditions=flags, targetRef=targets, zone=names)
ports = fields(name=names, port=st.integers(1, 65535), protocol=st.sampled_from(["TCP", "UDP"]))
labels = st.dictionaries(
    st.sampled_from(["kubernetes.io/service-name", "app", "bad key"]), mostly(names), max_size=3
)
metadata = st.fixed_dictionaries(
    {"name": mostly(names), "namespace": mostly(names)},
    optional={
        "labels": labels,
        "annotations": labels,
        "generation": mostly(st.integers(0, 9)),
        "creationTimestamp": mostly(names),
        "managedFields": oddities,
    },
)
slices = st.fixed_dictionaries(
    {"metadata": metadata},
    optional={
        "addressType": mostly(st.sampled_from(["IPv4", "IPv6", "FQDN"])),
        "endpoints": mostly(st.lists(endpoints, max_size=3)),
        "ports": mostly(st.lists(ports, max_size=2)),
        "status": oddities,
    },
)
probes = fields(
    httpGet=fields(port=st.one_of(st.integers(1, 9), names), path=words, scheme=words, host=words),
    tcpSocket=fields(port=st.integers(1, 9)),
)
containers = fields(
    name=st.sampled_from(["app", "proa-proxy", "proa-init"]),
    image=words,
    args=st.lists(words),
    ports=st.lists(fields(containerPort=st.integers(1, 9), name=names, protocol=words), max_size=2),
    restartPolicy=st.just("Always"),
    readinessProbe=probes,
)
pods = st.fixed_dictionaries(
    {"metadata": metadata},
    optional={
        "spec": fields(
            containers=st.lists(containers, max_size=2),
            initContainers=st.lists(containers, max_size=2),
            hostNetwork=st.booleans(),
            nodeName=names,
            volumes=oddities,
        ),
        "status": fields(
            phase=st.sampled_from(["Running", "Failed"]),
            podIP=st.just("10.0.0.1"),
            podIPs=st.lists(fields(ip=st.just("10.0.0.1")), max_size=2),
            conditions=st.lists(fields(type=st.just("Ready"), status=st.just("True")), max_size=2),
            containerStatuses=oddities,
        ),
    },
)


def outcome(found: Parsed | Ignored) -> object:
    """Return an outcome as something that compares."""
    return (found.key, found.object, found.notes) if isinstance(found, Parsed) else found


def agree(kind: str, version: str, value: Any) -> None:
    """Hold the two readers against each other."""
    text = json.dumps(value).encode()
    try:
        expected: object = outcome(read({**value, "kind": kind, "apiVersion": version}))
    except ConfigError as error:
        expected = (error.path, error.reason)
    try:
        found: object = outcome(decode(kind, version, msgspec.Raw(text)))
    except ConfigError as error:
        found = (error.path, error.reason)
    assert found == expected or ("not JSON" in str(found) and b"\\ud" in text)


@settings(max_examples=600, deadline=None)
@given(slices)
def test_slices_are_read_alike(value: Any) -> None:
    """Whatever a slice holds; half of a surrogate pair is refused by both, in other words."""
    agree("EndpointSlice", "discovery.k8s.io/v1", value)


@settings(max_examples=600, deadline=None)
@given(pods)
def test_pods_are_read_alike(value: Any) -> None:
    """Whatever a Pod holds."""
    agree("Pod", "v1", value)


class Asked(dict[str, Any]):
    """An object that remembers which of its fields anybody looked at."""

    def __init__(self, value: dict[str, Any], seen: set[str], path: str = "") -> None:
        super().__init__({name: _asked(v, seen, f"{path}.{name}") for name, v in value.items()})
        self._seen, self._path = seen, path

    def get(self, key: str, default: Any = None) -> Any:
        """Note the field, and return it."""
        self._seen.add(f"{self._path}.{key}")
        return super().get(key, default)


def _asked(value: Any, seen: set[str], path: str) -> Any:
    if isinstance(value, dict):
        return Asked(value, seen, path)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, list):
        return [_asked(item, seen, path) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def test_every_field_that_is_read_of_a_pod_is_decoded() -> None:
    """A reader that asks for one more field must find it here as well."""
    value = pod(status={"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]})
    asked: set[str] = set()
    read(Asked(value, asked))

    assert _last(asked, "") == {"apiVersion", "kind", *decoding._Pod.__annotations__}
    assert _last(asked, ".metadata") <= decoding._Metadata.__annotations__.keys()
    assert _last(asked, ".spec") <= decoding._PodSpec.__annotations__.keys()
    assert _last(asked, ".spec.containers") <= decoding._Container.__annotations__.keys()
    assert _last(asked, ".status") <= decoding._PodStatus.__annotations__.keys()


def _last(asked: set[str], parent: str) -> set[str]:
    return {path.rpartition(".")[2] for path in asked if path.rpartition(".")[0] == parent}


def test_a_slice_says_all_that_the_reader_knows() -> None:
    """One example with every field set, so that a new one cannot be forgotten."""
    value = endpoint_slice(
        endpoints=[
            {
                "addresses": ["fd00::1"],
                "conditions": {"ready": False, "serving": False, "terminating": True},
                "targetRef": {"kind": "Pod", "name": "a"},
                "zone": "z",
            }
        ]
    )
    agree("EndpointSlice", "discovery.k8s.io/v1", value)
    found = decode("EndpointSlice", "discovery.k8s.io/v1", msgspec.Raw(json.dumps(value).encode()))
    assert isinstance(found, Parsed)
    assert isinstance(found.object, EndpointSlice)
    (endpoint,) = found.object.endpoints
    defaults = {field.name: field.default for field in msgspec.structs.fields(Endpoint)}
    assert {name for name, default in defaults.items() if getattr(endpoint, name) == default} == set()
