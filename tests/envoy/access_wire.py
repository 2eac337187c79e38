"""Many workloads' access rules in one real Envoy, and clients that write exact bytes to them.

It owns the way from manifests to listeners, certificates, connections and what an answer means; it must never say
what the answer should be.

The control plane's own reader, compiler and builders make each workload's listeners. All of them run in one process,
under names of their own, with what would come from the stream written in their places; the application is a listener
of the same Envoy that answers with the path that it was sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import yaml

from tests import goldens
from tests.access_reference import Http, Verdict
from tests.access_worlds import (
    HTTP_PORT,
    PEERS,
    PROVIDER,
    ROOT_NAMESPACE,
    TCP_PORT,
    Addresses,
    Client,
    Pair,
    World,
)
from tests.envoy import releases, static_envoy
from tests.envoy.static_envoy import Document
from tests.fakes.entropy import counted_entropy
from xds import ca
from xds.dialects import form_of
from xds.events import Node
from xds.fields import Severity
from xds.identity import Identity
from xds.plan import Plan
from xds.resources.older import takes_filters
from xds.snapshot import ResourceType, Snapshot
from xds.sources.directory import Directory
from xds.sources.store import Store

_WAIT_S: Final = 30
_APPLICATION: Final = "x-application"
_ASKED_PORT: Final = 22070
_WORDS: Final = b"hello\n"

CLOSED: Final = ("reset", "closed")
"""The words of an answer that is none: the connection ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the verdict that it means, None if it means none, and the target that the application saw."""

    verdict: Verdict | None
    words: str
    target: str = ""


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
    yield _object(
        "v1", "Pod", world.namespace, "orders", labels=world.labels,
        annotations={"proa.dev/app-address": _application(at)},
    ) | {
        "spec": {"serviceAccountName": "orders", "containers": [{"name": "app", "image": "app", "ports": ports}]},
        "status": {"podIP": at.of_workload(world.number)},
    }  # fmt: skip
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


# -- from manifests to one Envoy -----------------------------------------------------------------------------


class RefusedError(Exception):
    """The control plane found a fault in manifests that have none."""


def compiled(
    directory: Path, worlds: Sequence[World], documents: Sequence[Document], version: str = ""
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
        view, _ = plan.view((world.namespace, "orders"), older=not takes_filters(version))
        kinds = {kind: _documents(plan.snapshot, view, kind, version) for kind in goldens.MESSAGES}
        for name, found in kinds[ResourceType.LISTENER].items():
            if found.get("traffic_direction") == "INBOUND":
                static = _static(found, kinds[ResourceType.ROUTES])
                listeners.append({**static, "name": f"{name}#{world.number}", "stat_prefix": world.namespace})
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
    place = {"socket_address": {"address": address, "port_value": port}}
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
            "header": {"key": _APPLICATION, "value": "%REQ(:PATH)%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    may = {"prefix": "", "headers": [{"name": "x-ext", "string_match": {"exact": "allow"}}]}
    yield _listener(
        "app", _application(at), HTTP_PORT, _server("app", [_answer(200, response_headers_to_add=target)])
    )
    yield _listener("app-tcp", _application(at), TCP_PORT, [{"name": "echo", "typed_config": echo}])
    yield _listener(
        "judge", _application(at), _ASKED_PORT, _server("judge", [_answer(200, match=may), _answer(403)])
    )


# -- clients -------------------------------------------------------------------------------------------------


class Wire:
    """Connections to the workloads of a running Envoy, by clients with certificates of the mesh."""

    def __init__(self, directory: Path, root: ca.Authority, at: Addresses) -> None:
        self.at = at
        self._identities = {peer: _identity(directory, root, peer) for peer in PEERS}

    def ask(self, world: World, pairs: Sequence[Pair]) -> list[Answer]:
        """The answers to a world's pairs, in order; those of one client share a connection as far as it lasts."""
        found: dict[int, Answer] = {}
        queues: dict[Client, list[int]] = {}
        for index, pair in enumerate(pairs):
            if pair.http is None:
                found[index] = self._connect_only(world, pair.client)
            else:
                queues.setdefault(pair.client, []).append(index)
        for client, indexes in queues.items():
            requests = [request for index in indexes if (request := pairs[index].http) is not None]
            found |= zip(indexes, self._converse(world, client, requests), strict=True)
        return [found[index] for index in range(len(pairs))]

    @contextlib.contextmanager
    def connected(self, world: World, client: Client, port: int) -> Generator[socket.socket]:
        """A connection as this client."""
        source = (self.at.of_client(client.source), 0)
        target = (self.at.of_workload(world.number), port)
        with socket.create_connection(target, _WAIT_S, source_address=source) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not client.peer:
                yield raw
                return
            with self._identities[client.peer].wrap_socket(
                raw, server_hostname=client.sni or None
            ) as secured:
                yield secured

    def _connect_only(self, world: World, client: Client) -> Answer:
        with (
            contextlib.suppress(ConnectionError, ssl.SSLError),
            self.connected(world, client, TCP_PORT) as wire,
        ):
            wire.sendall(_WORDS)
            words = wire.recv(100)
            return Answer(Verdict.ALLOW if words == _WORDS else Verdict.DENY, words.decode() or "closed")
        return Answer(Verdict.DENY, "reset")

    def _converse(self, world: World, client: Client, requests: Sequence[Http]) -> list[Answer]:
        """One after the other: Envoy 1.40 ends a connection at the third answer of its own to requests sent at once."""
        answers: list[Answer] = []
        while len(answers) < len(requests):
            with self.connected(world, client, HTTP_PORT) as wire, wire.makefile("rb") as stream:
                for http in requests[len(answers) :]:
                    answer, is_last = exchange(wire, stream, http)
                    answers.append(answer)
                    if is_last:
                        break
        return answers


def octets(http: Http) -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"{http.method} {http.target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in http.headers),
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1")


def exchange(wire: socket.socket, stream: IO[bytes], http: Http) -> tuple[Answer, bool]:
    """Send one request; return its answer, and whether the connection is over."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        wire.sendall(octets(http))
        return _response(stream, has_body=http.method != "HEAD")
    return Answer(None, CLOSED[0]), True


_VERDICTS: Final = {401: Verdict.UNAUTHENTICATED, 403: Verdict.DENY, 400: Verdict.MALFORMED}


def _response(stream: IO[bytes], *, has_body: bool) -> tuple[Answer, bool]:
    first, headers = stream.readline(), dict[bytes, bytes]()
    for line in iter(stream.readline, b"\r\n"):
        if not line:
            return Answer(None, CLOSED[1]), True
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get(b"content-length", b"0"))) if has_body else b""
    words = f"{first.decode().strip()} {body.decode(errors='replace')}".strip()
    seen = headers.get(_APPLICATION.encode())
    verdict = Verdict.ALLOW if seen is not None else _VERDICTS.get(int(first.split()[1]))
    return Answer(verdict, words, (seen or b"").decode("latin-1")), headers.get(b"connection") == b"close"


def _identity(directory: Path, root: ca.Authority, peer: str) -> ssl.SSLContext:
    trust_domain, _, namespace, _, account = peer.split("/")
    who = Identity("pod", namespace, account, "pod", trust_domain)
    leaf = ca.issue_leaf(root, who, now=time.time(), entropy=counted_entropy(peer))
    file = directory / f"{peer.replace('/', '_')}.pem"
    file.write_bytes(leaf.certificate_pem + leaf.key_pem.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(file)
    context.set_alpn_protocols(["mesh"])
    return context


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
    resources = compiled(below, worlds, manifests(worlds, at, settings or {}), version)
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
    document = static_envoy.bootstrap([], [])
    document["static_resources"]["listeners"] = resources["listeners"]
    document["static_resources"]["clusters"] += resources["clusters"]
    document["static_resources"]["secrets"] = resources["secrets"]
    with static_envoy.running(document, directory, releases.envoy(version) if version else None):
        yield Wire(directory, root, at)
