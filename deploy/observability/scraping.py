"""How Prometheus reads the mesh: which targets there are, and how a sidecar's words become Istio's.

It owns the targets and the relabelling; it must never drop a series, nor take a label from anything that a caller
chooses.

What a proxy need not compute for each request is made here, once for each series: the prefix `envoy_` goes, the
caller's `workload.namespace` (one DNS name of its certificate, which no formatter of Envoy can cut) is split, and what
follows from other labels (canonical names, the Service's name and namespace, the cluster) is derived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

Rule = dict[str, object]
Document = dict[str, object]

INTERVAL: Final = "15s"
"""Istio's and Prometheus' usual scrape interval."""

CLUSTER: Final = "Kubernetes"
"""What Istio calls a cluster that nobody named."""

_FILLED: Final = (
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_namespace",
)
"""Labels of which Istio writes `unknown` where nobody knows them."""


def _rule(sources: list[str], regex: str, target: str, replacement: str = "$1") -> Rule:
    return {"source_labels": sources, "regex": regex, "target_label": target, "replacement": replacement}


def _canonical(side: str) -> list[Rule]:
    """Return Istio's canonical names: the labels of the application, else the workload and `latest`."""
    service, revision = f"{side}_canonical_service", f"{side}_canonical_revision"
    return [
        _rule(["reporter", f"{side}_workload"], ".+;(.+)", service),
        _rule([f"{side}_app"], "(.+)", service),
        _rule(["reporter"], ".+", revision, "latest"),
        _rule([f"{side}_version"], "(.+)", revision),
    ]


def series_rules() -> list[Rule]:
    """Return what is done with each series of a sidecar; `reporter` is a label of traffic, and of nothing else."""
    caller = ["reporter", "source_workload"]
    return [
        _rule(["__name__"], "envoy_(istio_.+)", "__name__"),
        _rule(caller, r"destination;.+\.([^.]+)", "source_workload_namespace"),
        _rule(caller, r"destination;(.+)\.[^.]+", "source_workload"),
        _rule(["destination_service"], "(.+)", "destination_service_name"),
        _rule(["destination_service"], r"([^.]+)\.[^.]+\.svc\..+", "destination_service_name"),
        _rule(["destination_service"], r"[^.]+\.([^.]+)\.svc\..+", "destination_service_namespace"),
        *_canonical("source"),
        *_canonical("destination"),
        *(_rule(["reporter", label], ".+;", label, "unknown") for label in _FILLED),
        *(_rule(["reporter"], ".+", f"{side}_cluster", CLUSTER) for side in ("source", "destination")),
    ]


def _address(port: str) -> list[Rule]:
    """Return the rules for an address on another port: IPv6 has its brackets already, or gets them."""
    ip = "__meta_kubernetes_pod_ip"
    return [
        _rule([ip], "([0-9.]+)", "__address__", f"$1:{port}"),
        _rule([ip], "(.*:.*)", "__address__", f"[$1]:{port}"),
    ]


def _place() -> list[Rule]:
    return [
        _rule(["__meta_kubernetes_namespace"], "(.+)", "namespace"),
        _rule(["__meta_kubernetes_pod_name"], "(.+)", "pod"),
    ]


def _keep(source: str, regex: str) -> Rule:
    return {"source_labels": [source], "regex": regex, "action": "keep"}


def _drop(source: str, regex: str) -> Rule:
    return {"source_labels": [source], "regex": regex, "action": "drop"}


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of target: where it answers, which Pods it is, and what is done with its series."""

    name: str
    path: str
    targets: list[Rule]
    series: list[Rule] = field(default_factory=list[Rule])

    def for_prometheus(self) -> Document:
        """Return it as a scrape configuration."""
        series: Document = {"metric_relabel_configs": self.series} if self.series else {}
        return {
            "job_name": self.name,
            "metrics_path": self.path,
            "kubernetes_sd_configs": [{"role": "pod"}],
            "relabel_configs": self.targets,
            **series,
        }

    def for_operator(self) -> Document:
        """Return it as a PodMonitor, which has the same rules under other names."""
        endpoint: Document = {
            "path": self.path,
            "interval": INTERVAL,
            "relabelings": [*map(_camel, self.targets), {"targetLabel": "job", "replacement": self.name}],
        }
        if self.series:
            endpoint["metricRelabelings"] = list(map(_camel, self.series))
        return {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": {"name": self.name, "namespace": "proa-system"},
            "spec": {"namespaceSelector": {"any": True}, "selector": {}, "podMetricsEndpoints": [endpoint]},
        }


_FINISHED: Final = _drop("__meta_kubernetes_pod_phase", "(Failed|Succeeded)")


def proxies() -> Job:
    """Return the job that reads every sidecar; its container names no port, so each Pod is one target."""
    container = _keep("__meta_kubernetes_pod_container_name", "proa-proxy")
    targets = [container, _FINISHED, *_address("15090"), *_place()]
    return Job("proa-proxies", "/stats/prometheus", targets, series_rules())


def control_plane() -> Job:
    """Return the job that reads every replica of the control plane on its health port."""
    targets = [
        _keep("__meta_kubernetes_pod_label_app_kubernetes_io_name", "proa"),
        _keep("__meta_kubernetes_pod_container_port_name", "http-health"),
        _FINISHED,
        *_place(),
    ]
    return Job("proa-control-plane", "/metrics", targets)


def applications() -> Job:
    """Return the job that reads applications where their `prometheus.io` annotations say, in plaintext.

    Under STRICT a sidecar lets exactly that path pass (docs/metrics.md).
    """
    annotation = "__meta_kubernetes_pod_annotation_prometheus_io"
    given = [annotation + "_port", "__meta_kubernetes_pod_ip"]
    targets = [
        _keep(annotation + "_scrape", "true"),
        _drop(annotation + "_port", "15090"),
        _FINISHED,
        _rule([annotation + "_scheme"], "(https?)", "__scheme__"),
        _rule([annotation + "_path"], "(.+)", "__metrics_path__"),
        _rule(given, "([0-9]+);([0-9.]+)", "__address__", "$2:$1"),
        _rule(given, "([0-9]+);(.*:.*)", "__address__", "[$2]:$1"),
        *_place(),
    ]
    return Job("applications", "/metrics", targets)


def prometheus() -> Document:
    """Return a whole configuration of Prometheus."""
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [job.for_prometheus() for job in (proxies(), control_plane(), applications())],
    }


def pod_monitors() -> list[Document]:
    """Return the mesh's own two jobs for the Prometheus operator."""
    return [job.for_operator() for job in (proxies(), control_plane())]


def _camel(rule: Rule) -> Rule:
    """Return a rule in the words of the Prometheus operator."""
    words = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
    return {words.get(name, name): value for name, value in rule.items()}
