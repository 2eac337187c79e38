"""A reflector against an apiserver that lists and watches badly: whatever happens, it ends with its objects."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.fakes.apiserver import Collection, Revisions, error_line
from xds import settings as tunables
from xds.sources.envelope import Name
from xds.sources.reflector import Action, Delta, Gone, ListPage, Put, Reflector, Wait, Watch
from xds.sources.transport import NO_ANSWER, TOO_LARGE, ApiError

names = st.sampled_from([("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")])
failures = st.sampled_from(
    [
        ApiError(NO_ANSWER, "ClientConnectorError", "refused"),
        ApiError(NO_ANSWER, TOO_LARGE, "more than 64 MiB"),
        ApiError(400, "BadRequest", "continue key is not valid"),
        ApiError(403, "Forbidden", "no"),
        ApiError(404, "NotFound", "not now"),
        ApiError(410, "Expired", "too old"),
        ApiError(429, "TooManyRequests", "later", 1.0),
        ApiError(500, "InternalError", "etcdserver: leader changed"),
        ApiError(504, "Timeout", "Too large resource version: 9, current: 1"),
    ]
)
QUIET_STEPS = 200
"""Far more than a relist after the longest row of failures needs."""


class ReflectorMachine(RuleBasedStateMachine):
    """Hypothesis writes objects, moves lines, breaks requests and lets time pass; nothing is lost for good."""

    PAGE: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.server = Collection("Thing", "v1", Revisions())
        self.random = 0.0
        self.reflector = Reflector(lambda: self.random)
        self.now = 1000.0
        self.cache: dict[Name, Any] = {}
        self.newest: dict[Name, int] = {}
        self.sent: list[bytes] = []
        self.after: int | None = None

    # -- what the server's users do ------------------------------------------------------

    @rule(name=names)
    def write(self, name: tuple[str, str]) -> None:
        """Create or update."""
        self.server.put(name, spec={"value": self.server.revisions.now})

    @precondition(lambda self: self.server.objects)
    @rule(pick=st.integers(0, 3))
    def delete(self, pick: int) -> None:
        """Delete one that is there."""
        self.server.delete(sorted(self.server.objects)[pick % len(self.server.objects)])

    @rule()
    def write_elsewhere(self) -> None:
        """Another kind's write moves the revision on."""
        self.server.revisions.next()

    @rule()
    def compact(self) -> None:
        """History goes; open watches live on what they already had."""
        self.server.compact()

    # -- what reaches the reflector ------------------------------------------------------

    @rule(random=st.floats(0, 0.999))
    def step(self, random: float) -> None:
        """Do what the reflector wants, without a fault."""
        self.random = random
        self.follow(self.wanted())

    @rule(error=failures)
    def refuse(self, error: ApiError) -> None:
        """Fail the request that is due, or break the watch that is open."""
        self.wanted()
        self.reflector.failed(error, self.now)
        self.after = None

    @precondition(lambda self: isinstance(self.reflector.next(self.now), ListPage))
    @rule(cut=st.floats(0, 0.99))
    def truncate_page(self, cut: float) -> None:
        """A page arrives in part."""
        page = self.reflector.next(self.now)
        assert isinstance(page, ListPage)
        try:
            body = self.server.page(page.query)
        except ApiError as error:
            self.reflector.failed(error, self.now)
            return
        assert self.reflector.page(body[: int(len(body) * cut)], self.now) == ()

    @precondition(lambda self: self.after is not None)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        """Let some lines arrive in order."""
        for line in self.pending()[:count]:
            self.arrive(line)

    @precondition(lambda self: len(self.pending()) > 1)
    @rule()
    def swap(self) -> None:
        """Two lines arrive in the wrong order."""
        first, second = self.pending()[:2]
        self.arrive(second)
        self.arrive(first)

    @precondition(lambda self: self.after is not None and self.sent)
    @rule(pick=st.integers(0, 50))
    def repeat(self, pick: int) -> None:
        """A line arrives once more, however late."""
        self.arrive(self.sent[pick % len(self.sent)])

    @precondition(lambda self: self.after is not None)
    @rule(cut=st.floats(0.05, 0.95))
    def corrupt(self, cut: float) -> None:
        """A line arrives in part and with an end, as no proper proxy would cut it."""
        for line in self.pending()[:1]:
            self.take(self.reflector.line(line[: int(len(line) * cut)], self.now))
            self.after = None

    @precondition(lambda self: self.after is not None)
    @rule(code=st.sampled_from([410, 429, 500, 504, 400, 0]), wait=st.sampled_from([None, 3]))
    def interrupt(self, code: int, wait: int | None) -> None:
        """An ERROR event arrives."""
        assert self.reflector.line(error_line(code, "Reason", "message", wait), self.now) == ()
        assert self.reflector.failure
        self.after = None

    @precondition(lambda self: self.after is not None and self.after >= self.server.floor)
    @rule()
    def bookmark(self) -> None:
        """A bookmark arrives, behind all that came before it."""
        self.deliver(100)
        self.arrive(self.server.bookmark())

    @precondition(lambda self: self.after is not None)
    @rule()
    def end(self) -> None:
        """The server ends the watch."""
        self.reflector.ended(self.now)
        self.after = None

    @rule(seconds=st.floats(0, 300))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def return_to_reach(self) -> None:
        """The API is said to answer again."""
        if self.reflector.reachable(self.now):
            wait = self.reflector.next(self.now)
            assert not isinstance(wait, Wait) or wait.until <= self.now + tunables.KUBE_RETURN_SPREAD_S

    # -- the rules' hands ----------------------------------------------------------------

    def wanted(self) -> Action:
        """Return the next action, after waiting as long as the reflector asks for."""
        action = self.reflector.next(self.now)
        if isinstance(action, Wait):
            assert 0 < action.until - self.now <= 2 * tunables.KUBE_BACKOFF_MAX_S + 1
            self.now = action.until
            action = self.reflector.next(self.now)
        assert not isinstance(action, Wait)
        return action

    def follow(self, action: Action) -> None:
        """Answer a request as the server would; lines of an open watch arrive."""
        try:
            match action:
                case ListPage():
                    self.after = None
                    asked = action.query | {"limit": str(min(action.limit, self.PAGE))}
                    self.take(self.reflector.page(self.server.page(asked), self.now))
                case Watch() if self.after is None:
                    self.server.lines(action.resource_version)
                    self.after = action.resource_version
                    self.reflector.opened()
                case _:
                    self.deliver(100)
        except ApiError as error:
            self.reflector.failed(error, self.now)
            self.after = None

    def pending(self) -> list[bytes]:
        """Return the lines that the open watch has not brought yet; none once history was cut under it."""
        if self.after is None or self.after < self.server.floor:
            return []
        return self.server.lines(self.after)

    def arrive(self, line: bytes) -> None:
        """Deliver one line."""
        raw = json.loads(line)
        self.sent.append(line)
        self.after = max(self.after or 0, int(raw["object"]["metadata"]["resourceVersion"]))
        self.take(self.reflector.line(line, self.now))

    def take(self, deltas: tuple[Delta, ...]) -> None:
        """Apply what the reflector says to a cache, and hold it to its promises."""
        for delta in deltas:
            match delta:
                case Put(name, raw):
                    value = json.loads(bytes(raw))
                    version = int(value["metadata"]["resourceVersion"])
                    assert version > self.newest.get(name, 0), "an object moved backwards"
                    self.cache[name] = value["metadata"] | value["spec"]
                    self.newest[name] = version
                case Gone(name):
                    assert self.server.deleted.get(name, 0) > self.newest[name], "deleted without a deletion"
                    del self.cache[name]

    def teardown(self) -> None:
        """In the end nothing fails any more: the cache is what the server holds."""
        lists = self.server.lists
        for _ in range(QUIET_STEPS):
            self.follow(self.wanted())
            if self.after is not None and self.after < self.server.floor:
                self.reflector.ended(self.now)  # what an apiserver does to a watcher that it cannot serve on
                self.after = None
        there = {Name(*name): raw["metadata"] | raw["spec"] for name, raw in self.server.objects.items()}
        assert self.cache == there
        assert set(self.reflector.names()) == set(there)
        assert self.reflector.is_synced
        assert self.server.lists <= lists + 1, "listed more often than once"


ReflectorMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestReflector = ReflectorMachine.TestCase
