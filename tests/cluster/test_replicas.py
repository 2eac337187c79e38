"""Two control planes of their own processes on a real apiserver, and sidecars that say just what a test wants.

It owns the facts about replicas: equal answers, one trust, a rotation that waits for the other's proxies, the death of
the one that leads, and the stream of a Pod that is deleted.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.cluster.accounts import Pods
from tests.cluster.cluster import Cluster
from tests.fakes.plane import ADS_DELTA, Call, open_stream
from xds import settings
from xds.demo.mesh import free_ports
from xds.demo.processes import Child, Family, wait_until
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from xds.snapshot import ResourceType

DEADLINE_S = 60.0
KINDS = (ResourceType.CLUSTER, ResourceType.LISTENER)
BUNDLE = (ResourceType.SECRET.url, "ROOTCA")
LEAF = (ResourceType.SECRET.url, "default")


async def until(what: str, fact: Callable[[], Any], wait_s: float = DEADLINE_S) -> None:
    """Return when a fact holds; other tasks run meanwhile."""
    try:
        async with asyncio.timeout(wait_s):
            while not await asyncio.to_thread(fact):  # noqa: ASYNC110  # the fact is another process's
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {wait_s:g} s: {what}")


@dataclass
class Replica:
    """One `proa serve --kubernetes`."""

    name: str
    port: int
    admin: int
    child: Child

    def api(self, path: str, method: str = "GET") -> Any:
        """What its admin API answers; None while it does not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body) if answer.status == http.client.OK else None
        except OSError:
            return None
        finally:
            connection.close()

    @property
    def phase(self) -> str:
        """Where the rotation of the workload root stands."""
        found = self.api("/api/v1/ca")
        return found["workload"]["phase"] if found else ""

    @property
    def signer(self) -> str:
        """The fingerprint of the root that signs."""
        roots = self.api("/api/v1/ca")["workload"]["roots"]
        return next(root["fingerprint"] for root in roots if root["signs"])


@dataclass
class Proxy:
    """A sidecar that remembers what it was sent, and ACKs all but what a test withholds."""

    call: Call
    node_id: str
    has: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    withheld: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    owed: list[DeltaDiscoveryRequest] = field(default_factory=list[DeltaDiscoveryRequest])
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Subscribe, then answer until the stream ends."""
        for kind in KINDS:
            request = DeltaDiscoveryRequest(type_url=kind.url)
            request.node.id = self.node_id
            await self.call.write(request.SerializeToString())
        secrets = DeltaDiscoveryRequest(
            type_url=ResourceType.SECRET.url, resource_names_subscribe=["default", "ROOTCA"]
        )
        await self.call.write(secrets.SerializeToString())
        while isinstance(body := await self.call.read(), bytes):
            response = DeltaDiscoveryResponse.FromString(body)
            names = {(response.type_url, found.name): found.version for found in response.resources}
            self.has.update(names)
            ack = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            if self.withheld & names.keys():
                self.owed.append(ack)
            else:
                await self.call.write(ack.SerializeToString())
        self.ended.set()

    async def relent(self) -> None:
        """ACK what was withheld."""
        self.withheld.clear()
        for ack in self.owed:
            await self.call.write(ack.SerializeToString())
        self.owed.clear()


@dataclass
class Mesh:
    """Replicas over one Namespace, which holds their own objects and the Pods."""

    cluster: Cluster
    pods: Pods
    family: Family
    stack: AsyncExitStack
    replicas: dict[str, Replica] = field(default_factory=dict[str, Replica])

    async def serve(self, name: str) -> Replica:
        """Start a replica and wait until it is ready."""
        port, admin = free_ports(2)
        argv = [
            sys.executable,
            "-m",
            "xds",
            "serve",
            "--kubernetes",
            "--kubeconfig",
            str(self.cluster.kubeconfig),
        ]
        argv += ["--namespace", self.pods.namespace, "--pod", name]
        argv += ["--xds", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
        child = self.family.start(name, argv)
        replica = self.replicas[name] = Replica(name, port, admin, child)
        is_ready = lambda: replica.api("/api/v1/proxies") is not None  # noqa: E731
        await asyncio.to_thread(wait_until, f"{name} is ready", is_ready, timeout_s=DEADLINE_S, child=child)
        return replica

    @property
    def leader(self) -> str:
        """The name of the replica that holds the Lease, "" for none."""
        lease = self.cluster.get("lease", "proa", "-n", self.pods.namespace)
        return str(lease["spec"].get("holderIdentity", "")).partition("_")[0]

    async def connect(
        self, pod: str, replica: Replica, *, withheld: set[tuple[str, str]] | None = None
    ) -> Proxy:
        """Connect a Pod's sidecar to a replica with a token of its own."""
        secret = self.cluster.get("secret", settings.CA_SECRET, "-n", self.pods.namespace)
        roots = json.loads(base64.b64decode(secret["data"]["channel-roots.json"]))
        credentials = grpc.ssl_channel_credentials(roots["signer"]["certificate"].encode())
        options = (("grpc.use_local_subchannel_pool", 1),)
        channel = grpc.aio.secure_channel(f"localhost:{replica.port}", credentials, options)
        await self.stack.enter_async_context(channel)
        call = open_stream(channel, ADS_DELTA, f"Bearer {self.pods.token(pod)}", timeout_s=300)
        proxy = Proxy(call, f"{pod}.{self.pods.namespace}", withheld=withheld or set())
        task = asyncio.create_task(proxy.run(), name=f"proxy-{pod}")
        self.stack.callback(task.cancel)
        await until("it has its certificate", lambda: LEAF in proxy.has and BUNDLE in proxy.has)
        return proxy


@asynccontextmanager
async def mesh(cluster: Cluster, work: Path, *names: str) -> AsyncGenerator[Mesh]:
    """Run replicas over a Namespace of their own."""
    family = Family(work / "logs")
    try:
        with cluster.namespace("replicas") as namespace:
            async with AsyncExitStack() as stack:
                found = Mesh(cluster, Pods(cluster, namespace), family, stack)
                for name in names:
                    await found.serve(name)
                yield found
    finally:
        family.stop()


async def test_replicas_answer_alike_and_keep_each_others_certificates(api: Cluster, tmp_path: Path) -> None:
    """Every version is equal at both; a proxy that goes over to the other one is sent nothing."""
    async with mesh(api, tmp_path, "a", "b") as under:
        under.pods.make("web-1", sidecar=True)
        first = await under.connect("web-1", under.replicas["a"])
        second = await under.connect("web-1", under.replicas["b"])
        await until("both have all", lambda: first.has.keys() == second.has.keys())

        shared = first.has.keys() - {LEAF}
        assert {name: first.has[name] for name in shared} == {name: second.has[name] for name in shared}
        assert first.has[LEAF].split(".")[0] == second.has[LEAF].split(".")[0]


async def test_a_rotation_waits_for_the_proxies_of_the_other_replica(api: Cluster, tmp_path: Path) -> None:
    """The leader's own proxy has ACKed the bundle with both roots; the other replica's has not, and nothing signs."""
    async with mesh(api, tmp_path, "a", "b") as under:
        for pod in ("web-1", "web-2"):
            under.pods.make(pod, sidecar=True)
        leader = under.replicas[under.leader]
        (other,) = (replica for replica in under.replicas.values() if replica is not leader)
        ours = await under.connect("web-1", leader)
        theirs = await under.connect("web-2", other)
        before, bundle = leader.signer, theirs.has[BUNDLE]
        theirs.withheld.add(BUNDLE)
        assert leader.api("/api/v1/ca/rotate?root=workload", "POST") is not None
        await until(
            "both sidecars were sent both roots", lambda: ours.has[BUNDLE] == theirs.has[BUNDLE] != bundle
        )
        await until("the leader would go on alone", lambda: _age_s(leader) > settings.ROTATION_DWELL_S + 5)
        held = (leader.phase, leader.signer)
        await theirs.relent()
        await until("the new root signs everywhere", lambda: other.phase == leader.phase == "steady")

        assert held == ("prepared", before)
        assert leader.signer == other.signer != before
        assert ours.has[LEAF].split(".")[0] == theirs.has[LEAF].split(".")[0] == leader.signer[:16]


def _age_s(replica: Replica) -> float:
    """How long a phase has lasted, by the Secret's own time."""
    return time.time() - float(replica.api("/api/v1/ca")["workload"]["entered"])


async def test_when_the_leader_dies_another_one_leads_the_same_trust(api: Cluster, tmp_path: Path) -> None:
    """Killed, not stopped: after the Lease's time the other one writes; roots and certificates are what they were."""
    async with mesh(api, tmp_path, "a", "b") as under:
        under.pods.make("web-1", sidecar=True)
        dead = under.replicas.pop(under.leader)
        (left,) = under.replicas.values()
        proxy = await under.connect("web-1", left)
        before, had = left.signer, dict(proxy.has)
        dead.child.process.kill()
        await until("the other one leads", lambda: under.leader == left.name)
        assert left.signer == before
        assert proxy.has == had
        assert left.api("/api/v1/ca/rotate?root=workload", "POST") is not None
        # The dead one's Lease holds the barrier up for its time: its proxies may not have come over yet.
        await until("it is the leader's to rotate", lambda: left.phase == "prepared")

        assert not proxy.ended.is_set()


async def test_a_follower_refuses_to_rotate(api: Cluster, tmp_path: Path) -> None:
    """An order at the wrong replica is an error, not silence."""
    async with mesh(api, tmp_path, "a", "b") as under:
        leader = under.leader
        (other,) = (replica for name, replica in under.replicas.items() if name != leader)

        assert other.api("/api/v1/ca/rotate?root=workload", "POST") is None
        assert other.phase == "steady"


async def test_a_deleted_pods_stream_ends_and_its_token_opens_none(api: Cluster, tmp_path: Path) -> None:
    """Within seconds, although the token is good for an hour and the apiserver still accepts it."""
    async with mesh(api, tmp_path, "a") as under:
        under.pods.make("web-1", sidecar=True)
        under.pods.make("web-2", sidecar=True)
        gone = await under.connect("web-1", under.replicas["a"])
        stays = await under.connect("web-2", under.replicas["a"])
        under.pods.delete("web-1")
        async with asyncio.timeout(20):
            await gone.ended.wait()

        assert await gone.call.code() is grpc.StatusCode.OK
        assert not stays.ended.is_set()
