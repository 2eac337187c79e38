"""The xDS port speaks TLS 1.3 alone, under the channel's root: openssl asks a real gRPC server.

Owns the facts about the transport; the server runs in a process of its own, because gRPC reads its
ciphers once, at import.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = """
import asyncio, sys, time
from pathlib import Path
from xds import channel
channel.force_tls13()
import grpc
from xds.state import StateDirectory, load_trust
trust = load_trust(StateDirectory.open(Path(sys.argv[1])), "cluster.local", now=time.time())
Path(sys.argv[2]).write_bytes(trust.channel.slots.signer.pem)

async def main():
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", channel.server_credentials(lambda: trust.channel_leaf(time.time())))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Port of a gRPC server with our credentials, and its root."""
    path = tmp_path_factory.mktemp("channel")
    command = [sys.executable, "-c", SERVER, str(path / "state"), str(path / "root.pem")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), path / "root.pem"
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def s_client(server: tuple[str, Path], *options: str) -> subprocess.CompletedProcess[str]:
    """What `openssl s_client` says of a handshake."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    port, root = server
    command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(root), "-alpn", "h2"]
    return subprocess.run(
        [*command, *options],
        input="",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize("name", ["proa.proa-system.svc", "localhost"])
def test_tls13_is_accepted_and_the_name_verifies(server: tuple[str, Path], name: str) -> None:
    """The pinned name and the loopback name are in the certificate, which the channel's root has signed."""
    found = s_client(server, "-tls1_3", "-verify_return_error", "-verify_hostname", name)

    assert found.returncode == 0, found.stderr
    assert "New, TLSv1.3" in found.stdout
    assert "Verify return code: 0 (ok)" in found.stdout


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1", "-tls1_2"])
def test_older_tls_is_refused(server: tuple[str, Path], version: str) -> None:
    """No cipher is left for it, whatever the client offers."""
    found = s_client(server, version, "-cipher", "ALL:@SECLEVEL=0")

    assert found.returncode != 0
    assert "Cipher is (NONE)" in found.stdout


def test_another_name_does_not_verify(server: tuple[str, Path]) -> None:
    """The certificate is for the control plane and nobody else."""
    found = s_client(server, "-tls1_3", "-verify_return_error", "-verify_hostname", "web.shop")

    assert found.returncode != 0


def test_importing_grpc_first_is_an_error() -> None:
    """Too late is loud: the ciphers of TLS 1.2 would stay."""
    code = "import grpc; from xds import channel; channel.force_tls13()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert found.returncode == 1
    assert "force_tls13() comes before" in found.stderr


def test_credentials_without_tls13_are_an_error() -> None:
    """Forgetting it is loud too."""
    code = "from xds import channel; channel.server_credentials(lambda: None)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert found.returncode == 1
    assert "call xds.channel.force_tls13()" in found.stderr
