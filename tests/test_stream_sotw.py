"""Sessions in state of the world; section titles are those of Envoy's xds_protocol document."""

import pytest

from tests.fakes.talk import Said, Talk, carried
from xds.events import Stale
from xds.ledger import State
from xds.snapshot import ResourceType
from xds.subscription import Variant

CDS, EDS, LDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.LISTENER
RDS = ResourceType.ROUTES
SOTW = Variant.SOTW


def test_sotw_clusters_are_complete() -> None:
    """'Grouping Resources into Responses': one change sends all clusters."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a", body=b"2")

    assert [said.resources for said in talk.hear()] == [(("a", b"a=2"), ("b", b"b=1"))]


def test_sotw_endpoints_are_not_complete() -> None:
    """Other types are grouped as in the incremental variant."""
    talk = Talk(SOTW)
    talk.put(EDS, "a", "b")
    talk.ask(EDS, "a", "b")
    talk.settle("a", "b")
    talk.put(EDS, "a", body=b"2")

    assert carried(talk.hear()) == [("a",)]


def test_sotw_removal_is_a_response_without_the_resource() -> None:
    """'Deleting Resources': absence deletes."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.drop(CDS, "a")

    assert carried(talk.hear()) == [("b",)]


def test_sotw_removed_cluster_stays_until_the_route_is_accepted() -> None:
    """Make before break: the old cluster is part of the complete state until its own step."""
    talk = Talk(SOTW)
    talk.put(CDS, "old")
    talk.ask(CDS)
    (said,) = talk.hear()
    talk.ack(said)
    talk.put(RDS, "outbound")
    talk.ask(RDS, "outbound")
    (said,) = talk.hear()
    talk.ack(said, "outbound")
    talk.put(CDS, "new")
    talk.put(RDS, "outbound", body=b"2")
    talk.drop(CDS, "old")
    order: list[tuple[str, tuple[str, ...]]] = []
    while turn := talk.hear():
        for said in turn:
            order.append((said.type_url, said.names))
            talk.ack(said, *(("outbound",) if said.type_url == RDS.url else ()))

    assert order == [(CDS.url, ("old", "new")), (RDS.url, ("outbound",)), (CDS.url, ("new",))]


def test_sotw_first_response_is_sent_even_if_empty() -> None:
    """An empty state is a state: Envoy's initialisation waits for it."""
    talk = Talk(SOTW)
    talk.ask(LDS)

    assert carried(talk.hear()) == [()]


def test_sotw_stale_nonce_is_ignored() -> None:
    """'Resource updates': a request with a stale nonce gets no response and changes nothing."""
    talk = Talk(SOTW)
    talk.put(EDS, "a", "b")
    talk.ask(EDS, "a")
    (said,) = talk.hear()
    events = talk.ask(EDS, "a", "b", nonce="no such nonce")
    talk.ack(said, "a")

    assert events == (Stale(EDS.url, "no such nonce"),)
    assert talk.hear() == []


def test_sotw_names_removed_and_added_are_sent_again() -> None:
    """'How the client specifies …': "the server must resend any newly requested resources"."""
    talk = Talk(SOTW)
    talk.put(EDS, "a")
    talk.ask(EDS, "a")
    (said,) = talk.hear()
    talk.ack(said, "a")
    talk.ask(EDS, nonce=said.nonce)
    talk.ask(EDS, "a", nonce=said.nonce)

    assert carried(talk.hear()) == [("a",)]


def test_sotw_empty_list_after_a_name_unsubscribes() -> None:
    """The same request that opened the wildcard closes everything once a name was given."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.ask(CDS, "a", nonce="1")
    talk.ask(CDS, nonce="1")
    talk.put(CDS, "a", "b", body=b"2")

    assert talk.hear() == []


def test_sotw_unchanged_wildcard_reconnect_carries_nothing() -> None:
    """The version_info of the complete state is equal on every stream and replica."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    (said,) = talk.hear()
    talk.ack(said)
    talk.connect("2")
    talk.ask(CDS, version=said.version)

    assert talk.hear() == []


def _reconnected(*names: str) -> tuple[Talk, Said]:
    """Return a SotW client that holds an older state of clusters, and the first response that it hears."""
    talk = Talk(SOTW)
    talk.put(CDS, *names)
    talk.ask(CDS, version="of an earlier stream")
    (said,) = talk.hear()
    return talk, said


def test_sotw_reconnect_is_never_told_a_part() -> None:
    """When the first state is rejected, a smaller one would delete what the client holds: it keeps that."""
    talk, said = _reconnected("a", "b")
    talk.nack(said)

    assert talk.hear() == []
    assert [row.state for row in talk.session.rows()] == [State.NACKED, State.NACKED]


@pytest.mark.parametrize("changed", ["a", "c"])
def test_sotw_reconnect_is_told_the_whole_again(changed: str) -> None:
    """A change after the rejection brings the complete state, not the changed resource alone."""
    talk, said = _reconnected("a", "b")
    talk.nack(said)
    talk.put(CDS, changed, body=b"2")
    (again,) = talk.hear()
    talk.ack(again)
    talk.put(CDS, "b", body=b"3")

    assert set(again.names) == {"a", "b", changed}
    assert [set(one.names) for one in talk.hear()] == [{"a", "b", changed}]


@pytest.mark.parametrize("left", [("b",), ()])
def test_sotw_reconnect_loses_a_rejected_resource_with_its_object(left: tuple[str, ...]) -> None:
    """When the culprit is deleted, the complete state without it follows; also if nothing is left."""
    talk, said = _reconnected("a", *left)
    talk.nack(said)
    talk.drop(CDS, "a")

    assert carried(talk.hear()) == [left]


def test_sotw_reconnect_gets_the_rest_when_it_gives_the_culprit_up() -> None:
    """What it rejected was one state, and what it asks for now is another."""
    talk, said = _reconnected("a", "b")
    talk.nack(said, "a")

    assert carried(talk.hear()) == [("a",)]


def test_sotw_reconnect_is_never_told_an_empty_state_for_asking_anew() -> None:
    """By name it asks for what it has rejected as a whole: there is no news, and nothing would delete all it holds."""
    talk, said = _reconnected("a", "b")
    talk.nack(said, "a", "b")

    assert talk.hear() == []


def test_sotw_first_request_with_a_foreign_nonce_is_answered() -> None:
    """A nonce belongs to its stream: that of an earlier one does not make the first request stale."""
    talk = Talk(SOTW)
    talk.put(CDS, "a")
    talk.ask(CDS, nonce="of an earlier stream")

    assert carried(talk.hear()) == [("a",)]


def test_sotw_culprit_is_tried_beside_the_accepted_set() -> None:
    """Each candidate alone is added to what was accepted, so that nothing is deleted on the way."""
    talk = Talk(SOTW)
    talk.put(CDS, "a")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "b", "c")
    (together,) = talk.hear()
    talk.nack(together)
    states: list[tuple[str, ...]] = []
    while turn := talk.hear():
        (said,) = turn
        states.append(said.names)
        (talk.nack if "b" in said.names else talk.ack)(said)

    assert states == [("a", "b"), ("a", "c")]


def test_sotw_quarantined_cluster_keeps_its_accepted_version() -> None:
    """A complete response carries the last accepted version of what was rejected."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a", body=b"bad")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(CDS, "b", body=b"2")

    assert [one.resources for one in talk.hear()] == [(("a", b"a=1"), ("b", b"b=2"))]
