"""Who must be told when a resource changes: the index from (layer, type, name) to the streams that want it.

It owns which session watches what; it must never walk over sessions or names that a change does not concern.

    Registry.connect(session)                after Session.attach gave it its view
    Registry.watch(session, watch)           for every Watch event
    Registry.changed(layer, type, name, at)  → the sessions to wake; a batch wakes each once, after all marks
    Registry.look(session, view, now)        the view of a stream changed
    Registry.disconnect(session)
"""

from xds.events import Watch
from xds.ledger import Push
from xds.snapshot import NAMED, Layer, ResourceType, View, scope
from xds.stream import Session
from xds.subscription import WILDCARD

# A dict of None instead of a set: half the bytes for each of the millions of entries of a large mesh.
_Sessions = dict[Session, None]
_Watchers = dict[str, _Sessions]
_NOBODY: frozenset[Session] = frozenset()


class Registry:
    """All streams that are attached to a view. The wildcard is indexed as the name `*`."""

    def __init__(self) -> None:
        """Start without streams."""
        self._sessions: dict[str, Session] = {}
        self._index: dict[tuple[Layer, ResourceType], _Watchers] = {}

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._sessions)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Every stream, in the order in which they connected."""
        return tuple(self._sessions.values())

    @property
    def watched(self) -> int:
        """The number of (layer, type, name) entries: what the index costs."""
        return sum(len(watchers) for watchers in self._index.values())

    def session(self, id: str) -> Session | None:  # noqa: A002
        """Return one stream by its ID."""
        return self._sessions.get(id)

    def connect(self, session: Session) -> None:
        """Add a stream with whatever it is subscribed to already."""
        self._sessions[session.id] = session
        for kind, names, wildcard in session.subscriptions():
            self.watch(session, Watch(kind, (*names, *((WILDCARD,) if wildcard else ())), ()))

    def disconnect(self, session: Session) -> None:
        """Remove a stream and all that it watches; unknown streams are ignored."""
        if self._sessions.pop(session.id, None) is not None:
            self._unwatch_all(session)

    def look(self, session: Session, view: View, now: float) -> None:
        """Give a stream another view; everything that it wants is dirty afterwards."""
        self._unwatch_all(session)
        session.attach(view, now)
        self.connect(session)

    def watch(self, session: Session, watch: Watch) -> None:
        """Follow a change of a stream's subscription."""
        by_name_only = False
        for layer in scope(session.view, watch.type):
            if layer == NAMED:
                by_name_only = True
                continue
            for name in watch.removed:
                self._remove(layer, watch.type, name, session)
            added = [name for name in watch.added if not (by_name_only and name == WILDCARD)]
            if not added:
                continue
            watchers = self._index.setdefault((layer, watch.type), {})
            for name in added:
                sessions = watchers.get(name)
                if sessions is None:
                    watchers[name] = {session: None}
                else:
                    sessions[session] = None

    def changed(
        self, layer: Layer, kind: ResourceType, name: str, push: Push | None = None
    ) -> frozenset[Session]:
        """Mark every stream that sees this name in this layer; return those to wake."""
        watchers = self._index.get((layer, kind))
        if watchers is None:
            return _NOBODY
        concerned = frozenset((*watchers.get(name, ()), *watchers.get(WILDCARD, ())))
        for session in concerned:
            session.mark(kind, name, push)
        return concerned

    def _unwatch_all(self, session: Session) -> None:
        for kind, names, wildcard in session.subscriptions():
            self.watch(session, Watch(kind, (), (*names, *((WILDCARD,) if wildcard else ()))))

    def _remove(self, layer: Layer, kind: ResourceType, name: str, session: Session) -> None:
        watchers = self._index.get((layer, kind))
        sessions = None if watchers is None else watchers.get(name)
        if watchers is None or sessions is None:
            return
        sessions.pop(session, None)
        if not sessions:
            del watchers[name]
            if not watchers:
                del self._index[layer, kind]
