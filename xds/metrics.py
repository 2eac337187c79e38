"""What Proa counts about itself, in Prometheus' terms.

Owns the names, labels and buckets of our own metrics; it must never read a clock or decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from xds.gauges import EXPLANATIONS, Reading
from xds.ledger import Response, State

LIVE_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 15.0)
"""The target is 0.3 s, so buckets are dense around it; 15 s is Envoy's own fetch timeout."""


class Metrics:
    """One control plane's counters, in a registry of their own, so that two can live in one process."""

    def __init__(
        self,
        events: Callable[[], Mapping[str, int]] = dict,
        readings: Callable[[], Iterable[Reading]] = tuple,
    ) -> None:
        """``events`` reads what the server has counted, by the name of the event; ``readings`` reads the gauges."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.proxies = self._gauge("proa_proxies", "Proxies that are connected.")
        self.problems = self._gauge("proa_problems", "Problems of user objects.", "severity")
        self._pushes = Counter(
            "proa_pushes",
            "Responses that proxies answered, by type and by what they said.",
            ("type", "answer"),
            registry=self._registry,
        )
        # Looking a labelled counter up costs four times what counting does, and this is done for every answer.
        self._answers: dict[tuple[str, str], Counter] = {}
        self._causes = Counter(
            "proa_changes",
            "Changes of objects that had to be pushed, by the kind of the object.",
            ("kind",),
            registry=self._registry,
        )
        self._live_seconds = Histogram(
            "proa_push_live_seconds",
            "From the detection of a change to the last proxy's answer.",
            buckets=LIVE_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Events(events))
        self._registry.register(_Gauges(readings))

    def answered(self, response: Response) -> None:
        """Count a proxy's answer; the pushes that it was the last one of are live now."""
        answer = "nack" if response.state is State.NACKED else "ack"
        counter = self._answers.get((response.type_url, answer))
        if counter is None:
            counter = self._pushes.labels(response.type_url.rpartition(".")[2], answer)
            self._answers[response.type_url, answer] = counter
        counter.inc()
        for push in response.pushes:
            if push.live_at is not None:
                self._live_seconds.observe(push.live_at - push.at)

    def caused(self, kind: str) -> None:
        """Count a change that is on its way, by the kind of its object."""
        self._causes.labels(kind).inc()

    def render(self) -> bytes:
        """Return the exposition text, format 0.0.4."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, explanation: str, *labels: str) -> Gauge:
        return Gauge(name, explanation, labels, registry=self._registry)


class _Events(Collector):
    """The server's own counters, read when somebody asks."""

    def __init__(self, events: Callable[[], Mapping[str, int]]) -> None:
        self._events = events

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return one counter for all events, by name."""
        family = CounterMetricFamily("proa_server_events", "What the xDS server has seen.", labels=["event"])
        for event, count in sorted(self._events().items()):
            family.add_metric([event], count)
        yield family


class _Gauges(Collector):
    """What is true at the moment of the scrape."""

    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return one family for each gauge that says something."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, value, labels in self._readings():
            family = families.get(name)
            if family is None:
                names = [label for label, _ in labels]
                family = families[name] = GaugeMetricFamily(name, EXPLANATIONS[name], labels=names)
            family.add_metric([text for _, text in labels], value)
        yield from families.values()
