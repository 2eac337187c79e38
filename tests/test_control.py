"""What changes of the world do to streams that are open: views, listeners, and what stays behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.manifests import objects, pod, rule, service, split
from tests.fakes.talk import allow_all
from xds.api.core import Key
from xds.control import ControlPlane
from xds.identity import Identity, Proof
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.snapshot import ResourceType, covered
from xds.stream import Session
from xds.subscription import Variant

WEB = pod("web-1", "web", "10.0.0.1")
CALLER = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.NODE_ID)


def plane(*texts: str) -> ControlPlane:
    """Return a control plane that has taken these documents."""
    made = ControlPlane()
    made.apply(objects(*texts), at=0.0, now=0.0)
    return made


def connect(made: ControlPlane, caller: Identity | None = CALLER, id: str = "1") -> Session:  # noqa: A002 the field's word
    """Return an open stream of a caller that has asked for nothing yet."""
    session = Session(id, made.snapshot, variant=Variant.DELTA, rule_of=allow_all)
    session.receive(DeltaDiscoveryRequest(type_url=ResourceType.CLUSTER.url).SerializeToString(), 0.0)
    session.attach(made.connect(caller, session), 0.0)
    made.registry.connect(session)  # with the wildcard that it has by now
    return session


def intercepted(
    made: ControlPlane,
    caller: Identity | None = CALLER,
    *,
    variant: Variant = Variant.DELTA,
    release: tuple[int, int] = (1, 40),
) -> Session:
    """Return an open stream of a proxy to which its Pod's traffic is redirected."""
    session = Session("t", made.snapshot, variant=variant, rule_of=allow_all)
    asking = DeltaDiscoveryRequest if variant is Variant.DELTA else DiscoveryRequest
    request = asking(type_url=ResourceType.CLUSTER.url)
    request.node.metadata["INTERCEPTION_MODE"] = "REDIRECT"
    version = request.node.user_agent_build_version.version
    version.major_number, version.minor_number = release
    session.receive(request.SerializeToString(), 0.0)
    view = made.connect(caller, session)
    made.registry.connect(session)
    session.attach(view, 0.0)
    return session


def listeners(made: ControlPlane, session: Session) -> set[str]:
    """Return the listeners that a stream sees."""
    return set(made.snapshot.names(session.view, ResourceType.LISTENER))


def test_stream_outlives_its_pod() -> None:
    """The Pod's listeners go with the Pod and come again with it; the stream stays."""
    made = plane(service("web"), WEB)
    session = connect(made)
    seen = [listeners(made, session)]
    made.apply([(Key("Pod", "shop", "web-1"), None)], at=1.0, now=1.0)
    seen.append(listeners(made, session))
    made.apply(objects(WEB), at=2.0, now=2.0)
    seen.append(listeners(made, session))

    assert seen == [{"outbound", "inbound|8080"}, set(), {"outbound", "inbound|8080"}]


def test_new_source_label_moves_open_streams() -> None:
    """When a rule asks for a label, a stream that is open sees the table of its own class, and is woken."""
    made = plane(service("web"), service("orders"), WEB)
    session = connect(made)
    before = session.view
    labelled = split("orders", v1=100).replace(", subset: v1", "")
    labelled = labelled.replace("http: [{route:", "http: [{match: [{sourceLabels: {version: v1}}], route:")
    woken = made.apply(objects(labelled), at=1.0, now=1.0)

    assert "class/shop/" in before
    assert "class/shop/version=v1" in session.view
    assert session in woken


def test_stranger_costs_no_unit() -> None:
    """A caller without a known Pod shares the view of namespace `default`, however many come (`--insecure`)."""
    made = plane(service("web"), WEB)
    connect(made, None, "1")
    units = made.plan.units
    connect(made, None, "2")

    assert made.plan.units == units


def test_closed_stream_leaves_nothing() -> None:
    """A stream that ends is neither told of its Pod's changes nor remembered."""
    made = plane(service("web"), WEB)
    session = connect(made)
    made.registry.disconnect(session)
    made.close(session)
    woken = made.apply([(Key("Pod", "shop", "web-1"), None)], at=1.0, now=1.0)

    assert woken == set()
    assert made.registry.watched == 0


def test_class_made_for_labels_ends_with_its_last_stream() -> None:
    """Labels of a rollout leave nothing behind: no layer, no unit; and they may come again."""
    labelled = split("orders", v1=100).replace(", subset: v1", "")
    labelled = labelled.replace("http: [{route:", "http: [{match: [{sourceLabels: {version: v1}}], route:")
    made = plane(service("web"), service("orders"), WEB, labelled)
    units = made.plan.units
    first, second = connect(made), connect(made, id="2")
    layer = next(found for found in first.view if found.startswith("class/"))
    opened = made.plan.units
    for session in (first, second):
        made.registry.disconnect(session)
        made.close(session)
    gone = made.snapshot.get(layer, ResourceType.ROUTES, "outbound")
    after = made.plan.units
    again = connect(made, id="3")

    assert layer == "class/shop/version=v1"
    assert opened > units
    assert gone is None
    assert after == units + 1  # the Pod's own, which ends with the Pod
    assert made.snapshot.resolve(again.view, ResourceType.ROUTES, "outbound") is not None


def test_subset_that_only_an_ended_stream_used_is_taken_from_the_others_at_once() -> None:
    """Who is still there hears of it with the end of that stream, not with the next change of the mesh."""
    labelled = split("orders", v1=100).replace("http: [{", "http: [{match: [{sourceLabels: {version: v2}}], ")
    made = plane(
        service("orders"), WEB, pod("web-2", "web", "10.0.0.2", version="v2"), rule("orders", "v1"), labelled
    )
    user = connect(made, replace(CALLER, pod="web-2"), id="2")
    other = connect(made)
    made.apply([(Key("DestinationRule", "shop", "orders"), None)], at=1.0, now=1.0)
    other.poll(1.0)
    made.registry.disconnect(user)

    assert made.close(user, 2.0) == {other}
    assert not other.idle


def test_class_of_a_namespace_outlives_its_streams() -> None:
    """A control plane whose streams all break has the table ready when they come back."""
    made = plane(service("web"), WEB)
    session = connect(made)
    made.registry.disconnect(session)
    made.close(session)

    assert made.snapshot.get("class/shop/", ResourceType.ROUTES, "outbound") is not None


def test_node_says_how_its_traffic_comes() -> None:
    """`INTERCEPTION_MODE: REDIRECT` chooses the transparent form, which needs no address; nothing else does."""
    made = plane(service("web"), WEB)

    assert "transparent/shop/web-1" in intercepted(made).view
    assert not any(layer.startswith(("proxy/", "class/")) for layer in intercepted(made).view)
    assert not any(layer.startswith(("ns/", "mesh")) for layer in covered(intercepted(made).view))
    assert "proxy/shop/web-1" in connect(made).view


@pytest.mark.parametrize(
    ("variant", "release", "own"),
    [
        (Variant.SOTW, (1, 40), "transparent"),
        (Variant.DELTA, (1, 37), "older-transparent"),
        (Variant.DELTA, (1, 35), "older-transparent"),
    ],
)
def test_who_cannot_ask_is_told_of_everything(variant: Variant, release: tuple[int, int], own: str) -> None:
    """An intercepted proxy of the state-of-the-world variant, or from before 1.38, gets what its class sees."""
    made = plane(service("web"), service("orders"), WEB)
    view = intercepted(made, variant=variant, release=release).view
    clusters = made.snapshot.names(covered(view), ResourceType.CLUSTER)

    assert {f"{own}/shop/web-1", "class/shop/", "ns/shop", "mesh"} <= set(view)
    assert "outbound|80||orders.shop.svc.cluster.local" in clusters


@pytest.mark.parametrize("release", [(1, 38), (1, 40), (0, 0)])
def test_who_can_ask_is_told_of_nothing_else(release: tuple[int, int]) -> None:
    """A client that says no version is taken for one of today."""
    made = plane(service("web"), service("orders"), WEB)
    view = intercepted(made, release=release).view

    assert not any(layer.startswith(("ns/", "mesh", "class/")) for layer in covered(view))


def test_interception_widens_nothing_for_a_stranger() -> None:
    """A caller without a Pod has no traffic of its own to intercept: it sees what it would see anyway."""
    made = plane(service("web"), WEB)

    assert intercepted(made, None).view == connect(made, None).view


def test_in_a_cluster_a_pod_older_than_its_label_is_not_meshed() -> None:
    """Injection happens at creation: only the container itself says that a running Pod has a sidecar."""
    batch = list(objects(service("web"), WEB))
    declared, running = ControlPlane(), ControlPlane(sees_sidecars=True)
    for made in (declared, running):
        made.apply(batch, at=0.0, now=0.0)

    assert [made.plan.world.backend(("shop", "web-1")).is_meshed for made in (declared, running)] == [
        True,
        False,
    ]
