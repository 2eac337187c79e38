"""Manifests as people write them: each is read without error, all of them compile together, and every remark is known.

``tests/corpus`` holds documents of our own with the fields that public manifests use, about as often as those use them.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.goldens import MESSAGES
from xds.api.manifest import Parsed, read
from xds.documents import parse_yaml
from xds.fields import Severity
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.directory import Directory
from xds.sources.store import Store

CORPUS: Final = Path(__file__).parent / "corpus"
KINDS: Final = ("VirtualService", "DestinationRule", "PeerAuthentication")

REMARKS: Final = (
    ("DestinationRule press/comments", "outlierDetection.consecutiveErrors", "is deprecated"),
    ("DestinationRule press/queue", "connectionPool.tcp.idleTimeout", "holds for HTTP ports only"),
    (
        "DestinationRule press/search",
        "loadBalancer.localityLbSetting",
        "is not supported yet and was left out",
    ),
    ("VirtualService clinic/website", "gateways", "are gateways only"),
    ("VirtualService fleet/parcels", "http[0].corsPolicy", "is not supported yet and was left out"),
    ("VirtualService fleet/stories-of-the-fleet", "hosts[0]", "belongs to namespace press"),
)
"""Object, end of the field, beginning of the reason: warnings and infos, and there is no other."""


@cache
def documents() -> tuple[dict[str, Any], ...]:
    """Every document of the three kinds."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.yaml")))
    found = (cast("dict[str, Any]", document.value) for text in texts for document in parse_yaml(text))
    return tuple(document for document in found if document["kind"] in KINDS)


def title(document: dict[str, Any]) -> str:
    """A document's name in a failure."""
    meta = document["metadata"]
    return f"{document['kind']} {meta['namespace']}/{meta['name']}"


@cache
def compiled() -> tuple[Plan, tuple[Any, ...]]:
    """The whole corpus as the server compiles it, every proxy included, and what it says."""
    source = Directory(CORPUS)
    batch = source.load()
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all(batch.changes), batch.broken)
    for pod in tuple(plan.world.pods()):
        plan.view(pod)
    return plan, (*batch.problems, *source.placed(plan.problems()))


@pytest.mark.parametrize("document", documents(), ids=title)
def test_document_is_read(document: dict[str, Any]) -> None:
    """Nothing that people write is an error, and no version of the API is unknown."""
    found = read(document)

    assert isinstance(found, Parsed)
    assert [note for note in found.notes if note.severity is Severity.ERROR] == []


def test_remarks_are_the_known_ones() -> None:
    """What is left out is said, and nothing else is."""
    said = sorted((p.subject, p.path, p.reason) for p in compiled()[1])
    known = sorted(REMARKS)

    assert [subject for subject, _, _ in said] == [subject for subject, _, _ in known]
    assert all(
        path.endswith(end) and start in reason
        for (_, path, reason), (_, end, start) in zip(said, known, strict=True)
    )


def test_every_view_is_complete() -> None:
    """Each proxy is told of every type, routes and endpoints fit their clusters, and all of it can be decoded."""
    plan, _ = compiled()
    for pod in plan.world.pods():
        view, _ = plan.view(pod)
        for kind, message in MESSAGES.items():
            bodies = [plan.snapshot.resolve(view, kind, name) for name in plan.snapshot.names(view, kind)]

            assert bodies
            assert all(message.FromString(found.body) for found in bodies if found)
        assert plan.snapshot.consistent(view) == ()


def test_every_virtual_service_is_in_force() -> None:
    """A rule's own name, or its place, is on a route of some proxy."""
    plan, _ = compiled()
    tables = b"".join(
        found.body
        for pod in plan.world.pods()
        for view in [plan.view(pod)[0]]
        if (found := plan.snapshot.resolve(view, ResourceType.ROUTES, "outbound")) is not None
    )
    bound = [d for d in documents() if "mesh" in d["spec"].get("gateways", ["mesh"])]
    names = [title(d).replace(" ", "/") for d in bound if d["kind"] == "VirtualService"]

    assert [name for name in names if f"{name}/".encode() not in tables] == []


def test_the_corpus_is_as_broad_as_the_world() -> None:
    """Three kinds, three versions of the API, and what more than a fifth of public VirtualServices use."""
    versions = Counter(document["apiVersion"].rpartition("/")[2] for document in documents())
    text = "".join(path.read_text(encoding="utf-8") for path in CORPUS.glob("*.yaml"))

    assert len(documents()) >= 40
    assert min(versions[version] for version in ("v1", "v1beta1", "v1alpha3")) >= 8
    assert all(f"{field}:" in text for field in ("subset", "port", "gateways", "weight", "prefix", "timeout"))
