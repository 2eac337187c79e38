"""The demonstration's own reading of manifests: which processes to start, and which weights to change.

It owns what Kubernetes' kubelet would do (a container's args and env) and the edit of one file; it must never
judge a manifest: that is the control plane's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from xds.demo.processes import DemoError

APP_ADDRESS: Final = "proa.dev/app-address"
OUTBOUND_PORT: Final = 15001
"""Where an application finds its sidecar (the contract of directory mode)."""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One Pod as far as it must be started; the pod's name is its workload, nothing owns it."""

    namespace: str
    name: str
    pod_ip: str
    app_address: str
    service_account: str
    labels: Mapping[str, str]
    ports: tuple[int, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def node_id(self) -> str:
        """`POD.NAMESPACE`."""
        return f"{self.name}.{self.namespace}"

    @property
    def outbound(self) -> str:
        """The sidecar's outbound address."""
        return f"{self.pod_ip}:{OUTBOUND_PORT}"

    @property
    def listen(self) -> str:
        """Where the application binds: its own address and its first port; "" for one without ports."""
        return f"{self.app_address}:{self.ports[0]}" if self.ports else ""


@dataclass(frozen=True, slots=True)
class Split:
    """A weighted route in a file: which workloads its destinations are, and their weights."""

    path: Path
    name: str
    """`VirtualService NAMESPACE/NAME`, as a push names its cause."""
    workloads: tuple[str, ...]
    weights: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each weight stands in the file's text."""

    @property
    def desired(self) -> dict[str, float]:
        """Share by workload, 0..1."""
        whole = sum(self.weights)
        return {name: weight / whole for name, weight in zip(self.workloads, self.weights, strict=True)}

    def write(self, weights: tuple[int, ...]) -> float:
        """Replace the weights with one rename, keeping every other byte; return the rename's time (epoch, s)."""
        text = self.path.read_text("utf-8")
        for (start, end), weight in reversed(list(zip(self.spans, weights, strict=True))):
            text = text[:start] + str(weight) + text[end:]
        # The dot keeps the unfinished file out of the directory that is being watched.
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text(text, "utf-8")
        at = time.time()
        draft.replace(self.path)
        return at


def read_pods(directory: Path) -> tuple[PodSpec, ...]:
    """Return the Pods of a directory in the order of its files; DemoError names one that cannot be started."""
    return tuple(_pod(document) for _, document in _documents(directory) if document.get("kind") == "Pod")


def is_guarded(directory: Path, name: str) -> bool:
    """Tell whether a directory has an AuthorizationPolicy of this name."""
    return any(
        document.get("kind") == "AuthorizationPolicy" and document.get("metadata", {}).get("name") == name
        for _, document in _documents(directory)
    )


def read_split(directory: Path) -> Split:
    """Return the first route with two or more weighted destinations; DemoError if there is none."""
    selectors = _selectors(directory)
    pods = read_pods(directory)
    for path, document in _documents(directory):
        if document.get("kind") == "VirtualService":
            split = _split(path, document, selectors, pods)
            if split is not None:
                return split
    message = f"{directory}: no VirtualService with two weighted destinations"
    raise DemoError(message)


def _documents(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((*directory.rglob("*.yaml"), *directory.rglob("*.yml"))):
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            if isinstance(document, dict):
                yield path, document


class _Meta(msgspec.Struct, frozen=True):
    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}  # msgspec copies defaults
    annotations: dict[str, str] = {}


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int


class _Variable(msgspec.Struct, frozen=True):
    name: str
    value: str = ""


class _Container(msgspec.Struct, frozen=True):
    args: tuple[str, ...] = ()
    ports: tuple[_Port, ...] = ()
    env: tuple[_Variable, ...] = ()


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    containers: tuple[_Container, ...]
    service_account_name: str = "default"


class _Status(msgspec.Struct, frozen=True):
    pod_ip: str = msgspec.field(name="podIP")
    """The sidecar's address."""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec
    status: _Status


def _pod(document: dict[str, Any]) -> PodSpec:
    try:
        pod = msgspec.convert(document, _Pod)
    except msgspec.ValidationError as error:
        message = f"Pod {document.get('metadata')}: {error}"
        raise DemoError(message) from None
    first = pod.spec.containers[0]
    return PodSpec(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        pod_ip=pod.status.pod_ip,
        app_address=pod.metadata.annotations.get(APP_ADDRESS, "127.0.0.1"),
        service_account=pod.spec.service_account_name,
        labels=pod.metadata.labels,
        ports=tuple(port.container_port for container in pod.spec.containers for port in container.ports),
        args=first.args,
        env={variable.name: variable.value for variable in first.env},
    )


_Selectors = Mapping[tuple[str, str, str], Mapping[str, str]]
"""Labels by (namespace, Service, subset); subset "" is the Service itself."""


def _selectors(directory: Path) -> _Selectors:
    found: dict[tuple[str, str, str], Mapping[str, str]] = {}
    for _, document in _documents(directory):
        namespace = document["metadata"].get("namespace", "default")
        if document["kind"] == "Service":
            found[namespace, document["metadata"]["name"], ""] = document["spec"].get("selector", {})
        elif document["kind"] == "DestinationRule":
            for subset in document["spec"].get("subsets", ()):
                found[namespace, document["spec"]["host"], subset["name"]] = subset.get("labels", {})
    return found


def _split(
    path: Path, document: dict[str, Any], selectors: _Selectors, pods: tuple[PodSpec, ...]
) -> Split | None:
    meta = document["metadata"]
    namespace = meta.get("namespace", "default")
    for rule in document["spec"].get("http", ()):
        route = [entry for entry in rule.get("route", ()) if "weight" in entry]
        if len(route) >= 2:
            return Split(
                path=path,
                name=f"VirtualService {namespace}/{meta['name']}",
                workloads=tuple(
                    _workload(namespace, entry["destination"], selectors, pods) for entry in route
                ),
                weights=tuple(entry["weight"] for entry in route),
                spans=_weight_spans(path),
            )
    return None


def _workload(
    namespace: str, target: dict[str, Any], selectors: _Selectors, pods: tuple[PodSpec, ...]
) -> str:
    host, subset = target["host"], target.get("subset", "")
    labels = {**selectors.get((namespace, host, ""), {}), **selectors.get((namespace, host, subset), {})}
    for pod in pods:
        if pod.namespace == namespace and labels and labels.items() <= pod.labels.items():
            return pod.name
    message = f"no Pod in namespace {namespace} has the labels {labels} of the weighted destination {target}"
    raise DemoError(message)


def _weight_spans(path: Path) -> tuple[tuple[int, int], ...]:
    """Return where the values of `weight:` stand; the parser knows, a pattern would guess."""
    text = path.read_text("utf-8")
    spans: list[tuple[int, int]] = []
    was_weight = False
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken):
            if was_weight:
                spans.append((token.start_mark.index, token.end_mark.index))
            was_weight = token.value == "weight" and token.plain
    return tuple(spans)
