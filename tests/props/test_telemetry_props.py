"""Telemetry and the mesh settings for it: readers raise nothing but ConfigError, and what is accepted can be served."""

from __future__ import annotations

import contextlib

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.manifests import objects, pod, service
from tests.fakes.objects import raw
from tests.props.strategies import JSON, MESH, TELEMETRY, broken
from xds.api.core import Key, Meta
from xds.api.istio_telemetry import Telemetry, read_telemetry
from xds.api.manifest import Object, Parsed, read
from xds.api.mesh import MeshSettings
from xds.cel import check_expression
from xds.fields import ConfigError, Note, Reader
from xds.formats import check_format
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

META = Meta("shop", "default")
SLOW_INPUTS = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
WORLD = objects(service("web"), pod("web-0", "web", "10.0.0.1"))


def telemetry(spec: object) -> Telemetry | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_telemetry(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def mesh(document: object) -> MeshSettings | None:
    """Return the settings of a document that a YAML parser can give, None for what is refused."""
    try:
        text = yaml.safe_dump(document)
        found = read(raw("ConfigMap", "proa", namespace="proa-system", data={"mesh": text}))
    except (ConfigError, UnicodeEncodeError):
        return None
    assert isinstance(found, Parsed) and isinstance(found.object, MeshSettings)
    return found.object


def served(*found: tuple[Key, Object | None]) -> None:
    """Compile and build all that a proxy is told in either form, and read it back."""
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all([*WORLD, *found]))
    plan.problems()
    for form in (False, True):
        view = plan.view(("shop", "web-0"), transparent=form)[0]
        for kind, message in (
            (ResourceType.LISTENER, listener_pb2.Listener),
            (ResourceType.CLUSTER, cluster_pb2.Cluster),
        ):
            for name in plan.snapshot.names(view, kind):
                resource = plan.snapshot.resolve(view, kind, name)
                assert resource is not None
                message.FromString(resource.body)


SETTINGS_KEY = Key("ConfigMap", "proa-system", "proa")


def test_the_valid_documents_are_valid() -> None:
    """The objects that the other properties break are accepted as they stand, without a warning."""
    notes: list[Note] = []
    read_telemetry(Reader(TELEMETRY, "spec", notes), META)

    assert notes == []
    assert mesh(MESH) is not None


@given(JSON)
def test_any_json(spec: object) -> None:
    """Any JSON is an object of its kind or a ConfigError."""
    telemetry(spec)
    mesh(spec)


@SLOW_INPUTS
@given(broken(TELEMETRY))
def test_an_accepted_telemetry_can_be_served(spec: object) -> None:
    """Whatever of it is changed, with every kind of provider at hand."""
    found = telemetry(spec)
    if found is not None:
        served((SETTINGS_KEY, mesh(MESH)), (Key("Telemetry", "shop", "default"), found))


@SLOW_INPUTS
@given(broken(MESH))
def test_accepted_settings_can_be_served(document: object) -> None:
    """Whatever of them is changed, with a Telemetry that uses what it can."""
    found = mesh(document)
    if found is not None:
        served((SETTINGS_KEY, found), (Key("Telemetry", "shop", "default"), telemetry(TELEMETRY)))


@given(st.text(alphabet="abrequstpo.n()[]{}'\"&|!=<>+-*/%?:, 0123456789xu\\\\\n", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    """The parser ends, and raises nothing else."""
    with contextlib.suppress(ConfigError):
        assert check_expression(text, "x") == text.strip()


@given(st.text(alphabet="%()ABCREQPATH:_? \n\t1", max_size=60))
def test_any_text_is_a_format_or_refused(text: str) -> None:
    """What is accepted is one line."""
    with contextlib.suppress(ConfigError):
        assert "\n" not in check_format(text, "x")
