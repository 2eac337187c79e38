"""Sessions: a NACK, its quarantine and the search for the culprit."""

import pytest

from tests.fakes.talk import Talk, carried, connected
from xds.ledger import Response, State
from xds.snapshot import ResourceType
from xds.subscription import Variant

CDS, RDS = ResourceType.CLUSTER, ResourceType.ROUTES


def test_nack_is_detected_by_error_detail() -> None:
    """'ACK/NACK': the error's presence decides, and Envoy's words stay on the record."""
    talk = Talk()
    talk.put(CDS, "a", cause=("DestinationRule shop/a",))
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    (response,) = talk.nack(said, error="no such filter")
    (row,) = talk.session.rows()

    assert isinstance(response, Response)
    assert (response.state, response.error) == (State.NACKED, "no such filter")
    assert (row.state, row.error, row.cause) == (State.NACKED, "no such filter", ("DestinationRule shop/a",))


def test_rejected_payload_is_not_sent_again() -> None:
    """The same version is quarantined, also when it is put again."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.session.mark(CDS, "a")

    assert talk.hear() == []


@pytest.mark.parametrize("variant", list(Variant))
def test_rejection_ends_with_its_resource(variant: Variant) -> None:
    """What was rejected and is then deleted leaves nothing behind: there is nothing left to mend."""
    talk = Talk(variant)
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    before = [row.state for row in talk.session.rows()]
    talk.drop(CDS, "a")
    talk.settle()

    assert before == [State.NACKED]
    assert list(talk.session.rows()) == []


def test_new_version_of_a_rejected_resource_is_tried() -> None:
    """The fix goes out as soon as it is there, and clears the record."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(CDS, "a", body=b"2")
    tried = talk.settle()

    assert carried(tried) == [("a",)]
    assert [row.state for row in talk.session.rows()] == [State.ACKED]


def test_culprit_is_found_one_by_one() -> None:
    """A rejected response of several resources is sent once more, each alone; only the culprit stays behind."""
    talk = Talk()
    talk.put(CDS, "a", "b", "c")
    talk.ask(CDS)
    (together,) = talk.hear()
    talk.nack(together)
    alone: list[tuple[str, ...]] = []
    while turn := talk.hear():
        (said,) = turn
        alone.append(said.names)
        (talk.nack if said.names == ("b",) else talk.ack)(said)

    assert alone == [("a",), ("b",), ("c",)]
    assert {row.name: row.state for row in talk.session.rows()} == {
        "a": State.ACKED,
        "b": State.NACKED,
        "c": State.ACKED,
    }


def test_search_for_a_culprit_takes_turns_with_changes() -> None:
    """A NACK delays no other resource of its type by more than one response."""
    talk = Talk()
    talk.put(CDS, "a", "b", "c")
    talk.ask(CDS)
    (together,) = talk.hear()
    talk.nack(together)
    talk.put(CDS, "d")

    assert carried(talk.settle()) == [("a",), ("d",), ("b",), ("c",)]


def test_nack_of_one_type_does_not_stop_another() -> None:
    """A quarantined cluster does not hold back endpoints or routes."""
    talk = connected(Talk())
    talk.put(CDS, "c")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(RDS, "outbound")

    assert [one.type_url for one in talk.hear()] == [RDS.url]


def test_resubscribing_to_a_quarantined_resource_gives_the_last_accepted() -> None:
    """The client must be answered, and not with what it rejected."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.put(CDS, "a", body=b"2")
    (said,) = talk.hear()
    talk.nack(said)
    talk.ask(CDS, "a")
    again = talk.settle()
    talk.session.mark(CDS, "a")

    assert [one.resources for one in again] == [(("a", b"a=1"),)]
    assert talk.hear() == []


def test_rejected_removal_is_not_repeated() -> None:
    """A client that refuses to let go is not asked for ever."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS)
    talk.settle()
    talk.drop(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.session.mark(CDS, "a")

    assert talk.hear() == []
