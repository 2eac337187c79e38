"""Sessions: make before break; quotes and section titles are those of Envoy's xds_protocol document."""

import pytest

from tests.fakes.talk import Talk, connected
from xds.snapshot import ResourceType
from xds.subscription import Variant

CDS, EDS, LDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.LISTENER
RDS, SDS = ResourceType.ROUTES, ResourceType.SECRET


def test_route_waits_for_its_cluster() -> None:
    """'Eventual consistency considerations': a route is withheld until the proxy has ACKed the cluster."""
    talk = connected(Talk())
    talk.put(RDS, "outbound")
    talk.put(CDS, "a")
    cluster, endpoints = talk.hear()
    talk.ack(endpoints)
    waiting = talk.hear()
    talk.ack(cluster)

    assert (cluster.type_url, endpoints.type_url) == (CDS.url, EDS.url)
    assert waiting == []
    assert [said.type_url for said in talk.hear()] == [RDS.url]


def test_removals_come_last_and_referrers_first() -> None:
    """New paths up, then listener, route, cluster and endpoints down, each after the ACK of what is above."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    talk.put(LDS, "outbound")
    talk.put(RDS, "outbound")
    connected(talk)
    talk.drop(EDS, "a")
    talk.drop(CDS, "a")
    talk.drop(RDS, "outbound")
    talk.drop(LDS, "outbound")
    talk.put(CDS, "c")
    said = [(one.type_url, one.names, one.removed) for one in talk.settle()]

    assert said == [
        (CDS.url, ("c",), ()),
        (LDS.url, (), ("outbound",)),
        (RDS.url, (), ("outbound",)),
        (CDS.url, (), ("a",)),
        (EDS.url, (), ("a",)),
    ]


def test_isolated_endpoint_change_goes_out_at_once() -> None:
    """EDS does not wait for other clusters, nor for the ACK of its own, which Envoy gives once it is warm."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    connected(talk)
    talk.put(CDS, "c")
    (cluster,) = talk.hear()
    talk.put(EDS, "a", body=b"2")

    assert cluster.names == ("c",)
    assert [(said.type_url, said.names) for said in talk.hear()] == [(EDS.url, ("a",))]


def test_endpoints_wait_until_their_cluster_is_written() -> None:
    """EDS of a changed cluster comes after that cluster on the wire."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    connected(talk)
    talk.put(CDS, "c")
    (before,) = talk.hear()
    talk.put(EDS, "b", body=b"2")
    talk.put(CDS, "b", body=b"2")
    waiting = talk.hear()
    talk.ack(before)

    assert waiting == []
    assert [(said.type_url, said.names) for said in talk.hear()] == [(CDS.url, ("b",)), (EDS.url, ("b",))]


@pytest.mark.parametrize("variant", Variant)
def test_endpoints_are_sent_again_after_their_cluster(variant: Variant) -> None:
    """'Resource warming': unchanged endpoints follow each change of their cluster, or Envoy waits 15 s."""
    talk = Talk(variant)
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    talk.ask(CDS)
    for said in talk.hear():
        talk.ack(said)
    talk.ask(EDS, "a", "b")
    for said in talk.hear():
        talk.ack(said, *(("a", "b") if variant is Variant.SOTW else ()))
    talk.put(CDS, "b", body=b"2")
    cluster, endpoints = talk.hear()

    assert cluster.type_url == CDS.url
    assert (endpoints.type_url, endpoints.names) == (EDS.url, ("b",))


def test_secret_is_not_delayed_by_a_busy_cluster() -> None:
    """A renewed certificate goes out while CDS waits for its ACK."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.put(SDS, "default")
    talk.ask(CDS)
    talk.ask(SDS, "default")

    assert [said.type_url for said in talk.hear()] == [CDS.url, SDS.url]
