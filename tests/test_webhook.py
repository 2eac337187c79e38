"""The webhook over real TLS: reviews answered, odd bodies survived, certificates changed while it serves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.fakes.entropy import counted_entropy
from tests.fakes.pods import TEMPLATE, Raw, arriving, varied
from xds import ca, settings
from xds.address import Address
from xds.api.core import Labels
from xds.injection.admission import BadReviewError, Selected, World, answer
from xds.injection.istio import UNKNOWN, IstioRule
from xds.injection.patch import Operation, apply
from xds.kube.webhook import Sources, Webhook
from xds.notices import Notice, Reference

SYSTEM = counted_entropy("webhook")
ROOT = ca.new_channel_root(now=time.time(), entropy=SYSTEM)
LOOPBACK = Address("127.0.0.1", 0)


def leaf(root: ca.Authority = ROOT) -> ca.Leaf:
    """Issue a server certificate."""
    return ca.issue_channel_leaf(root, now=time.time(), entropy=SYSTEM)


LEAF = leaf()
KNOWN: dict[str, Labels] = {"shop": (("proa.dev/inject", "enabled"),), "plain": ()}


def review(pod: Any, namespace: str | None = "shop", **request: Any) -> Raw:
    """Return an AdmissionReview as an apiserver sends it: without a name for a generated one."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    asked: Raw = {
        "uid": "7f0b", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace, "operation": "CREATE", "userInfo": {"username": "kcm"}, "object": pod,
        "oldObject": None, "dryRun": False, "options": {"kind": "CreateOptions"},
    }  # fmt: skip
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**asked, **request}}


class Rig:
    """A webhook that serves, and a client of it that trusts one root."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.leaf = LEAF
        self.istio: IstioRule | None = UNKNOWN
        self.address = LOOPBACK
        self.webhook = Webhook(
            Sources(
                template=lambda: TEMPLATE,
                labels=KNOWN.get,
                istio=lambda: self.istio,
                certificate=lambda: self.leaf,
                record=self.notices.append,
            )
        )

    async def post(
        self, body: object, path: str = "/inject", *roots: ca.Authority, **more: Any
    ) -> tuple[int, str]:
        """Send a body on a connection of its own, and return status and text."""
        trusted = "".join(root.pem.decode() for root in roots or (ROOT,))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        url = f"https://127.0.0.1:{self.address.port}{path}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            session.post(
                url,
                data=io.BytesIO(content),
                headers=headers,
                ssl=ssl.create_default_context(cadata=trusted),
                **more,
            ) as found,
        ):
            return found.status, await found.text()

    async def patched(self, pod: Raw, path: str = "/inject", namespace: str = "shop") -> Raw:
        """Have a Pod reviewed and return it with its patch applied."""
        status, text = await self.post(review(pod, namespace), path)
        assert status == 200
        response = json.loads(text)["response"]
        assert response["allowed"] is True
        if "patch" not in response:
            return pod
        operations = [Operation(**each) for each in json.loads(base64.b64decode(response["patch"]))]
        return cast("Raw", apply(pod, operations))


HOOKED = arriving(
    spec={"containers": [{"name": "app", "lifecycle": {"preStop": {"httpGet": {"port": 8080}}}}]}
)


@asynccontextmanager
async def serving() -> AsyncGenerator[Rig]:
    """Serve on a free port of the loopback."""
    rig = Rig()
    async with rig.webhook.listening(LOOPBACK) as address:
        rig.address = address
        yield rig


def names(pod: Raw) -> list[str]:
    """Return the names of a Pod's init containers."""
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


async def test_a_pod_without_a_name_is_patched() -> None:
    """Pods of a ReplicaSet have none yet, and the review has no `name` key at all."""
    async with serving() as rig:
        pod = await rig.patched(arriving())

    assert names(pod) == ["proa-init", "proa-proxy"]
    assert rig.webhook.counts == {"Injected": 1}


async def test_the_path_tells_what_the_apiserver_has_matched() -> None:
    """A namespace that was labelled a moment ago is not known to a watch yet."""
    async with serving() as rig:
        assert names(await rig.patched(arriving(), "/inject", "new")) == []
        assert names(await rig.patched(arriving(), "/inject/namespace", "new")) != []
        assert names(await rig.patched(arriving(), "/inject/istio-namespace", "new")) != []
        assert names(await rig.patched(arriving(), "/inject/reserved", "kube-system")) == []


async def test_istios_labels_wait_until_somebody_has_looked() -> None:
    """Two sidecars are worse than a retry; our own labels need no look."""
    async with serving() as rig:
        rig.istio = None
        status, _ = await rig.post(review(arriving()), "/inject/istio-namespace")
        assert status == 503
        assert names(await rig.patched(arriving(), "/inject/namespace")) != []


async def test_a_wrong_annotation_refuses_the_pod() -> None:
    """With the annotation's name, where who created it reads it; and as an Event on what created it."""
    async with serving() as rig:
        pod = arriving(metadata={"annotations": {"sidecar.istio.io/proxyCPU": "lots"}})
        _, text = await rig.post(review(pod))

    response = json.loads(text)["response"]
    assert response["allowed"] is False
    assert response["status"]["message"].startswith(
        "metadata.annotations[sidecar.istio.io/proxyCPU]: must be"
    )
    assert [(each.is_warning, each.about) for each in rig.notices] == [
        (True, Reference("ReplicaSet", "shop", "orders-5d8f", "apps/v1", "u1"))
    ]


@pytest.mark.parametrize(
    ("metadata", "about"),
    [
        ({}, Reference("ReplicaSet", "shop", "orders-5d8f", "apps/v1", "u1")),
        ({"name": "alone"}, Reference("Pod", "shop", "alone", "v1")),
        ({"ownerReferences": None}, Reference("Namespace", "", "shop", "v1")),
        (
            {
                "ownerReferences": [
                    {"kind": "a/b", "name": "x", "uid": "u", "apiVersion": "v1", "controller": True}
                ]
            },
            Reference("Namespace", "", "shop", "v1"),
        ),
    ],
)
async def test_why_a_pod_was_left_alone_is_told(metadata: Raw, about: Reference) -> None:
    """On the Pod if it has a name, else on its controller, else on its namespace."""
    async with serving() as rig:
        await rig.post(review(arriving(metadata=metadata, spec={"hostNetwork": True})))

    (notice,) = rig.notices
    assert notice.about == about
    assert (notice.reason, notice.is_warning) == ("HostNetwork", False)


async def test_a_warning_is_also_an_event() -> None:
    """The controller of a Deployment's Pods reads warnings, and shows them to nobody."""
    async with serving() as rig:
        _, text = await rig.post(review(HOOKED))

    response = json.loads(text)["response"]
    assert response["allowed"] is True
    assert rig.notices == [
        Notice(
            Reference("ReplicaSet", "shop", "orders-5d8f", "apps/v1", "u1"),
            "InjectedWithWarnings",
            "\n".join(response["warnings"]),
        )
    ]
    assert rig.notices[0].note.startswith("container app: lifecycle.preStop.httpGet: ")


async def test_a_dry_run_has_no_effect() -> None:
    """No Event of what does not happen."""
    async with serving() as rig:
        await rig.post(review(arriving(spec={"hostNetwork": True}), dryRun=True))
        await rig.post(review(HOOKED, dryRun=True))

    assert rig.notices == []


async def test_what_istio_takes_and_we_do_not_comes_back_as_a_warning() -> None:
    """Who runs kubectl sees it."""
    async with serving() as rig:
        pod = arriving(metadata={"annotations": {"sidecar.istio.io/proxyImage": "x"}})
        _, text = await rig.post(review(pod))

    assert json.loads(text)["response"]["warnings"] == [
        "sidecar.istio.io/proxyImage is ignored: the image is the mesh's"
    ]


DEEP = b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":' + b'{"a":' * 200_000
HOSTILE: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (b"hello", 400),
    "deep": (DEEP, 400),
    "deep list": (b"[" * 1_000_000, 400),
    "a list": (b"[]", 400),
    "null": (b"null", 400),
    "no request": (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}', 400),
    "a null request": (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}', 400),
    "no uid": (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}', 400),
    "wrong kind": (json.dumps({**review(arriving()), "kind": "Pod"}).encode(), 400),
    "wrong version": (
        json.dumps({**review(arriving()), "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        400,
    ),
    "no UTF-8": (b'{"apiVersion":"\xff"}', 400),
    "half a pair": (b'{"apiVersion":"\\ud800"}', 400),
    "10 MB": (b" " * 10_000_000, 413),
    "no pod": (json.dumps(review(None)).encode(), 400),
    "a pod that is a list": (json.dumps(review([])).encode(), 400),
    "a pod without a spec": (json.dumps(review({"metadata": {}})).encode(), 400),
    "a null spec": (json.dumps(review({"spec": None})).encode(), 400),
    "containers are a number": (json.dumps(review({"spec": {"containers": 5}})).encode(), 400),
    "another kind": (json.dumps(review({}, kind={"kind": "Deployment"})).encode(), 200),
    "an eviction": (json.dumps(review({}, subResource="eviction")).encode(), 200),
    "an update": (json.dumps(review({}, operation="UPDATE")).encode(), 200),
    "nothing but nulls": (
        json.dumps(
            review({"metadata": None, "spec": {"containers": None, "volumes": None}}, namespace=None)
        ).encode(),
        200,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_an_odd_body_gets_a_clean_answer(name: str) -> None:
    """One line and a 4xx, or permission without a patch; and the next one is served."""
    body, expected = HOSTILE[name]
    async with serving() as rig:
        status, text = await rig.post(body)
        assert status == expected, text
        assert len(text) < 500
        if status == 200:
            assert json.loads(text)["response"] == {"uid": "7f0b", "allowed": True}
        assert names(await rig.patched(arriving())) == ["proa-init", "proa-proxy"]


async def test_only_posts_of_json_to_its_paths_are_read() -> None:
    """Anything else is somebody else's."""
    async with serving() as rig:
        assert (await rig.post(b"{}", "/inject/else"))[0] == 404
        assert (await rig.post(b"{}", "/metrics"))[0] == 404
        assert (await rig.post(b"{}", headers={"Content-Type": "text/plain"}))[0] == 415


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """A client that drips holds nothing for long."""
    release = asyncio.Event()

    async def drip() -> AsyncGenerator[bytes]:
        yield b"{"
        await asyncio.wait_for(release.wait(), 20)

    async with serving() as rig:
        headers = {"Content-Type": "application/json"}
        trust = ssl.create_default_context(cadata=ROOT.pem.decode())
        url = f"https://127.0.0.1:{rig.address.port}/inject"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=drip(), headers=headers, ssl=trust) as found,
        ):
            assert found.status == 408
            release.set()
        assert rig.webhook.buffered_bytes == 0


async def test_bodies_are_bounded_together() -> None:
    """A crowd of large ones is refused, not kept."""
    async with serving() as rig:
        rig.webhook.buffered_bytes = settings.REVIEWS_BUFFERED_BYTES
        assert (await rig.post(review(arriving())))[0] == 503
        rig.webhook.buffered_bytes = 0
        assert (await rig.post(review(arriving())))[0] == 200


async def test_a_new_certificate_is_served_from_the_next_connection_on() -> None:
    """Without a restart, and for no moment neither."""
    other = ca.new_channel_root(now=time.time(), entropy=SYSTEM)
    async with serving() as rig:
        assert (await rig.post(review(arriving()), "/inject", ROOT))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await rig.post(review(arriving()), "/inject", other)
        rig.leaf = leaf(other)
        assert (await rig.post(review(arriving()), "/inject", other))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await rig.post(review(arriving()), "/inject", ROOT)


async def test_the_services_name_is_on_the_certificate() -> None:
    """What an apiserver asks for when a webhook is given as a Service."""
    async with serving() as rig:
        trust = ssl.create_default_context(cadata=ROOT.pem.decode())
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(
                "127.0.0.1", rig.address.port, ssl=trust, server_hostname="proa.proa-system.svc"
            ),
            10,
        )
        connection = writer.get_extra_info("ssl_object")
        assert connection.version() == "TLSv1.3"
        writer.close()


async def test_older_tls_is_refused() -> None:
    """Every apiserver speaks 1.3."""
    async with serving() as rig:
        trust = ssl.create_default_context(cadata=ROOT.pem.decode())
        trust.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(
            (ssl.SSLError, ConnectionResetError)
        ):  # the alert, or that it was not read in time
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", rig.address.port, ssl=trust), 10)


WORLD = World(TEMPLATE, KNOWN.get, UNKNOWN)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just(arriving()),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["request", "uid", "kind", "object", "namespace", "metadata", "spec", "apiVersion", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@hypothesis_settings(max_examples=1500)
@given(
    st.dictionaries(st.sampled_from([*review({})["request"]]), VALUES, max_size=6), st.sampled_from(Selected)
)
def test_any_review_is_answered_or_refused(changes: Raw, selected: Selected) -> None:
    """A verdict that is JSON, or a BadReviewError; never anything else."""
    try:
        verdict = answer(json.dumps(review(arriving(), **changes)).encode(), selected, WORLD)
    except BadReviewError:
        return
    assert json.loads(verdict.body)["response"]["uid"] == (changes.get("uid", "7f0b"))


@hypothesis_settings(max_examples=1000)
@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered_or_refused(body: bytes) -> None:
    """The same for what is no review at all."""
    with pytest.raises(BadReviewError):
        answer(body, Selected.ANY, WORLD)


def test_two_thousand_varied_pods_are_answered_in_25_ms() -> None:
    """p99 of the decision, JSON in and out, in time of our own: what else runs here is no business of ours."""
    world = replace(WORLD, template=replace(TEMPLATE, bootstrap={"static": ["x" * 100] * 150}))
    bodies = [json.dumps(review(varied(number))).encode() for number in range(2000)]
    took: list[float] = []
    for body in bodies:
        begun = time.thread_time()
        answer(body, Selected.NAMESPACE, world)
        took.append(time.thread_time() - begun)

    assert sorted(took)[int(len(took) * 0.99)] < 0.025
