"""What a port number speaks: as most Services say, and bytes in doubt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.manifests import objects, service
from xds.api.core import Service
from xds.indexes.ports import Ports, PortUse

NUMBERS = st.sampled_from([80, 8080, 5432])


def addressed(name: str, ip: str, port: int = 80, protocol: str = "http") -> Service:
    """Return a Service with a cluster IP, "None" for a headless one."""
    text = service(name, port=port, protocol=protocol)
    ((_, found),) = objects(text.replace("spec:\n", f"spec:\n  clusterIPs: [{ip}]\n  clusterIP: {ip}\n"))
    assert isinstance(found, Service)
    return found


def uses(*services: Service) -> dict[int, PortUse]:
    """Return the uses of the numbers that are HTTP for somebody."""
    ports = Ports()
    for found in services:
        ports.take((found.meta.namespace, found.meta.name), None, found)
    return {use.port: use for use in ports.uses()}


def test_port_of_bytes_is_no_http_port() -> None:
    """A number that nobody calls HTTP is not listed."""
    assert 5432 not in uses(addressed("db", "10.96.0.1", 5432, "tcp"))


def test_service_port_and_target_are_two_numbers() -> None:
    """Who dials the Service uses its port, who dials a Pod its target."""
    assert uses(addressed("orders", "10.96.0.1")) == {
        80: PortUse(80, services=True, pods=False),
        8080: PortUse(8080, services=False, pods=True),
    }


def test_port_of_a_headless_service_is_dialled_on_its_pods() -> None:
    """It has no address of its own."""
    assert uses(addressed("orders", "None"))[80] == PortUse(80, services=False, pods=True)


def test_minority_is_named_by_its_addresses() -> None:
    """Two Services of HTTP and one of bytes on a number: HTTP, but for that one."""
    found = uses(
        addressed("a", "10.96.0.1"), addressed("b", "10.96.0.2"), addressed("c", "10.96.0.3", 80, "tcp")
    )

    assert found[80] == PortUse(80, services=True, pods=False, exceptions=("10.96.0.3",))


def test_tie_is_bytes_but_for_those_that_speak_http() -> None:
    """Bytes are always right, if poorer."""
    found = uses(addressed("a", "10.96.0.1"), addressed("c", "10.96.0.3", 80, "tcp"))

    assert found[80] == PortUse(80, services=False, pods=False, exceptions=("10.96.0.1",))


def test_pods_that_disagree_take_bytes() -> None:
    """A Pod's own address tells no protocol."""
    found = uses(addressed("a", "10.96.0.1"), addressed("c", "10.96.0.3", 81, "tcp"))

    assert 8080 not in found


def test_number_that_stays_what_it_was_touches_nothing() -> None:
    """One more Service of HTTP on port 80 changes no listener."""
    ports = Ports()
    first, second = addressed("a", "10.96.0.1"), addressed("b", "10.96.0.2")

    assert ports.take(("shop", "a"), None, first) == {("ports",)}
    assert ports.take(("shop", "b"), None, second) == set()
    assert ports.take(("shop", "a"), first, None) == set()
    assert ports.take(("shop", "b"), second, None) == {("ports",)}


SERVICES = st.builds(
    addressed,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["10.96.0.1", "10.96.0.2", "None"]),
    NUMBERS,
    st.sampled_from(["http", "tcp", "grpc"]),
)


@given(history=st.lists(st.tuples(st.sampled_from("abc"), st.none() | SERVICES), max_size=12))
def test_any_history_ends_with_what_is_there(history: list[tuple[str, Service | None]]) -> None:
    """Coming, changing and going leave what the present Services alone would give."""
    ports = Ports()
    there: dict[str, Service] = {}
    for name, new in history:
        ports.take(("shop", name), there.get(name), new)
        if new is None:
            there.pop(name, None)
        else:
            there[name] = new
    fresh = Ports()
    for name, found in there.items():
        fresh.take(("shop", name), None, found)

    assert ports.uses() == fresh.uses()
