"""The manifest that the wheel carries: what installs Proa, and what removes it.

Owns the order of documents and which kinds are left out; it must never change a line of one. The text is helm's,
see deploy/render.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Final

import yaml

_KIND: Final = "CustomResourceDefinition"
_FIRST_TO_GO: Final = "MutatingWebhookConfiguration"
"""While it stands and nobody answers, no Pod of a meshed namespace can be made."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the manifest, as text, with what names it."""

    api_version: str
    kind: str
    name: str
    namespace: str
    text: str

    @property
    def is_definition(self) -> bool:
        """Tell whether it defines a kind."""
        return self.kind == _KIND

    @property
    def resource(self) -> str:
        """The plural by which the API knows its kind."""
        word = self.kind.lower()
        return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"

    @property
    def group(self) -> str:
        """The API group of its kind, empty for the core."""
        return self.api_version.rpartition("/")[0]


def carried() -> str:
    """Return the manifest as helm rendered it when this version was built."""
    return resources.files(__name__).joinpath("manifest.yaml").read_text("utf-8")


def documents(text: str) -> tuple[Document, ...]:
    """Return the objects of a manifest in its order."""
    found: list[Document] = []
    for part in text.split("\n---\n"):
        value = yaml.load(part, Loader=yaml.CSafeLoader)  # the safe loader, in C
        if value:
            metadata = value["metadata"]
            found.append(
                Document(
                    value["apiVersion"],
                    value["kind"],
                    metadata["name"],
                    metadata.get("namespace", ""),
                    part.strip("\n"),
                )
            )
    return tuple(found)


def installing(found: Iterable[Document], *, without: Collection[str] = ()) -> str:
    """Return what installs Proa, without the definitions of the kinds that somebody else brought."""
    return _joined(one for one in found if not (one.is_definition and one.name in without))


def removing(found: Iterable[Document]) -> str:
    """Return what is to be deleted, in that order: the webhook first, the Namespace last, and no kind.

    Deleting a kind would delete every object of it, also those that another mesh reads.
    """
    kept = [one for one in found if not one.is_definition]
    return _joined(sorted(kept, key=lambda one: (one.kind != _FIRST_TO_GO, one.kind == "Namespace")))


def _joined(found: Iterable[Document]) -> str:
    return "".join(f"---\n{one.text}\n" for one in found)
