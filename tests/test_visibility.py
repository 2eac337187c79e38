"""Which Sidecar holds for a Pod, and which hosts it lets through."""

from __future__ import annotations

import pytest

from xds.api.core import Meta
from xds.api.istio_sidecar import EgressHost, Sidecar
from xds.indexes.visibility import Sidecars, imports


def sidecar(
    name: str, *hosts: str, namespace: str = "shop", app: str = "", created: str = "2026-01-01T00:00:00Z"
) -> Sidecar:
    """Return a Sidecar; hosts are written as users write them."""
    egress = tuple(EgressHost(*host.split("/")) for host in hosts)
    return Sidecar(Meta(namespace, name, created=created), (("app", app),) if app else (), egress)


def holding(namespace: str, app: str, *found: Sidecar) -> str:
    """Return the name of the Sidecar that holds for Pods of an application."""
    index = Sidecars()
    for one in found:
        index.take((one.meta.namespace, one.meta.name), None, one)
    chosen = index.holding(namespace, (("app", app),), "mesh-root")
    return chosen.meta.name if chosen else ""


def test_the_nearest_sidecar_holds() -> None:
    """One that selects the Pod, else its namespace's, else the root namespace's."""
    own, all_of_it = sidecar("own", app="orders"), sidecar("namespace")
    root = sidecar("mesh", namespace="mesh-root")

    assert holding("shop", "orders", own, all_of_it, root) == "own"
    assert holding("shop", "web", own, all_of_it, root) == "namespace"
    assert holding("shop", "web", own, root) == "mesh"
    assert holding("other", "orders", own, all_of_it, root) == "mesh"
    assert holding("other", "orders", own, all_of_it) == ""


def test_the_oldest_of_several_holds() -> None:
    """Whatever their order of arrival; a name decides between equals."""
    old, new = sidecar("z", created="2025-01-01T00:00:00Z"), sidecar("a")

    assert holding("shop", "web", old, new) == holding("shop", "web", new, old) == "z"
    assert holding("shop", "web", sidecar("b"), new) == "a"


def test_a_selector_in_the_root_namespace_is_the_root_namespaces() -> None:
    """Only one without a selector holds mesh-wide."""
    assert holding("shop", "web", sidecar("mesh", namespace="mesh-root", app="web")) == ""


def test_a_sidecar_that_is_gone_holds_no_more() -> None:
    """And leaves nothing behind."""
    index, one = Sidecars(), sidecar("one")
    index.take(("shop", "one"), None, one)

    assert index.take(("shop", "one"), one, None) == {("sidecar", "shop", "one"), ("sidecars", "shop")}
    assert index.holding("shop", (), "mesh-root") is None
    assert index.get(("shop", "one")) is None


ORDERS = "orders.other.svc.cluster.local"


@pytest.mark.parametrize(
    ("written", "owner", "host", "is_seen"),
    [
        ("*/*", "other", ORDERS, True),
        ("./*", "other", ORDERS, False),
        ("./*", "shop", "web.shop.svc.cluster.local", True),
        ("other/*", "other", ORDERS, True),
        ("other/*", "third", ORDERS, False),
        (f"other/{ORDERS}", "other", ORDERS, True),
        (f"*/{ORDERS}", "other", ORDERS, True),
        (f"./{ORDERS}", "other", ORDERS, False),
        ("*/*.other.svc.cluster.local", "other", ORDERS, True),
        ("*/*.er.svc.cluster.local", "other", ORDERS, False),
        ("*/orders", "other", ORDERS, False),
        ("~/*", "shop", "web.shop.svc.cluster.local", False),
        ("*/api.example.com", "shop", "*.example.com", True),
        ("*/*.com", "shop", "*.example.com", True),
        ("*/*.example.org", "shop", "*.example.com", False),
    ],
)
def test_what_a_written_host_lets_through(written: str, owner: str, host: str, *, is_seen: bool) -> None:
    """Namespace and host must both fit; of a wildcard and a host either may be the wider, as in Istio."""
    assert imports(sidecar("one", written), "shop", owner, host) is is_seen


def test_without_hosts_everything_is_seen() -> None:
    """No Sidecar, and one that says nothing of egress."""
    assert imports(None, "shop", "other", ORDERS)
    assert imports(Sidecar(Meta("shop", "one")), "shop", "other", ORDERS)
