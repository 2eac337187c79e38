"""Object metadata: names, namespaces, labels and the annotations that a mesh reads, by Kubernetes' grammar.

Every kind is read through here, so that a name is safe to put into a resource name, a path or
a certificate afterwards; this module must never look at an object's spec.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from xds.api.core import Labels, Meta
from xds.fields import ConfigError, Reader, show

if TYPE_CHECKING:
    from collections.abc import Mapping

_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")

NAME_MAX = 253
"""Longest DNS-1123 subdomain (k8s.io/apimachinery util/validation)."""

DEFAULT_NAMESPACE = "default"
"""Namespace of an object that names none, as kubectl has it."""

_ANNOTATION_PREFIXES = (
    "proa.dev/",
    "sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
    "networking.istio.io/",
    "prometheus.io/",
    "istio.io/dry-run",
)
"""Only these annotations are kept: the others (kubectl's copy of the whole object above all) cost memory, and
their edits would look like changes."""


def read_meta(top: Reader, *, scoped: bool = True, short: bool = False) -> Meta:
    """Return an object's metadata; ``scoped`` kinds live in a namespace, ``short`` names have no dots."""
    top.need("metadata")
    reader = Reader(top.raw("metadata"), top.at("metadata"), top.notes)
    name = reader.text("name")
    _check_name(name, reader.at("name"), short=short)
    namespace = reader.text("namespace", DEFAULT_NAMESPACE) if scoped else ""
    if scoped:
        check_dns_label(namespace, reader.at("namespace"))
    annotations = reader.labels("annotations")
    return Meta(
        namespace=namespace,
        name=name,
        labels=read_labels(reader, "labels"),
        annotations=tuple((key, value) for key, value in annotations if key.startswith(_ANNOTATION_PREFIXES)),
        created=reader.text("creationTimestamp", ""),
        generation=reader.integer("generation", 0, low=0, high=2**63 - 1),
    )


def read_labels(reader: Reader, name: str) -> Labels:
    """Return a map of labels whose keys and values follow Kubernetes' label grammar."""
    labels = reader.labels(name)
    for key, value in labels:
        path = f"{reader.at(name)}.{key}"
        _check_label_key(key, path)
        if value and not _LABEL_NAME.fullmatch(value):
            raise ConfigError(path, f"must be at most 63 letters, digits, '-', '_' or '.', got {show(value)}")
    return labels


def check_dns_label(value: str, path: str) -> None:
    """Raise unless the value is a DNS-1123 label, as namespaces and Services must be."""
    if not _DNS_LABEL.fullmatch(value):
        raise ConfigError(path, f"must be at most 63 lower-case letters, digits or '-', got {show(value)}")


def check_dns_subdomain(value: str, path: str) -> None:
    """Raise unless the value is a DNS-1123 subdomain: labels joined by dots."""
    if len(value) > NAME_MAX or not _DNS_SUBDOMAIN.fullmatch(value):
        raise ConfigError(path, f"must be lower-case letters, digits, '-' or '.', got {show(value)}")


def name_of(raw: Mapping[object, object]) -> tuple[str, str]:
    """Return namespace and name of an unread object as far as it has them; the name is empty where it is unusable."""
    meta = raw.get("metadata")
    if not isinstance(meta, dict):
        return "", ""
    fields = cast("Mapping[object, object]", meta)
    name, namespace = fields.get("name"), fields.get("namespace")
    if not isinstance(name, str) or not _DNS_SUBDOMAIN.fullmatch(name) or len(name) > NAME_MAX:
        return "", ""
    if namespace is None:
        return DEFAULT_NAMESPACE, name
    return (namespace, name) if isinstance(namespace, str) and _DNS_LABEL.fullmatch(namespace) else ("", "")


def _check_name(name: str, path: str, *, short: bool) -> None:
    if short:
        check_dns_label(name, path)
    else:
        check_dns_subdomain(name, path)


def _check_label_key(key: str, path: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash:
        check_dns_subdomain(prefix, path)
    if not _LABEL_NAME.fullmatch(name):
        raise ConfigError(
            path, f"is not a label key: want [prefix/]name of at most 63 characters, got {show(key)}"
        )
