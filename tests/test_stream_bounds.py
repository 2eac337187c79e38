"""Sessions: what a client may not ask for, and how much of everything else."""

import pytest

from tests.fakes.talk import Talk, carried
from xds.events import Close, Denied, Limits, Status, Unknown
from xds.ledger import State
from xds.snapshot import ResourceType
from xds.subscription import Variant

CDS, EDS, SDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.SECRET


def _closes(events: tuple[object, ...]) -> Close:
    (close,) = [event for event in events if isinstance(event, Close)]
    return close


def test_unknown_type_is_answered_with_absence() -> None:
    """A type that the mesh does not serve is no error: its names do not exist."""
    talk = Talk()
    events = talk.ask("type.googleapis.com/example.Thing", "x")

    assert events == (Unknown("type.googleapis.com/example.Thing"),)
    assert [said.removed for said in talk.settle()] == [("x",)]
    assert talk.hear() == []


def test_sotw_unknown_type_is_answered_once_with_nothing() -> None:
    """An empty response ends the client's wait; its NACK does not start a loop."""
    talk = Talk(Variant.SOTW)
    talk.ask("type.googleapis.com/example.Thing", "x")
    (said,) = talk.hear()
    talk.nack(said, "x")

    assert said.names == ()
    assert talk.hear() == []


@pytest.mark.parametrize("request_bytes", [b"\xff\xff\xff", b"\x0a\xff"])
def test_malformed_request_closes_the_stream(request_bytes: bytes) -> None:
    """Bytes that are no request end in INVALID_ARGUMENT."""
    close = _closes(Talk().send(request_bytes))

    assert close.status is Status.INVALID_ARGUMENT


def test_type_is_required_on_an_aggregated_stream() -> None:
    """Without a type URL nothing can be meant."""
    close = _closes(Talk().ask(""))

    assert close.status is Status.INVALID_ARGUMENT


def test_type_may_be_omitted_on_a_single_type_stream() -> None:
    """The service says which type it is."""
    talk = Talk(only=EDS)
    talk.put(EDS, "a")
    talk.ask("", "a")

    assert carried(talk.hear()) == [("a",)]


def test_other_type_on_a_single_type_stream_closes_it() -> None:
    """An EDS stream serves endpoints only."""
    close = _closes(Talk(only=EDS).ask(CDS))

    assert close.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("variant", Variant)
def test_too_many_names_close_the_stream(variant: Variant) -> None:
    """A hostile client costs bounded memory, and the text tells nothing of the mesh."""
    talk = Talk(variant, limits=Limits(names_per_request=2, names_per_stream=3))
    close = _closes(talk.ask(EDS, "a", "b", "c"))

    assert close == Close(Status.PERMISSION_DENIED, "too many resources are subscribed")


def test_names_are_counted_over_the_stream() -> None:
    """Many small requests are bounded like one large one."""
    talk = Talk(limits=Limits(names_per_request=2, names_per_stream=3))
    talk.ask(EDS, "a", "b")
    close = _closes(talk.ask(EDS, "c", "d"))

    assert close.status is Status.PERMISSION_DENIED


def test_too_many_types_close_the_stream() -> None:
    """Type URLs that the mesh does not know are bounded as well."""
    talk = Talk(limits=Limits(types_per_stream=1))
    talk.ask("a.example/A")
    close = _closes(talk.ask("a.example/B"))

    assert close.status is Status.PERMISSION_DENIED


def test_oversized_request_closes_the_stream() -> None:
    """A request is not even parsed above the limit."""
    close = _closes(Talk(limits=Limits(request_bytes=10)).ask(CDS, "a"))

    assert close.status is Status.RESOURCE_EXHAUSTED


def test_denied_name_is_absent() -> None:
    """A name that the identity may not have looks like one that does not exist, and stands on the ledger."""
    talk = Talk(rule_of=lambda _kind: lambda name: name != "a")
    talk.put(CDS, "a")
    events = talk.ask(CDS, "a")
    (said,) = talk.settle()

    assert Denied(CDS, "a") in events
    assert (said.names, said.removed) == ((), ("a",))
    assert [row.state for row in talk.session.rows()] == [State.DENIED]


def test_denied_name_is_not_part_of_a_wildcard() -> None:
    """Authorization comes before every lookup, not only for explicit names."""
    talk = Talk(rule_of=lambda _kind: lambda name: name != "a")
    talk.put(CDS, "a", "b")
    talk.ask(CDS)

    assert carried(talk.hear()) == [("b",)]


def test_secret_of_another_closes_the_stream() -> None:
    """Asking for a key that belongs to somebody else is no configuration error (CVE-2021-34824)."""
    talk = Talk(rule_of=lambda _kind: lambda name: name == "default")
    close = _closes(talk.ask(SDS, "other"))

    assert close == Close(Status.PERMISSION_DENIED, "not authorized")


def test_secret_issued_with_the_claimed_version_is_not_sent() -> None:
    """The key is made when it is asked for; if its version is the claimed one, nothing moves."""
    talk = Talk()
    talk.ask(SDS, "default", versions={"default": "v1"})
    claimed = talk.session.claimed(SDS, "default")
    talk.snapshot.put("stream/1", SDS, "default", b"key", version="v1")

    assert claimed == "v1"
    assert talk.hear() == []
    assert talk.session.accepted(SDS, "default") == "v1"


def test_node_is_read_from_the_first_request_only() -> None:
    """'Basic Protocol Overview': a later request may carry none."""
    talk = Talk()
    talk.ask(CDS)
    talk.ask(EDS, "a")

    assert talk.session.proxy == "web.shop"


@pytest.mark.parametrize("variant", list(Variant))
def test_denied_name_is_forgotten_when_it_is_dropped(variant: Variant) -> None:
    """Who asks for one forbidden name after another, and drops each, leaves nothing behind."""
    talk = Talk(variant, rule_of=lambda _kind: lambda name: not name.startswith("a"))
    for turn in range(3):
        if variant is Variant.DELTA:
            talk.ask(EDS, f"a{turn}", drop=[f"a{turn - 1}"])
        else:
            talk.ask(EDS, f"a{turn}")
    talk.settle(*(["a2"] if variant is Variant.SOTW else []))

    assert [(row.name, row.state) for row in talk.session.rows()] == [("a2", State.DENIED)]
