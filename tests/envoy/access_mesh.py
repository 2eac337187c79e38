"""Many workloads' access rules in one real Envoy.

It owns the way from manifests to listeners, addresses and the application behind; it must never say what an answer
should be.

The control plane's own reader, compiler and builders make each workload's listeners. All of them run in one process,
under names of their own, with what would come from the stream written in their places; the application is a listener
of the same Envoy that answers with the path that it was sent.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests import goldens
from tests.access_worlds import HTTP_PORT, PROVIDER, ROOT_NAMESPACE, TCP_PORT, Addresses, World
from tests.envoy import releases, static_envoy
from tests.envoy.access_wire import APPLICATION, Wire
from tests.envoy.static_envoy import Document
from tests.fakes.entropy import counted_entropy
from xds import ca
from xds.dialects import form_of
from xds.events import Node
from xds.fields import Severity
from xds.identity import Identity
from xds.plan import Plan
from xds.redirect import TO_APPLICATION
from xds.releases import takes_filters
from xds.snapshot import ResourceType, Snapshot
from xds.sources.directory import Directory
from xds.sources.store import Store

_WAIT_S: Final = 30
_ASKED_PORT: Final = 22070

_DOORS: Final = 30_000
"""From here on workloads have the ports of their listeners."""


# -- manifests -----------------------------------------------------------------------------------------------


def manifests(worlds: Iterable[World], at: Addresses, settings: Document) -> list[Document]:
    """Everything that a mesh with these worlds is made of; all of its ports take plaintext and mutual TLS."""
    found: list[Document] = [
        _object("v1", "Namespace", "", ROOT_NAMESPACE),
        _object("v1", "Namespace", "", "elsewhere", labels={"proa.dev/inject": "enabled"}),
        _object("security.istio.io/v1", "PeerAuthentication", ROOT_NAMESPACE, "open")
        | {"spec": {"mtls": {"mode": "PERMISSIVE"}}},
        *_external(at, settings),
    ]
    for world in worlds:
        found += [*_workload(world, at), *map(dict, world.policies)]
    return found


def _workload(world: World, at: Addresses) -> Iterator[Document]:
    ports = [{"containerPort": HTTP_PORT}, {"containerPort": TCP_PORT}]
    yield _object("v1", "Namespace", "", world.namespace, labels={"proa.dev/inject": "enabled"})
    yield _object("v1", "ServiceAccount", world.namespace, "orders")
    own: Document = {} if at.is_intercepted else {"proa.dev/app-address": _application(at)}
    yield _object("v1", "Pod", world.namespace, "orders", labels=world.labels, annotations=own) | {
        "spec": {
            "serviceAccountName": "orders",
            "containers": [{"name": "app", "image": "app", "ports": ports}],
        },
        "status": {"podIP": at.of_workload(world.number)},
    }
    served = [
        {"name": name, "port": port, "targetPort": port, "appProtocol": name}
        for name, port in (("http", HTTP_PORT), ("tcp", TCP_PORT))
    ]
    yield _object("v1", "Service", world.namespace, "orders") | {
        "spec": {"selector": {"app": "orders"}, "ports": served}
    }


def _external(at: Addresses, settings: Document) -> Iterator[Document]:
    host = "judge.example"
    provider = {
        "name": PROVIDER,
        "envoyExtAuthzHttp": {
            "service": host,
            "port": _ASKED_PORT,
            "includeRequestHeadersInCheck": ["x-ext"],
        },
    }
    yield _object("v1", "ConfigMap", ROOT_NAMESPACE, "proa") | {
        "data": {"mesh": yaml.safe_dump({"extensionProviders": [provider], **settings})}
    }
    yield _object("networking.istio.io/v1", "ServiceEntry", ROOT_NAMESPACE, "judge") | {
        "spec": {
            "hosts": [host],
            "ports": [{"number": _ASKED_PORT, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC",
            "endpoints": [{"address": _application(at)}],
        }
    }


def _object(api: str, kind: str, namespace: str, name: str, **meta: Any) -> Document:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {}), **meta},
    }


def _application(at: Addresses) -> str:
    return f"127.{at.block}.255.{1 + at.first // 300}"


def _prepare_network(worlds: Sequence[World], at: Addresses) -> None:
    """Take the addresses that the loopback interface does not have anyway, and redirect what is to be redirected."""
    if at.is_v6:
        ours = (*(at.of_workload(world.number) for world in worlds), *map(at.of_client, range(4)))
        _run(("ip", "-6", "-batch", "-"), "".join(f"addr replace {ip}/128 dev lo nodad\n" for ip in ours))
    if at.is_intercepted:
        _run(("nft", "-f", "-"), _redirecting(worlds, at))


def _run(argv: Sequence[str], stdin: str) -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=_WAIT_S)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


def _redirecting(worlds: Sequence[World], at: Addresses) -> str:
    """What brings each workload's connections to its own listener, but for those of the sidecars, as text for nft.

    One Envoy stands for the sidecars of all workloads, in one network namespace; the rules of a Pod's own have their
    own tests.
    """
    family, own = ("ip6" if at.is_v6 else "ip"), f"campaign_{at.first}"
    ways = (f"{family} daddr {at.of_workload(w.number)} redirect to :{_door(w)}" for w in worlds)
    lines = (
        "type nat hook output priority -100; policy accept;",
        f"meta priority 0:{TO_APPLICATION} return",
        f"tcp dport != {{ {HTTP_PORT}, {TCP_PORT} }} return",
        *(f"meta l4proto tcp {way}" for way in ways),
    )
    return f"table inet {own} {{\n  chain output {{\n    " + "\n    ".join(lines) + "\n  }\n}\n"


def _door(world: World) -> int:
    """The port of a world's listener: 15006 in a Pod, but here all are in one namespace."""
    return _DOORS + world.number


# -- from manifests to one Envoy -----------------------------------------------------------------------------


class RefusedError(Exception):
    """The control plane found a fault in manifests that have none."""


def compiled(
    directory: Path, worlds: Sequence[World], documents: Sequence[Document], at: Addresses, version: str = ""
) -> Document:
    """The listeners and clusters of all worlds' workloads, as one Envoy's static resources (empty: today's)."""
    (directory / "mesh.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper), encoding="utf-8")
    source = Directory(directory)
    batch = source.load()
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all(batch.changes), batch.broken)
    problems = (*batch.problems, *source.placed(plan.problems()))
    if faults := [str(each) for each in problems if each.severity is not Severity.WARNING]:
        raise RefusedError("\n".join(faults))
    listeners: list[Document] = []
    clusters: dict[str, Document] = {}
    for world in worlds:
        who = (world.namespace, "orders")
        view, _ = plan.view(who, transparent=at.is_intercepted, older=not takes_filters(version))
        kinds = {kind: _documents(plan.snapshot, view, kind, version) for kind in goldens.MESSAGES}
        for name, found in kinds[ResourceType.LISTENER].items():
            if found.get("traffic_direction") == "INBOUND":
                static = _static(found, kinds[ResourceType.ROUTES])
                own: Document = {"name": f"{name}#{world.number}", "stat_prefix": world.namespace}
                if at.is_intercepted:
                    static["address"]["socket_address"]["port_value"] = _door(world)
                listeners.append(static | own)
        clusters |= _clusters(kinds)
    return {"listeners": listeners, "clusters": list(clusters.values())}


def _documents(
    snapshot: Snapshot, view: tuple[str, ...], kind: ResourceType, version: str
) -> dict[str, Document]:
    found: dict[str, Document] = {}
    form = form_of(Node("orders", version=version), kind)
    for name in sorted(snapshot.names(view, kind)):
        resource = snapshot.resolve(view, kind, name)
        assert resource is not None
        body = (form(resource) if form else resource).body
        found[name] = static_envoy.as_document(goldens.MESSAGES[kind].FromString(body))
    return found


def _static(value: Any, tables: Mapping[str, Document]) -> Any:
    """The same with route tables in their places, and secrets that the bootstrap has."""
    if isinstance(value, list):
        return [_static(item, tables) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    found: Document = {key: item for key, item in value.items() if key != "sds_config"}  # pyright: ignore[reportUnknownVariableType]
    if "rds" in found:
        found["route_config"] = tables[found.pop("rds")["route_config_name"]]
    return {key: _static(item, tables) for key, item in found.items()}


def _clusters(kinds: Mapping[ResourceType, Mapping[str, Document]]) -> dict[str, Document]:
    """The application and the external authorizer; both are the same for everybody."""
    clusters = kinds[ResourceType.CLUSTER]
    return {name: found for name, found in clusters.items() if name.startswith(("inbound", "provider"))}


def _listener(name: str, address: str, port: int, filters: list[Document]) -> Document:
    place = {"socket_address": {"address": address, "port_value": port, "ipv4_compat": ":" in address}}
    return {"name": name, "address": place, "filter_chains": [{"filters": filters}]}


def _server(name: str, routes: list[Document]) -> list[Document]:
    """An HTTP server made of routes that answer by themselves."""
    extension = "type.googleapis.com/envoy.extensions.filters"
    return [
        {
            "name": "http",
            "typed_config": {
                "@type": f"{extension}.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "normalize_path": False,
                "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
                "http_filters": [
                    {"name": "router", "typed_config": {"@type": f"{extension}.http.router.v3.Router"}}
                ],
            },
        }
    ]


def _answer(status: int, **more: Any) -> Document:
    return {"match": {"prefix": ""}, "direct_response": {"status": status}, **more}


def applications(at: Addresses) -> Iterator[Document]:
    """What stands behind every sidecar here: it says which target it was sent, or what; and who CUSTOM asks."""
    target = [
        {
            "header": {"key": APPLICATION, "value": "%REQ(:PATH)%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    may = {"prefix": "", "headers": [{"name": "x-ext", "string_match": {"exact": "allow"}}]}
    here = "::" if at.is_intercepted else _application(at)
    yield _listener("app", here, HTTP_PORT, _server("app", [_answer(200, response_headers_to_add=target)]))
    yield _listener("app-tcp", here, TCP_PORT, [{"name": "echo", "typed_config": echo}])
    yield _listener(
        "judge", _application(at), _ASKED_PORT, _server("judge", [_answer(200, match=may), _answer(403)])
    )


@contextlib.contextmanager
def serving(
    directory: Path,
    worlds: Sequence[World],
    at: Addresses,
    settings: Document | None = None,
    version: str = "",
) -> Generator[Wire]:
    """One Envoy (empty: today's) in front of all of these worlds' workloads, under these mesh settings."""
    below = directory / "manifests"
    below.mkdir(parents=True)
    resources = compiled(below, worlds, manifests(worlds, at, settings or {}), at, version)
    resources["listeners"] += applications(at)
    root = static_envoy.new_root()
    leaf = ca.issue_leaf(
        root,
        Identity("orders", "shop", "orders", "orders", "cluster.local"),
        now=time.time(),
        entropy=counted_entropy("server"),
    )
    certificate = {
        "certificate_chain": {"inline_string": leaf.certificate_pem.decode()},
        "private_key": {"inline_string": bytes(leaf.key_pem.reveal()).decode()},
    }
    resources["secrets"] = [
        {"name": "default", "tls_certificate": certificate},
        {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": root.pem.decode()}}},
    ]
    _prepare_network(worlds, at)
    document = static_envoy.bootstrap([], [])
    document["static_resources"]["listeners"] = resources["listeners"]
    document["static_resources"]["clusters"] += resources["clusters"]
    document["static_resources"]["secrets"] = resources["secrets"]
    with static_envoy.running(document, directory, releases.envoy(version) if version else None):
        yield Wire(directory, root, at)
