"""Which kinds a cluster serves: the groups of Kubernetes itself, and what a CustomResourceDefinition says.

Owns the shape of these documents; it must never ask for one, and never take silence for absence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from xds.sources.mirror import Kind

DEFINITIONS: Final = Kind(
    "CustomResourceDefinition",
    "apiextensions.k8s.io/v1",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
)


class _Resource(msgspec.Struct):
    name: str
    kind: str


class _Resources(msgspec.Struct):
    """The part of a ``v1.APIResourceList`` that is read."""

    resources: list[_Resource]


class _Names(msgspec.Struct):
    plural: str
    kind: str


class _Version(msgspec.Struct):
    name: str
    served: bool


class _Spec(msgspec.Struct):
    group: str
    names: _Names
    versions: list[_Version]


class _Condition(msgspec.Struct):
    type: str
    status: str


class _State(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Identity(msgspec.Struct):
    uid: str = ""


class Definition(msgspec.Struct):
    """The part of a CustomResourceDefinition that is read."""

    metadata: _Identity
    spec: _Spec
    status: _State | None = None

    @property
    def is_established(self) -> bool:
        """The API serves it: its names were accepted."""
        conditions = (self.status and self.status.conditions) or ()
        return any(found.type == "Established" and found.status == "True" for found in conditions)


def group_path(version: str) -> str:
    """Return where a group and version is: ``v1`` is the core group."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def read_group(body: bytes) -> dict[str, str]:
    """Return the plural of each kind that a group and version serves; raise msgspec.DecodeError."""
    found = msgspec.json.decode(body, type=_Resources)
    return {resource.kind: resource.name for resource in found.resources if "/" not in resource.name}


def group_of(definition: str) -> str:
    """Return the group of a definition, which its name ends in (``plural.group``)."""
    return definition.partition(".")[2]


def read_definition(body: bytes) -> Definition:
    """Return a definition; raise msgspec.DecodeError."""
    return msgspec.json.decode(body, type=Definition)


def kind_of(definition: Definition, kinds: Mapping[str, tuple[str, ...]]) -> Kind | str | None:
    """Return the kind to follow, in the first of our versions that is served.

    None: it is not one of ours. A text: none of our versions is served, in the words of a problem.
    """
    spec = definition.spec
    versions = kinds.get(spec.names.kind, ())
    if not any(version.startswith(f"{spec.group}/") for version in versions):
        return None
    served = {f"{spec.group}/{version.name}" for version in spec.versions if version.served}
    for version in versions:
        if version in served:
            return Kind(spec.names.kind, version, f"{group_path(version)}/{spec.names.plural}")
    return f"serves {', '.join(sorted(served)) or 'no version'}; Proa reads {', '.join(versions)}"
