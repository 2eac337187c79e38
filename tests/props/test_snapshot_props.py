"""Frames against the generated classes, and a snapshot against its recomputation."""

from hypothesis import given
from hypothesis import strategies as st

from xds import frames
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds.snapshot import LAYERS, Resource, ResourceType, Snapshot, encode

kinds = st.sampled_from(list(ResourceType))
names = st.text(max_size=200).filter(lambda text: text.isprintable())
bodies = st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(lambda size: b"x" * size))
versions = st.one_of(st.none(), st.text("0123456789abcdef", min_size=1, max_size=40))
resources = st.builds(encode, kinds, names, bodies, version=versions)


@given(st.lists(resources, max_size=4), st.lists(names, max_size=3), kinds)
def test_delta_frames_parse_to_what_they_say(
    held: list[Resource], removed: list[str], kind: ResourceType
) -> None:
    """Hand-framed bytes are a DeltaDiscoveryResponse with the same content."""
    parts = [part for resource in held for part in (resource.delta_prefix, resource.sotw)]
    data = frames.delta_response(parts, removed, frames.type_url_field(kind.url), "7")
    parsed = DeltaDiscoveryResponse.FromString(data)
    found = [(r.name, r.version, r.resource.type_url, r.resource.value) for r in parsed.resources]

    assert found == [(r.name, r.version, r.type.url, r.body) for r in held]
    assert (list(parsed.removed_resources), parsed.type_url, parsed.nonce) == (removed, kind.url, "7")


@given(st.lists(resources, max_size=4), kinds)
def test_sotw_frames_parse_to_what_they_say(held: list[Resource], kind: ResourceType) -> None:
    """Hand-framed bytes are a DiscoveryResponse with the same content."""
    data = frames.sotw_response([r.sotw for r in held], "v", frames.type_url_field(kind.url), "7")
    parsed = DiscoveryResponse.FromString(data)

    assert [(r.type_url, r.value) for r in parsed.resources] == [(r.type.url, r.body) for r in held]
    assert (parsed.version_info, parsed.type_url, parsed.nonce) == ("v", kind.url, "7")


@given(resources)
def test_delta_is_prefix_and_any(resource: Resource) -> None:
    """The cached parts make up the framed `Resource` field."""
    parsed = DeltaDiscoveryResponse.FromString(resource.delta)

    assert [r.resource.value for r in parsed.resources] == [resource.body]


layers = st.sampled_from(["proxy/shop/web", "ns/shop", "mesh"])
edits = st.lists(
    st.tuples(layers, st.sampled_from("abc"), st.one_of(st.none(), st.binary(max_size=2))), max_size=30
)


@given(edits)
def test_any_history_equals_its_recomputation(history: list[tuple[str, str, bytes | None]]) -> None:
    """Puts and drops in any order leave what the last word on each name says; `put` tells real changes only."""
    snapshot, truth = Snapshot(), dict[tuple[str, str], bytes]()
    for layer, name, body in history:
        before = truth.get((layer, name))
        if body is None:
            changed = snapshot.drop(layer, ResourceType.CLUSTER, name)
            truth.pop((layer, name), None)
        else:
            changed = snapshot.put(layer, ResourceType.CLUSTER, name, body)
            truth[layer, name] = body
        assert changed == (before != body)
    view = ("proxy/shop/web", "ns/shop", "mesh")
    for name in "abc":
        found = snapshot.resolve(view, ResourceType.CLUSTER, name)
        expected = next((truth[layer, name] for layer in view if (layer, name) in truth), None)
        assert (None if found is None else found.body) == expected
    assert set(snapshot.names(view, ResourceType.CLUSTER)) == {name for _, name in truth}


def test_every_type_has_a_layer() -> None:
    """The table of layers is complete."""
    assert set(LAYERS) == set(ResourceType)
