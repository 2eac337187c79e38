"""Sidecars' tokens at a real apiserver: who is admitted, who is not, and what an outage changes.

It owns the facts about admission that only a real TokenReview can show.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import psutil
import pytest

from tests.cluster.accounts import Pods
from tests.cluster.cluster import Cluster
from xds import settings
from xds.identity import Refusal, Refused
from xds.kube.client import Client
from xds.kube.review import Admission, Reviewer
from xds.reviews import review_of


@dataclass
class Gate:
    """A Namespace with Pods, and the decision about callers."""

    pods: Pods
    client: Client
    reviewer: Reviewer
    admission: Admission

    async def admit(self, token: str, node_id: str | None = None) -> str:
        """Return the SPIFFE ID of a caller."""
        return str((await self.admission.admit(f"Bearer {token}", node_id)).spiffe_id)

    async def refusal(self, token: str, node_id: str | None = None) -> Refusal:
        """Return why a caller is turned away."""
        with pytest.raises(Refused) as caught:
            await self.admit(token, node_id)
        return caught.value.reason

    async def apiserver_accepts(self, token: str) -> bool:
        """Ask it ourselves, past everything of ours."""
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status = msgspec.json.decode(await self.client.call("POST", path, body=review_of(token)))["status"]
        return bool(status.get("authenticated", False))


@asynccontextmanager
async def gate(cluster: Cluster) -> AsyncGenerator[Gate]:
    """Yield a gate before a Namespace of its own."""
    with cluster.namespace("admission") as namespace:
        pods = Pods(cluster, namespace)
        async with await Client.connect(cluster.kubeconfig) as client:
            reviewer = Reviewer(client)
            assert await reviewer.load()
            admission = Admission(reviewer, pods.facts, lambda: "cluster.local", wait_s=0.2)
            yield Gate(pods, client, reviewer, admission)


async def test_a_pod_is_who_its_token_says(api: Cluster) -> None:
    """A projected token with our audience, bound to a Pod that is there."""
    async with gate(api) as at:
        at.pods.make("web-1")
        namespace = at.pods.namespace

        admitted = await at.admit(at.pods.token("web-1"), f"web-1.{namespace}")

        assert admitted == f"spiffe://cluster.local/ns/{namespace}/sa/web"


async def test_tokens_that_prove_something_else_are_refused(api: Cluster) -> None:
    """The apiserver's own audience, no Pod, another Pod's node, another ServiceAccount's Pod."""
    async with gate(api) as at:
        at.pods.make("web-1")
        at.pods.make("web-2")
        namespace = at.pods.namespace
        genuine = at.pods.token("web-1")
        for_apiserver = at.pods.token("web-1", audience="https://kubernetes.default.svc.cluster.local")

        assert await at.apiserver_accepts(genuine)
        assert await at.refusal(for_apiserver) is Refusal.AUDIENCE
        assert await at.refusal(at.pods.token("web-1", audience="other")) is Refusal.AUDIENCE
        assert await at.refusal(at.pods.token("")) is Refusal.CLAIMS
        assert await at.refusal(genuine, f"web-2.{namespace}") is Refusal.NODE
        assert await at.refusal(genuine, "web-1.default") is Refusal.NODE
        assert await at.refusal(api.token("admin")) is Refusal.UNVERIFIED
        assert await at.refusal(genuine[:-3] + "AAA") is Refusal.UNVERIFIED


async def test_a_deleted_pods_token_is_refused_at_once(api: Cluster) -> None:
    """The apiserver goes on accepting it for about ten seconds; our own Pods decide."""
    async with gate(api) as at:
        at.pods.make("web-1")
        token = at.pods.token("web-1")
        await at.admit(token)
        at.pods.delete("web-1")

        assert await at.apiserver_accepts(token)
        assert await at.refusal(token) is Refusal.POD


async def test_a_successor_of_the_same_name_is_another_pod(api: Cluster) -> None:
    """A StatefulSet's next web-1 does not inherit the token of the last one."""
    async with gate(api) as at:
        first = at.pods.make("web-1")
        token = at.pods.token("web-1")
        await at.admit(token)
        at.pods.delete("web-1")
        second = at.pods.make("web-1")

        assert first != second
        assert await at.refusal(token) is Refusal.POD
        assert await at.admit(at.pods.token("web-1"))


async def test_an_apiserver_that_hangs_keeps_nobody_out(own_api: Cluster) -> None:
    """Signature, claims and our own Pods decide; one caller waits for a timeout, the next ones do not."""
    async with gate(own_api) as at:
        at.pods.make("web-1")
        at.pods.make("web-2")
        facts = {pod: at.pods.facts(at.pods.namespace, pod) for pod in ("web-1", "web-2")}
        tokens = [at.pods.token(pod) for pod in ("web-1", "web-2")]
        wrong = at.pods.token("web-1", audience="other")
        admission = Admission(at.reviewer, lambda _namespace, pod: facts.get(pod), lambda: "cluster.local")
        own_api.kill("kube-apiserver", signal.SIGSTOP)
        try:
            began = time.monotonic()
            await admission.admit(f"Bearer {tokens[0]}", None)
            first_s = time.monotonic() - began
            await admission.admit(f"Bearer {tokens[1]}", None)
            second_s = time.monotonic() - began - first_s
            refused = await at.refusal(wrong)
        finally:
            own_api.kill("kube-apiserver", signal.SIGCONT)
            own_api.wait_ready()

        assert first_s < 2 * settings.REVIEW_TIMEOUT_S
        assert second_s < settings.REVIEW_TIMEOUT_S / 2
        assert refused is Refusal.AUDIENCE


async def test_hostile_tokens_cost_little(api: Cluster) -> None:
    """2,000 of every sort: below 2 ms and nothing kept each, and a real caller is served meanwhile."""
    async with gate(api) as at:
        at.pods.make("web-1")
        genuine = at.pods.token("web-1")
        header, payload, signature = genuine.split(".")
        sorts = ["null", ".bnVsbA.", f"{header}.{payload}.", f"{header}.bnVsbA.{signature}", "a" * 16_000,
                 f"eyJhbGciOiJub25lIn0.{payload}.x", f"{header}.{'W1tb' * 900}.{signature}"]  # fmt: skip
        tokens = [f"{sorts[number % len(sorts)]}{number // len(sorts)}" for number in range(2_000)]
        process = psutil.Process()
        before = process.memory_info().rss
        began = time.process_time()
        reasons = {await at.refusal(token) for token in tokens}
        cpu_s = time.process_time() - began

        assert reasons == {Refusal.UNVERIFIED}
        assert cpu_s < 4.0
        assert process.memory_info().rss - before < 32 << 20
        assert at.reviewer.counters["reviews"] == 0
        assert await at.admit(genuine)


async def test_strangers_with_an_unknown_key_do_not_block_a_pod(api: Cluster) -> None:
    """They get two TokenReviews at a time; a caller whose signature holds has slots of its own."""
    async with gate(api) as at:
        at.pods.make("web-1")
        genuine = at.pods.token("web-1")
        _, payload, signature = genuine.split(".")
        unknown = "eyJhbGciOiJSUzI1NiIsImtpZCI6InVua25vd24ifQ"
        strangers = [
            asyncio.create_task(at.refusal(f"{unknown}.{payload}.{signature}{number}"))
            for number in range(300)
        ]
        await asyncio.sleep(0)
        began = time.monotonic()
        await at.reviewer.bound(genuine)
        reviewed_s = time.monotonic() - began
        refused = set(await asyncio.gather(*strangers))

        assert reviewed_s < 1.0
        assert refused == {Refusal.BUSY, Refusal.UNVERIFIED}
        assert at.reviewer.counters["reviews"] <= settings.REVIEW_STRANGERS_WAITING + 1
