"""The example services in pods without a mesh: what the traffic tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import shop
from tests.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """Yield a Namespace with the whole shop."""
    with cluster.namespace("shop") as name:
        cluster.apply(shop.everything(), name)
        shop.wait(cluster, name)
        yield name


def test_a_pod_calls_another_over_http_and_grpc(cluster: Cluster, namespace: str) -> None:
    """A test speaks through the web pod and sees who answered."""
    with shop.Client(cluster, namespace, "web") as web:
        assert set(web.call("http://orders/echo", n=50, fresh="true")["by_workload"]) == {
            "orders-v1",
            "orders-v2",
        }
        assert web.grpc("payments:9090", n=3)["by_workload"] == {"payments": 3}


def test_a_load_counts_every_request(cluster: Cluster, namespace: str) -> None:
    """What was sent either succeeded or is counted as failed, by its reason."""
    with shop.load(cluster, namespace, "http://web/buy", rps=50) as load:
        load.wait(ok=100)

    final = load.final()
    assert (final.sent, final.failed, final.skipped) == (final.ok, 0, 0)
    assert final.ok >= 100


def test_a_load_counts_what_nobody_answers(cluster: Cluster, namespace: str) -> None:
    """A Service without endpoints refuses, and the load says so."""
    cluster.apply(shop.service("nobody"), namespace)
    with shop.load(cluster, namespace, "http://nobody/echo", rps=20) as load:
        load.wait(failed=20)

    final = load.final()
    assert (final.ok, final.sent) == (0, final.failed)
