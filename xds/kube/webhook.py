"""The webhook's server: HTTPS with a certificate that changes while it serves, bounded bodies, one answer each.

It owns sockets, sizes and deadlines; it must never decide about a Pod (`xds.injection`), and never write the private
key where another process could read it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import hdrs, web

from xds import settings
from xds.address import Address
from xds.api.core import Labels
from xds.injection.admission import BadReviewError, Selected, World, answer
from xds.injection.istio import UNKNOWN, IstioRule
from xds.injection.template import Template
from xds.keys import SecretBytes
from xds.notices import Notice

_LOG: Final = logging.getLogger("proa.webhook")

_ISTIOS: Final = frozenset({Selected.ISTIO_NAMESPACE, Selected.ISTIO_POD, Selected.ANY})
"""Whose answers rest on what Istio does."""


class Certificate(Protocol):
    """A server certificate with its key, as `xds.ca` issues it."""

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        ...

    @property
    def key_pem(self) -> SecretBytes:
        """Its key in PEM."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the webhook asks at each request; none of it may wait or raise."""

    template: Callable[[], Template]
    labels: Callable[[str], Labels | None]
    """The labels of a namespace as our watch knows them, None for one that it does not."""
    istio: Callable[[], IstioRule | None]
    """What Istio serves, None while nobody could look: then its labels are answered with 503."""
    certificate: Callable[[], Certificate]
    """The same object until it is due: asked at every handshake, so a newer one is served from then on."""
    record: Callable[[Notice], None]
    """Takes what a user should see of a Pod that got no sidecar; it must not wait."""


class Webhook:
    """One server; ``counts`` says how many Pods had which outcome (a reason's name, ``Injected``, or a status)."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.buffered_bytes = 0
        """Bodies that are in memory now."""
        self.counts: Counter[str] = Counter()

    @asynccontextmanager
    async def listening(self, address: Address) -> AsyncGenerator[Address]:
        """Serve until the block ends, and give the address with its real port; raises OSError if it is taken."""
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=settings.REVIEW_STOP_S,
        )
        await runner.setup()
        try:
            context = serving_context(self._sources.certificate)
            site = web.TCPSite(
                runner, address.host, address.port, ssl_context=context, reuse_address=True, backlog=1024
            )
            await site.start()
            host, port, *_ = runner.addresses[0]
            yield Address(host, port)
        finally:
            await runner.cleanup()

    def application(self) -> web.Application:
        """Return the application: POST /inject, and below it the path that tells which selector has matched."""
        app = web.Application()
        app.add_routes([web.post("/inject", self._inject), web.post("/inject/{selected}", self._inject)])
        return app

    async def _inject(self, request: web.Request) -> web.Response:
        try:
            selected = Selected(request.match_info.get("selected", ""))
        except ValueError:
            raise self._refuse(web.HTTPNotFound, "no webhook of ours has this path") from None
        istio = self._sources.istio()
        if istio is None and selected in _ISTIOS:
            raise self._refuse(web.HTTPServiceUnavailable, "Istio's webhooks have not been read yet")
        body = await self._body(request)
        world = World(self._sources.template(), self._sources.labels, istio or UNKNOWN)
        try:
            verdict = answer(body, selected, world)
        except BadReviewError as error:
            raise self._refuse(web.HTTPBadRequest, str(error)) from None
        self.counts[verdict.outcome] += 1
        if verdict.notice is not None:
            self._sources.record(verdict.notice)
        return web.Response(body=verdict.body, content_type="application/json")

    async def _body(self, request: web.Request) -> bytes:
        """Return the whole body; what is too large, too slow or one too many is refused as early as that is known."""
        if request.content_type != "application/json":
            raise self._refuse(web.HTTPUnsupportedMediaType, "must be application/json")
        limit = settings.REVIEW_MAX_BYTES
        if (request.content_length or 0) > limit:
            raise self._too_large(request.content_length or 0, limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(settings.REVIEW_BODY_S):
                while chunk := await request.content.readany():
                    parts.append(chunk)
                    size += len(chunk)
                    self.buffered_bytes += len(chunk)
                    if size > limit:
                        raise self._too_large(size, limit)
                    if self.buffered_bytes > settings.REVIEWS_BUFFERED_BYTES:
                        raise self._refuse(web.HTTPServiceUnavailable, "too many reviews at once")
        except TimeoutError:
            raise self._refuse(web.HTTPRequestTimeout, "the body did not arrive in time") from None
        finally:
            self.buffered_bytes -= size
        return b"".join(parts)

    def _too_large(self, size: int, limit: int) -> web.HTTPException:
        self.counts["413"] += 1
        return web.HTTPRequestEntityTooLarge(
            max_size=limit, actual_size=size, text=f"more than {limit} bytes\n"
        )

    def _refuse(self, refusal: type[web.HTTPError], text: str) -> web.HTTPException:
        """Count and log a refusal, and return it to be raised; the connection ends with it."""
        self.counts[str(refusal.status_code)] += 1
        _LOG.warning("review refused", extra={"status": refusal.status_code, "said": text})
        return refusal(text=f"{text}\n", headers={hdrs.CONNECTION: "close"})


def serving_context(current: Callable[[], Certificate]) -> ssl.SSLContext:
    """Return a TLS 1.3 server context that serves, at each handshake, the certificate that is current then.

    Connections that are open keep theirs. The handshake's context is replaced rather than changed: OpenSSL has
    copied the certificate into the connection by the time that it asks.
    """
    served = current()
    fresh = _context(served)

    def choose(
        connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context_of: ssl.SSLContext
    ) -> None:
        nonlocal served, fresh
        latest = current()
        if latest is not served:
            fresh, served = _context(latest), latest
        connection.context = fresh

    context = _context(served)
    context.sni_callback = choose
    return context


def _context(certificate: Certificate) -> ssl.SSLContext:
    """Return a context with this certificate; `ssl` reads keys from files alone, so it gets one that has no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    descriptor = os.memfd_create("webhook-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(certificate.key_pem.reveal() + certificate.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
