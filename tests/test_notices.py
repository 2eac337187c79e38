"""What becomes an Event: said once, counted, bounded, and on the object that it is about.

Owns the facts about xds.notices and the queue of xds.kube.events; it must never open a socket.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.answers import Answers, Asked
from xds import settings
from xds.api.manifest import BUILT_IN, CUSTOM
from xds.fields import Problem, Severity
from xds.kube.events import Events, plural
from xds.notices import Correlator, Notice, Reference, blamed, document, reference, shorten
from xds.sources.transport import ApiError

ORDERS = Reference("VirtualService", "shop", "orders")
NOTICE = Notice(ORDERS, "Refused", "spec.http[0]: must be else")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("VirtualService shop/orders", ORDERS),
        ("VirtualService shop/orders http[0]", ORDERS),
        ("Namespace shop", Reference("Namespace", "", "shop")),
        ("root abcdef0123456789", Reference("root", "", "abcdef0123456789")),
        ("", None),
        ("VirtualService", None),
        ("VirtualService shop/", None),
        ("a/b shop/orders", None),
        ("VirtualService a/b/c", None),
    ],
)
def test_the_object_is_what_a_subject_begins_with(text: str, found: Reference | None) -> None:
    """Problems' subjects and resources' causes have one form."""
    assert reference(text) == found


def test_a_thing_is_said_once_and_then_counted() -> None:
    """The count is written at most once a minute, whatever happens in between."""
    book = Correlator()
    said = [book.take(NOTICE, now) for now in (0.0, 1.0, 2.0, 30.0, 61.0, 62.0, 122.0)]

    assert [saying and saying.count for saying in said] == [1, None, None, None, 5, None, 7]
    assert len({saying.event for saying in said if saying}) == 1


def test_after_ten_silent_minutes_it_is_news_again() -> None:
    """A new Event, of another name."""
    book = Correlator()
    first = book.take(NOTICE, 0.0)
    again = book.take(NOTICE, settings.EVENT_SERIES_S + 1)

    assert first is not None
    assert again is not None
    assert again.count == 1
    assert first.event != again.event


def test_one_object_is_not_talked_about_without_end() -> None:
    """Twenty-five things at once, then one in five minutes; other objects have their own share."""
    book = Correlator()
    notices = [Notice(ORDERS, "Rejected", str(number)) for number in range(100)]

    assert sum(book.take(notice, 0.0) is not None for notice in notices) == settings.EVENT_BURST
    assert book.take(Notice(ORDERS, "Rejected", "later"), settings.EVENT_REFILL_S + 1) is not None
    assert book.take(Notice(ORDERS._replace(name="other"), "Rejected", "x"), 0.0) is not None


def test_what_is_remembered_is_bounded() -> None:
    """The oldest is forgotten first."""
    book = Correlator(kept=10)
    for number in range(100):
        book.take(Notice(ORDERS._replace(name=str(number)), "Refused", "x"), float(number))

    assert len(book) == 10


def test_only_what_envoy_names_is_blamed() -> None:
    """One bad route in a response of many: the owners of the others are left alone."""
    causes = {
        "80": ("VirtualService shop/orders http[0]", "Service shop/orders"),
        "9090": ("Service shop/stock",),
    }

    assert blamed(causes, "bad regex in 9090") == (Reference("Service", "shop", "stock"),)
    assert blamed(causes, "out of memory") == ()
    assert blamed({"80": causes["80"]}, "no name") == (ORDERS, Reference("Service", "shop", "orders"))


@given(st.text(max_size=3000))
def test_a_note_fits_the_api(text: str) -> None:
    """At most a kilobyte, and nothing that forges a terminal's lines."""
    note = shorten(text)

    assert len(note.encode()) <= settings.EVENT_NOTE_MAX_BYTES
    assert all(char.isprintable() or char == "\n" for char in note)


def test_an_event_of_an_object_without_namespace_is_in_default() -> None:
    """The API demands it."""
    saying = Correlator().take(Notice(Reference("Namespace", "", "shop"), "Refused", "x"), 0.0)
    assert saying is not None
    metadata = cast("dict[str, str]", document(saying, controller="c", instance="i", stamp="t")["metadata"])

    assert metadata["namespace"] == "default"


@pytest.mark.parametrize(
    ("kind", "resource"),
    [("Service", "services"), ("ServiceEntry", "serviceentries"), ("EndpointSlice", "endpointslices"),
     ("PeerAuthentication", "peerauthentications"), ("ServiceCIDR", "servicecidrs")],
)  # fmt: skip
def test_resources_have_the_names_of_kubernetes_and_istio(kind: str, resource: str) -> None:
    """Each of these is a path of the API; all our kinds follow the same two rules."""
    assert plural(kind) == resource
    assert kind in BUILT_IN or kind in CUSTOM


# --- the queue and its writer ---------------------------------------------------------------------


class Api:
    """An apiserver that knows one VirtualService, and events that a test reads."""

    def __init__(self) -> None:
        self.refuses = False
        self.answers = Answers(self._answer)
        self.seconds = 0.0
        self.events = Events(self.answers, "proa-0", clock=lambda: self.seconds)

    def _answer(self, asked: Asked) -> bytes | ApiError:
        if asked.method == "GET":
            return json.dumps({"items": [{"metadata": {"uid": "u-1"}}]}).encode()
        return ApiError(403, "Forbidden", "no") if self.refuses else b"{}"

    @property
    def written(self) -> list[Any]:
        """The Events and counts that were written."""
        return [asked.body for asked in self.answers.asked if asked.method != "GET"]

    async def settle(self, answers: int) -> None:
        """Let the writer take everything, until this many requests were made."""
        running = asyncio.create_task(self.events.run())
        async with asyncio.timeout(5):
            while len(self.answers.asked) < answers:  # noqa: ASYNC110  # a fake's
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def problem(reason: str = "must be else", severity: Severity = Severity.ERROR) -> Problem:
    """A problem of one VirtualService."""
    return Problem(severity, "VirtualService shop/orders", "spec.http[0]", reason)


async def test_the_leader_says_problems_with_the_objects_uid() -> None:
    """Without it `kubectl describe` would not show them."""
    api = Api()
    api.events.problems([problem(), problem(severity=Severity.INFO)], leads=True)
    await api.settle(2)
    (event,) = api.written

    assert event["note"] == "spec.http[0]: must be else"
    assert event["regarding"] == {
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "namespace": "shop", "name": "orders",
        "uid": "u-1",
    }  # fmt: skip


async def test_who_does_not_lead_says_no_problem_and_says_all_when_it_does() -> None:
    """Three replicas say one thing once; the next leader repeats what stands."""
    api = Api()
    api.events.problems([problem()], leads=False)
    api.events.problems([problem()], leads=True)
    api.events.problems([problem()], leads=True)
    await api.settle(2)

    assert len(api.written) == 1


async def test_a_problem_that_stays_is_said_again_within_the_hour() -> None:
    """The apiserver forgets Events after an hour."""
    api = Api()
    api.events.problems([problem()], leads=True)
    api.seconds = settings.EVENT_REPEAT_S + 1
    api.events.problems([problem()], leads=True)

    assert api.events.waiting == 2


async def test_a_full_queue_drops_and_counts() -> None:
    """Nobody waits for an Event."""
    api = Api()
    for number in range(settings.EVENT_QUEUE + 10):
        api.events.say(Notice(ORDERS._replace(name=str(number)), "Refused", "x"))

    assert api.events.counters["events_dropped"] == 10


async def test_an_event_that_could_not_be_written_is_new_the_next_time() -> None:
    """No rights, an outage: counted, and no series of something that is not there."""
    api = Api()
    api.refuses = True
    api.events.say(NOTICE)
    await api.settle(2)
    api.refuses = False
    api.events.say(NOTICE)
    await api.settle(4)

    assert api.events.counters["events_failed"] == 1
    assert [asked.method for asked in api.answers.asked] == ["GET", "POST", "GET", "POST"]
