"""The source against a real apiserver: beside kubectl, with large objects, through restarts and black holes."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.rights import as_control_plane
from tests.fakes.cluster import Followed, keys
from tests.fakes.hole import relaying
from tests.fakes.objects import raw
from xds import install, settings
from xds.kube.client import Client
from xds.sources.informer import Informer
from xds.sources.kubernetes import Kubernetes
from xds.sources.mirror import Kind
from xds.sources.reflector import Delta, Put

DEADLINE_S = 60.0
"""For what takes milliseconds on a machine with nothing else to do."""

RECOVERED_S = 5.0
"""From the apiserver's return to a watch that follows again."""

NOTICED_S = 45.0
"""From the last byte of a dead connection to its end."""

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: PLURAL.GROUP}
spec:
  group: GROUP
  names: {kind: KIND, plural: PLURAL, singular: SINGULAR, listKind: KINDList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def definition(kind: str, plural: str, group: str = "networking.istio.io") -> str:
    """Return a CustomResourceDefinition that takes every object."""
    words = {"KIND": kind, "PLURAL": plural, "SINGULAR": kind.lower(), "GROUP": group}
    text = DEFINITION
    for word, value in words.items():
        text = text.replace(word, value)
    return text


@asynccontextmanager
async def following(kubeconfig: Path) -> AsyncGenerator[Followed]:
    """Run a source over a real apiserver, loaded and watched until the block ends."""
    async with await Client.connect(kubeconfig) as client, asyncio.TaskGroup() as tasks:
        source = Kubernetes(client)
        running = [tasks.create_task(source.run(), name="source")]
        try:
            followed = Followed(None, source)
            async with asyncio.timeout(DEADLINE_S):
                await source.load()
            running.append(tasks.create_task(followed.watch(), name="watch"))
            yield followed
        finally:
            for task in running:
                task.cancel()


async def until(fact: Callable[[], bool], what: object, timeout_s: float = DEADLINE_S) -> float:
    """Wait for a fact and return how long it took."""
    began_at = time.monotonic()
    while not fact():
        assert time.monotonic() - began_at < timeout_s, what() if callable(what) else what
        await asyncio.sleep(0.02)
    return time.monotonic() - began_at


async def changed(followed: Followed, key: str, *, is_there: bool, timeout_s: float = DEADLINE_S) -> None:
    """Wait for a batch that puts an object in force, or takes it out."""
    async with asyncio.timeout(timeout_s):
        while keys(await followed.batches.get()).get(key) is not is_there:
            pass


def lists(followed: Followed) -> dict[str, int]:
    """Return how often each kind was listed."""
    return {status.kind: status.lists for status in followed.source.statuses()}


def failures(followed: Followed) -> dict[str, str]:
    """Return which kinds are not followed now, and why."""
    return {status.kind: status.failure for status in followed.source.statuses() if status.failure}


async def gone(followed: Followed) -> set[str]:
    """Return what the batches so far took out of force."""
    out: set[str] = set()
    while not followed.batches.empty():
        out |= {key for key, is_there in keys(followed.batches.get_nowait()).items() if not is_there}
    return out


class Seen:
    """Every event of one kind, as name, version and whether the object is there."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def take(self, _: Informer, deltas: Iterable[Delta], __: float) -> None:
        """Note what an informer hands on."""
        for delta in deltas:
            if isinstance(delta, Put):
                version = json.loads(bytes(delta.raw))["metadata"]["resourceVersion"]
                self.events.append((delta.name.name, "put", version))
            else:
                self.events.append((delta.name.name, "gone", ""))


@asynccontextmanager
async def informed(kubeconfig: Path, kind: Kind) -> AsyncGenerator[tuple[Informer, Seen]]:
    """Follow one kind until the block ends."""
    seen = Seen()
    async with await Client.connect(kubeconfig) as client:
        informer = Informer(client, kind, seen.take)
        task = asyncio.create_task(informer.run(), name="informer")
        try:
            await until(lambda: informer.is_synced, "the first list")
            yield informer, seen
        finally:
            task.cancel()
            await asyncio.wait([task])


# -- Beside kubectl --------------------------------------------------------------------------------


@asynccontextmanager
async def kubectl_watch(api: Cluster, namespace: str) -> AsyncGenerator[list[tuple[str, str, str]]]:
    """Collect what ``kubectl get -w`` prints of a namespace's ServiceAccounts, in our words."""
    events: list[tuple[str, str, str]] = []
    argv = [str(api.kube.with_name("kubectl")), "--kubeconfig", str(api.kubeconfig), "-n", namespace]
    argv += ["get", "serviceaccounts", "--watch", "--output-watch-events", "-o", "json"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, limit=1 << 22)

    async def read() -> None:
        assert process.stdout is not None
        text, decoder = "", json.JSONDecoder()
        while chunk := await process.stdout.read(1 << 16):
            text += chunk.decode()
            while text.strip():
                try:
                    event, end = decoder.raw_decode(text.lstrip())
                except ValueError:
                    break
                text = text.lstrip()[end:]
                meta = event["object"]["metadata"]
                is_gone = event["type"] == "DELETED"
                version = "" if is_gone else meta["resourceVersion"]
                events.append((meta["name"], "gone" if is_gone else "put", version))

    reading = asyncio.create_task(read(), name="kubectl")
    try:
        yield events
    finally:
        process.terminate()
        await process.wait()
        reading.cancel()
        await asyncio.wait([reading])


async def scramble(client: Client, path: str, count: int, rng: random.Random) -> None:
    """Create, change and delete objects at random."""
    there: set[str] = set()
    for turn in range(count):
        name = f"a{rng.randrange(12)}"
        if name not in there:
            await client.call("POST", path, body=raw("ServiceAccount", name, namespace=None))
            there.add(name)
        elif rng.random() < 0.6:
            body = {"metadata": {"labels": {"turn": str(turn)}}}
            await client.call(
                "PATCH", f"{path}/{name}", body=body, content_type="application/merge-patch+json"
            )
        else:
            await client.call("DELETE", f"{path}/{name}")
            there.discard(name)


async def test_it_sees_what_kubectl_sees(api: Cluster) -> None:
    """300 random writes: the same events, in the same order, with the same versions."""
    with api.namespace("source") as namespace:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        kind = Kind("ServiceAccount", "v1", path)
        async with (
            kubectl_watch(api, namespace) as theirs,
            informed(api.kubeconfig, kind) as (informer, seen),
            await Client.connect(api.kubeconfig) as client,
        ):
            await until(lambda: len(theirs) >= len(seen.events) > 0, "kubectl's first list")
            await scramble(client, path, 300, random.Random(4))
            await client.call("POST", path, body=raw("ServiceAccount", "last", namespace=None))
            for events in (theirs, seen.events):
                await until(
                    lambda events=events: any(name == "last" for name, _, _ in events), "the last event"
                )

            assert seen.events == theirs
            assert informer.status().lists == 1


# -- Size ------------------------------------------------------------------------------------------


async def test_an_object_of_two_mebibytes_is_followed(api: Cluster) -> None:
    """400,000 control characters are 2.3 MiB of JSON: as one line of the watch, and in a list."""
    with api.namespace("source") as namespace:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        kind = Kind("ConfigMap", "v1", path)
        body = raw("ConfigMap", "large", namespace=None) | {"data": {"x": "\x01" * 400_000}}
        async with informed(api.kubeconfig, kind) as (informer, seen):
            await asyncio.to_thread(api.kubectl, "-n", namespace, "create", "-f", "-", stdin=json.dumps(body))
            await until(lambda: any(name == "large" for name, _, _ in seen.events), "the object")
            assert informer.status().failures == 0
        async with informed(api.kubeconfig, kind) as (_, seen):
            assert "large" in {name for name, _, _ in seen.events}
        async with await Client.connect(api.kubeconfig) as client:
            assert len(await client.call("GET", f"{path}/large")) > 2 << 20


# -- Definitions -----------------------------------------------------------------------------------


async def test_kinds_come_and_go_at_run_time(own_api: Cluster) -> None:
    """A definition brings its objects and takes them; what else is there does not move."""
    route = raw("VirtualService", "orders", api="networking.istio.io/v1", namespace="default")
    route["spec"] = {"hosts": ["orders"], "http": [{"route": [{"destination": {"host": "orders"}}]}]}
    async with following(own_api.kubeconfig) as followed:
        for _ in range(2):
            await asyncio.to_thread(own_api.apply, definition("VirtualService", "virtualservices"))
            await asyncio.to_thread(
                own_api.kubectl,
                "wait",
                "--for=condition=Established",
                "crd/virtualservices.networking.istio.io",
            )
            await asyncio.to_thread(own_api.apply, json.dumps(route))
            await changed(followed, "VirtualService default/orders", is_there=True)
            await asyncio.to_thread(own_api.kubectl, "delete", "crd", "virtualservices.networking.istio.io")
            await changed(followed, "VirtualService default/orders", is_there=False)
            assert await gone(followed) <= {"VirtualService default/orders"}


# -- Outages ---------------------------------------------------------------------------------------


ESTABLISHED_S: Final = 30.0
"""Within this new kinds can be followed."""


@pytest.mark.parametrize("outage_s", [0.0, 20.0])
async def test_a_restarted_apiserver_costs_a_list_at_most(
    own_api: Cluster, outage_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is deleted, and what is written after its return is seen within 5 s, however long the waits have grown.

    With the rights of the control plane, and no more: an apiserver that starts refuses these before it knows them.
    """
    await asyncio.to_thread(own_api.apply, install.carried())
    async with following(as_control_plane(own_api, tmp_path)) as followed:
        # An apiserver that has just been told of a kind asks everybody to come again; that is no part of the outage.
        await until(lambda: failures(followed) == {}, lambda: failures(followed), ESTABLISHED_S)
        before = lists(followed)
        monkeypatch.setattr(settings, "KUBE_BACKOFF_JITTER", 100.0)  # 40 s instead of 1 s, as after minutes
        await asyncio.to_thread(own_api.kill, "kube-apiserver", signal.SIGKILL)
        await asyncio.sleep(outage_s)  # what must not happen: a deletion, however long nobody answers
        await asyncio.to_thread(own_api.start, "kube-apiserver")
        await asyncio.to_thread(own_api.wait_ready)
        returned_at = time.monotonic()
        await until(lambda: failures(followed) == {}, lambda: failures(followed), RECOVERED_S)
        await asyncio.to_thread(own_api.kubectl, "create", "namespace", "after")
        await changed(followed, "Namespace after", is_there=True, timeout_s=RECOVERED_S)

        assert time.monotonic() - returned_at < 2 * RECOVERED_S
        assert await gone(followed) == set()
        assert {kind: n - before[kind] for kind, n in lists(followed).items() if n - before[kind] > 1} == {}


def through(kubeconfig: Path, port: int, folder: Path) -> Path:
    """Write a kubeconfig of the same cluster behind a relay."""
    import yaml

    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    cluster["tls-server-name"] = cluster["server"].removeprefix("https://").rpartition(":")[0]
    cluster["server"] = f"https://127.0.0.1:{port}"
    (folder / "config").write_text(yaml.safe_dump(config))
    return folder / "config"


async def test_a_black_hole_is_noticed_and_forgiven(own_api: Cluster, tmp_path: Path) -> None:
    """Within 45 s of silence; after it no kind is listed again, and nothing was deleted."""
    host, _, port = own_api.url.removeprefix("https://").rpartition(":")
    async with (
        relaying(host, int(port)) as hole,
        following(through(own_api.kubeconfig, hole.port, tmp_path)) as followed,
    ):
        before = lists(followed)
        hole.swallow()
        await until(
            lambda: all(s.failure for s in followed.source.statuses()), "every watch's end", NOTICED_S
        )
        await asyncio.to_thread(own_api.kubectl, "create", "namespace", "meanwhile")
        hole.mend()
        await changed(followed, "Namespace meanwhile", is_there=True, timeout_s=RECOVERED_S)
        await until(lambda: failures(followed) == {}, lambda: failures(followed), RECOVERED_S)

        assert await gone(followed) == set()
        assert lists(followed) == before
