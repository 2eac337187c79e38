"""Retry budgets: how many of the requests that are on their way to a host may be retries.

It owns Istio's RetryBudget; it must never let more through than the share and the floor that it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.cluster.v3 import cluster_pb2

SUPPORT: Final = (
    (
        "trafficPolicy.retryBudget.percent",
        "circuit_breakers.retry_budget.budget_percent",
        "0..100; default 20",
    ),
    ("trafficPolicy.retryBudget.minRetryConcurrency", "retry_budget.min_retry_concurrency", "default 3"),
    ("trafficPolicy.retryBudget.budgetInterval", "", "left out: Envoy counts what is in flight"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_PERCENT: Final = 20.0
_CONCURRENCY: Final = 3
"""The defaults of Istio, which are Envoy's."""

_MOST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """At most this share of the requests in flight are retries, but so many are always allowed."""

    percent: float = _PERCENT
    min_concurrency: int = _CONCURRENCY

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write the budget into the cluster; Envoy then does not look at ``max_retries``."""
        thresholds = cluster.circuit_breakers.thresholds
        budget = (thresholds[0] if thresholds else thresholds.add()).retry_budget
        budget.budget_percent.value = self.percent
        budget.min_retry_concurrency.value = self.min_concurrency


def read(parent: Reader) -> RetryBudget | None:
    """Return the budget of a traffic policy, None where there is none."""
    reader = parent.object("retryBudget")
    if reader is None:
        return None
    budget = RetryBudget(
        percent=reader.number("percent", _PERCENT, low=0, high=100),
        min_concurrency=reader.integer("minRetryConcurrency", _CONCURRENCY, low=0, high=_MOST),
    )
    reader.leave("budgetInterval", "Envoy counts the requests that are in flight at one moment")
    reader.done()
    return budget
