"""Fixtures of the tests with a real Kubernetes: started once for a session, stopped after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import full, light, removal, shop
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster

# A test here waits for Pods to start and to stop (30 s of grace), beside everything else on two cores.
_TEST_S = 300


@pytest.fixture(scope="session")
def api() -> Iterator[Cluster]:
    """Yield the light form that all tests share: apiserver, etcd, controllers; use Namespaces of your own."""
    with removal.temporary() as folder:
        yield light.up(folder, is_bound=True)


@pytest.fixture
def own_api() -> Iterator[Cluster]:
    """Yield a light form that one test may break: it starts in 5 s."""
    with removal.temporary() as folder:
        yield light.up(folder, is_bound=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Yield the full form that all tests share; use Namespaces of your own.

    PROA_CLUSTER names the folder of one that runs already (`make cluster-up` prints it), which then stays.
    """
    running = os.environ.get("PROA_CLUSTER")
    if running:
        yield Cluster.open(Path(running))
        return
    with removal.temporary() as folder:
        yield full.up(folder, is_bound=True)


@pytest.fixture(scope="session")
def mesh(cluster: Cluster) -> Cluster:
    """Return the cluster that all tests share, with Proa installed in it."""
    proa.install(cluster)
    return cluster


@pytest.fixture(scope="session")
def street(mesh: Cluster) -> Iterator[str]:
    """Yield a meshed Namespace under STRICT that tests share: what one of them applies, it takes away again."""
    with mesh.namespace("street", proa.LABEL) as namespace:
        mesh.apply(shop.street(), namespace)
        shop.wait(mesh, namespace)
        yield namespace


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """Yield a full form that one test may break: it starts in 15 s."""
    with removal.temporary() as folder:
        yield full.up(folder, is_bound=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory, and run them last: a cluster beside tests that measure costs them CPU.

    A test's time does not count what the first of them builds and starts.
    """
    here = Path(__file__).parent
    own = [item for item in items if item.path.is_relative_to(here)]
    for item in own:
        item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_S, func_only=True))
    items[:] = [item for item in items if not item.path.is_relative_to(here)] + own
