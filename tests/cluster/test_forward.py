"""The port-forward of the command line, through a real apiserver and a real kubelet."""

from __future__ import annotations

import json

import pytest

from tests.cluster.cluster import Cluster
from xds.kube.client import Client
from xds.kube.forward import exchange
from xds.sources.transport import ApiError

POD = """
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  containers:
    - name: echo
      image: localhost/cluster/shop:1
      args: [echo, --listen, "127.0.0.1:8080"]
"""


async def test_one_exchange_reaches_a_port_that_only_listens_on_loopback(cluster: Cluster) -> None:
    """The answer is whole; a closed port and a Pod that is not there say so."""
    with cluster.namespace("forward") as namespace:
        cluster.apply(POD, namespace)
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/echo", "--timeout=60s")
        async with await Client.connect(cluster.kubeconfig) as client:
            answer = await exchange(client, namespace, "echo", 8080, "/who?x=1")
            with pytest.raises(ApiError, match="8081"):
                await exchange(client, namespace, "echo", 8081, "/")
            with pytest.raises(ApiError) as missing:
                await exchange(client, namespace, "nobody", 8080, "/")

    assert (answer.status, json.loads(answer.body)["path"]) == (200, "/who")
    assert missing.value.status == 404


async def test_somebody_without_the_right_is_told(cluster: Cluster) -> None:
    """The status is the apiserver's."""
    async with await Client.connect(cluster.kubeconfig_of("stranger")) as client:
        with pytest.raises(ApiError) as refused:
            await exchange(client, "kube-system", "any", 80, "/")

    assert refused.value.status == 403
