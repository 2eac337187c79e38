"""Replicas on a real apiserver: who leads, one trust in one Secret, a user's own CA, what each says of its proxies.

It owns the facts about xds.kube.{election,custody,replicas,events} that only a real apiserver can show; the replicas
here are objects of one process.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.cluster.cluster import Cluster
from tests.fakes.authorities import Authorities
from xds import ca, settings
from xds.ca import CaError
from xds.fields import Problem, Severity
from xds.identity import Identity, Proof
from xds.kube.client import Client
from xds.kube.custody import Custody
from xds.kube.election import Elector, LeaseFile
from xds.kube.events import Events
from xds.kube.replicas import Replicas
from xds.kube.secret import SecretFile
from xds.lease import Candidate
from xds.replicas import Report
from xds.rotation import Phase, Root
from xds.secrets import SecretPut
from xds.state import StateError
from xds.trust import Fleet, Trust, joined

DEADLINE_S = 20.0
WEB = Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN)
LIVE = Fleet(lambda _version: True, lambda _stream, _version: True, frozenset[str | None])


async def until(what: str, fact: Callable[[], bool]) -> None:
    """Return when a fact holds."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not fact():  # noqa: ASYNC110  # the fact is the apiserver's, and a fake watches it
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE_S:g} s: {what}")


@asynccontextmanager
async def place(cluster: Cluster) -> AsyncGenerator[tuple[Client, str]]:
    """Yield a client and a Namespace of its own."""
    with cluster.namespace("trust") as namespace:
        async with await Client.connect(cluster.kubeconfig) as client:
            try:
                yield client, namespace
            finally:
                await asyncio.gather(*(replica.stop() for replica in Replica.running))


class Replica:
    """One control plane's trust, and what it publishes of it."""

    running: ClassVar[list[Replica]] = []

    def __init__(self, client: Client, namespace: str, *, leads: bool, issuer: str = "") -> None:
        self.leads = leads
        self.custody = Custody(
            SecretFile(client, namespace, settings.CA_SECRET),
            leads=lambda: self.leads,
            trust_domain="cluster.local",
            issuer=SecretFile(client, namespace, issuer) if issuer else None,
        )
        self.trust: Trust
        self.puts: list[SecretPut] = []
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> Replica:
        """Open the trust and follow it, until its Namespace goes."""
        self.trust = await self.custody.open(DEADLINE_S)
        self._running = asyncio.create_task(self.custody.run(self.puts.extend))
        self.running.append(self)
        return self

    async def stop(self) -> None:
        """End its task."""
        self.running.remove(self)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    @property
    def roots(self) -> tuple[str, ...]:
        """Fingerprints of the workload roots, the one that signs first."""
        slots = self.trust.workload.slots
        return (slots.signer.fingerprint, *([slots.other.fingerprint] if slots.other else []))


# --- who leads ------------------------------------------------------------------------------------


async def test_of_two_racing_candidates_one_leads(api: Cluster) -> None:
    """Both try at the same moment, ten times over; the Lease says who, and kubectl shows it."""
    async with place(api) as (client, namespace):
        electors = {name: Elector.of(client, namespace, "proa", name) for name in ("a", "b")}
        leaders: list[str] = []
        for _ in range(10):
            await asyncio.gather(*(elector.attempt() for elector in electors.values()))
            leaders = [name for name, elector in electors.items() if elector.leads()]
            assert len(leaders) == 1
        lease = api.get("lease", "proa", "-n", namespace)

        assert lease["spec"]["holderIdentity"] == leaders[0]
        assert lease["spec"]["leaseTransitions"] == 0


async def test_a_leader_that_stops_hands_over_at_once(api: Cluster) -> None:
    """Released when its task is cancelled: the next one need not wait for fifteen seconds."""
    async with place(api) as (client, namespace):
        first, second = (Elector.of(client, namespace, "proa", name) for name in ("a", "b"))
        running = asyncio.create_task(first.run())
        await until("the first leads", first.leads)
        await second.attempt()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await second.attempt()

        assert not first.leads()
        assert second.leads()
        assert api.get("lease", "proa", "-n", namespace)["spec"]["leaseTransitions"] == 1


async def test_a_stale_write_is_refused_and_read_again(api: Cluster) -> None:
    """Somebody edits the Lease in between: 409, then a read, then the write."""
    async with place(api) as (client, namespace):
        elector = Elector.of(client, namespace, "proa", "a")
        await elector.attempt()
        api.kubectl("annotate", "lease", "proa", "-n", namespace, "someone=else")
        await elector.attempt()
        stale = api.get("lease", "proa", "-n", namespace)["metadata"]["resourceVersion"]
        await elector.attempt()

        assert elector.leads()
        assert api.get("lease", "proa", "-n", namespace)["metadata"]["resourceVersion"] != stale


async def test_without_an_apiserver_a_leader_stops_before_another_may_start(own_api: Cluster) -> None:
    """Ten seconds after its last success it leads no more; the Lease is believed for fifteen."""
    async with place(own_api) as (client, namespace):
        clock = time.monotonic
        leader = Elector(LeaseFile(client, namespace, "proa"), Candidate("a"), clock=clock)
        running = asyncio.create_task(leader.run())
        await until("it leads", leader.leads)
        own_api.kill("kube-apiserver")
        began = clock()
        await until("it leads no more", lambda: not leader.leads())
        stopped_s = clock() - began
        own_api.start("kube-apiserver")
        own_api.wait_ready()
        await until("it leads again", leader.leads)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert stopped_s <= settings.LEASE_RENEW_DEADLINE_S + 0.5


# --- one trust ------------------------------------------------------------------------------------


async def test_two_replicas_that_both_believe_to_lead_make_one_trust(api: Cluster) -> None:
    """The Secret is created once; who came second takes what is there."""
    async with place(api) as (client, namespace):
        replicas = await asyncio.gather(*(Replica(client, namespace, leads=True).start() for _ in range(4)))

        assert len({replica.roots for replica in replicas}) == 1
        assert len({replica.trust.issuer.bundle().version for replica in replicas}) == 1
        assert len({replica.trust.channel.slots.signer.fingerprint for replica in replicas}) == 1


async def test_an_empty_secret_that_the_manifest_ships_is_filled(api: Cluster) -> None:
    """So that no replica needs the right to create Secrets; labels of others stay."""
    async with place(api) as (client, namespace):
        api.kubectl("create", "secret", "generic", settings.CA_SECRET, "-n", namespace)
        api.kubectl("label", "secret", settings.CA_SECRET, "-n", namespace, "helm=yes")
        await Replica(client, namespace, leads=True).start()
        secret = api.get("secret", settings.CA_SECRET, "-n", namespace)

        assert secret["metadata"]["labels"] == {"helm": "yes"}
        assert sorted(secret["data"]) == ["channel-roots.json", "token-key.pem", "workload-roots.json"]


async def test_who_does_not_lead_makes_nothing(api: Cluster) -> None:
    """It waits, and says for what; when a leader has made the trust, it takes it."""
    async with place(api) as (client, namespace):
        follower = Replica(client, namespace, leads=False)
        with pytest.raises(StateError, match="proa-ca: not there after 2 s: no replica leads"):
            await follower.custody.open(2)
        assert not api.exists("secret", settings.CA_SECRET, "-n", namespace)
        waiting = asyncio.create_task(follower.start())
        leader = await Replica(client, namespace, leads=True).start()
        await waiting

        assert follower.roots == leader.roots


async def test_a_damaged_secret_is_an_error_never_a_new_key(api: Cluster) -> None:
    """A fresh root in its place would cut off every proxy in silence."""
    async with place(api) as (client, namespace):
        await Replica(client, namespace, leads=True).start()
        patch = json.dumps({"data": {"workload-roots.json": "e30="}})
        api.kubectl("patch", "secret", settings.CA_SECRET, "-n", namespace, "-p", patch)

        with pytest.raises(StateError, match=r"workload-roots\.json: damaged"):
            await Replica(client, namespace, leads=True).start()


def _empty(cluster: Cluster, namespace: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": settings.CA_SECRET}}
    cluster.apply(json.dumps(secret), namespace)


def _is_filled(cluster: Cluster, namespace: str) -> bool:
    if not cluster.exists("secret", settings.CA_SECRET, "-n", namespace):
        return False
    return len(cluster.get("secret", settings.CA_SECRET, "-n", namespace).get("data") or {}) == 3


@pytest.mark.parametrize("is_applied_again", [False, True])
async def test_a_deleted_secret_is_put_back_by_the_leader(
    api: Cluster,
    is_applied_again: bool,  # noqa: FBT001
) -> None:
    """Absence is no order: a replica that starts later finds the trust that every sidecar already has."""
    async with place(api) as (client, namespace):
        leader = await Replica(client, namespace, leads=True).start()
        await Replica(client, namespace, leads=False).start()
        api.kubectl("delete", "secret", settings.CA_SECRET, "-n", namespace)
        if is_applied_again:  # empty, as the chart ships it
            _empty(api, namespace)
        await until("it is back", lambda: _is_filled(api, namespace))
        late = await Replica(client, namespace, leads=False).start()

        assert late.roots == leader.roots
        assert late.trust.issuer.bundle() == leader.trust.issuer.bundle()


async def test_a_rotation_is_the_leaders_and_everybody_follows(api: Cluster) -> None:
    """Prepare, activate, retire: each step is in the Secret, and both replicas sign with the same key at its end."""
    async with place(api) as (client, namespace):
        leader = await Replica(client, namespace, leads=True).start()
        follower = await Replica(client, namespace, leads=False).start()
        (old,) = leader.roots
        leader.trust.rotate(Root.WORKLOAD, time.time())
        assert leader.roots == (old,)  # nothing is in force before the Secret says so
        for number, phase in enumerate((Phase.PREPARED, Phase.ACTIVATED, Phase.STEADY), start=1):
            for replica in (leader, follower):
                await until(f"{phase}", lambda r=replica, p=phase: r.trust.workload.slots.phase is p)
            assert leader.roots == follower.roots
            leader.trust.tick(time.time() + 2 * number * settings.ROTATION_DWELL_S, LIVE)

        assert old not in leader.roots
        assert len([put for put in follower.puts if put.name == "ROOTCA"]) == 3
        assert follower.trust.issuer.bundle() == leader.trust.issuer.bundle()


async def test_a_step_that_was_decided_on_an_old_secret_is_not_written(api: Cluster) -> None:
    """Two that believe to lead: the second one's step names a version that is gone, and is decided again."""
    async with place(api) as (client, namespace):
        first = await Replica(client, namespace, leads=True).start()
        second = Replica(client, namespace, leads=True)
        second.trust = await second.custody.open(DEADLINE_S)  # it does not follow yet
        first.trust.rotate(Root.WORKLOAD, time.time())
        second.trust.rotate(Root.WORKLOAD, time.time())
        await until("the first step is written", lambda: len(first.roots) == 2)
        running = asyncio.create_task(second.custody.run(second.puts.extend))
        await until("the second follows the first", lambda: second.roots == first.roots)
        await second.custody.settled()
        stored = api.get("secret", settings.CA_SECRET, "-n", namespace)["metadata"]["resourceVersion"]
        await second.custody.settled()

        assert second.roots == first.roots
        assert api.get("secret", settings.CA_SECRET, "-n", namespace)["metadata"]["resourceVersion"] == stored
        running.cancel()


async def test_who_does_not_lead_refuses_to_rotate(api: Cluster) -> None:
    """`proa ca rotate` at the wrong replica says so instead of doing nothing."""
    async with place(api) as (client, namespace):
        await Replica(client, namespace, leads=True).start()
        follower = await Replica(client, namespace, leads=False).start()

        with pytest.raises(CaError, match="does not lead"):
            follower.trust.rotate(Root.WORKLOAD, time.time())
        assert follower.trust.tick(time.time(), LIVE, leads=False) == ()


# --- a user's own CA --------------------------------------------------------------------------------


def _give(cluster: Cluster, namespace: str, files: dict[str, bytes]) -> None:
    """Put a Secret of cert-manager's shape in place, or replace it."""
    data = {name: octets.decode() for name, octets in files.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own-ca"},
              "type": "kubernetes.io/tls", "stringData": data}  # fmt: skip
    cluster.apply(json.dumps(secret), namespace)


def _openssl_verifies(trust: Trust) -> bool:
    """Whether a leaf with its chain holds under what peers are given to trust."""
    issued = ca.issue_leaf(trust.workload.slots.signer, WEB, now=time.time(), entropy=trust.entropy)
    with tempfile.TemporaryDirectory() as folder:
        roots, chain = Path(folder, "roots.pem"), Path(folder, "chain.pem")
        roots.write_bytes(b"".join(found.pem for found in trust.workload.slots.trusted))
        chain.write_bytes(issued.certificate_pem)
        argv = [
            "openssl",
            "verify",
            "-x509_strict",
            "-CAfile",
            str(roots),
            "-untrusted",
            str(chain),
            str(chain),
        ]
        return subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0


async def test_a_users_own_ca_signs_and_is_followed(api: Cluster) -> None:
    """An intermediate signs; renewed under the same root it signs at once; under another, peers learn that first."""
    theirs, others = Authorities("first"), Authorities("second")
    async with place(api) as (client, namespace):
        _give(api, namespace, theirs.secret("one"))
        leader = await Replica(client, namespace, leads=True, issuer="own-ca").start()
        follower = await Replica(client, namespace, leads=False, issuer="own-ca").start()
        assert _openssl_verifies(leader.trust)
        (first,) = leader.roots
        bundle = leader.trust.issuer.bundle().version
        _give(api, namespace, theirs.secret("two"))
        await until("the renewed one signs", lambda: follower.roots != (first,) and len(follower.roots) == 1)
        assert leader.trust.issuer.bundle().version == follower.trust.issuer.bundle().version == bundle
        assert _openssl_verifies(follower.trust)
        _give(api, namespace, others.secret("one"))
        await until("both roots are trusted", lambda: follower.trust.workload.slots.phase is Phase.PREPARED)
        leader.trust.tick(time.time() + settings.ROTATION_DWELL_S + 1, LIVE)
        await until("the other one signs", lambda: follower.trust.workload.slots.phase is Phase.ACTIVATED)

        assert _openssl_verifies(follower.trust)
        leader.trust.tick(time.time() + 4 * settings.ROTATION_DWELL_S, LIVE)
        await until("it is over", lambda: follower.trust.workload.slots.phase is Phase.STEADY)
        with pytest.raises(CaError, match="the user's own"):
            leader.trust.rotate(Root.WORKLOAD, time.time())


async def test_a_broken_user_ca_keeps_the_last_good_and_says_what_is_wrong(api: Cluster) -> None:
    """Another's key beside the certificate: a problem that names the field, and leaves that go on."""
    theirs, others = Authorities("first"), Authorities("second")
    async with place(api) as (client, namespace):
        _give(api, namespace, theirs.secret("one"))
        leader = await Replica(client, namespace, leads=True, issuer="own-ca").start()
        before = leader.roots
        _give(api, namespace, theirs.secret("two") | {"tls.key": others.secret("one")["tls.key"]})
        await until("it is a problem", lambda: leader.custody.problem is not None)
        problem = leader.custody.problem
        assert problem is not None
        assert (problem.path, leader.roots) == ("data[tls.key]", before)
        _give(api, namespace, theirs.secret("two"))
        await until("it is none any more", lambda: leader.custody.problem is None and leader.roots != before)


async def test_without_the_users_secret_no_trust_is_made(api: Cluster) -> None:
    """A root of ours in its place would be in every bundle before anybody noticed."""
    async with place(api) as (client, namespace):
        with pytest.raises(StateError, match=r"own-ca: is not there: create it"):
            await Replica(client, namespace, leads=True, issuer="own-ca").start()
        assert not api.exists("secret", settings.CA_SECRET, "-n", namespace)


# --- what replicas say of their proxies -------------------------------------------------------------


async def test_a_rotation_waits_for_every_live_replica(api: Cluster) -> None:
    """What another replica's proxies have not ACKed holds the leader back, until it says so or leaves."""
    async with place(api) as (client, namespace):
        ours, theirs = (Replicas(client, namespace, pod) for pod in ("a", "b"))
        assert await ours.publish(Report("v2", "s", ()))
        assert await theirs.publish(Report("v1", "s", ()))
        fleet = joined(LIVE, ours.others)
        assert not fleet.bundle_acked("v2")  # the Leases were not read yet
        assert await ours.refresh()
        assert not fleet.bundle_acked("v2")
        assert await theirs.publish(Report("v2", "s", ("root",)))
        assert await ours.refresh()
        assert fleet.bundle_acked("v2")
        assert fleet.channel_roots() == {"root"}

        running = asyncio.create_task(theirs.run(lambda: Report("v1"), looks=lambda: False))
        await until("it is said", lambda: '"v1"' in str(api.get("lease", "proa-replica-b", "-n", namespace)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await ours.refresh()
        assert not api.exists("lease", "proa-replica-b", "-n", namespace)
        assert fleet.bundle_acked("v3")


# --- events -----------------------------------------------------------------------------------------


def _events(cluster: Cluster, namespace: str, name: str) -> list[Any]:
    selector = f"regarding.name={name}"
    found = cluster.get("events.events.k8s.io", "-n", namespace, "--field-selector", selector)
    return list(found["items"])


async def test_a_problem_is_an_event_on_its_object(api: Cluster) -> None:
    """`kubectl describe` shows it; a rejection that comes again is counted, not repeated."""
    async with place(api) as (client, namespace):
        api.kubectl("create", "service", "clusterip", "orders", "--tcp=80", "-n", namespace)
        seconds = [0.0]
        events = Events(client, "proa-0", clock=lambda: seconds[0])
        running = asyncio.create_task(events.run())
        problem = Problem(Severity.ERROR, f"Service {namespace}/orders", "spec.ports[0]", "must be else")
        for _ in range(3):
            events.problems([problem], leads=True)
        events.rejected("routes", "bad regex in o", {"o": (f"Service {namespace}/orders",)})
        await until("both are written", lambda: events.counters["events_written"] == 2)
        seconds[0] = settings.EVENT_COUNT_S + 1
        events.rejected("routes", "bad regex in o", {"o": (f"Service {namespace}/orders",)})
        await until("it is counted", lambda: events.counters["events_written"] == 3)
        running.cancel()
        described = api.kubectl("describe", "service", "orders", "-n", namespace)
        found = {event["reason"]: event for event in _events(api, namespace, "orders")}

        assert "spec.ports[0]: must be else" in described
        assert sorted(found) == ["Refused", "Rejected"]
        assert found["Rejected"]["series"]["count"] == 2
        assert found["Refused"]["type"] == "Warning"
