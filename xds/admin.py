"""The HTTP side: health, metrics, and the API that ``proa status`` reads.

Owns paths, status codes and who may ask; it must never decide anything about the mesh: every answer is a
question to ``Facts``. Failures are one line of plain text that says what to do.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from xds import report, settings
from xds.address import Address
from xds.api.core import Key
from xds.ca import CaError
from xds.explain.answer import Answer
from xds.explain.question import Question, read_question
from xds.fields import ConfigError, Problem, Severity
from xds.ledger import Ledger
from xds.metrics import Metrics
from xds.rotation import Root
from xds.traffic.amplification import Rules
from xds.traffic.graph import Seen, graph_of
from xds.traffic.sightings import Sightings
from xds.traffic.window import SLOT_S, WINDOW_S
from xds.trust import Status

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, which every scraper reads."""

TYPE_NAMES: Final = frozenset(report.TYPE_NAMES.values())


def _nothing(_node_id: str) -> report.SeenByProxy:
    return report.NOTHING_SEEN


async def _at_once() -> None:
    """Wait for nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the API may ask the control plane, and the two things that it may order."""

    ledger: Ledger
    metrics: Metrics
    not_ready: Callable[[], str]
    """Why traffic must not come here yet; empty when it may."""
    workload: Callable[[str], str]
    """The workload of a node ID, empty where it is unknown."""
    problems: Callable[[], Sequence[Problem]]
    edges: Callable[[float], Seen]
    """The latest RED series by source and destination."""
    repeats: Callable[[], Rules]
    """Which sidecars may repeat which of the calls that were seen."""
    evidence: Callable[[int], Sightings]
    """The newest sampled requests, at most so many."""
    explain: Callable[[Question], Awaitable[Answer]]
    """What happens to one request; raises ConfigError where nobody is called like its source."""
    ca: Callable[[], Status]
    rotate: Callable[[Root], None]
    retire: Callable[[Root], None]
    """Raises CaError where there is nothing to retire."""
    fingerprint: Callable[[Key], str]
    """What tells the version in force of an object, empty for none."""
    seen: Callable[[str], report.SeenByProxy] = _nothing
    """Whom the sidecar of a node ID has ejected, and who does not answer it."""
    settled: Callable[[], Awaitable[None]] = _at_once
    """Waits until what was ordered is in force; raises CaError if it is not."""


class Api:
    """The handlers of one server."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer that the event loop turns; a supervisor restarts who does not."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200 once the whole world has been read, 503 and the reason before."""
        reason = self._facts.not_ready()
        return (
            web.Response(text=f"not ready: {reason}\n", status=503) if reason else web.Response(text="ok\n")
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer our own metrics; gauges are read when they are asked for."""
        metrics = self._facts.metrics
        metrics.proxies.set(self._facts.ledger.connected)
        severities = Counter(problem.severity for problem in self._facts.problems())
        for severity in Severity:
            metrics.problems.labels(severity.value).set(severities[severity])
        return web.Response(body=metrics.render(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    async def proxies(self, _request: web.Request) -> web.Response:
        """Answer every connected proxy."""
        return _json(report.proxies(self._facts.ledger, self._facts.workload, self._facts.seen))

    async def config(self, request: web.Request) -> web.Response:
        """Answer what one proxy has of each resource, of one type with ``?type=clusters``."""
        node_id, kind = request.match_info["id"], request.query.get("type")
        if kind is not None and kind not in TYPE_NAMES:
            raise web.HTTPBadRequest(text=f"type: must be one of {', '.join(sorted(TYPE_NAMES))}\n")
        found = report.config(self._facts.ledger, node_id, kind)
        if found is None:
            raise web.HTTPNotFound(
                text="no such proxy is connected; GET /api/v1/proxies lists those that are\n"
            )
        return _json(found)

    async def pushes(self, request: web.Request) -> web.Response:
        """Answer the newest pushes, at most ``?limit=``."""
        return _json(report.pushes(self._facts.ledger, _limit(request, settings.PUSHES_SHOWN, most=9999)))

    async def problems(self, _request: web.Request) -> web.Response:
        """Answer what is wrong with the objects that were read."""
        return _json(report.problems(self._facts.problems()))

    async def objects(self, request: web.Request) -> web.Response:
        """Answer what is in force of the object ``?kind=&namespace=&name=``, and how its newest push went."""
        key = Key(*(request.query.get(name, "") for name in ("kind", "namespace", "name")))
        if not (key.kind and key.name):
            raise web.HTTPBadRequest(
                text="kind, name: are required, as in ?kind=Service&namespace=a&name=b\n"
            )
        facts = self._facts
        pushes = facts.ledger.pushes()
        return _json(report.object_record(key, facts.fingerprint(key), facts.problems(), pushes))

    async def edges(self, request: web.Request) -> web.Response:
        """Answer rate, errors and duration by source and destination, of the last ``?window=SECONDS``."""
        return _json(self._facts.edges(_window(request)))

    async def graph(self, request: web.Request) -> web.Response:
        """Answer who calls whom, with both ends' reports as one edge, of the last ``?window=SECONDS``."""
        return _json(graph_of(self._facts.edges(_window(request))))

    async def explain(self, request: web.Request) -> web.Response:
        """Answer what happens to ``?source=&destination=&request=METHOD /path&header=…`` and why."""
        asked = request.query
        try:
            question = read_question(
                asked.get("source", ""),
                asked.get("destination", ""),
                asked.get("request", ""),
                asked.getall("header", []),
            )
            return _json(await self._facts.explain(question))
        except ConfigError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None

    async def retries(self, _request: web.Request) -> web.Response:
        """Answer the retries of each edge that was seen."""
        return _json(self._facts.repeats())

    async def evidence(self, request: web.Request) -> web.Response:
        """Answer the newest sampled requests, at most ``?limit=``."""
        return _json(self._facts.evidence(_limit(request, settings.SIGHTINGS_SHOWN)))

    async def ca(self, _request: web.Request) -> web.Response:
        """Answer where the rotations of both roots stand."""
        return _json(self._facts.ca())

    async def rotate(self, request: web.Request) -> web.Response:
        """Begin the rotation of ``?root=workload`` or ``channel``."""
        return await self._order(self._facts.rotate, _root(request))

    async def retire(self, request: web.Request) -> web.Response:
        """Drop the old root of a rotation that is under way."""
        return await self._order(self._facts.retire, _root(request))

    async def _order(self, order: Callable[[Root], None], root: Root) -> web.Response:
        try:
            order(root)
            await self._facts.settled()
        except CaError as error:
            raise web.HTTPConflict(text=f"{error}\n") from None
        return _json(self._facts.ca())


def application(facts: Facts, address: Address) -> web.Application:
    """Return the application that is to listen on an address; what it lets in depends on that address."""
    api = Api(facts)
    app = web.Application(middlewares=[_only_local_names] if address.is_loopback else [_only_reading])
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/api/v1/proxies", api.proxies),
            web.get("/api/v1/proxies/{id}/config", api.config),
            web.get("/api/v1/pushes", api.pushes),
            web.get("/api/v1/problems", api.problems),
            web.get("/api/v1/objects", api.objects),
            web.get("/api/v1/edges", api.edges),
            web.get("/api/v1/graph", api.graph),
            web.get("/api/v1/evidence", api.evidence),
            web.get("/api/v1/retries", api.retries),
            web.get("/api/v1/explain", api.explain),
            web.get("/api/v1/ca", api.ca),
            web.post("/api/v1/ca/rotate", api.rotate),
            web.post("/api/v1/ca/retire", api.retire),
        ]
    )
    return app


def health(facts: Facts) -> web.Application:
    """Return the application that a kubelet and a scraper may reach from elsewhere: no API, no order."""
    api = Api(facts)
    app = web.Application(middlewares=[_only_reading])
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
        ]
    )
    return app


def listening(facts: Facts, address: Address) -> AbstractAsyncContextManager[Address]:
    """Serve the API until the block ends, and give the address with its real port; raises OSError if it is taken."""
    return _serving(application(facts, address), address)


def listening_health(facts: Facts, address: Address) -> AbstractAsyncContextManager[Address]:
    """As `listening`, for health and metrics alone."""
    return _serving(health(facts), address)


@asynccontextmanager
async def _serving(app: web.Application, address: Address) -> AsyncGenerator[Address]:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=settings.ADMIN_STOP_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port, reuse_address=True)
        await site.start()
        host, port, *_ = runner.addresses[0]
        yield Address(host, port)
    finally:
        await runner.cleanup()


@web.middleware
async def _only_local_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse DNS rebinding and cross-site requests: a web page must not reach a loopback API by a name.

    A page of evil.example whose name turns to 127.0.0.1 sends its own name as Host, and a form that a page
    posts here sends its Origin. Tools send neither.
    """
    if not _is_local_name(request.host):
        raise web.HTTPForbidden(text="Host must be localhost or a loopback address\n")
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and origin != f"http://{request.host}":
        raise web.HTTPForbidden(text="requests from other web sites are refused\n")
    return await handler(request)


@web.middleware
async def _only_reading(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse orders on an address that others reach: nobody is authenticated here."""
    if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
        raise web.HTTPForbidden(
            text="orders are taken on a loopback address only: start with --admin 127.0.0.1:PORT\n"
        )
    return await handler(request)


def _is_local_name(authority: str) -> bool:
    host = authority.rpartition(":")[0] if not authority.endswith("]") else authority
    host = (host or authority).strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _limit(request: web.Request, default: int, *, most: int = 99_999) -> int:
    limit = request.query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= len(str(most))):
        raise web.HTTPBadRequest(text=f"limit: must be 0..{most}\n")
    return int(limit)


def _window(request: web.Request) -> float:
    """Return ``?window=SECONDS``, at most what is kept."""
    text = request.query.get("window", f"{WINDOW_S:g}")
    if not (text.isascii() and text.isdigit() and len(text) < 4 and SLOT_S <= int(text) <= WINDOW_S):
        raise web.HTTPBadRequest(text=f"window: must be {SLOT_S:g}..{WINDOW_S:g} seconds\n")
    return float(text)


def _root(request: web.Request) -> Root:
    name = request.query.get("root", Root.WORKLOAD.value)
    try:
        return Root(name)
    except ValueError:
        known = " or ".join(root.value for root in Root)
        raise web.HTTPBadRequest(text=f"root: must be {known}\n") from None


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
