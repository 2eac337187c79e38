"""The trust of all replicas in one Secret: made once, changed by the leader alone, followed by everybody.

Owns when the Secret is read and written; it must never decide a rotation's step (`xds.trust` does), make a fresh key
in place of a damaged one, or take a step that the Secret does not say.

    custody = Custody(SecretFile(api, namespace, settings.CA_SECRET), leads=elector.leads, trust_domain=…)
    trust = await custody.open()                     at start: waits until a leader has made the Secret
    await custody.run(publish)                       a task: follows and writes; publish takes the SecretPuts
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from xds import ca, settings, stored
from xds.ca import Authority, CaError
from xds.fields import ConfigError, Problem, Severity
from xds.issuer import read_issuer
from xds.keys import SecretBytes
from xds.kube.secret import Kept, SecretFile
from xds.rotation import Elsewhere, Phase, Root, Slots, succeed
from xds.secrets import SecretPut
from xds.sources.transport import ApiError
from xds.state import StateError, system_entropy
from xds.stored import DAMAGED, ROOTS, TOKEN_KEY
from xds.svid import InvalidCertificate
from xds.trust import Trust

log = logging.getLogger(__name__)

_CONFLICT: Final = 409
_FORBIDDEN: Final = frozenset({401, 403})

Publish = Callable[[tuple[SecretPut, ...]], None]


class Custody:
    """The home of the roots in a cluster, as one replica sees it."""

    def __init__(  # noqa: PLR0913  # its collaborators, each of them replaceable in a test
        self,
        file: SecretFile,
        *,
        leads: Callable[[], bool],
        trust_domain: str,
        issuer: SecretFile | None = None,
        leaf_ttl_s: int = settings.LEAF_TTL_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`issuer` is a user's own CA, None where we make the workload root ourselves."""
        self._file = file
        self._issuer = issuer
        self._leads = leads
        self._trust_domain = trust_domain
        self._leaf_ttl_s = leaf_ttl_s
        self._now = now
        self._entropy = system_entropy()
        self._kept = Kept({}, "")
        self._issuer_version = ""
        self._one_at_a_time = asyncio.Lock()
        self._trust: Trust | None = None
        self._wanted: dict[Root, Slots] = {}
        self._wanted_on = ""  # the version on which they were decided: a later one means that they are old
        self._asked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.problem: Problem | None = None
        """What is wrong with the user's own CA: the last good one signs on."""

    # --- start ------------------------------------------------------------------------------

    async def open(self, wait_s: float = settings.CA_OPEN_S) -> Trust:
        """Return the trust of all replicas, made by this one if it leads and nobody has made it.

        Raises StateError, which names the Secret and the fix, if there is none within `wait_s` seconds.
        """
        why = "no replica leads"
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    try:
                        if await self._is_complete():
                            return self._assemble()
                    except ApiError as error:
                        why = str(error)
                        if error.status in _FORBIDDEN:
                            raise StateError(
                                f"{self._file}: {error}: grant get, patch and create in this namespace"
                            ) from None
                    await asyncio.sleep(settings.CA_PAUSE_S)
        except TimeoutError:
            raise StateError(f"{self._file}: not there after {wait_s:g} s: {why}") from None

    async def _is_complete(self) -> bool:
        """Read the Secret; if we lead, fill what is missing, once: a conflict means that another did."""
        kept = await self._file.read()
        if kept is not None and all(name in kept.files for name in stored.FILES):
            self._kept = kept
            return True
        if not self._leads():
            return False
        missing = await self._missing(kept.files if kept else {})
        if not self._leads():
            return False
        try:
            if kept is None:
                self._kept = await self._file.create(missing)
            else:
                self._kept = await self._file.write(missing, kept.version)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            return False
        log.info("trust made", extra={"secret": str(self._file)})
        return True

    async def _missing(self, files: Mapping[str, SecretBytes]) -> dict[str, SecretBytes]:
        now = self._now()
        made: dict[str, SecretBytes] = {}
        if ROOTS[Root.WORKLOAD] not in files:
            signer = await self._first_signer(now)
            made[ROOTS[Root.WORKLOAD]] = stored.pack(Slots(Phase.STEADY, signer, None, now))
        if ROOTS[Root.CHANNEL] not in files:
            channel = ca.new_channel_root(now=now, entropy=self._entropy)
            made[ROOTS[Root.CHANNEL]] = stored.pack(Slots(Phase.STEADY, channel, None, now))
        if TOKEN_KEY not in files:
            made[TOKEN_KEY] = stored.new_token_key()
        return made

    async def _first_signer(self, now: float) -> Authority:
        if self._issuer is None:
            return ca.new_root(self._trust_domain, now=now, entropy=self._entropy)
        theirs = await self._read_issuer(self._issuer)
        if theirs is None:  # never a root of ours in its place: it would be trusted everywhere at once
            raise StateError(str(self.problem))
        return theirs

    def _assemble(self) -> Trust:
        workload, channel = (self._unpacked(root) for root in (Root.WORKLOAD, Root.CHANNEL))
        try:
            key = stored.read_token_key(self._kept.files[TOKEN_KEY].reveal())
        except DAMAGED:
            raise self._damaged(TOKEN_KEY) from None
        self._trust = Trust.assemble(
            workload,
            channel,
            trust_domain=self._trust_domain,
            version_key=stored.version_key(key),
            entropy=self._entropy,
            save=self._hand_on,
            started=self._now(),
            leaf_ttl_s=self._leaf_ttl_s,
        )
        return self._trust

    def _unpacked(self, root: Root) -> Slots:
        try:
            slots = stored.unpack(self._kept.files[ROOTS[root]].reveal())
        except DAMAGED:
            raise self._damaged(ROOTS[root]) from None
        if root is Root.WORKLOAD:
            try:
                for authority in filter(lambda found: found.is_ours, slots.trusted):
                    ca.check_root(authority, self._trust_domain)
            except InvalidCertificate as error:
                raise StateError(f"{self._file}: {ROOTS[root]}: {error}") from None
        return slots

    def _damaged(self, name: str) -> StateError:
        return StateError(
            f"{self._file}: {name}: damaged; restore it, or delete the Secret to start a new trust"
        )

    async def settled(self, wait_s: float = settings.CA_CALL_S) -> bool:
        """Wait until every step that was wanted is written, or was given up; False after `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # --- steps ------------------------------------------------------------------------------

    def _hand_on(self, root: Root, slots: Slots) -> None:
        """Take a step that `Trust` wants: it is written by `run`, and in force when the Secret says so."""
        if not self._leads():
            raise CaError("this replica does not lead, and only the leader changes the roots: ask it")
        begins_with_ours = slots.phase is Phase.PREPARED and slots.newest.is_ours
        if self._issuer is not None and root is Root.WORKLOAD and begins_with_ours:
            raise CaError(f"the workload root is the user's own, in {self._issuer}: replace it there")
        self._want(root, slots)
        raise Elsewhere

    def _want(self, root: Root, slots: Slots) -> None:
        """Ask for a write; one that is under way goes first, and where it fails all is decided again."""
        if not self._wanted:
            self._wanted_on = self._kept.version
        if self._wanted_on == self._kept.version:
            self._wanted.setdefault(root, slots)
            self._idle.clear()
            self._asked.set()

    async def run(self, publish: Publish) -> None:
        """Follow the Secret and write what this replica, if it leads, wants to change; for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_wanted(publish), name="ca-writes")
            tasks.create_task(self._follow(publish), name="ca-follows")
            if self._issuer is not None:
                tasks.create_task(self._watch_issuer(self._issuer), name="ca-issuer")

    async def _follow(self, publish: Publish) -> None:
        async for _ in self._file.changes(lambda: self._kept.version):
            try:
                async with self._one_at_a_time:  # a read that began before our own write would take us back
                    kept = await self._restored(await self._file.read())
                    if kept is not None:
                        self._adopt(kept, publish)
            except ApiError as error:
                log.warning("ca secret not followed", extra={"why": str(error)})

    async def _restored(self, kept: Kept | None) -> Kept | None:
        """Put back what somebody deleted, if we lead: the next start would make a trust that no sidecar has."""
        lost = {name: self._kept.files[name] for name in stored.FILES if not kept or name not in kept.files}
        if not lost:
            return kept
        log.error("ca secret has lost files", extra={"secret": str(self._file), "files": ", ".join(lost)})
        if not self._leads():
            return None
        return await (self._file.write(lost, kept.version) if kept else self._file.create(lost))

    async def _write_wanted(self, publish: Publish) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            written = dict(self._wanted)
            files = {ROOTS[root]: stored.pack(slots) for root, slots in written.items()}
            try:
                async with self._one_at_a_time:
                    if self._leads():
                        self._adopt(await self._file.write(files, self._wanted_on), publish)
            except ApiError as error:
                # 409: another has written; whatever it was, the step is decided again on what there is now.
                log.warning("ca secret not written", extra={"status": error.status, "why": error.message})
                await asyncio.sleep(settings.CA_PAUSE_S)
                written = self._wanted
            self._wanted = {root: slots for root, slots in self._wanted.items() if root not in written}
            if self._wanted:  # by the other root, meanwhile: of that one the Secret says what it said
                self._wanted_on = self._kept.version
                self._asked.set()
            else:
                self._idle.set()

    def _adopt(self, kept: Kept, publish: Publish) -> None:
        """Take over what the Secret says; what cannot be read leaves the last good in force."""
        trust, before = self._trust, self._kept
        if trust is None or kept.version == before.version:
            return
        self._kept = kept
        for root, name in ROOTS.items():
            if kept.files.get(name) == before.files.get(name):
                continue
            try:
                slots = self._unpacked(root)
            except (StateError, KeyError) as error:
                log.error("ca secret not followed", extra={"why": str(error)})  # noqa: TRY400  # no stack: keys are near
                self._kept = Kept({**kept.files, name: before.files[name]}, kept.version)
                continue
            publish(trust.follow(root, slots))
            log.info("trust changed", extra={"root": root.value, "phase": slots.phase.value})

    # --- a user's own CA -----------------------------------------------------------------------

    async def _watch_issuer(self, file: SecretFile) -> None:
        """Let what a user's Secret holds succeed what signs, while we lead."""
        async for _ in file.changes(lambda: self._issuer_version):
            trust = self._trust
            theirs = await self._read_issuer(file)
            if trust is None or theirs is None or not self._leads():
                continue
            slots = trust.workload.slots
            following = succeed(slots, theirs, now=self._now())
            if following is not slots:
                self._want(Root.WORKLOAD, following)

    async def _read_issuer(self, file: SecretFile) -> Authority | None:
        try:
            kept = await file.read()
        except ApiError as error:
            self._complain(Problem(Severity.ERROR, str(file), "", f"cannot be read: {error}"))
            return None
        self._issuer_version = kept.version if kept else ""
        try:
            found = read_issuer(kept.files if kept else {}, trust_domain=self._trust_domain, now=self._now())
        except ConfigError as error:
            reason = error.reason if kept else "is not there: create it, or unset the setting that names it"
            self._complain(Problem(Severity.ERROR, str(file), error.path if kept else "", reason))
            return None
        self.problem = None
        return found

    def _complain(self, problem: Problem) -> None:
        if problem != self.problem:
            log.error("problem: %s", problem)
        self.problem = problem
