"""Keys behind https: a sidecar takes them from whom the authorities of its image vouch for, and from nobody else.

The image's authorities are one file. In a mount namespace of its own, the sidecar finds there the authority of the
test; needs root.
"""

from __future__ import annotations

import datetime as dt
import http.server
import json
import shlex
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rig import STRICT, App, MeshUnderTest

from tests import access_tokens as tokens
from xds.demo import programs

ISSUER: Final = "https://issuer.example"
HOST: Final = "localhost"
"""A name that resolves everywhere; a certificate vouches for a name."""

AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"


class Authority(NamedTuple):
    """One that vouches for servers."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: Authority | None, extension: x509.ExtensionType
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        signer.certificate.subject if signer else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - dt.timedelta(hours=1),
        now + dt.timedelta(days=1),
    )
    signed = builder.add_extension(extension, critical=False)
    return signed.sign(signer.key if signer else key, hashes.SHA256())


def authority(name: str) -> Authority:
    """A new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key, _certificate(name, key, None, x509.BasicConstraints(ca=True, path_length=None)))


class KeyServer(http.server.ThreadingHTTPServer):
    """Serves the issuer's keys over TLS, on IPv4 and IPv6."""

    address_family = socket.AF_INET6

    def __init__(self, directory: Path, signer: Authority, name: str) -> None:
        super().__init__(("::", 0), _Keys)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate(name, key, signer, x509.SubjectAlternativeName([x509.DNSName(name)]))
        file = directory / f"server-{self.port}.pem"
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(leaf.public_bytes(encoding) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, name="keys", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = tokens.jwks(1).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        del format, args


class Servers(NamedTuple):
    """Three that serve the same keys."""

    vouched: KeyServer
    unvouched: KeyServer
    misnamed: KeyServer


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Servers, Path]]:
    """One whom the authority vouches for, one of a stranger's, one with another name; and the authorities' file."""
    directory = tmp_path_factory.mktemp("keys")
    trusted, stranger = authority("trusted"), authority("stranger")
    (directory / "authorities.pem").write_bytes(trusted.certificate.public_bytes(serialization.Encoding.PEM))
    found = Servers(
        KeyServer(directory, trusted, HOST),
        KeyServer(directory, stranger, HOST),
        KeyServer(directory, trusted, "other.example"),
    )
    yield found, directory / "authorities.pem"
    for server in found:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, servers: tuple[Servers, Path]) -> Iterator[MeshUnderTest]:
    """A client and the orders under STRICT, whose sidecars are of an image with that one authority."""
    work = tmp_path_factory.mktemp("https")
    image = work / "envoy"
    mounted = f"mount --bind {shlex.quote(str(servers[1]))} {AUTHORITIES}"
    start = f'{mounted} && exec {shlex.quote(str(programs.envoy()))} "$@"'
    image.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(start)} envoy "$@"\n', "utf-8")
    image.chmod(0o755)
    found = MeshUnderTest(work / "mesh", (App("web"), App("orders")), STRICT, is_insecure=False)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs, "envoy", lambda: image)
            found.start()
        yield found
    finally:
        found.stop()


def put(mesh: MeshUnderTest, server: KeyServer) -> None:
    """Let the orders verify tokens by the keys of this server."""
    rule = {"issuer": ISSUER, "jwksUri": f"https://{HOST}:{server.port}/keys", "timeout": "2s"}
    meta = {"name": "tokens", "namespace": "shop"}
    manifest = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": meta}
    spec = {"selector": {"matchLabels": {"app": "orders"}}, "jwtRules": [rule]}
    mesh.edit("manifests.yaml", f"{STRICT}---\n{json.dumps(manifest | {'spec': spec})}")


def status(mesh: MeshUnderTest, *, seed: int = 1) -> int:
    """The answer to a request with a token that this key has signed."""
    token = tokens.sign({"iss": ISSUER, "sub": "ann", "exp": 4_000_000_000}, seed)
    return mesh.get("web", "http://orders/echo", {"authorization": f"Bearer {token}"}).status


def failures(mesh: MeshUnderTest) -> int:
    """How often the control plane knows that nobody served keys; `proa check` and `proa status` show it."""
    return sum(
        one.times
        for proxy in mesh.mesh.api.proxies()
        if proxy.id == "orders.shop"
        for one in proxy.silent
        if one.service == "server of keys (JWKS)"
    )


@pytest.mark.parametrize("which", ["unvouched", "misnamed"])
def test_keys_of_whom_nobody_vouches_for_verify_nothing(
    mesh: MeshUnderTest, servers: tuple[Servers, Path], which: str
) -> None:
    """A certificate of a strange authority, or for another name: tokens are refused, and the control plane says so.

    Once the keys come from where they should, tokens are taken again.
    """
    before = failures(mesh)
    put(mesh, getattr(servers[0], which))
    mesh.wait("it is told", lambda: failures(mesh) > before, timeout_s=60)
    assert status(mesh) == 401

    put(mesh, servers[0].vouched)
    mesh.wait("the keys are there", lambda: status(mesh) == 200)
    assert status(mesh, seed=2) == 401
