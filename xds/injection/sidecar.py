"""The two containers and the volume that a Pod gets, as Kubernetes takes them.

It owns their security contexts, which nothing in a Pod can change; it must never mount anything but its own token,
nor give the sidecar a capability.
"""

from __future__ import annotations

from typing import Final

from xds import redirect, settings
from xds.api.core import Labels
from xds.api.kubernetes import INIT_CONTAINER, PROBE_PORT, SIDECAR_CONTAINER
from xds.injection.names import TOKEN_DIRECTORY, TOKEN_SECRET, TOKEN_VOLUME
from xds.injection.patch import Json
from xds.injection.template import Template, literal
from xds.injection.wishes import Exclusions, Resources, Wishes

_NOBODY: Final = 65534
"""User and group of the init container: it needs two capabilities, which nft's file grants, and no name."""

_API_TOKEN_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  # a path

_APP_LABELS: Final = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_VERSION_LABELS: Final = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
"""Where metrics find the names of application and version, in Istio's order (pkg/model canonical service)."""


def init_container(template: Template, wishes: Wishes) -> Json:
    """Return the container that loads the redirection rules and ends.

    It asks for what the sidecar asks for: Kubernetes takes the larger of both, not their sum, and a namespace with a
    quota refuses a container without requests.
    """
    return {
        "name": INIT_CONTAINER,
        **_image(template),
        "command": [literal(word) for word in _rules(wishes.exclusions)],
        "resources": _resources(wishes.resources),
        "securityContext": _security(_NOBODY, ("NET_ADMIN", "NET_RAW")),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_no_api_token()],
    }


def sidecar_container(
    template: Template, wishes: Wishes, workload: str, labels: Labels, argument: str
) -> Json:
    """Return the native sidecar; ``argument`` is its bootstrap as `Template.argument` gives it."""
    return {
        "name": SIDECAR_CONTAINER,
        **_image(template),
        "restartPolicy": "Always",
        "command": ["/usr/local/bin/envoy"],
        "args": [
            "--config-yaml", argument,
            "--service-node", "$(POD_NAME).$(POD_NAMESPACE)",
            "--service-cluster", "$(WORKLOAD_NAME).$(POD_NAMESPACE)",
            *(("--concurrency", str(wishes.concurrency)) if wishes.concurrency else ()),
            "--disable-hot-restart",
            # Connections that are open when their listener changes keep the old rules: the next answer on each is
            # the last, and what carries bytes ends after this time (Envoy: 600 s).
            "--drain-strategy", "immediate",
            "--drain-time-s", str(settings.DRAIN_S),
            "--file-flush-interval-msec", str(settings.LOG_FLUSH_MS),
            "--log-level", "warning",
        ],
        "env": _environment(workload, labels),
        "resources": _resources(wishes.resources),
        "securityContext": _security(settings.SIDECAR_UID),
        "startupProbe": {
            # The listener is in the bootstrap; its answer is Envoy's own, and 200 once LDS and CDS have arrived.
            "httpGet": {"path": "/ready", "port": PROBE_PORT, "scheme": "HTTP"},
            "periodSeconds": settings.SIDECAR_START_PERIOD_S,
            "failureThreshold": settings.SIDECAR_START_TRIES,
            "timeoutSeconds": settings.SIDECAR_START_TIMEOUT_S,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": True},
            _no_api_token(),
        ],
    }  # fmt: skip


def token_volume() -> Json:
    """Return the volume with the token, which the kubelet renews, and the file that names it to Envoy."""
    token = {
        "audience": settings.JOIN_TOKEN_AUDIENCE,
        "expirationSeconds": settings.SIDECAR_TOKEN_S,
        "path": "token",
    }
    name = {"path": "token.sds.json", "fieldRef": {"fieldPath": f"metadata.annotations['{TOKEN_SECRET}']"}}
    sources = [{"serviceAccountToken": token}, {"downwardAPI": {"items": [name]}}]
    return {"name": TOKEN_VOLUME, "projected": {"sources": sources}}


def _no_api_token() -> Json:
    """Return a mount that keeps the application's own token, which opens the Kubernetes API, out of our containers.

    The apiserver adds it to every container that has nothing at this path (plugin ServiceAccount); ours opens nothing
    but the control plane. It also spares each creation a second review: that addition would be a change.
    """
    return {"name": TOKEN_VOLUME, "mountPath": _API_TOKEN_DIRECTORY, "readOnly": True}


def _rules(exclusions: Exclusions) -> list[str]:
    return redirect.init_command(
        excluded_inbound_ports=exclusions.excluded_inbound_ports,
        excluded_outbound_ports=exclusions.excluded_outbound_ports,
        excluded_cidrs=exclusions.excluded_cidrs,
        included_cidrs=exclusions.included_cidrs,
    )


def _image(template: Template) -> Json:
    policy: Json = {"imagePullPolicy": template.pull_policy} if template.pull_policy else {}
    return {"image": template.image, **policy}


def _security(uid: int, capabilities: tuple[str, ...] = ()) -> Json:
    """Return the context of one of our containers, with every field said: a Pod's own context is inherited otherwise.

    Without a new privilege a file's capabilities still count for a process that holds them already, and the runtime
    hands them to the first program alone: nft must be the command itself, not a child of it.
    """
    return {
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": list(capabilities)} if capabilities else {})},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _resources(wanted: Resources) -> Json:
    requests = {"cpu": wanted.cpu, "memory": wanted.memory}
    limits = {"cpu": wanted.cpu_limit, "memory": wanted.memory_limit}
    found = {
        name: {kind: amount for kind, amount in amounts.items() if amount}
        for name, amounts in (("requests", requests), ("limits", limits))
    }
    return {name: amounts for name, amounts in found.items() if amounts}


def _environment(workload: str, labels: Labels) -> list[Json]:
    return [
        _field("POD_NAME", "metadata.name"),
        _field("POD_NAMESPACE", "metadata.namespace"),
        _field("POD_UID", "metadata.uid"),
        _field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        {"name": "WORKLOAD_NAME", "value": literal(workload)},
        {"name": "APP", "value": literal(_first(labels, _APP_LABELS) or workload)},
        {"name": "VERSION", "value": literal(_first(labels, _VERSION_LABELS) or "latest")},
    ]


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _first(labels: Labels, names: tuple[str, ...]) -> str:
    known = dict(labels)
    return next((known[name] for name in names if known.get(name)), "")
