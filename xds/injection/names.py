"""The names that injection writes into a Pod, and the Pod as far as it is read before it has one.

It owns these names and the tolerant view of a Pod that only just arrived; it must never raise anything but
ConfigError, whatever JSON that Pod is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from xds.api.core import Labels
from xds.api.kubernetes import SIDECAR_CONTAINER, WORKLOAD_NAME
from xds.api.meta import check_dns_subdomain
from xds.fields import ConfigError, Reader
from xds.injection.patch import Json

TOKEN_VOLUME: Final = "proa-token"  # noqa: S105  # its name, not its text
TOKEN_DIRECTORY: Final = "/var/run/secrets/proa"  # noqa: S105  # the same
TOKEN_FILE: Final = f"{TOKEN_DIRECTORY}/token"
TOKEN_SECRET: Final = "proa.dev/token-secret"  # noqa: S105  # the same
"""Annotation that carries the file in which Envoy finds the token's name (see `xds.bootstrap.render_secret`)."""

_ISTIO_SIDECAR: Final = "istio-proxy"
_TEMPLATE_HASH: Final = "pod-template-hash"
_CRON_RUN = re.compile(r"(.+)-[0-9]{8,10}")
"""A CronJob names its Jobs after itself and the minute (kubernetes pkg/controller/cronjob getJobName)."""


@dataclass(frozen=True, slots=True)
class Controller:
    """The controlling owner of a Pod, empty for none."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A Pod that is being created: what decides about its sidecar."""

    name: str
    """Empty while Kubernetes has yet to make one from ``generateName``."""
    prefix: str
    """``generateName`` without its dash."""
    labels: Labels
    annotations: Labels
    controller: Controller
    containers: frozenset[str]
    volumes: frozenset[str]
    host_network: bool
    is_windows: bool

    @property
    def is_injected(self) -> bool:
        """Tell whether it has our sidecar."""
        return SIDECAR_CONTAINER in self.containers

    @property
    def has_istio(self) -> bool:
        """Tell whether Istio was here first."""
        return _ISTIO_SIDECAR in self.containers

    def workload(self, template_of: str = "") -> str:
        """Return the workload's name: said, else the controller's, else the Pod's; empty for a Pod without any.

        ``template_of`` is the controller's name where the Pod is still its template.

        The rule is that of `xds.api.kubernetes`, and the name is stamped on the Pod, so that both agree for its life;
        beyond it, a CronJob's runs share its name. Raises ConfigError for a said name that cannot be one.
        """
        said = dict(self.labels).get(WORKLOAD_NAME) or dict(self.annotations).get(WORKLOAD_NAME) or ""
        if said:
            check_dns_subdomain(said, f"metadata.annotations[{WORKLOAD_NAME}]")
            return said
        name = template_of or self.controller.name or self.name or self.prefix
        if self.controller.kind == "ReplicaSet":
            return name.removesuffix(f"-{dict(self.labels).get(_TEMPLATE_HASH, '')}") or name
        run = _CRON_RUN.fullmatch(name) if self.controller.kind == "Job" else None
        return run[1] if run else name


def read_arrival(pod: object) -> Arrival:
    """Return what injection must know of a Pod; ConfigError where the apiserver could not have sent it."""
    top = Reader(pod, "", [])
    metadata = top.object("metadata") or Reader({}, "metadata", [])
    spec = top.object("spec")
    if spec is None:
        raise ConfigError("spec", "is required")
    containers = (*spec.objects("containers"), *spec.objects("initContainers"))
    system = spec.object("os")
    selector = dict(spec.labels("nodeSelector"))
    return Arrival(
        name=metadata.text("name", ""),
        prefix=metadata.text("generateName", "").rstrip("-."),
        labels=_words(metadata, "labels"),
        annotations=_words(metadata, "annotations"),
        controller=_controller(metadata),
        containers=frozenset(reader.text("name", "") for reader in containers),
        volumes=frozenset(reader.text("name", "") for reader in spec.objects("volumes")),
        host_network=spec.boolean("hostNetwork"),
        is_windows="windows" in {system.text("name", "") if system else "", selector.get("kubernetes.io/os")},
    )


def _words(metadata: Reader, name: str) -> Labels:
    """Return labels or annotations, whatever characters they hold: not ours to judge before somebody asks for one."""
    metadata.object(name)  # refuses what is none
    found = metadata.raw(name)
    return tuple(sorted((key, value) for key, value in fields(found).items() if isinstance(value, str)))


def _controller(metadata: Reader) -> Controller:
    owner = next((o for o in metadata.objects("ownerReferences") if o.boolean("controller")), None)
    if owner is None:
        return Controller()
    kind, name = owner.text("kind", ""), owner.text("name", "")
    return Controller(kind, name, owner.text("uid", ""), owner.text("apiVersion", ""))


def fields(value: object) -> Mapping[str, object]:
    """Return an object's fields, none for null; the type was checked when the Pod was read."""
    return cast("Json", value) if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """Return a list's items, none for null; the type was checked when the Pod was read."""
    return cast("list[object]", value) if isinstance(value, list) else []
