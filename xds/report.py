"""The documents of the admin API: one frozen struct each, made from the ledger, read by the command line.

Owns their fields and what they are made from; it must never do I/O, and never hold the body of a resource.
Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from xds.api.core import Key
from xds.fields import Problem
from xds.ledger import Ledger, Push, Row, Tally
from xds.releases import lacks
from xds.snapshot import ResourceType

TYPE_NAMES: Final = {
    ResourceType.CLUSTER.url: "clusters",
    ResourceType.ENDPOINTS.url: "endpoints",
    ResourceType.LISTENER.url: "listeners",
    ResourceType.SCOPES.url: "scopes",
    ResourceType.ROUTES.url: "routes",
    ResourceType.SECRET.url: "secrets",
}
"""Type URL → what people call it, in the order of the proxy's own start."""


class TypeCount(msgspec.Struct, frozen=True):
    """How many resources of one type a proxy has, by where they stand."""

    type: str
    accepted: int
    unanswered: int
    rejected: int


class EjectedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint that a proxy sends nothing to, because it has failed; ``pod`` is empty for one that is no Pod's."""

    service: str
    address: str
    pod: str
    since: float


class SilentService(msgspec.Struct, frozen=True):
    """A service that a proxy asks about requests, or tells of them, and that has lately not answered.

    ``service`` is its kind, ``name`` the provider or where keys are, ``objects`` are those because of which it is
    asked. ``times`` are in all, of the kind where the sidecar counts no closer.
    """

    service: str
    times: int
    last: float
    name: str = ""
    objects: tuple[str, ...] = ()


class Proxy(msgspec.Struct, frozen=True):
    """One connected proxy; ``acked``: it has accepted everything that it was sent.

    ``version`` is what it says of itself, ``lacks`` what an Envoy of that version misses (docs/envoys.md).
    """

    id: str
    workload: str
    connected_at: float
    streams: int
    acked: bool
    types: tuple[TypeCount, ...]
    ejected: tuple[EjectedEndpoint, ...] = ()
    silent: tuple[SilentService, ...] = ()
    version: str = ""
    lacks: tuple[str, ...] = ()


class SeenByProxy(msgspec.Struct, frozen=True):
    """What a proxy has met on its way to others."""

    ejected: tuple[EjectedEndpoint, ...] = ()
    silent: tuple[SilentService, ...] = ()


NOTHING_SEEN = SeenByProxy()


class Proxies(msgspec.Struct, frozen=True):
    """``GET /api/v1/proxies``."""

    proxies: tuple[Proxy, ...]


class Resource(msgspec.Struct, frozen=True):
    """One resource of one proxy: its version, where that stands, and the objects it was compiled from."""

    type: str
    name: str
    state: str
    version: str
    nonce: str | None
    sent_at: float | None
    answered_at: float | None
    size_bytes: int
    cause: tuple[str, ...]
    error: str


class Config(msgspec.Struct, frozen=True):
    """``GET /api/v1/proxies/{id}/config``."""

    id: str
    resources: tuple[Resource, ...]


class Changed(msgspec.Struct, frozen=True):
    """One resource that a push changed."""

    type: str
    name: str


class Rejection(msgspec.Struct, frozen=True):
    """One proxy's refusal, in Envoy's words."""

    proxy: str
    at: float
    error: str


class PushRecord(msgspec.Struct, frozen=True):
    """One batch of changes; ``live_ms`` is from its detection to the last proxy's answer, None until then."""

    id: int
    at: float
    live_ms: float | None
    changes: tuple[Changed, ...]
    causes: tuple[str, ...]
    answered: int
    waiting: int
    rejections: tuple[Rejection, ...]


class Pushes(msgspec.Struct, frozen=True):
    """``GET /api/v1/pushes``, newest first."""

    pushes: tuple[PushRecord, ...]


class ProblemRecord(msgspec.Struct, frozen=True):
    """What a user must be told of one object."""

    severity: str
    object: str
    field: str
    reason: str
    where: str


class Problems(msgspec.Struct, frozen=True):
    """``GET /api/v1/problems``."""

    problems: tuple[ProblemRecord, ...]


class ObjectRecord(msgspec.Struct, frozen=True):
    """``GET /api/v1/objects``: one object in force (no fingerprint: none), and how its newest push went.

    ``waiting`` and ``answered`` count proxies and types of that push, ``live_ms`` is from its detection to the last
    answer; all empty where no push is remembered.
    """

    object: str
    fingerprint: str
    problems: tuple[ProblemRecord, ...]
    waiting: int = 0
    answered: int = 0
    live_ms: float | None = None
    rejections: tuple[Rejection, ...] = ()


class Overview(msgspec.Struct, frozen=True):
    """``proa status -o json``."""

    proxies: tuple[Proxy, ...]
    problems: tuple[ProblemRecord, ...]


def overview(proxies: Iterable[Proxies], problems: Iterable[Problems]) -> Overview:
    """Return what several replicas said as one: of a proxy that moved the newest connection, each problem once."""
    by_id: dict[str, Proxy] = {}
    for proxy in sorted((one for each in proxies for one in each.proxies), key=lambda one: one.connected_at):
        by_id[proxy.id] = proxy
    said = dict.fromkeys(problem for each in problems for problem in each.problems)
    return Overview(tuple(by_id[name] for name in sorted(by_id)), tuple(said))


def proxies(
    ledger: Ledger,
    workload: Callable[[str], str],
    seen: Callable[[str], SeenByProxy] = lambda _: NOTHING_SEEN,
) -> Proxies:
    """Return every connected proxy; ``workload`` names the workload of a node ID, ``seen`` what its sidecar has met."""
    return Proxies(
        tuple(
            Proxy(
                id=found.id,
                workload=workload(found.id),
                connected_at=found.connected_at,
                streams=found.streams,
                acked=found.synced,
                types=_count(found.tallies),
                ejected=seen(found.id).ejected,
                silent=seen(found.id).silent,
                version=found.version,
                lacks=lacks(found.version),
            )
            for found in ledger.proxies()
        )
    )


def config(ledger: Ledger, node_id: str, kind: str | None = None) -> Config | None:
    """Return what one proxy has of each resource, of one type if ``kind`` names it; None: not connected."""
    rows = ledger.config(node_id)
    if not rows and not ledger.is_connected(node_id):
        return None
    return Config(node_id, tuple(found for found in map(_resource, rows) if kind in {None, found.type}))


def pushes(ledger: Ledger, limit: int) -> Pushes:
    """Return the newest pushes, at most ``limit``."""
    return Pushes(tuple(_push(record) for record in ledger.pushes()[:limit]))


def problems(found: Iterable[Problem]) -> Problems:
    """Return the problems of the world that is served."""
    return Problems(tuple(map(_problem, found)))


def object_record(
    key: Key, fingerprint: str, found: Iterable[Problem], pushes: Iterable[Push]
) -> ObjectRecord:
    """Return what is in force of one object; ``pushes`` are the newest first."""
    said = tuple(_problem(problem) for problem in found if problem.subject == str(key))
    push = next((push for push in pushes if str(key) in push.causes), None)
    if push is None:
        return ObjectRecord(str(key), fingerprint, said)
    record = _push(push)
    return ObjectRecord(
        str(key), fingerprint, said, record.waiting, record.answered, record.live_ms, record.rejections
    )


def _problem(found: Problem) -> ProblemRecord:
    return ProblemRecord(found.severity.value, found.subject, found.path, found.reason, found.where)


def _count(tallies: Iterable[Tally]) -> tuple[TypeCount, ...]:
    """Add up what the streams of one proxy have, type by type."""
    by_type: dict[str, list[Tally]] = {}
    for tally in tallies:
        by_type.setdefault(_type_name(tally.type_url), []).append(tally)
    return tuple(
        TypeCount(
            name,
            sum(tally.accepted for tally in found),
            sum(tally.unanswered for tally in found),
            sum(tally.rejected for tally in found),
        )
        for name, found in by_type.items()
    )


def _resource(row: Row) -> Resource:
    return Resource(
        type=_type_name(row.type_url),
        name=row.name,
        state=row.state.value,
        version=row.version,
        nonce=row.nonce,
        sent_at=row.sent_at,
        answered_at=row.answered_at,
        size_bytes=row.size_bytes,
        cause=row.cause,
        error=row.error,
    )


def _push(push: Push) -> PushRecord:
    live_at = push.live_at
    return PushRecord(
        id=push.id,
        at=push.at,
        live_ms=None if live_at is None else (live_at - push.at) * 1000,
        changes=tuple(Changed(_type_name(kind.url), name) for kind, name in push.changes),
        causes=push.causes,
        answered=len(push.answers),
        waiting=push.waiting,
        rejections=tuple(Rejection(answer.proxy, answer.at, answer.error) for answer in push.nacks),
    )


def _type_name(type_url: str) -> str:
    return TYPE_NAMES.get(type_url, type_url.rpartition(".")[2].lower())
