"""One xDS stream as a protocol core: bytes of requests in, events out; marks in, bytes of responses out.

It owns the conversation (nonces, ACK and NACK, what may be in flight, make-before-break) for ADS and for the
single-type services, delta and SotW; it must never wait, write, log, or read a clock.

    session = Session(id, snapshot, variant=…, rule_of=…, limits=…, only=…)
    session.receive(request, now)   → events; the first one is Hello, then the caller must `attach`
    session.attach(view, now)       → events of the first request; call it again when the view changes
    session.mark(type, name, push)  something may have changed (Registry.changed calls it)
    session.poll(now)               → the responses to write now, in order
    session.close()                 the stream is gone

Bounds: one un-ACKed response and one coalesced set of dirty names per type; names, types and request bytes are
capped by `Limits`. Rules cite the Envoy docs, api-docs/xds_protocol, by the title of their section.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from google.protobuf.message import DecodeError

from xds import order, responses, rows
from xds.events import (
    Close,
    Denied,
    Event,
    Events,
    Hello,
    Limits,
    Node,
    Stale,
    Status,
    Unknown,
    Watch,
    node_of,
)
from xds.held import Claimed, Items
from xds.ledger import Push, Response, Row, State, Tally
from xds.order import SEND_ORDER, Step, Waits
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.rations import endpoints_of
from xds.sight import RuleOf, Sight, assignments_sent
from xds.snapshot import Resource, ResourceType, Snapshot, Version, View
from xds.subscription import WILDCARD, Subscription, Variant

_TYPES = {kind.url: kind for kind in ResourceType}
# Rows of idle types say nothing and hold nobody, and most changes concern one type. All rows for clusters: to
# write one is to owe its endpoints.
_ROWS_OF = {kind: tuple(row for row in SEND_ORDER if row.type is kind) for kind in ResourceType}
_ROWS_OF[ResourceType.CLUSTER] = SEND_ORDER

_ROUTED = frozenset({ResourceType.CLUSTER, ResourceType.ENDPOINTS})

_Names = Callable[[str], bool] | None
"""Tells which names wait for a row below themselves; None: no name does."""

_MALFORMED = Close(Status.INVALID_ARGUMENT, "malformed discovery request")
_NO_TYPE = Close(Status.INVALID_ARGUMENT, "type_url is missing")
_WRONG_TYPE = Close(Status.INVALID_ARGUMENT, "type_url does not belong to this service")
_TOO_LARGE = Close(Status.RESOURCE_EXHAUSTED, "discovery request is too large")
_TOO_MANY = Close(Status.PERMISSION_DENIED, "too many resources are subscribed")
_FORBIDDEN = Close(Status.PERMISSION_DENIED, "not authorized")


class Session:
    """The server's side of one stream."""

    def __init__(  # noqa: PLR0913 all but the first two are keyword-only and required
        self,
        id: str,  # noqa: A002 the field's word
        snapshot: Snapshot,
        *,
        variant: Variant,
        rule_of: RuleOf,
        limits: Limits | None = None,
        only: ResourceType | None = None,
    ) -> None:
        """Open a stream; `only` is the type of a single-type service, None for ADS."""
        self.id = id
        self.variant = variant
        self.node: Node | None = None
        self.connected_at = 0.0
        self._limits = Limits() if limits is None else limits
        self._sight = Sight(snapshot, rule_of, self._limits.names_on_demand)
        self._only = only
        self._request = DeltaDiscoveryRequest if variant is Variant.DELTA else DiscoveryRequest
        self._first: DeltaDiscoveryRequest | DiscoveryRequest | None = None
        self._by_url: dict[str, Subscription] = {}
        self._by_type: dict[ResourceType, Subscription] = {}
        self._unknown: list[Subscription] = []
        self._nonce = 0

    @property
    def view(self) -> View:
        """The layers that it sees."""
        return self._sight.view

    @property
    def proxy(self) -> str:
        """The node ID, empty before the first request."""
        return "" if self.node is None else self.node.id

    @property
    def version(self) -> str:
        """The version that the node names, empty for none."""
        return "" if self.node is None else self.node.version

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, request: bytes, now: float) -> Events:
        """Take one request; return what happened, a `Close` last if the stream must end."""
        if len(request) > self._limits.request_bytes:
            return (_TOO_LARGE,)
        try:
            message = self._request.FromString(request)
        except DecodeError:
            return (_MALFORMED,)
        if self.node is not None:
            return self._apply(message, now)
        # 'Basic Protocol Overview': "It is sufficient to only check the first message for the node identifier."
        self.node = node_of(message.node)
        self._first = message
        return (Hello(self.node),)

    def attach(self, view: View, now: float) -> Events:
        """Look at the snapshot through a view; the first time, process the first request.

        When the view changes, every name that the client wants or holds may mean something else.
        """
        self._sight.attach(view)
        if self._first is not None:
            first, self._first = self._first, None
            self.connected_at = now
            return self._apply(first, now)
        for kind, sub in self._by_type.items():
            sub.dirty.update(dict.fromkeys(sub.names))
            sub.dirty.update(dict.fromkeys(sub.held))
            if sub.wildcard:
                sub.dirty.update(dict.fromkeys(self._sight.names(kind)))
        return ()

    def _apply(self, message: DeltaDiscoveryRequest | DiscoveryRequest, now: float) -> Events:
        url = message.type_url
        sub = self._by_url.get(url)
        events: list[Event] = []
        opened = sub is None
        if sub is None:
            if not url and self._only is not None:
                url = self._only.url
                sub = self._by_url.get(url)
                opened = sub is None
            if sub is None:
                if (close := self._refuse(url)) is not None:
                    return (close,)
                sub = self._open(url, events)
        if isinstance(message, DeltaDiscoveryRequest):
            self._delta(sub, message, events, opened=opened, now=now)
        else:
            self._sotw(sub, message, events, opened=opened, now=now)
        return tuple(events)

    def _refuse(self, url: str) -> Close | None:
        """Return why a type may not be opened on this stream."""
        if not url:
            return _NO_TYPE
        if self._only is not None and url != self._only.url:
            return _WRONG_TYPE
        return _TOO_MANY if len(self._by_url) >= self._limits.types_per_stream else None

    def _open(self, url: str, events: list[Event]) -> Subscription:
        kind = _TYPES.get(url)
        sub = Subscription(url, kind, self.variant)
        self._by_url[url] = sub
        if kind is None:
            self._unknown.append(sub)
            events.append(Unknown(url))
        else:
            self._by_type[kind] = sub
        return sub

    def _delta(
        self,
        sub: Subscription,
        message: DeltaDiscoveryRequest,
        events: list[Event],
        *,
        opened: bool,
        now: float,
    ) -> None:
        """Take an incremental request.

        'Incremental xDS': "the server must honor changes to the subscription state even if the nonce is stale.
        The nonce … should *not* be used to reject stale requests": the answer and the names are independent.
        """
        nonce = message.response_nonce
        if nonce:
            self._answer(sub, nonce, message, events, now)
        subscribe, unsubscribe = message.resource_names_subscribe, message.resource_names_unsubscribe
        if not (opened or subscribe or unsubscribe):
            return
        claims: Mapping[str, str] = message.initial_resource_versions if opened else {}
        asked = max(len(subscribe) + len(unsubscribe), len(claims))
        if (
            asked > self._limits.names_per_request
            or self._names_held() + asked > self._limits.names_per_stream * 2
        ):
            events.append(_TOO_MANY)
            return
        if opened and not subscribe and not unsubscribe:
            sub.open_legacy()
        rations = self._sight.rations(sub.type)
        added = sub.subscribe(subscribe if rations is None else rations.asked(subscribe, claims))
        removed = sub.unsubscribe(unsubscribe)
        if claims:
            sub.claim(claims.items(), self._sight.lookup(sub), self._sent_clusters(sub))
        self._changed(sub, added, removed, events, opened=opened)

    def _sent_clusters(self, sub: Subscription) -> Container[str]:
        """Return the clusters that were sent on this stream, if `sub` is about their endpoints.

        They warm until their endpoints come again, so a claim of endpoints that are current settles nothing
        ('Resource warming'). A cluster that was claimed and is current was not sent, and nor are its endpoints:
        that is how an unchanged reconnect carries nothing.
        """
        clusters = self._by_type.get(ResourceType.CLUSTER)
        return (
            () if sub.type is not ResourceType.ENDPOINTS or clusters is None else assignments_sent(clusters)
        )

    def _sotw(
        self, sub: Subscription, message: DiscoveryRequest, events: list[Event], *, opened: bool, now: float
    ) -> None:
        """Take a state-of-the-world request.

        'Resource updates': a request "that has a stale nonce" is not responded to. The client repeats its
        whole subscription when it answers the latest response, so nothing is lost by ignoring it here.
        """
        nonce = message.response_nonce
        # A nonce belongs to one stream; that of an earlier stream must not make the first request a stale one.
        if nonce and not opened and not self._answer(sub, nonce, message, events, now):
            return
        names = message.resource_names
        if len(names) > self._limits.names_per_request:
            events.append(_TOO_MANY)
            return
        if opened and not names:
            sub.open_legacy()
            added: list[str] = []
            removed: list[str] = []
        elif sub.legacy and not names:
            return
        else:
            added, removed = sub.replace(names)
        if opened:
            sub.due = sub.full
            sub.blind = sub.full and bool(message.version_info)
        if opened or added or removed:
            self._changed(sub, added, removed, events, opened=opened)
        if opened and message.version_info:
            self._resume(sub, message.version_info)

    def _changed(
        self, sub: Subscription, added: list[str], removed: list[str], events: list[Event], *, opened: bool
    ) -> None:
        """The subscription is another: check it against the limits, and tell the push index."""
        kind = sub.type
        if self._names_held() > self._limits.names_per_stream:
            events.append(_TOO_MANY)
            return
        if opened and sub.wildcard and WILDCARD not in added:
            added.append(WILDCARD)
        if kind is None:
            return
        if sub.wildcard and WILDCARD in added:
            held = sub.held
            sub.dirty.update(dict.fromkeys(n for n in self._sight.names(kind) if n not in held))
        if kind is ResourceType.SECRET and not all(map(self._sight.rule(kind), added)):
            # Asking for another's key is no configuration error: the stream ends (CVE-2021-34824).
            events.append(_FORBIDDEN)
            return
        asked, rations = added, self._sight.rations(kind)
        if rations is not None:
            added = rations.admit(added)
            rations.release(removed)
        # A claim that was found to be current has been authorized just now.
        unsure = [name for name in asked if name != WILDCARD and not isinstance(sub.held.get(name), Resource)]
        permits = self._sight.permits(sub, kind)
        events += [Denied(kind, name) for name in unsure if not permits(name)]
        if added or removed:
            events.append(Watch(kind, tuple(added), tuple(removed)))

    def _names_held(self) -> int:
        return sum(len(sub.names) for sub in self._by_url.values())

    def _resume(self, sub: Subscription, version: str) -> None:
        """Send nothing to a SotW client that reconnects with the version that is current.

        'ACK/NACK and resource type instance version': "it is generally safe for servers to do this optimization
        for LDS and CDS when the only subscription is a wildcard subscription".
        """
        if sub.type is None or not sub.full or not sub.wildcard or sub.names:
            return
        lookup = self._sight.lookup(sub)
        state = {n: r for n in self._sight.names(sub.type) if (r := lookup(n)) is not None}
        if responses.state_version(state) == version:
            sub.held.update(state)
            sub.dirty.clear()
            sub.due = sub.blind = False

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────

    def _answer(
        self,
        sub: Subscription,
        nonce: str,
        message: DeltaDiscoveryRequest | DiscoveryRequest,
        events: list[Event],
        now: float,
    ) -> bool:
        """Take the ACK or NACK of the response in flight; return False if the nonce is stale."""
        response = sub.in_flight
        if response is None or response.nonce != nonce:
            if nonce == sub.last_nonce:
                return True
            events.append(Stale(sub.url, nonce[:64]))
            return False
        sub.in_flight = None
        response.answered_at = now
        # 'NACK': "The preferred mechanism for a server to detect a NACK is to look for the presence of the
        # error_detail field"; never by comparing versions.
        if message.HasField("error_detail"):
            self._nack(sub, response, message.error_detail.message, now)
        else:
            self._ack(sub, response, now)
        self._unrouted()
        events.append(response)
        return True

    def _ack(self, sub: Subscription, response: Response, now: float) -> None:
        response.state = State.ACKED
        sub.accept(response)
        for push in response.pushes:
            push.settle(self.proxy, now)
        if len(response.items) > 1:
            response.items = {}  # the subscription holds the resources; keep the record small
        response.pushes = []

    def _owe_endpoints(self, response: Response) -> None:
        """Send EDS again for every cluster that changed.

        'Resource warming': "Warming of Cluster is completed only when a new ClusterLoadAssignment response is
        supplied by management server even though there is no change in endpoints". Envoy does not ask again; it
        would wait for its fetch timeout, 15 s.
        """
        endpoints = self._by_type.get(ResourceType.ENDPOINTS)
        if endpoints is None:
            return
        sent = (endpoints_of(name, cluster) for name, cluster in response.items.items() if cluster)
        owed = [name for name in sent if name in endpoints.names]
        if not owed:
            return
        endpoints.owed.update(owed)
        endpoints.dirty.update(dict.fromkeys(owed))
        for push in response.pushes:
            endpoints.follow(push)

    def _nack(self, sub: Subscription, response: Response, error: str, now: float) -> None:
        response.state = State.NACKED
        response.error = error[: self._limits.error_chars] or "rejected without a reason"
        sub.reject(response)
        if sub.suspects:
            sub.pushes = response.pushes + sub.pushes  # not settled before the culprit is found
        else:
            for push in response.pushes:
                push.settle(self.proxy, now, response.error)
        response.pushes = []

    # ── changes ───────────────────────────────────────────────────────────────────────────────────────────

    def mark(self, kind: ResourceType, name: str, push: Push | None = None) -> None:
        """Note that a name may mean something else now; `push` waits for the answer."""
        sub = self._by_type.get(kind)
        if sub is not None:
            sub.mark(name, push)

    def foresee(
        self, kind: ResourceType, wanted: Iterable[str], *, ruled: Iterable[str] | None = None
    ) -> Watch | None:
        """Subscribe a client to names ahead, if a wildcard lets it take them; return what the push index must know.

        ``ruled`` are destinations that it asks for now, and whose rules name the clusters.
        """
        sub = self._by_type.get(kind)
        if sub is None or not sub.wildcard:
            return None
        new = [name for name in wanted if name not in sub.names]
        if (rations := self._sight.rations(kind)) is not None:
            new = rations.foresee(new, behind_routes=ruled is not None)
            rations.rule(ruled or ())
        return Watch(kind, tuple(sub.subscribe(new)), ()) if new else None

    @property
    def idle(self) -> bool:
        """Whether `poll` would return nothing because nothing is dirty."""
        for sub in self._by_url.values():  # noqa: SIM110 -- all() of a generator costs three times as much
            if sub.dirty or sub.suspects or sub.due or sub.pushes:
                return False
        return True

    def poll(self, now: float) -> list[bytes]:
        """Return the responses to write now: for each row of SEND_ORDER whose turn it is, at most one."""
        unrouted = self._unrouted()
        busy = [kind for kind, sub in self._by_type.items() if not sub.idle]
        rows = SEND_ORDER if len(busy) > 1 else _ROWS_OF[busy[0]] if busy else ()
        out: list[bytes] = []
        unfinished = False  # something above has not been accepted yet
        for row in rows:
            sub = self._by_type.get(row.type)
            if sub is None or sub.idle:
                continue
            if row.step is Step.UP and sub.dirty:
                sub.sift(self._sight.lookup(sub))
            may_go = sub.in_flight is None and not (row.waits is Waits.ALL and unfinished)
            if may_go and sub.waits_in(row.step):
                out += self._offer(sub, row.step, self._withheld(row, unrouted), now)
            # Endpoints wait for the cluster of their name: where that waits for the routes, they must not hold them up.
            apart = unrouted if row.type in _ROUTED else None
            if row.holds_others and sub.waits_in(row.step, apart):
                unfinished = True
        for sub in self._unknown:
            if not sub.idle and sub.in_flight is None:
                sub.sift(self._sight.lookup(sub))
                out += self._offer(sub, Step.UP, None, now)
        for sub in self._by_url.values():
            if sub.pushes and sub.idle:
                self._unconcerned(sub)
        return out

    def _unrouted(self) -> _Names:
        """Return which clusters wait for the route table: see `Rations.unrouted`."""
        rations, routes = self._sight.rations(ResourceType.CLUSTER), self._by_type.get(ResourceType.ROUTES)
        if rations is None or routes is None:
            return None
        routes.sift(self._sight.lookup(routes))
        return rations.unrouted(routes, self._by_type.get(ResourceType.CLUSTER))

    def _offer(self, sub: Subscription, step: Step, withheld: _Names, now: float) -> tuple[bytes, ...]:
        """Return the next response of one type and step, if there is anything to say."""
        items = sub.take(step, self._sight.lookup, withheld, self._limits.response_bytes)
        return () if items is None else (self._send(sub, items, now),)

    def _withheld(self, row: order.Row, unrouted: _Names) -> _Names:
        """Return which names of a row may not be written yet, None if all may."""
        if row.waits is Waits.SAME_NAME:
            clusters = self._by_type.get(ResourceType.CLUSTER)
            return None if clusters is None or clusters.idle else clusters.concerns
        return unrouted if row.type is ResourceType.CLUSTER else None

    def _send(self, sub: Subscription, items: Items, now: float) -> bytes:
        """Encode a response and record it as the one in flight."""
        self._nonce += 1
        nonce = str(self._nonce)
        body = responses.encode(sub, items, nonce, self.node)
        pushes: list[Push] = []
        if sub.pushes and not sub.dirty and not sub.suspects:
            pushes, sub.pushes = sub.pushes, []
            for push in pushes:
                push.sent += 1
        sub.last_nonce = nonce
        sub.in_flight = Response(sub.url, nonce, items, pushes, at=now, size_bytes=len(body))
        if sub.type is ResourceType.CLUSTER:
            self._owe_endpoints(sub.in_flight)
        return body

    def _unconcerned(self, sub: Subscription) -> None:
        """Nothing had to be sent for these pushes: the client holds what they say, or may not know of it."""
        for push in sub.pushes:
            push.forget()
        sub.pushes = []

    @property
    def unanswered_since(self) -> float | None:
        """When the oldest response was sent that the client has not answered; None if there is none."""
        flights = [sub.in_flight.at for sub in self._by_url.values() if sub.in_flight is not None]
        return min(flights, default=None)

    # ── what others may ask ───────────────────────────────────────────────────────────────────────────────

    def accepted(self, kind: ResourceType, name: str) -> Version | None:
        """Return the version that the client has accepted, None if none: what a rotation waits for."""
        sub = self._by_type.get(kind)
        held = None if sub is None else sub.held.get(name)
        return held.version if isinstance(held, Resource) else None

    def claimed(self, kind: ResourceType, name: str) -> str | None:
        """Return the version that a reconnecting client said it holds, as long as nothing else was sent."""
        sub = self._by_type.get(kind)
        held = None if sub is None else sub.held.get(name)
        return held.version if isinstance(held, Claimed) else None

    def follows(self, kind: ResourceType) -> bool:
        """Tell whether the client has ever asked for a type."""
        return kind in self._by_type

    def subscriptions(self) -> Iterator[tuple[ResourceType, frozenset[str], bool]]:
        """Yield the type, explicit names and wildcard of every known type: what the push index holds."""
        for kind, sub in self._by_type.items():
            yield kind, frozenset(sub.names), sub.wildcard

    def rows(self) -> Iterator[Row]:
        """Yield what this client has of each resource, for the ledger."""
        for sub in self._by_url.values():
            yield from rows.of(sub)

    def tallies(self) -> Iterator[Tally]:
        """Yield the count of each type."""
        return map(rows.tally, self._by_url.values())

    def close(self) -> None:
        """Let go of everything: pushes no longer wait for this stream."""
        for sub in self._by_url.values():
            flight = () if sub.in_flight is None else sub.in_flight.pushes
            for push in (*sub.pushes, *flight):
                push.forget()
        self._by_url.clear()
        self._by_type.clear()
        self._unknown.clear()
