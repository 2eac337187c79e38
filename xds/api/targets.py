"""What a security policy holds for: Pods by their labels, or those behind Services that it names.

It owns ``selector``, ``targetRef`` and ``targetRefs`` of Istio's kinds; it must never look for what is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from xds.api.meta import check_dns_label, check_dns_subdomain, read_labels
from xds.fields import show

if TYPE_CHECKING:
    from xds.api.core import Labels, Meta
    from xds.fields import Reader

SERVICE: Final = "Service"
_ELSEWHERE: Final = {
    "Gateway": "gateway.networking.k8s.io",
    "GatewayClass": "gateway.networking.k8s.io",
    "ServiceEntry": "networking.istio.io",
}
"""Kinds that Istio attaches policies to and that no sidecar of ours stands before, with their groups."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """An object of the policy's namespace that the policy is attached to."""

    kind: str
    name: str


def read_selection(spec: Reader, meta: Meta) -> tuple[Labels, tuple[Target, ...]]:
    """Return labels and targets; both empty means the namespace. A policy has one of the two at most."""
    one = spec.object("targetRef")
    many = spec.objects("targetRefs")
    if not many and spec.has("targetRefs"):
        raise spec.fail("targetRefs", "must not be empty; leave it out to mean the namespace")
    if one is not None and many:
        raise spec.fail("targetRefs", "must not stand beside targetRef")
    readers = (one,) if one is not None else many
    targets = tuple(_target(reader, meta) for reader in readers)
    selector = spec.object("selector")
    if selector is None:
        return (), targets
    if targets:
        raise spec.fail("selector", "must not stand beside targetRefs")
    labels = read_labels(selector, "matchLabels")
    selector.done()
    return labels, ()


def _target(reader: Reader, meta: Meta) -> Target:
    group, kind, name = reader.text("group", ""), reader.text("kind"), reader.text("name")
    namespace = reader.text("namespace", meta.namespace)
    reader.done()
    if namespace != meta.namespace:
        raise reader.fail("namespace", f"must be the policy's own, {meta.namespace}, got {show(namespace)}")
    if kind == SERVICE and group in {"", "core"}:
        check_dns_label(name, reader.at("name"))
    elif _ELSEWHERE.get(kind) == group:
        check_dns_subdomain(name, reader.at("name"))
        reader.warn("kind", f"has no effect: no sidecar stands before a {kind}")
    else:
        raise reader.fail("kind", f"must be {SERVICE}, got {show(f'{group} {kind}'.strip())}")
    return Target(kind, name)
