"""Real Envoys whose every dynamic resource is a file: a data plane without a control plane.

It owns the documents, files and processes of a test; it must never change a resource under test, except that
"from the stream" becomes "from this file".
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import betterproto2
from envoy_data_plane.envoy.extensions.access_loggers.stats import v3 as stats
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tests.fakes.entropy import counted_entropy
from xds import ca, ir
from xds.api.metering import SERIES
from xds.compile.sidecar import routes_of
from xds.demo import programs
from xds.identity import Identity
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.resources import inbound_routes
from xds.resources.telemetry import scope as _scope

START_S: Final = 60
"""A busy machine needs some 10 s for a start that takes 0.3 s on an idle one."""

Document = dict[str, Any]

_SERIES: Final = (SERIES, 2_000, 100)
"""Caps that the resources under test have: the default, that of a golden case, and the least."""

_ADS_STUB: Final[Document] = {
    "api_type": "DELTA_GRPC",
    "transport_api_version": "V3",
    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
}
_XDS_STUB: Final[Document] = {
    "name": "xds",
    "type": "STATIC",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    },
}


def as_document(message: Message) -> Document:
    """A protobuf message in Envoy's own field names, with the one field that our copy of the API does not know."""
    document = MessageToDict(message, preserving_proto_field_name=True)
    return _with_scopes(document, message.SerializeToString())


def _with_scopes(value: Any, body: bytes) -> Any:
    """Give each stats logger its ``stats_scope``: that of the listener, which has one for all of them."""
    if isinstance(value, list):
        return [_with_scopes(item, body) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    found: Document = {key: _with_scopes(item, body) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    # An older one has a prefix instead.
    if str(found.get("@type", "")).endswith("access_loggers.stats.v3.Config") and "stat_prefix" not in found:
        (series,) = {series for series in _SERIES if _scope(series) in body}
        found["stats_scope"] = stats.Config.parse(_scope(series)).to_dict(casing=betterproto2.Casing.SNAKE)[
            "stats_scope"
        ]
    return found


def startable(cluster: Document) -> Document:
    """A cluster in a form that a bootstrap can hold, with all that it says of trust and protocol.

    Envoy 1.40 crashes on a static cluster that fetches its certificate from a stream, unless it must wait for its
    endpoints as well: there is no stream yet. From a stream it takes such clusters (tests/envoy/test_on_demand.py).
    """
    is_ready = cluster.get("type", "STATIC") in {"STATIC", "ORIGINAL_DST"}
    if not is_ready or "sds_config" not in str(cluster):
        return cluster
    source: Document = {"ads": {}, "resource_api_version": "V3"}
    found = {key: value for key, value in cluster.items() if key != "load_assignment"}
    waiting: Document = {
        "type": "EDS",
        "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": {"eds_config": source},
    }
    return {**found, **waiting}


def bootstrap(
    listeners: Iterable[bytes], clusters: Iterable[bytes], *, files: Mapping[str, Path] | None = None
) -> Document:
    """A bootstrap that embeds built resources; ``files`` replace the stream, by resource name."""
    resources = {
        "listeners": [as_document(listener_pb2.Listener.FromString(body)) for body in listeners],
        "clusters": [startable(as_document(cluster_pb2.Cluster.FromString(body))) for body in clusters],
    }
    document: Document = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    }
    if files is None:
        resources["clusters"].append(_XDS_STUB)
        return document | {"static_resources": resources, "dynamic_resources": {"ads_config": _ADS_STUB}}
    return document | {"static_resources": _from_files(resources, files, "")}


def validate(document: Document, directory: Path, envoy: Path | None = None) -> None:
    """Let a real Envoy (None: today's) judge a bootstrap and all that is in it; fails the test with its words."""
    config = directory / "validate.json"
    config.write_text(json.dumps(document), encoding="utf-8")
    done = subprocess.run(
        [envoy or programs.envoy(), "--mode", "validate", "-l", "error", "-c", config],
        capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def discovered(directory: Path, type_name: str, resource: Document) -> Path:
    """A file that serves one resource, as Envoy reads it from disk."""
    typed = {"@type": f"type.googleapis.com/envoy.{type_name}", **resource}
    name = str(resource.get("name") or resource["cluster_name"])
    path = directory / f"{name.replace('|', '_')}.json"
    path.write_text(json.dumps({"version_info": "1", "resources": [typed]}), encoding="utf-8")
    return path


def secrets(directory: Path, root: ca.Authority, who: Identity) -> dict[str, Path]:
    """The two secrets of a sidecar: its own certificate, and the roots that vouch for peers."""
    leaf = ca.issue_leaf(root, who, now=time.time(), entropy=counted_entropy(who.node_id))
    own = {
        "certificate_chain": {"inline_string": leaf.certificate_pem.decode()},
        "private_key": {"inline_string": bytes(leaf.key_pem.reveal()).decode()},
    }
    trusted = {"trusted_ca": {"inline_string": root.pem.decode()}}
    kind = "extensions.transport_sockets.tls.v3.Secret"
    return {
        "default": discovered(directory, kind, {"name": "default", "tls_certificate": own}),
        "ROOTCA": discovered(directory, kind, {"name": "ROOTCA", "validation_context": trusted}),
    }


def routes(directory: Path, ports: Iterable[ir.Inbound]) -> dict[str, Path]:
    """The route tables of ports that speak HTTP, by name."""
    tables = (
        route_pb2.RouteConfiguration.FromString(inbound_routes.build(node)) for node in routes_of(ports)
    )
    kind = "config.route.v3.RouteConfiguration"
    return {table.name: discovered(directory, kind, as_document(table)) for table in tables}


def new_root() -> ca.Authority:
    """A workload root that is valid now."""
    return ca.new_root("cluster.local", now=time.time(), entropy=counted_entropy("root"))


@dataclass(frozen=True, slots=True)
class Running:
    """A running Envoy and the port of its admin endpoint."""

    admin_port: int

    def get(self, path: str) -> str:
        """The body of an admin page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=START_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()


@contextlib.contextmanager
def running(document: Document, directory: Path, envoy: Path | None = None) -> Generator[Running]:
    """A started Envoy (None: today's) that is ready, and is gone afterwards."""
    config, admin = directory / "envoy.json", directory / "admin"
    config.write_text(json.dumps(document), encoding="utf-8")
    log = (directory / "envoy.log").open("wb")
    process = subprocess.Popen(
        [envoy or programs.envoy(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warning",
         "--admin-address-path", admin],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield _ready(admin, process)
    finally:
        process.kill()
        process.wait()
        log.close()


def _ready(admin: Path, process: subprocess.Popen[bytes]) -> Running:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            _, _, port = admin.read_text(encoding="utf-8").rpartition(":")
            if port and Running(int(port)).get("/ready") == "LIVE\n":
                return Running(int(port))
        time.sleep(0.05)
    raise AssertionError(f"Envoy is not ready: {admin.with_name('envoy.log').read_text(encoding='utf-8')}")


def _from_files(value: Any, files: Mapping[str, Path], name: str) -> Any:
    """Replace each "from the stream" by the file of the resource whose name stands beside it."""
    if isinstance(value, list):
        return [_from_files(item, files, name) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    if "ads" in value:
        return {"path_config_source": {"path": str(files[name])}, "resource_api_version": "V3"}
    found: Document = value  # pyright: ignore[reportUnknownVariableType]
    beside = str(found.get("route_config_name") or found.get("name") or name)
    return {key: _from_files(item, files, beside) for key, item in found.items()}
