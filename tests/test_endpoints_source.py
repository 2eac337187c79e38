"""Derived endpoint slices: what Kubernetes' controller would write for the same Services and Pods."""

from __future__ import annotations

from tests.fakes.objects import Raw, endpoint_slice, pod, service
from xds.api.core import Endpoint, EndpointSlice, Key, SlicePort
from xds.api.manifest import Object, Parsed, read
from xds.sources.endpoints import Derivation

DERIVED = Key("EndpointSlice", "shop", "orders-derived")


def changed(*values: Raw) -> list[tuple[Key, Object | None]]:
    """Return raw objects as a batch."""
    found = [read(value) for value in values]
    return [(each.key, each.object) for each in found if isinstance(each, Parsed)]


def derived(*values: Raw) -> dict[str, EndpointSlice]:
    """Return the slices that are derived from a set of objects, by name."""
    changes = Derivation().apply(changed(*values))
    return {key.name: new for key, new in changes if isinstance(new, EndpointSlice)}


def test_a_selector_finds_its_pods() -> None:
    """One slice named after the Service, with the Pods' addresses in the order of their names."""
    found = derived(
        service(), pod("orders-2", "10.0.0.2"), pod("orders-1", "10.0.0.1"), pod("web-1", app="web")
    )

    assert list(found) == ["orders-derived"]
    assert found["orders-derived"].service == "orders"
    assert found["orders-derived"].ports == (SlicePort("http", 8080),)
    assert found["orders-derived"].endpoints == (
        Endpoint("10.0.0.1", pod="orders-1"),
        Endpoint("10.0.0.2", pod="orders-2"),
    )


def test_pods_of_other_namespaces_are_not_selected() -> None:
    """A selector holds within its namespace."""
    assert derived(service(namespace="bank"), pod()) == {}


def test_every_pair_of_a_selector_must_match() -> None:
    """Not just the one that the index uses."""
    one = service(selector={"app": "orders", "version": "v2"})
    v2 = pod("v2", "10.0.0.2", metadata={"labels": {"app": "orders", "version": "v2"}})

    assert [e.pod for e in derived(one, pod(), v2)["orders-derived"].endpoints] == ["v2"]


def test_named_target_ports_are_each_pods_own() -> None:
    """Pods that give the name different numbers stand in different slices."""
    one = service(ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    first = pod("a", "10.0.0.1", ports=[{"containerPort": 8080, "name": "web"}])
    second = pod("b", "10.0.0.2", ports=[{"containerPort": 9090, "name": "web"}])

    found = derived(one, first, second)

    assert {name: (s.ports[0].port, s.endpoints[0].pod) for name, s in found.items()} == {
        "orders-derived": (8080, "a"),
        "orders-derived-2": (9090, "b"),
    }


def test_conditions_are_the_pods() -> None:
    """Unready Pods stay in the slice and say so; those that are being deleted terminate."""
    unready = [{"type": "Ready", "status": "False"}]
    found = derived(
        service(),
        pod("a", status={"podIP": "10.0.0.1", "conditions": unready}),
        pod(
            "b",
            "10.0.0.2",
            metadata={"labels": {"app": "orders"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        ),
    )

    assert found["orders-derived"].endpoints == (
        Endpoint("10.0.0.1", ready=False, serving=False, pod="a"),
        Endpoint("10.0.0.2", ready=False, serving=False, terminating=True, pod="b"),
    )


def test_publish_not_ready_addresses() -> None:
    """The Service asks for all of its Pods."""
    unready = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "False"}]}
    found = derived(service(publishNotReadyAddresses=True), pod(status=unready))

    assert found["orders-derived"].endpoints[0].ready


def test_pods_without_an_address_are_left_out() -> None:
    """They have not been scheduled, or are finished."""
    assert derived(service(), pod(status={})) == {}


def test_slices_that_users_write_are_not_doubled() -> None:
    """Whoever writes a Service's slices keeps all of them, and gives them back by removing the last."""
    derivation = Derivation()
    own = changed(endpoint_slice())

    assert derivation.apply([*changed(service(), pod()), *own]) == ()
    assert [key for key, _ in derivation.apply([(own[0][0], None)])] == [DERIVED]
    assert derivation.apply(own) == ((DERIVED, None),)


def test_a_slice_that_moves_to_another_service_frees_the_first() -> None:
    """The label decides, and may change."""
    derivation = Derivation()
    derivation.apply(changed(service(), pod(), endpoint_slice()))

    assert [key for key, _ in derivation.apply(changed(endpoint_slice(service="web")))] == [DERIVED]


def test_a_user_slice_of_the_derived_name_wins() -> None:
    """There is one object of a key, and it is the user's."""
    assert derived(service(), pod(), endpoint_slice("orders-derived", service="web")) == {}


def test_only_touched_services_are_derived_again() -> None:
    """A Pod that nobody selects changes nothing, and an equal slice is no change."""
    derivation = Derivation()
    derivation.apply(changed(service(), service("web"), pod(), pod("web-1", "10.0.0.9", app="web")))

    assert derivation.apply(changed(pod("alone", "10.0.0.3", app="alone"))) == ()
    assert derivation.apply(changed(pod())) == ()
    assert [key.name for key, _ in derivation.apply(changed(pod("web-1", "10.0.0.8", app="web")))] == [
        "web-derived"
    ]


def test_a_pod_that_changes_its_labels_moves() -> None:
    """It leaves the one Service and joins the other, in one step."""
    derivation = Derivation()
    derivation.apply(changed(service(), service("web"), pod()))

    found = dict(derivation.apply(changed(pod(app="web"))))

    assert found[DERIVED] is None
    assert found[Key("EndpointSlice", "shop", "web-derived")] is not None


def test_slices_go_with_their_service() -> None:
    """And with the selector."""
    derivation = Derivation()
    derivation.apply(changed(service(), pod()))

    assert derivation.apply([(Key("Service", "shop", "orders"), None)]) == ((DERIVED, None),)


def test_services_without_a_selector_get_none() -> None:
    """Their endpoints are somebody else's."""
    assert derived(service(selector=None), pod()) == {}
    assert derived(service(type="ExternalName", externalName="a.example.com"), pod()) == {}


def test_a_port_that_no_container_has_names_both() -> None:
    """The Service port and the container ports, so that one look tells which to change."""
    derivation = Derivation()
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "grpc", "port": 90, "targetPort": 9090},
    ]
    derivation.apply(changed(service(ports=ports), pod("a", "10.0.0.1"), pod("b", "10.0.0.2")))

    text = [f"{problem.subject}: {problem.path}: {problem.reason}" for _, problem in derivation.problems()]
    pods = "which is no container port of Pod shop/a (nor of 1 more); its container ports: 8080 (http)"
    assert text == [
        f"Service shop/orders: spec.ports[0].targetPort: Service port 80 (http) targets web, {pods}",
        f"Service shop/orders: spec.ports[1].targetPort: Service port 90 (grpc) targets 9090, {pods}",
    ]


def test_a_numbered_port_without_declaration_stays_an_endpoint() -> None:
    """As in Kubernetes, where declaring container ports is optional; a name that nobody has is no port."""
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "grpc", "port": 90, "targetPort": 9090},
    ]

    assert derived(service(ports=ports), pod())["orders-derived"].ports == (SlicePort("grpc", 9090),)


def test_a_fixed_port_clears_its_problem() -> None:
    """The problem belongs to the present objects."""
    derivation = Derivation()
    derivation.apply(changed(service(), pod(ports=[])))
    before = len(derivation.problems())
    derivation.apply(changed(pod()))

    assert (before, derivation.problems()) == (1, ())
