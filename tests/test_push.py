"""The push index: who is told of a change, and at what cost."""

from tests.fakes.talk import Talk
from xds.push import Registry
from xds.snapshot import ResourceType, Snapshot

CDS, EDS, RDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.ROUTES


def _pair() -> tuple[Registry, Talk, Talk]:
    registry, snapshot = Registry(), Snapshot()
    first = Talk(registry=registry, snapshot=snapshot)
    second = Talk(registry=registry, snapshot=snapshot)
    second.connect("2")
    return registry, first, second


def test_only_subscribers_of_the_name_are_told() -> None:
    """A change reaches the streams that named it, and no others."""
    registry, first, second = _pair()
    first.ask(EDS, "a")
    second.ask(EDS, "b")

    assert registry.changed("mesh", EDS, "a") == {first.session}


def test_wildcard_is_told_of_every_name() -> None:
    """A wildcard subscriber hears of names that it never named."""
    registry, first, second = _pair()
    first.ask(CDS)
    second.ask(CDS, "b")

    assert registry.changed("mesh", CDS, "a") == {first.session}
    assert registry.changed("mesh", CDS, "b") == {first.session, second.session}


def test_other_layers_are_not_told() -> None:
    """The same name in a layer that a stream does not see concerns it not."""
    registry, first, _ = _pair()
    first.ask(RDS, "outbound")

    assert registry.changed("class/shop/other", RDS, "outbound") == frozenset()
    assert registry.changed("class/shop/1", RDS, "outbound") == {first.session}


def test_unsubscribed_names_are_not_told() -> None:
    """Letting a name go takes the stream out of the index."""
    registry, first, _ = _pair()
    first.ask(EDS, "a", "b")
    first.ask(EDS, drop=["a"])

    assert registry.changed("mesh", EDS, "a") == frozenset()


def test_disconnected_stream_leaves_nothing_behind() -> None:
    """The index is as large as its streams: after the last one it is empty."""
    registry, first, second = _pair()
    for talk in (first, second):
        talk.ask(EDS, "a", "b")
        talk.ask(CDS)
        registry.disconnect(talk.session)

    assert len(registry) == 0
    assert registry.watched == 0


def test_new_view_is_indexed_and_the_old_one_is_not() -> None:
    """After a view change, the stream hears of the new layers only."""
    registry, first, _ = _pair()
    first.ask(EDS, "a")
    registry.look(first.session, ("ns/other",), 1.0)

    assert registry.changed("mesh", EDS, "a") == frozenset()
    assert registry.changed("ns/other", EDS, "a") == {first.session}


def test_change_does_not_touch_other_sessions() -> None:
    """O(affected): a stream that is not concerned stays clean."""
    registry, first, second = _pair()
    first.ask(EDS, "a")
    second.ask(EDS, "b")
    first.settle()
    second.settle()
    registry.changed("mesh", EDS, "a")

    assert not first.session.idle
    assert second.session.idle
