"""What a reflector does next: client-go's numbers and the API's promises, one fact each, without a socket."""

from __future__ import annotations

import json

import pytest

from tests.fakes.apiserver import Collection, Revisions, error_line
from xds import settings
from xds.sources.envelope import DEPTH_MAX, Event, Name, open_line, shallow
from xds.sources.reflector import Backoff, Gone, ListPage, Phase, Put, Reflector, Wait, Watch
from xds.sources.transport import NO_ANSWER, TOO_LARGE, ApiError

REFUSED = ApiError(NO_ANSWER, "ClientConnectorError", "refused")
GONE = ApiError(410, "Expired", "too old resource version")
A, B, C = Name("shop", "a"), Name("shop", "b"), Name("shop", "c")


@pytest.fixture
def server() -> Collection:
    """Return a kind with two objects."""
    found = Collection("Thing", "v1", Revisions())
    found.put(A)
    found.put(B)
    return found


def listed(server: Collection, *, random: float = 0.0) -> Reflector:
    """Return a reflector that has read a complete list, at time 0."""
    reflector = Reflector(lambda: random)
    reflector.page(server.page({}), 0.0)
    return reflector


def changes(reflector: Reflector, lines: list[bytes]) -> list[object]:
    """Return what lines change, as names."""
    found = [delta for line in lines for delta in reflector.line(line, 0.0)]
    return [("put", d.name.name) if isinstance(d, Put) else ("gone", d.name.name) for d in found]


# -- Lists -----------------------------------------------------------------------------------------


def test_the_first_list_asks_for_a_page_without_a_version() -> None:
    """Only a list without resourceVersion is never older than what was known before."""
    assert ListPage("", settings.KUBE_PAGE_ITEMS) == Reflector(lambda: 0.0).next(0.0)
    assert ListPage("", 250).query == {"limit": "250"}


def test_pages_follow_their_token(server: Collection) -> None:
    """And only the last one makes a list complete."""
    reflector = Reflector(lambda: 0.0)
    first = reflector.page(server.page({"limit": "1"}), 0.0)
    action = reflector.next(0.0)
    assert isinstance(action, ListPage)
    assert ([d.name for d in first], reflector.is_synced, action.token) == ([A], False, "102/1")
    reflector.page(server.page({"limit": "1", "continue": action.token}), 0.0)

    assert reflector.is_synced
    assert isinstance(reflector.next(0.0), Watch)


def test_a_page_that_fails_is_asked_for_again(server: Collection) -> None:
    """Its token is good for minutes: what was read is not read twice, and nothing is taken for gone."""
    reflector = Reflector(lambda: 0.0)
    reflector.page(server.page({"limit": "1"}), 0.0)
    reflector.failed(REFUSED, 0.0)
    action = reflector.next(100.0)

    assert isinstance(action, ListPage)
    assert action.token


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_token_that_is_refused_begins_the_list_again(server: Collection, status: int) -> None:
    """And what the interrupted list had seen counts no more."""
    reflector = listed(server)
    reflector.failed(GONE, 0.0)
    reflector.page(server.page({"limit": "1"}), 10.0)
    reflector.failed(ApiError(status, "Expired", ""), 10.0)
    server.delete(A)

    assert reflector.next(100.0) == ListPage("", settings.KUBE_PAGE_ITEMS)
    assert reflector.page(server.page({}), 100.0) == (Gone(A),)


def test_a_page_that_is_too_large_is_asked_for_in_smaller_numbers() -> None:
    """Down to one object, which etcd bounds."""
    reflector = Reflector(lambda: 0.0)
    limits: list[int] = []
    for turn in range(6):
        action = reflector.next(1000.0 * turn)
        assert isinstance(action, ListPage)
        limits.append(action.limit)
        reflector.failed(ApiError(NO_ANSWER, TOO_LARGE, "more than 64 MiB"), 1000.0 * turn)

    assert limits == [250, 62, 15, 3, 1, 1]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"items": []}', b'{"metadata": {"resourceVersion": "x"}}']
)
def test_a_body_that_is_no_list_is_a_failure(body: bytes) -> None:
    """It is not synced, and asked for again after a wait."""
    reflector = Reflector(lambda: 0.0)

    assert reflector.page(body, 0.0) == ()
    assert (reflector.is_synced, bool(reflector.failure)) == (False, True)
    assert isinstance(reflector.next(0.0), Wait)


def test_an_empty_list_is_complete() -> None:
    """Also where Go writes null for no items."""
    reflector = Reflector(lambda: 0.0)
    reflector.page(b'{"metadata": {"resourceVersion": "5"}, "items": null}', 0.0)

    assert reflector.is_synced


def test_a_second_list_tells_only_what_differs(server: Collection) -> None:
    """An object of the same version is not read again; one that is missing is gone."""
    reflector = listed(server)
    reflector.failed(GONE, 0.0)
    server.delete(A)
    server.put(C)
    deltas = reflector.page(server.page({}), 10.0)

    assert [(type(d), d.name) for d in deltas] == [(Put, C), (Gone, A)]


def test_a_list_of_an_older_revision_tells_everything(server: Collection) -> None:
    """An API restored from a backup gives old numbers to new objects: nothing can be compared."""
    reflector = listed(server)
    reflector.failed(GONE, 0.0)
    restored = Collection("Thing", "v1", Revisions(start=100))
    restored.put(A)
    deltas = reflector.page(restored.page({}), 10.0)

    assert [(type(d), d.name) for d in deltas] == [(Put, A), (Gone, B)]


def test_objects_that_an_earlier_reflector_knew_are_gone_when_the_list_lacks_them(server: Collection) -> None:
    """A kind that is followed in another version loses nothing and keeps nothing."""
    reflector = Reflector(lambda: 0.0, known=(A, C))
    deltas = reflector.page(server.page({}), 0.0)

    assert [(type(d), d.name) for d in deltas] == [(Put, A), (Put, B), (Gone, C)]


# -- Watches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("random", "timeout_s"), [(0.0, 20), (0.5, 25), (0.999, 30)])
def test_a_watch_begins_where_the_list_ended(server: Collection, random: float, timeout_s: int) -> None:
    """For a time between the two bounds, with bookmarks."""
    action = listed(server, random=random).next(0.0)

    assert action == Watch(102, timeout_s)
    assert isinstance(action, Watch)
    assert action.query == {
        "watch": "1",
        "resourceVersion": "102",
        "timeoutSeconds": str(timeout_s),
        "allowWatchBookmarks": "true",
    }


def test_a_half_open_connection_is_noticed_within_45_seconds() -> None:
    """The longest watch and its margin, and the wait for a page."""
    assert settings.KUBE_WATCH_MAX_S + settings.KUBE_WATCH_MARGIN_S <= 45
    assert settings.KUBE_LIST_TIMEOUT_S <= 45


def test_events_are_told_once(server: Collection) -> None:
    """A duplicate changes nothing."""
    reflector = listed(server)
    server.put(A)
    server.put(C)
    server.delete(B)

    assert changes(reflector, server.lines(102) * 2) == [("put", "a"), ("put", "c"), ("gone", "b")]


def test_a_late_event_does_not_bring_a_deleted_object_back(server: Collection) -> None:
    """Deletions are remembered as long as older events may come."""
    reflector = listed(server)
    server.put(A)
    server.delete(A)
    update, deletion = server.lines(102)

    assert changes(reflector, [deletion, update]) == [("gone", "a")]


def test_a_late_deletion_does_not_take_the_next_object_of_that_name(server: Collection) -> None:
    """What was created after it stays."""
    reflector = listed(server)
    server.delete(A)
    server.put(A)
    deletion, creation = server.lines(102)

    assert changes(reflector, [creation, deletion]) == [("put", "a")]


def test_a_bookmark_moves_the_next_watch_on(server: Collection) -> None:
    """So that an idle kind need not be listed again when history is compacted."""
    reflector = listed(server)
    server.revisions.now = 500
    changes(reflector, [server.bookmark()])
    action = reflector.next(0.0)

    assert isinstance(action, Watch)
    assert action.resource_version == 500


def test_a_watch_that_ends_is_opened_again_where_it_was(server: Collection) -> None:
    """At once, and without a list."""
    reflector = listed(server)
    reflector.next(0.0)
    server.put(C)
    changes(reflector, server.lines(102))
    reflector.ended(20.0)
    action = reflector.next(20.0)

    assert isinstance(action, Watch)
    assert action.resource_version == 103


def test_a_watch_that_ends_at_once_is_not_hammered(server: Collection) -> None:
    """Client-go's very short watch."""
    reflector = listed(server)
    reflector.next(0.0)
    reflector.ended(0.5)

    assert isinstance(reflector.next(0.5), Wait)


@pytest.mark.parametrize("status", [0, 401, 403, 404, 408, 429, 500, 503, 504])
def test_failures_that_say_nothing_of_the_version_keep_it(server: Collection, status: int) -> None:
    """A refused, broken or overloaded watch goes on where it was; its objects stay."""
    reflector = listed(server)
    reflector.failed(ApiError(status, "", ""), 0.0)

    assert isinstance(reflector.next(100.0), Watch)
    assert reflector.names() == (A, B)


@pytest.mark.parametrize(
    "error",
    [
        GONE,
        ApiError(400, "BadRequest", ""),
        ApiError(504, "Timeout", "Too large resource version: 9, current: 1"),
    ],
)
def test_failures_of_the_version_list_again(server: Collection, error: ApiError) -> None:
    """And only a complete list takes anything out."""
    reflector = listed(server)
    reflector.failed(error, 0.0)

    assert isinstance(reflector.next(100.0), ListPage)
    assert reflector.names() == (A, B)


@pytest.mark.parametrize(
    ("code", "phase"), [(410, Phase.LISTING), (500, Phase.WATCHING), (0, Phase.WATCHING)]
)
def test_an_error_event_is_a_failure_of_its_code(server: Collection, code: int, phase: Phase) -> None:
    """It comes in a watch that was answered with 200."""
    reflector = listed(server)
    reflector.line(error_line(code, "Reason", "words"), 0.0)

    assert (reflector.phase, reflector.failure.endswith("Reason: words")) == (phase, True)


def test_an_expired_version_is_listed_at_once(server: Collection) -> None:
    """A restarted apiserver expires every kind, and recovery has 5 s; who expires the next watch too must wait."""
    reflector = listed(server, random=0.5)
    reflector.failed(GONE, 1.0)
    first = reflector.next(1.0)
    reflector.page(server.page({}), 2.0)
    reflector.opened()
    reflector.failed(GONE, 3.0)

    assert (first, reflector.next(3.0)) == (Wait(1.25), Wait(4.2))


def test_retry_after_is_honoured_without_a_list(server: Collection) -> None:
    """What the server asks for, and a moment that keeps the kinds apart."""
    reflector = listed(server, random=0.25)
    reflector.failed(ApiError(429, "TooManyRequests", "", 7.0), 0.0)

    assert reflector.next(0.0) == Wait(7.25)
    assert isinstance(reflector.next(8.0), Watch)


def test_a_server_cannot_ask_for_a_day(server: Collection) -> None:
    """The wait is bounded."""
    reflector = listed(server)
    reflector.line(error_line(429, retry_after_s=86_400), 0.0)

    assert reflector.next(0.0) == Wait(settings.KUBE_RETRY_AFTER_MAX_S)


@pytest.mark.parametrize(
    "line", [b"{", b'{"type": "ADDED"}', b'{"type": "MOVED", "object": {"metadata": {}}}']
)
def test_a_line_that_is_no_event_breaks_the_watch(server: Collection, line: bytes) -> None:
    """It goes on behind the last good event."""
    reflector = listed(server)

    assert reflector.line(line, 0.0) == ()
    assert reflector.failure
    assert isinstance(reflector.next(100.0), Watch)


def test_an_object_of_absurd_depth_does_not_stop_the_watch() -> None:
    """It is told without its depths, so that whoever reads it can name it."""
    deep = "[" * 9000 + "]" * 9000
    text = f'{{"type": "ADDED", "object": {{"spec": {deep}, "metadata": {{"name": "a", "resourceVersion": "9"}}}}}}'
    event = open_line(text.encode())

    assert isinstance(event, Event)
    assert event.item.name == Name("", "a")


def test_text_that_looks_deep_is_left_alone() -> None:
    """Brackets and quotes within strings do not count."""
    text = json.dumps({"a": ["[" * 500 + '"\\' * 500], "b": {}}).encode()

    assert shallow(text) == text
    assert (
        shallow(b"[" * (DEPTH_MAX + 5) + b"]" * (DEPTH_MAX + 5))
        == b"[" * DEPTH_MAX + b"null" + b"]" * DEPTH_MAX
    )


# -- Waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("random", "waits"), [(0.0, [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]), (0.5, [1.2, 2.4])]
)
def test_waits_are_client_gos(random: float, waits: list[float]) -> None:
    """0.8 s doubling to 30 s, each longer by up to itself."""
    backoff = Backoff(lambda: random)

    assert [pytest.approx(backoff.next_s(float(now))) for now in range(len(waits))] == waits


def test_waits_are_forgotten_after_two_minutes() -> None:
    """Counted from the last failure."""
    backoff = Backoff(lambda: 0.0)
    first = [backoff.next_s(0.0), backoff.next_s(100.0), backoff.next_s(220.0)]

    assert [*first, backoff.next_s(341.0)] == pytest.approx([0.8, 1.6, 3.2, 0.8])


def test_an_api_that_answers_again_ends_the_wait(server: Collection) -> None:
    """Recovery does not wait for a backoff of a minute; the next failure waits shortly again."""
    reflector = listed(server, random=0.9)
    for now in range(0, 400, 60):
        reflector.next(float(now))
        reflector.failed(REFUSED, float(now))

    assert reflector.reachable(361.0)
    assert reflector.next(361.0) == Wait(361.0 + 0.9 * settings.KUBE_RETURN_SPREAD_S)
    assert isinstance(reflector.next(362.0), Watch)
    assert not reflector.reachable(362.0)


def test_a_watch_that_is_open_has_not_failed(server: Collection) -> None:
    """An idle kind has no line for half a minute, and is followed all the same."""
    reflector = listed(server)
    reflector.failed(REFUSED, 0.0)
    reflector.next(100.0)
    reflector.opened()

    assert (reflector.failure, reflector.is_cut_off) == ("", False)


def test_a_refusal_is_waited_out_although_the_api_answers(server: Collection) -> None:
    """Who has no right, or asks too often, gains nothing by asking sooner."""
    reflector = listed(server)
    reflector.failed(ApiError(403, "Forbidden", ""), 0.0)

    assert not reflector.reachable(0.1)


def test_a_refusal_by_an_apiserver_that_has_just_started_does_not_cost_half_a_minute(
    server: Collection,
) -> None:
    """It knows nobody's rights yet; the wait ends with its return, however long the outage has made it."""
    reflector = listed(server)
    for now in range(6):
        reflector.failed(REFUSED, float(now))
    reflector.failed(ApiError(403, "Forbidden", ""), 6.0)

    assert reflector.next(6.0) == Wait(36.0)
    assert reflector.reachable(7.0)
    assert isinstance(reflector.next(7.0), Watch)


def test_a_refusal_after_the_return_is_meant(server: Collection) -> None:
    """It is waited out like one without an outage, from the shortest wait on."""
    reflector = listed(server)
    for now in range(6):
        reflector.failed(REFUSED, float(now))
    reflector.reachable(7.0)
    reflector.failed(ApiError(403, "Forbidden", ""), 7.0)

    assert not reflector.reachable(7.1)
    assert reflector.next(7.1) == Wait(7.0 + settings.KUBE_BACKOFF_MIN_S)
