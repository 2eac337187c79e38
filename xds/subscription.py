"""What one stream wants of one type, what its client holds, and what is still owed to it.

It owns the subscription rules, quarantine and the search for a culprit, for both protocol variants; it must
never parse or encode a message, nor look a resource up by itself.

Every rule cites the Envoy docs, api-docs/xds_protocol, by the title of its section.
"""

import enum
import sys
from collections.abc import Callable, Collection, Container, Iterable

from xds.held import ABSENT, Claimed, Held, Items, Lookup
from xds.ledger import PUSHES_KEPT, Push, Rejection, Response
from xds.order import Step
from xds.snapshot import Resource, ResourceType

WILDCARD = "*"
WILDCARD_TYPES = frozenset({ResourceType.CLUSTER, ResourceType.LISTENER, ResourceType.SCOPES})
"""'How the client specifies what resources to return': "For Listener and Cluster resource types, there is
also a wildcard subscription". Envoy asks for scopes in that way as well: without any name
(source/common/router/scoped_rds.cc). For other types `*` is a name like any other."""

LookupOf = Callable[["Subscription"], Lookup]
SHRINK_ABOVE = 64
"""Names in one response from which the tables of what was due are given back: below, they cost 5 KiB."""


class Variant(enum.Enum):
    """The two protocol variants ('Four Variants')."""

    DELTA = "delta"
    SOTW = "sotw"


class Subscription:
    """One type on one stream. `dirty` names are resolved when they are sent: latest wins, no history."""

    __slots__ = (
        "blind",
        "denied",
        "dirty",
        "downs",
        "due",
        "fresh_last",
        "full",
        "held",
        "in_flight",
        "last",
        "last_nonce",
        "legacy",
        "names",
        "owed",
        "pushes",
        "rejected",
        "suspects",
        "tells_absence",
        "type",
        "ups",
        "url",
        "wildcard",
    )

    def __init__(self, url: str, kind: ResourceType | None, variant: Variant) -> None:
        """Start with nothing subscribed; `kind` is None for a type that the mesh does not serve."""
        self.url = url
        self.type = kind
        # 'Grouping Resources into Responses': SotW "must include the complete state of the world" for LDS and
        # CDS. A type that we do not serve is answered the same way: with a complete state, which is empty.
        self.full = variant is Variant.SOTW and (kind is None or kind in WILDCARD_TYPES)
        # 'Knowing When a Requested Resource Does Not Exist': only the incremental variant can say so.
        self.tells_absence = variant is Variant.DELTA
        self.names: set[str] = set()
        self.wildcard = False
        self.legacy = False
        self.held: dict[str, Held] = {}
        self.last: dict[str, Response] = {}
        self.last_nonce = ""
        self.dirty: dict[str, None] = {}
        self.owed: set[str] = set()
        self.due = False
        self.blind = False
        self.in_flight: Response | None = None
        self.suspects: dict[str, None] = {}
        self.fresh_last = False
        self.rejected: dict[str, Rejection] = {}
        self.denied: set[str] = set()
        self.pushes: list[Push] = []
        self.ups: Items = {}
        self.downs: Items = {}

    # ── what the client asks for ──────────────────────────────────────────────────────────────────────────

    def wants(self, name: str) -> bool:
        """Return whether the client would use this name if it existed."""
        return self.wildcard or name in self.names

    def open_legacy(self) -> None:
        """Treat a first request without names as a subscription to `*`.

        'How the client specifies what resources to return': "For historical reasons …". Only LDS and CDS have
        a wildcard, and a type that we do not serve has no resources to be wildcard about.
        """
        if self.type in WILDCARD_TYPES:
            self.wildcard = self.legacy = True

    def subscribe(self, names: Iterable[str]) -> list[str]:
        """Add names (delta); return those that are new, `*` included.

        'Subscribing to Resources': the request may name what the client holds already, "however, the server
        *must* still provide those resources", so every name is owed an answer.
        """
        new: list[str] = []
        for name in names:
            self.legacy = False  # "once the client does explicitly subscribe …, this legacy semantic is gone"
            if name == WILDCARD and self.type in WILDCARD_TYPES:
                if not self.wildcard:
                    self.wildcard = True
                    new.append(WILDCARD)
                continue
            name = sys.intern(name)  # noqa: PLW2901 the request's copy is let go
            if name not in self.names:
                self.names.add(name)
                new.append(name)
            self.owed.add(name)
            self.dirty[name] = None
        return new

    def unsubscribe(self, names: Iterable[str]) -> list[str]:
        """Drop names (delta); return those that were subscribed, `*` included.

        'Unsubscribing from Resources': phantom names are ignored. A name that the wildcard may include as well
        is the one exception that must be answered, with the resource or with its removal.
        """
        gone: list[str] = []
        for name in names:
            if name == WILDCARD and self.wildcard:
                self.wildcard = self.legacy = False
                gone.append(WILDCARD)
                self._forget([held for held in self.held if held not in self.names])
            elif name in self.names:
                self.names.discard(name)
                gone.append(name)
                if self.wildcard:
                    self.owed.add(name)
                    self.dirty[name] = None
                else:
                    self._forget((name,))
        self.denied.difference_update(gone)
        return gone

    def replace(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Set the whole subscription (SotW); return the names that are new and those that are gone.

        'How the client specifies what resources to return': an empty list is the legacy wildcard until a name
        was given once; after that it unsubscribes. "The server must resend any newly requested resources".
        """
        if self.legacy and not names:
            return [], []
        self.legacy = False
        wildcard = WILDCARD in names and self.type in WILDCARD_TYPES
        wanted = {sys.intern(name) for name in names if not (wildcard and name == WILDCARD)}
        new = [name for name in wanted if name not in self.names]
        gone = [name for name in self.names if name not in wanted]
        if wildcard != self.wildcard:
            (new if wildcard else gone).append(WILDCARD)
        self.names, self.wildcard = wanted, wildcard
        for name in new:
            self.owed.add(name)
            self.dirty[name] = None
        if self.blind and gone:  # what it rejected was a state, and it asks for another one: see `_complete`
            self.dirty.update(dict.fromkeys(self.rejected))
        self.due = self.full and (bool(new) or (self.due and (wildcard or bool(wanted))))
        self._forget([name for name in self.held if not self.wants(name)])
        self.denied.difference_update(gone)
        return new, gone

    def _forget(self, names: Iterable[str]) -> None:
        """The client no longer caches these names, so that they are sent anew when it asks again."""
        for name in names:
            self.held.pop(name, None)
            self.last.pop(name, None)
            self.dirty.pop(name, None)
            self.suspects.pop(name, None)
            self.rejected.pop(name, None)
            self.owed.discard(name)
            self.ups.pop(name, None)
            self.downs.pop(name, None)

    # ── what changes ──────────────────────────────────────────────────────────────────────────────────────

    def mark(self, name: str, push: Push | None) -> None:
        """Something under this name may have changed; it is resolved when it can be sent."""
        self.dirty[name] = None
        if push is not None:
            self.follow(push)

    def follow(self, push: Push) -> None:
        """Let a push wait for this type's answer, counted once; one that the ledger keeps no more is forgotten."""
        pushes = self.pushes
        if pushes and pushes[-1] is push:
            return
        push.waiting += 1
        pushes.append(push)
        if len(pushes) > PUSHES_KEPT:
            pushes.pop(0).forget()

    def sift(self, lookup: Lookup) -> None:
        """Resolve the dirty names into `ups` and `downs`; those that need no message are dirty no more."""
        self.ups, self.downs = {}, {}
        # What a name needs depends on what the client answers, so a name in flight is not judged before that.
        flying: Items = {} if self.in_flight is None else self.in_flight.items
        for name in list(self.dirty):
            if name in self.suspects or name in flying:
                continue
            self._judge(name, lookup(name))
        if self.blind and (self.ups or self.rejected):
            self._complete(lookup)

    def _complete(self, lookup: Lookup) -> None:
        """Make the next state of a blind client whole: what was rejected with the last one belongs to it.

        Blind is a SotW client that holds a state of an earlier stream and has accepted none on this one: a part
        of the state would delete the rest of what it holds, and nobody here has the bytes of that.
        """
        gone = [name for name in self.rejected if not self.wants(name) or lookup(name) is None]
        for name in gone:
            del self.rejected[name]
        if self.ups or gone:
            self.due = self.due or bool(gone)
            for name in self.rejected:
                self.ups[name] = lookup(name)

    def _judge(self, name: str, resource: Resource | None) -> None:
        """Decide what one name needs: to go up, to go down, or nothing."""
        held = self.held.get(name)
        if resource is None:
            if not self.blind and (gone := self.rejected.get(name)) is not None and gone.version is not None:
                del self.rejected[name]  # what was rejected is no more: there is nothing left to mend
            if not self.wants(name) or not self._misses(name, held):
                self._settled(name)
            return
        if not self.wants(name):
            self._settled(name)
        elif held is not None and held.version == resource.version and name not in self.owed:
            # 'When to send an update': only "when the resources … have changed".
            self.held[name] = resource
            self.rejected.pop(name, None)
            self._settled(name)
        elif (rejection := self.rejected.get(name)) is not None and rejection.version == resource.version:
            self._answer_quarantined(name, held)
        else:
            self.ups[name] = resource

    def _misses(self, name: str, held: Held | None) -> bool:
        """Plan the answer for a name that does not exist; return False if none is needed."""
        if held is not None and held is not ABSENT:
            if self.tells_absence or self.full:
                self.downs[name] = None
                return True
            self.held.pop(name)  # 'Deleting Resources': "the API provides no mechanism" in SotW
            return False
        if not self.tells_absence or (held is ABSENT and name not in self.owed):
            return False
        if name not in self.names and name not in self.owed:
            return False
        self.ups[name] = None
        return True

    def _answer_quarantined(self, name: str, held: Held | None) -> None:
        """The current version was rejected: it is not sent again, and who asks gets the last accepted one."""
        if (
            name in self.owed
            and not isinstance(held, Claimed)
            and (self.tells_absence or isinstance(held, Resource))
        ):
            self.ups[name] = held if isinstance(held, Resource) else None
        else:
            self._settled(name)

    def _settled(self, name: str) -> None:
        del self.dirty[name]
        self.owed.discard(name)

    # ── what is sent ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send and nothing to wait for."""
        return not (self.dirty or self.suspects or self.due or self.in_flight is not None)

    def waits_in(self, step: Step, except_for: Callable[[str], bool] | None = None) -> bool:
        """Return whether something of this step is not accepted yet, so that rows below must wait.

        ``except_for`` tells which names wait for a row below themselves.
        """
        if self.in_flight is not None:
            return True
        if step is Step.DOWN:
            return bool(self.downs)
        ups = bool(self.ups) if except_for is None else not all(map(except_for, self.ups))
        return ups or bool(self.suspects or self.due)

    def concerns(self, name: str) -> bool:
        """Return whether this name has yet to be written, which is what rows of the same name wait for.

        Not for the answer: Envoy acknowledges an added cluster once it is warm, and it is warm once its endpoints
        have come (source/common/upstream/cluster_manager_impl.cc pauses CDS meanwhile).
        """
        return name in self.ups or name in self.suspects

    def take(
        self, step: Step, lookup_of: LookupOf, withheld: Callable[[str], bool] | None, size_max: int
    ) -> Items | None:
        """Return what the next response of this step carries, None if there is nothing to say.

        Fresh changes and suspects take turns: the search for a culprit delays nobody else, and endless
        changes do not delay the search.
        """
        if step is Step.DOWN:
            items, self.downs = self.downs, {}
            return self._taken(items) or None
        if (
            self.suspects
            and (self.fresh_last or not self.ups)
            and (items := self._next_suspect(lookup_of(self))) is not None
        ):
            self.fresh_last = False
            return items
        items = self._within(size_max, withheld)
        due, self.due = self.due and not (self.blind and self.rejected), False  # no part: see `_complete`
        if not items and not due:
            return None
        self.fresh_last = True
        return self._taken(items)

    def _within(self, size_max: int, withheld: Callable[[str], bool] | None) -> Items:
        """Move from `ups` what may go now and fits; the rest follows after the ACK."""
        items: Items = {}
        size = 0
        for name, resource in self.ups.items():
            if withheld is not None and withheld(name):
                continue
            items[name] = resource
            size += resource.size_bytes if resource is not None else len(name)
            if size >= size_max and not self.full:
                break
        if len(items) == len(self.ups):
            self.ups = {}
        else:
            for name in items:
                del self.ups[name]
        return items

    def _taken(self, items: Items) -> Items:
        self.owed.difference_update(items)
        for name in items:
            self.dirty.pop(name, None)
        if len(items) > SHRINK_ABOVE and not self.dirty and not self.suspects:
            self.dirty, self.owed = {}, set()  # emptied tables keep their size
        return items

    def _next_suspect(self, lookup: Lookup) -> Items | None:
        """Return the next candidate of a rejected response, alone; None if none is left."""
        while self.suspects:
            name = next(iter(self.suspects))
            del self.suspects[name]
            self.dirty[name] = None
            self._judge(name, lookup(name))
            if name in self.ups:
                return self._taken({name: self.ups.pop(name)})
            if name in self.downs:
                del self.downs[name]
                return self._taken({name: None})
        return None

    # ── what the client answers ───────────────────────────────────────────────────────────────────────────

    def accept(self, response: Response) -> None:
        """Record an ACK: the client holds what the response said, as far as it still wants it."""
        self.blind = False
        for name, resource in response.items.items():
            if not self.wants(name):
                continue
            if resource is not None:
                if self.rejected and self.held.get(name) is not resource:
                    self.rejected.pop(name, None)  # not when it was told again what it held: see quarantine
                self.held[name] = resource
                self.last[name] = response
            elif name in self.names and self.tells_absence:
                self.held[name] = ABSENT
                self.last[name] = response
            else:
                self.held.pop(name, None)
                self.last.pop(name, None)

    def reject(self, response: Response) -> None:
        """Record a NACK: the client keeps what it held, and a single culprit is quarantined.

        A response with several resources does not say which one is at fault: each becomes a suspect and is
        tried once more, alone. Not so for a blind client, to which a smaller state means deletion: `_complete`.
        """
        if len(response.items) > 1 and not self.blind:
            suspects = [name for name in response.items if self.wants(name)]
            self.suspects.update(dict.fromkeys(suspects))
            self.owed.update(suspects)  # the client needed each, be it only because it had forgotten it
            return
        if self.blind:  # it is offered the state again without what it wants no more
            self.dirty.update(dict.fromkeys(response.items))
        for name, resource in response.items.items():
            if not (self.blind or self.wants(name)):
                continue
            version, cause = (None, ()) if resource is None else (resource.version, resource.cause)
            self.rejected[name] = Rejection(
                version, response.nonce, response.answered_at, response.error, cause
            )
            if resource is None:
                self.held[name] = ABSENT  # a refused removal is not repeated either

    def claim(
        self, versions: Iterable[tuple[str, str]], lookup: Lookup, unsettled: Container[str] = ()
    ) -> None:
        """Take over what a reconnecting client holds ('Incremental xDS', initial_resource_versions).

        Equal versions are equal bytes, so they are not sent; another version, or a name that is gone, is; and
        so is what the client needs all the same, `unsettled`.
        """
        for name, version in versions:
            if not self.wants(name) or name in unsettled:
                continue
            self.owed.discard(name)
            resource = lookup(name)
            if resource is not None and resource.version == version:
                self.held[resource.name] = resource
                self.dirty.pop(name, None)
            else:
                self.held[sys.intern(name)] = Claimed(version)
                self.dirty[name] = None
