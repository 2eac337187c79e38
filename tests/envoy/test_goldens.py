"""Facts that only Envoy can tell: it accepts everything that the golden cases are compiled to."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests import goldens
from tests.envoy import releases, static_envoy
from tests.envoy.static_envoy import Document
from tests.fakes.entropy import counted_entropy
from xds.dialects import form_of
from xds.events import Node
from xds.identity import Identity
from xds.releases import takes_filters
from xds.snapshot import ResourceType, encode

NEEDS = releases.NEEDS

pytestmark = pytest.mark.envoy


def documents(kind: ResourceType, version: str) -> list[Document]:
    """Every different resource of a type that any case gives, in the form of a version (empty: today's)."""
    older = not takes_filters(version)
    cases = [goldens.compiled(sentence, older=older) for sentence in ("", *goldens.sentences())]
    bodies = {body for case in cases for (of, _), body in case.bodies.items() if of is kind}
    form = form_of(Node("web-0.shop", version=version), kind)
    told = [form(encode(kind, "", body)).body if form else body for body in sorted(bodies)]
    return [static_envoy.as_document(goldens.MESSAGES[kind].FromString(body)) for body in told]


def apart(listeners: Iterable[Document]) -> list[Document]:
    """Listeners of many proxies on one: each under a name and a port of its own."""
    out: list[Document] = []
    for port, listener in enumerate(listeners, start=10_000):
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        out.append({**listener, "name": f"{listener['name']}#{port}", "address": address})
    return out


def is_subscriber(listener: Document) -> bool:
    """Tell whether a listener chooses among route tables by itself."""
    return "scoped_routes" in str(listener)


def with_table(listener: Document, table: Document) -> Document:
    """An outbound listener that holds its route table instead of fetching it."""
    changed = copy.deepcopy(listener)
    manager = changed["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    return {
        **changed,
        "filter_chains": [
            {"filters": [{"name": "http", "typed_config": {**manager, "route_config": table}}]}
        ],
    }


def with_endpoints(assignment: Document, index: int) -> Document:
    """A cluster that holds its endpoints instead of fetching them."""
    return {"name": f"endpoints#{index}", "type": "STATIC", "load_assignment": assignment}


def with_own_files(value: Any, files: dict[str, str]) -> Any:
    """The same with files that are there: Envoy reads certificates while it validates."""
    if isinstance(value, list):
        return [with_own_files(item, files) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    found: Document = value  # pyright: ignore[reportUnknownVariableType]
    return {
        key: files[item] if key == "filename" else with_own_files(item, files) for key, item in found.items()
    }


def certificates(directory: Path) -> dict[str, str]:
    """Files that can stand for those that cases name."""
    root = static_envoy.new_root()
    leaf = static_envoy.ca.issue_leaf(
        root,
        Identity("web-0", "shop", "web", "web", "cluster.local"),
        now=time.time(),
        entropy=counted_entropy("leaf"),
    )
    contents = {
        "/etc/ca.pem": root.pem,
        "/etc/ssl/certs/ca-certificates.crt": root.pem,
        "/etc/c.pem": leaf.certificate_pem,
        "/etc/k.pem": leaf.key_pem.reveal(),
    }
    out: dict[str, str] = {}
    for name, octets in contents.items():
        path = directory / Path(name).name
        path.write_bytes(octets)
        out[name] = str(path)
    return out


@pytest.mark.parametrize("version", ["", *releases.kept()])
def test_envoy_accepts_every_golden_resource(tmp_path: Path, version: str) -> None:
    """One Envoy takes all listeners, route tables, clusters and endpoints of all cases; older ones take their form."""
    # An intercepted proxy's outbound listener subscribes as it is read, and validation has no stream: Envoy 1.40
    # crashes. tests/envoy/test_outbound.py gives it one.
    listeners = [found for found in documents(ResourceType.LISTENER, version) if not is_subscriber(found)]
    outbound = next(found for found in listeners if found["name"] == "outbound")
    tables = [with_table(outbound, table) for table in documents(ResourceType.ROUTES, version)]
    named = [static_envoy.startable(found) for found in documents(ResourceType.CLUSTER, version)]
    clusters = [{**found, "name": f"{found['name']}#{n}"} for n, found in enumerate(named)]
    # A tracer wants its cluster by name, as a proxy has it before the listener.
    clusters += {found["name"]: found for found in named if found["name"].startswith("provider|")}.values()
    filled = [with_endpoints(found, n) for n, found in enumerate(documents(ResourceType.ENDPOINTS, version))]
    document = static_envoy.bootstrap([], [])
    document["static_resources"]["listeners"] = apart([*listeners, *tables])
    document["static_resources"]["clusters"] += [*clusters, *filled]

    envoy = releases.envoy(version) if version else None
    static_envoy.validate(with_own_files(document, certificates(tmp_path)), tmp_path, envoy)
