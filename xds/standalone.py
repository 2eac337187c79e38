"""A control plane beside a directory of manifests: join tokens admit, a state directory keeps the keys.

It owns what `proa serve --from DIR` is made of; it must never believe a caller without proof unless it was
started `--insecure`, on a loopback address and without any key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from xds import channel, settings
from xds.app import App, Life, Ports
from xds.identity import Identity, IdentityError, Proof, Refusal, Refused, admit, bearer
from xds.server import Call, Caller
from xds.sources.directory import Batch, Directory
from xds.state import StateBusy, StateDirectory, StateError, load_trust

if TYPE_CHECKING:
    import grpc

    from xds.fields import Problem
    from xds.gate import ServerOptions
    from xds.ledger import Response
    from xds.sources.informer import Status as Following
    from xds.tokens import TokenKey
    from xds.trust import Fleet


@dataclass(frozen=True, slots=True)
class Options:
    """What ``proa serve --from`` was asked for."""

    directory: Path
    state: Path
    is_insecure: bool
    leaf_ttl_s: int = settings.LEAF_TTL_S


def compose(options: Options, ports: Ports, server: ServerOptions | None = None) -> App:
    """Return the control plane of a directory, not yet running."""
    return App(Standalone(options), ports, server)


class Standalone:
    """The home of a control plane without Kubernetes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.has_keys = not options.is_insecure
        self.sees_sidecars = False
        self._directory = Directory(options.directory)
        self._tokens: TokenKey | None = None
        self._app: App | None = None

    async def load(self, _life: Life) -> Batch:
        """Read every file."""
        return await asyncio.to_thread(self._directory.load)

    def watch(self) -> AsyncGenerator[Batch]:
        """Yield the settled edits."""
        return self._directory.watch()

    def placed(self, problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """Return the problems with file, line and column."""
        return self._directory.placed(problems)

    def loading(self) -> str:
        """Return what a client of the health port must wait for."""
        return "the manifests are being read"

    def leads(self) -> bool:
        """Return true: there is no other."""
        return True

    def fleet(self, own: Fleet) -> Fleet:
        """Return our own proxies: there are no others."""
        return own

    async def settled(self) -> None:
        """Return at once: a step is on disk before it is in force."""

    def told(self, problems: tuple[Problem, ...]) -> None:
        """Do nothing: the log, `proa status` and `/metrics` say them."""

    def answered(self, response: Response) -> None:
        """Do nothing: the ledger has it."""

    def counters(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}

    def kinds(self) -> tuple[Following, ...]:
        """Return nothing: files are not followed kind by kind."""
        return ()

    async def open(self, app: App, life: Life) -> grpc.ServerCredentials | None:
        """Return the xDS port's credentials, None for plaintext; then no key is even loaded."""
        self._app = app
        options = self._options
        if options.is_insecure:
            return None
        state = life.stack.enter_context(StateDirectory.open(options.state))
        try:
            state.lock(str(app.ports.admin))
        except StateBusy as busy:
            raise StateError(f"{busy}; stop it, or give this one another --state") from None
        world = app.plane.plan.world
        domain = world.settings.trust_domain
        trust = load_trust(state, domain, now=time.time(), leaf_ttl_s=options.leaf_ttl_s)
        app.plane.trust = trust
        world.pin_trust_domain()
        self._tokens = state.token_key()
        app.plane.put_secrets((trust.issuer.bundle(),), time.time())
        return channel.server_credentials(lambda: trust.channel_leaf(time.time()))

    async def authenticate(self, call: Call) -> Caller:
        """Admit who brings a join token for its own Pod; `--insecure` believes the node ID, and gives no key."""
        if self._app is None:
            raise Refused(Refusal.NO_TOKEN)
        if self._options.is_insecure:
            return self._believe(self._app, call.node.id) if call.node else None
        if self._tokens is None:
            raise Refused(Refusal.NO_TOKEN)
        token = bearer(call.metadata.get("authorization", ""))
        node_id = call.node.id if call.node else _node_of(self._tokens.verify(token))
        return admit(
            token,
            node_id=node_id,
            now=time.time(),
            verify=self._tokens.verify,
            pods=self._app.pod_facts,
            trust_domain=self._app.plane.plan.world.settings.trust_domain,
        )

    def _believe(self, app: App, node_id: str) -> Caller:
        """Return the Pod that a caller names without proof: it selects a view, never a secret."""
        pod, _, namespace = node_id.rpartition(".")
        facts = app.pod_facts(namespace, pod)
        if facts is None:
            return None
        domain = app.plane.plan.world.settings.trust_domain
        try:
            return Identity(pod, namespace, facts.service_account, facts.workload, domain, Proof.NODE_ID)
        except IdentityError:
            return None


def _node_of(claims: object) -> str:
    """Return the node ID of a verified token's Pod, for calls that have no node of their own."""
    pod = cast("dict[str, object]", claims).get("pod") if isinstance(claims, dict) else None
    namespace, _, name = pod.partition("/") if isinstance(pod, str) else ("", "", "")
    return f"{name}.{namespace}"
