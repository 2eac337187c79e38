"""The same patch on a text of manifests: whoever writes Pods down before they are created.

It owns which kinds hold Pods, and where; it must never write a document anew that it does not change, so that
comments and order stay, and a text that was injected stays what it is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, cast

import yaml

from xds.api.core import Meta, Namespace
from xds.documents import DocumentError, parse_json, parse_yaml
from xds.fields import ConfigError, Problem, Severity
from xds.inject import INJECT
from xds.injection.decision import Patched, inject
from xds.injection.names import fields, items
from xds.injection.patch import Json, apply
from xds.injection.template import Template

_PODS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): ("spec", "template"),
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("batch", "Job"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where a Pod stands in an object of a group and kind."""

_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
"""YAML 1.1 §4.2: three dashes at the start of a line begin a document wherever they stand."""

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What one reader of YAML or another takes for something else than text."""


@dataclass(frozen=True, slots=True)
class Injected:
    """The text, and a line for each object with Pods: what became of them. An ERROR among them: use none of it."""

    text: str
    notes: tuple[Problem, ...]


def inject_text(text: str, template: Template, namespace: str) -> Injected:
    """Return a text of YAML or JSON documents with its Pods injected; DocumentError where it is neither.

    Everything that does not opt out is injected: who gives a text has asked. ``namespace`` is that of objects that
    name none.
    """
    notes: list[Problem] = []
    if text.lstrip().startswith("{"):
        written = _write(text, parse_json(text).value, template, namespace, notes)
        return Injected(written, tuple(notes))
    chunks: list[str] = []
    line = 0
    for chunk in _chunks(text):
        chunks.append(_write(chunk, _value(chunk, line), template, namespace, notes))
        line += chunk.count("\n")
    return Injected("".join(chunks), tuple(notes))


def _chunks(text: str) -> Iterator[str]:
    """Yield the text in pieces of one document each, its dashes in front."""
    starts = [0, *(match.start() for match in _START.finditer(text) if match.start()), len(text)]
    for begin, end in itertools.pairwise(starts):
        yield text[begin:end]


def _value(chunk: str, line: int) -> object:
    """Return the value of a chunk's document, None for none; errors are told by the line of the whole text."""
    try:
        documents = list(parse_yaml(chunk))
    except DocumentError as error:
        raise _below(error, line) from None
    broken = next((document.error for document in documents if document.error), None)
    if broken is not None:
        raise _below(broken, line)
    return documents[0].value if documents else None


def _below(error: DocumentError, line: int) -> DocumentError:
    return DocumentError(replace(error.place, line=error.place.line + line), error.reason)


def _write(chunk: str, value: object, template: Template, namespace: str, notes: list[Problem]) -> str:
    changed = _object(value, template, namespace, notes)
    if changed is value:
        return chunk
    dumped = yaml.dump(changed, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1 << 20)
    return f"---\n{dumped}"


def _object(value: object, template: Template, namespace: str, notes: list[Problem]) -> object:
    """Return an object with its Pods injected; the very same one where nothing changes."""
    raw = fields(value)
    kind, version = str(raw.get("kind", "")), str(raw.get("apiVersion", ""))
    if kind.endswith("List") and isinstance(raw.get("items"), list):
        before = items(raw["items"])
        after = [_object(item, template, namespace, notes) for item in before]
        return value if all(a is b for a, b in zip(after, before, strict=True)) else {**raw, "items": after}
    path = _PODS.get((version.rpartition("/")[0], kind))
    if path is None:
        return value
    metadata = fields(raw.get("metadata"))
    where = str(metadata.get("namespace") or namespace)
    subject = f"{kind} {where}/{metadata.get('name') or metadata.get('generateName') or '?'}"
    try:
        return _inject(raw, path, template, where, (subject, notes))
    except ConfigError as error:
        notes.append(Problem(Severity.ERROR, subject, error.path, error.reason))
        return value


def _inject(
    raw: object, path: tuple[str, ...], template: Template, namespace: str, told: tuple[str, list[Problem]]
) -> object:
    subject, notes = told
    holder = _at(raw, path)
    asked = Namespace(Meta("", namespace, ((INJECT, "enabled"),)))
    name = str(fields(fields(raw).get("metadata")).get("name") or "") if path else ""
    outcome = inject(holder, asked, template, workload=name)
    if isinstance(outcome, Patched):
        notes.extend(Problem(Severity.WARNING, subject, "", warning) for warning in outcome.warnings)
        notes.append(Problem(Severity.INFO, subject, "", "injected"))
        return _put(raw, path, apply(holder, outcome.operations))
    severity = Severity.ERROR if outcome.is_refusal else Severity.INFO
    said = outcome.message if outcome.is_refusal else f"left alone: {outcome.message}"
    notes.append(Problem(severity, subject, "", said))
    return raw


def _at(raw: object, path: tuple[str, ...]) -> Json:
    for index, step in enumerate(path):
        found = fields(raw).get(step)
        if not isinstance(found, dict):
            raise ConfigError(".".join(path[: index + 1]), "must be an object")
        raw = cast("Json", found)
    return cast("Json", raw)


def _put(raw: object, path: tuple[str, ...], pod: Json) -> Json:
    if not path:
        return pod
    return {**fields(raw), path[0]: _put(fields(raw)[path[0]], path[1:], pod)}


class _Dumper(yaml.SafeDumper):
    """Writes texts so that every reader of YAML 1.1 or 1.2 takes them for texts, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        """Write a value that appears twice twice."""
        del data
        return True


def _text(_dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Dumper.add_representer(str, _text)
