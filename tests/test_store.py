"""The store: what changed, and nothing else."""

from __future__ import annotations

from xds.api.core import Endpoint, EndpointSlice, Key, Meta, Namespace, Pod, ServiceAccount
from xds.sources.store import Change, Store

KEY = Key("Pod", "shop", "a")
META = Meta("shop", "a")


def test_a_new_object_is_a_change() -> None:
    """From nothing to the object."""
    store = Store()

    assert store.apply(KEY, Pod(META)) == Change(KEY, None, Pod(META))
    assert store.get(KEY) == Pod(META)
    assert KEY in store


def test_an_equal_object_is_no_change() -> None:
    """Equal by value: a re-list costs nothing further on."""
    store = Store()
    store.apply(KEY, Pod(META))

    assert store.apply(KEY, Pod(Meta("shop", "a"))) is None


def test_an_update_has_both_sides() -> None:
    """What was in force, and what is."""
    store = Store()
    store.apply(KEY, Pod(META))

    assert store.apply(KEY, Pod(META, ip="10.0.0.1")) == Change(KEY, Pod(META), Pod(META, ip="10.0.0.1"))


def test_versions_of_a_slice_share_their_equal_endpoints() -> None:
    """Who comes after the store looks only at endpoints that are another object."""
    store = Store()
    key = Key("EndpointSlice", "shop", "a")

    def slice_of(*addresses: str) -> EndpointSlice:
        return EndpointSlice(META, "web", (), tuple(Endpoint(address) for address in addresses))

    first = slice_of("10.0.0.1", "10.0.0.2")
    store.apply(key, first)

    assert store.apply(key, slice_of("10.0.0.1", "10.0.0.2")) is None
    change = store.apply(key, slice_of("10.0.0.1", "10.0.0.3"))

    assert change == Change(key, first, slice_of("10.0.0.1", "10.0.0.3"))
    held = store.get(key)
    assert isinstance(held, EndpointSlice)
    assert held.endpoints[0] is first.endpoints[0]


def test_a_removal_is_a_change_once() -> None:
    """Removing what is not there changes nothing."""
    store = Store()
    store.apply(KEY, Pod(META))

    assert store.apply(KEY, None) == Change(KEY, Pod(META), None)
    assert store.apply(KEY, None) is None
    assert len(store) == 0


def test_objects_are_listed_by_type() -> None:
    """Each type for itself, also after removals."""
    store = Store()
    account = ServiceAccount(META)
    store.apply_all([(KEY, Pod(META)), (Key("ServiceAccount", "shop", "a"), account)])
    store.apply(KEY, None)

    assert list(store.of_type(ServiceAccount)) == [account]
    assert list(store.of_type(Pod)) == []
    assert list(store.of_type(Namespace)) == []


def test_a_batch_returns_what_changed_in_its_order() -> None:
    """Equal objects are left out, two steps of one object are two changes."""
    store = Store()
    store.apply(KEY, Pod(META))
    other = Key("Pod", "shop", "b")

    changes = store.apply_all([(KEY, Pod(META)), (other, Pod(Meta("shop", "b"))), (KEY, None)])

    assert [(change.key, change.new is None) for change in changes] == [(other, False), (KEY, True)]
