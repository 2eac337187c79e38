"""Sessions: what is sent, and when it is not; the other rules of the protocol stand in the files beside this one."""

from tests.fakes.talk import Talk, carried
from xds.events import Limits
from xds.snapshot import ResourceType

CDS = ResourceType.CLUSTER


def test_one_response_in_flight_and_the_latest_wins() -> None:
    """While a response is not answered, changes coalesce to their last version."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    for body in (b"2", b"3", b"4"):
        talk.put(CDS, "a", body=body)
    before = talk.hear()
    talk.ack(said)
    (after,) = talk.hear()

    assert before == []
    assert after.resources == (("a", b"a=4"),)


def test_unchanged_content_is_not_sent_again() -> None:
    """'When to send an update': a change and its undoing cost nothing."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.put(CDS, "a", body=b"2")
    talk.put(CDS, "a")

    assert talk.hear() == []


def test_removal_during_the_flight_is_not_lost() -> None:
    """A resource that is dropped before the client has answered for it is removed afterwards."""
    talk = Talk()
    talk.ask(CDS)
    talk.put(CDS, "a")
    (said,) = talk.hear()
    talk.drop(CDS, "a")
    talk.hear()
    talk.ack(said)

    assert [one.removed for one in talk.hear()] == [("a",)]


def test_forgotten_resource_in_a_rejected_response_is_sent_again() -> None:
    """Unchanged resources of a rejected response are tried alone as well: the client had asked for them."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS, "a", "b")
    talk.settle()
    talk.put(CDS, "a", body=b"bad")
    talk.ask(CDS, "b")
    (said,) = talk.hear()
    talk.nack(said)

    assert sorted(carried(talk.settle())) == [("a",), ("b",)]


def test_large_state_is_cut_into_responses() -> None:
    """A response stays below the size limit; the rest follows after the ACK."""
    talk = Talk(limits=Limits(response_bytes=8))
    talk.put(CDS, "a", "b", "c", body=b"12345")
    talk.ask(CDS)

    assert carried(talk.settle()) == [("a", "b"), ("c",)]


def test_view_change_moves_what_differs() -> None:
    """Another view of the same names sends only the names that mean something else."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.snapshot.put("ns/other", CDS, "a", b"a=other")
    talk.registry.look(talk.session, ("ns/other", "mesh"), 1.0)

    assert [said.resources for said in talk.settle()] == [(("a", b"a=other"),)]
