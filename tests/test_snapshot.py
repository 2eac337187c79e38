"""Layers, views, versions and frames."""

import pytest

from xds.snapshot import ResourceType, Snapshot, encode, scope

CDS, EDS, LDS, RDS, _, SDS = ResourceType


def test_first_layer_of_the_view_wins() -> None:
    """A name means the resource of the most specific layer that has it."""
    snapshot = Snapshot()
    snapshot.put("mesh", CDS, "a", b"mesh")
    snapshot.put("ns/shop", CDS, "a", b"shop")
    found = snapshot.resolve(("ns/shop", "mesh"), CDS, "a")
    other = snapshot.resolve(("ns/other", "mesh"), CDS, "a")

    assert found is not None and found.body == b"shop"
    assert other is not None and other.body == b"mesh"


def test_names_are_the_union_of_the_view() -> None:
    """A wildcard sees every name once."""
    snapshot = Snapshot()
    snapshot.put("mesh", CDS, "a", b"1")
    snapshot.put("mesh", CDS, "b", b"1")
    snapshot.put("ns/shop", CDS, "a", b"2")

    assert sorted(snapshot.names(("ns/shop", "mesh"), CDS)) == ["a", "b"]


def test_equal_body_is_no_change() -> None:
    """Equal bytes stop a change; the provenance is refreshed all the same."""
    snapshot = Snapshot()
    first = snapshot.put("mesh", CDS, "a", b"1", cause=("Service shop/a",))
    again = snapshot.put("mesh", CDS, "a", b"1", cause=("Service shop/b",))
    resource = snapshot.get("mesh", CDS, "a")

    assert (first, again) == (True, False)
    assert resource is not None and resource.cause == ("Service shop/b",)


def test_version_is_a_hash_of_the_body() -> None:
    """Equal bytes have equal versions on every replica and after every restart: the figure is fixed."""
    assert encode(CDS, "a", b"body").version == encode(CDS, "b", b"body").version == "84f2c8ee187fe1fa"


def test_version_may_be_given() -> None:
    """A certificate differs with every issue; its version is what its issuer says."""
    assert encode(SDS, "default", b"key", version="v1").version == "v1"


@pytest.mark.parametrize(
    ("layer", "kind"), [("mesh", LDS), ("class/shop/1", CDS), ("ns/shop", SDS), ("proxy/shop/web", EDS)]
)
def test_layer_of_another_kind_is_refused(layer: str, kind: ResourceType) -> None:
    """What may stand where is a table: an own key can never land in a shared layer."""
    with pytest.raises(ValueError, match="may not be in layer"):
        Snapshot().put(layer, kind, "a", b"1")


def test_dropping_tells_whether_something_was_there() -> None:
    """A drop of nothing is no change."""
    snapshot = Snapshot()
    snapshot.put("mesh", CDS, "a", b"1")

    assert snapshot.drop("mesh", CDS, "a")
    assert not snapshot.drop("mesh", CDS, "a")
    assert not snapshot.drop("ns/shop", CDS, "a")


def test_dropping_a_layer_tells_what_it_held() -> None:
    """The caller marks exactly what is gone."""
    snapshot = Snapshot()
    snapshot.put("ns/shop", CDS, "a", b"1")
    snapshot.put("ns/shop", EDS, "a", b"1")
    snapshot.put("mesh", CDS, "b", b"1")

    assert snapshot.drop_layer("ns/shop") == ((CDS, "a"), (EDS, "a"))
    assert list(snapshot.names(("ns/shop", "mesh"), CDS)) == ["b"]


def test_body_never_shows() -> None:
    """A secret's repr names it and nothing else."""
    assert "PRIVATE" not in repr(encode(SDS, "default", b"PRIVATE KEY"))


def test_children_without_parents_are_inconsistent() -> None:
    """Endpoints need their cluster and a route table its listener."""
    snapshot = Snapshot()
    snapshot.put("mesh", EDS, "a", b"1")
    snapshot.put("class/shop/1", RDS, "outbound", b"1")
    view = ("proxy/shop/web", "class/shop/1", "mesh")
    problems = snapshot.consistent(view)
    snapshot.put("mesh", CDS, "a", b"1")
    snapshot.put("proxy/shop/web", LDS, "outbound", b"1")

    assert problems == (
        "ENDPOINTS a has no CLUSTER of that name",
        "ROUTES outbound has no LISTENER of that name",
    )
    assert snapshot.consistent(view) == ()


def test_scope_keeps_the_layers_that_may_hold_a_type() -> None:
    """The push index stores no layer in which a type cannot be."""
    view = ("stream/1", "proxy/shop/web", "class/shop/1", "ns/shop", "mesh", "trust")

    assert scope(view, EDS) == ("ns/shop", "mesh")
    assert scope(view, SDS) == ("stream/1", "trust")
