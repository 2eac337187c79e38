"""What a sidecar's Envoy starts with: everything that xDS cannot bring later, as one JSON document.

It owns the ports, names and limits of that document; it must never know Kubernetes objects or run inside the
server (its types come from envoy-data-plane, which takes 0.8 s to import and is loaded lazily).
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from xds import settings

ADMIN_PORT: Final = settings.SIDECAR_ADMIN_PORT
READY_PORT: Final = settings.READY_PORT
METRICS_PORT: Final = settings.METRICS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The control channel as it should be: TLS 1.3 under `roots` (PEM texts), a token re-read from `token_file`.

    `newest_root` is the fingerprint (SHA-256, hex) of the newest of the roots: the control plane retires an older
    one only when no connected proxy reports anything else. `token_file` is an absolute path: Envoy's working
    directory need not be ours.
    """

    roots: tuple[str, ...]
    newest_root: str
    token_file: str

    @property
    def secret_file(self) -> str:
        """The file beside the token in which Envoy finds the token's name (see `render_secret`)."""
        return f"{self.token_file}.sds.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext:
    """The control channel of `--insecure`: loopback only, no token, and the server then serves no secret."""


@dataclass(frozen=True, slots=True)
class Collector:
    """A user's OTLP collector, which takes gRPC on ``host`` and ``port``.

    ``roots`` is the PEM text of the authorities that vouch for its name or address; empty: without TLS.
    """

    host: str
    port: int
    roots: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that differs between two sidecars' bootstraps.

    ``is_transparent``: the Pod's traffic is redirected to it (`xds.redirect`), and its own address is neither known
    nor needed. ``is_template``: the document is for any Pod; Envoy gets its node by ``--service-node`` and
    ``--service-cluster``, and the texts of `TEMPLATE` stand for what the kubelet knows (see `template`).
    """

    pod: str
    namespace: str
    workload: str
    service_account: str
    pod_ip: str = ""
    is_transparent: bool = False
    is_template: bool = False
    xds_host: str
    xds_port: int
    channel: Tls | Plaintext
    zone: str = ""
    region: str = ""
    collector: Collector | None = None
    """Who gets the counters of traffic too."""
    is_older: bool = False
    """For Envoys before 1.37, which do not read all of it (docs/envoys.md)."""

    @property
    def node_id(self) -> str:
        """`POD.NAMESPACE`: the node id, and the `{id}` of the admin API."""
        return f"{self.pod}.{self.namespace}"

    @property
    def admin_address(self) -> str:
        """Where the admin endpoint listens: never on an address that another machine can reach.

        In a directory mesh each sidecar has a loopback address of its own, so two of them do not collide on
        127.0.0.1:15000; a pod with a routable address keeps its admin on its own loopback.
        """
        if self.is_transparent:
            return "127.0.0.1"
        return self.pod_ip if ipaddress.ip_address(self.pod_ip).is_loopback else "127.0.0.1"


TEMPLATE: Final = {
    "pod": "$(POD_NAME)",
    "namespace": "$(POD_NAMESPACE)",
    "workload": "$(WORKLOAD_NAME)",
    "service_account": "$(SERVICE_ACCOUNT)",
}
"""What a Pod's own values are in a template: references to a container's environment, which Kubernetes expands in its
arguments."""


def template(
    *,
    xds_host: str,
    xds_port: int,
    channel: Tls | Plaintext,
    collector: Collector | None = None,
    is_older: bool = False,
) -> Spec:
    """Return the specification of the bootstrap that all Pods of a cluster share."""
    return Spec(
        pod=TEMPLATE["pod"],
        namespace=TEMPLATE["namespace"],
        workload=TEMPLATE["workload"],
        service_account=TEMPLATE["service_account"],
        is_transparent=True,
        is_template=True,
        xds_host=xds_host,
        xds_port=xds_port,
        channel=channel,
        collector=collector,
        is_older=is_older,
    )


def build(spec: Spec) -> dict[str, Any]:
    """The bootstrap of `spec` as JSON-ready dicts in Envoy's own field names; ValueError names a bad field."""
    _check(spec)
    return _document().build_document(spec)


def render(spec: Spec) -> str:
    """`build(spec)` as indented JSON text that ends in a newline, ready for `envoy -c FILE.json`."""
    return json.dumps(build(spec), indent=2) + "\n"


def render_secret(channel: Tls) -> str:
    """The text of `channel.secret_file`: it names the token's file and holds no token."""
    return json.dumps(_document().build_secret(channel), indent=2) + "\n"


def write_secret(channel: Tls) -> None:
    """Write `channel.secret_file`; Envoy refuses to start without it. Raises OSError."""
    Path(channel.secret_file).write_text(render_secret(channel), "utf-8")


def tls_of_state(state: Path, token_file: Path) -> Tls:
    """Return the channel as the control plane of a state directory has it now; raises StateError."""
    from xds.state import StateDirectory, system_entropy

    slots = StateDirectory.open(state).channel_roots(now=time.time(), entropy=system_entropy())
    return Tls(
        roots=tuple(root.pem.decode("ascii") for root in slots.trusted),
        newest_root=slots.newest.fingerprint,
        token_file=str(token_file.absolute()),
    )


def tls_of_roots(pem: str, token_file: Path) -> Tls:
    """Return the channel under the roots of a PEM text, the newest first; ValueError where it holds none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        roots = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        message = "--roots: must be PEM certificates, the newest first"
        raise ValueError(message) from None
    return Tls(
        roots=tuple(root.public_bytes(Encoding.PEM).decode("ascii") for root in roots),
        newest_root=roots[0].fingerprint(SHA256()).hex(),
        token_file=str(token_file.absolute()),
    )


def _document() -> ModuleType:
    """Import the assembly, whose pydantic classes use a decorator that pydantic has deprecated since."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("xds.bootstrap.document")


def _check(spec: Spec) -> None:
    if not spec.is_transparent:
        _check_address(spec)
    match spec.channel:
        case Tls(roots=()):
            message = "the control channel needs at least one root certificate"
            raise ValueError(message)
        case Tls(token_file=path) if not path.startswith("/"):
            message = f"--token-file: must be an absolute path, got {path}"
            raise ValueError(message)
        case Plaintext() if not _is_loopback(spec.xds_host):
            message = f"--insecure: only for a loopback control plane, got {spec.xds_host}"
            raise ValueError(message)
        case _:
            pass


def _check_address(spec: Spec) -> None:
    try:
        ipaddress.ip_address(spec.pod_ip)
    except ValueError:
        message = f"Pod {spec.namespace}/{spec.pod}: status.podIP: not an IP address: {spec.pod_ip!r}"
        raise ValueError(message) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def collector(host: str, port: int, pem: str) -> Collector:
    """Return the collector under the authorities of a PEM text; ValueError where it holds none."""
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        message = "--otlp-metrics-ca: must be PEM certificates"
        raise ValueError(message) from None
    return Collector(host, port, pem)
