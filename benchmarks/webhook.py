"""The webhook's answers to 2,000 varied Pods, over TLS as an apiserver asks, one after the other.

It owns the Pods and the clock; it must never measure an apiserver, whose own work is larger than ours.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Final

import aiohttp

from benchmarks.figures import Result
from tests.fakes.pods import TEMPLATE, Raw, varied
from xds import bootstrap, ca
from xds.address import Address
from xds.bootstrap.probes import watch
from xds.injection.istio import UNKNOWN
from xds.injection.names import TOKEN_FILE
from xds.injection.template import Template
from xds.kube.webhook import Sources, Webhook
from xds.state import system_entropy

PODS: Final = 2000
TARGET_MS: Final = 25
"""What nobody notices beside the 5 to 20 ms that an apiserver takes to create a Pod."""


def run(result: Result) -> None:
    """Measure request to answer, the client's own part included."""
    took = sorted(asyncio.run(_measure(100 if result.is_quick else PODS)))
    result.add("answer p50", took[len(took) // 2] * 1000, "ms")
    result.add("answer p99", took[len(took) * 99 // 100] * 1000, "ms", target=TARGET_MS)


async def _measure(count: int) -> list[float]:
    root = ca.new_channel_root(now=time.time(), entropy=system_entropy())
    leaf = ca.issue_channel_leaf(root, now=time.time(), entropy=system_entropy())
    template = _template(root)
    webhook = Webhook(
        Sources(
            template=lambda: template,
            labels=lambda _name: None,
            istio=lambda: UNKNOWN,
            certificate=lambda: leaf,
            record=lambda _notice: None,
        )
    )
    trust = ssl.create_default_context(cadata=root.pem.decode("ascii"))
    took: list[float] = []
    async with (
        webhook.listening(Address("127.0.0.1", 0)) as address,
        aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session,
    ):
        url = f"https://127.0.0.1:{address.port}/inject/namespace"
        for number in range(count):
            body = json.dumps(_review(varied(number))).encode()
            begun = time.perf_counter()
            async with session.post(url, data=body, ssl=trust) as answer:
                said = await answer.read()
            took.append(time.perf_counter() - begun)
            assert b'"allowed":true' in said, said
    return took


def _template(root: ca.Authority) -> Template:
    channel = bootstrap.Tls(
        roots=(root.pem.decode("ascii"),), newest_root=root.fingerprint, token_file=TOKEN_FILE
    )
    document = bootstrap.build(
        bootstrap.template(xds_host="proa.proa-system.svc", xds_port=15010, channel=channel)
    )
    return Template(image=TEMPLATE.image, bootstrap=document, watch=watch)


def _review(pod: Raw) -> Raw:
    request = {"uid": "u", "kind": {"kind": "Pod"}, "namespace": "shop", "operation": "CREATE", "object": pod}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
