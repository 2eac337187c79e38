"""The webhook's two conversations with the apiserver: who else injects, and whom it must believe about us.

It owns what was last seen of both; it must never be asked by a request in flight, and only the holder of the Lease
may reconcile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from xds import settings
from xds.fields import ConfigError
from xds.injection.istio import IstioLabels, IstioRule, read_injectors
from xds.injection.patch import Operation
from xds.injection.registration import NAME, mend
from xds.kube.client import ApiError, Client

_LOG: Final = logging.getLogger("proa.webhook")

_PATH: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_NOT_FOUND: Final = 404


class Injectors:
    """What the cluster's other injectors are, as of the last look; every replica keeps its own."""

    def __init__(self, client: Client, mode: IstioLabels) -> None:
        self._client = client
        self._mode = mode
        self.rule: IstioRule | None = None if mode is IstioLabels.AUTO else IstioRule(mode)
        """None until the first look has succeeded; a later failure keeps what was seen last."""

    async def run(self) -> None:
        """Look, and look again every `INJECTORS_READ_S`; returns at once where the setting leaves nothing to see."""
        while self._mode is IstioLabels.AUTO:
            await self.look()
            await asyncio.sleep(settings.INJECTORS_READ_S if self.rule else settings.INJECTORS_RETRY_S)

    async def look(self) -> None:
        """Read the list once."""
        try:
            body = await self._client.call("GET", _PATH, timeout_s=settings.REGISTRATION_TIMEOUT_S)
            self.rule = IstioRule(self._mode, read_injectors(msgspec.json.decode(body)))
        except (ApiError, ConfigError, msgspec.DecodeError) as error:
            _LOG.warning("injectors not read", extra={"error": error})


class Registration:
    """The configuration `proa-injector`, kept so that the apiserver believes our certificate before we serve it."""

    def __init__(
        self,
        client: Client,
        *,
        roots: Callable[[], tuple[tuple[str, ...], str]],
        istio: Callable[[], IstioRule | None],
    ) -> None:
        """``roots`` gives every root to be believed (PEM) and the newest one's fingerprint: `trust.bootstrap_roots`."""
        self._client = client
        self._roots = roots
        self._istio = istio
        self._believed: str | None = ""

    def reported(self) -> frozenset[str | None]:
        """Return the newest root that the apiserver was seen to believe, as a proxy reports one.

        None inside (a reporter that has none) holds up a rotation; nothing inside: no webhook is installed.
        """
        return frozenset() if self._believed is None else frozenset({self._believed or None})

    async def reconcile(self) -> bool:
        """Read the configuration and mend it; return whether it is as it should be now.

        What fails is logged and left to the next call, conflicts among it: nothing is written over.
        """
        pems, newest = self._roots()
        try:
            live = await self._call("GET", None)
            operations = mend(live, pems, self._istio())
            if operations:
                await self._call("PATCH", operations)
                _LOG.info("registration mended", extra={"roots": len(pems), "newest": newest})
        except ApiError as error:
            if error.status == _NOT_FOUND:
                self._believed = None
                return False
            _LOG.warning("registration not mended", extra={"error": error})
            return False
        except (ConfigError, msgspec.DecodeError) as error:
            _LOG.warning("registration not understood", extra={"error": error})
            return False
        self._believed = newest
        return True

    async def _call(self, method: str, operations: tuple[Operation, ...] | None) -> object:
        body = await self._client.call(
            method,
            f"{_PATH}/{NAME}",
            # a list: of anything else the library makes a strategic merge patch
            body=None if operations is None else list(msgspec.to_builtins(operations)),
            content_type="application/json" if operations is None else "application/json-patch+json",
            timeout_s=settings.REGISTRATION_TIMEOUT_S,
        )
        return msgspec.json.decode(body)
