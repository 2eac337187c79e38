"""The check of lifecycle hooks: which of them the kubelet cannot send, because it proves nothing to a STRICT port.

It must never judge a hook that comes to no intercepted port.
"""

from __future__ import annotations

from collections.abc import Iterator

from xds.api.core import Pod
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.checks.facts import Facts
from xds.checks.finding import Finding, warning
from xds.hosts import age
from xds.indexes.modes import modes_of, scope_mode


def refused(facts: Facts) -> Iterator[Finding]:
    """No lifecycle hook is sent by HTTP to a port that takes mutual TLS alone."""
    found: dict[Finding, None] = {}
    for running in facts.wanted():
        pod = running.pod
        for hook in running.hooks:
            if _mode(facts, pod, hook.port) is MtlsMode.STRICT:
                subject = f"Workload {pod.meta.namespace}/{pod.workload or pod.meta.name}"
                found[warning(subject, hook.said, running.edit())] = None
    yield from found


def _mode(facts: Facts, pod: Pod, port: int) -> MtlsMode:
    """Return the mode of a Pod's port, by the rule of the compiler: mesh, namespace, workload, port."""
    root, namespace = facts.settings.root_namespace, pod.meta.namespace
    mesh = scope_mode(_policies(facts, root), MtlsMode.PERMISSIVE)
    inherited = mesh if namespace == root else scope_mode(_policies(facts, namespace), mesh)
    mode, ports = modes_of(pod, _policies(facts, namespace), inherited)
    return dict(ports).get(port, mode)


def _policies(facts: Facts, namespace: str) -> list[PeerAuthentication]:
    return sorted((one for one in facts.authentications if one.meta.namespace == namespace), key=age)
