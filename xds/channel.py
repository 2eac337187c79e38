"""The control channel's transport: TLS 1.3 alone, with the channel's own root.

Owns the server credentials of the xDS port; it must never serve a workload certificate there, nor accept
an older TLS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # grpc reads its environment at import: see force_tls13
    import grpc

    from xds.ca import Leaf

_EXPERIMENTS: Final = "GRPC_EXPERIMENTS"
_CIPHERS: Final = "GRPC_SSL_CIPHER_SUITES"
# gRPC's C core has no setting for the minimum version, but one for the ciphers of TLS 1.2 and below (those
# of 1.3 are not configurable). This one needs a pre-shared key, which no server of ours has: a client of
# TLS 1.2 finds no common cipher. tests/test_channel.py asks openssl.
_NO_TLS12_CIPHER: Final = "ECDHE-PSK-AES128-CBC-SHA"


def force_tls13() -> None:
    """Leave TLS 1.2 without a cipher, for this process; call it before anything imports grpc.

    Raises RuntimeError if grpc is already imported with the ciphers of TLS 1.2.
    """
    if "grpc" in sys.modules and os.environ.get(_CIPHERS) != _NO_TLS12_CIPHER:
        message = "force_tls13() comes before the first import of grpc, which reads the cipher list then"
        raise RuntimeError(message)
    os.environ[_CIPHERS] = _NO_TLS12_CIPHER


def poll_in_place() -> None:
    """Let gRPC's completion queue poll the sockets itself, for this process; call it before anything imports grpc.

    By default (gRPC 1.85) the listener's sockets belong to an "event engine" whose threads hand every read and
    write over to the thread that waits for it. With one asyncio loop as the only consumer, that costs a quarter
    of the CPU of a push and its ACK (benchmarks/, fanout). Who sets GRPC_EXPERIMENTS decides otherwise; a release
    that forgets the name ignores it.
    """
    os.environ.setdefault(_EXPERIMENTS, "-event_engine_listener")


def server_credentials(current: Callable[[], Leaf]) -> grpc.ServerCredentials:
    """Credentials for `grpc.aio.Server.add_secure_port`; raises RuntimeError without :func:`force_tls13`.

    `current` gives the certificate to serve and is called at every handshake, from a thread of gRPC: a
    renewed or re-rooted certificate is served from the next connection on, without a restart.
    """
    import grpc  # not before force_tls13

    if os.environ.get(_CIPHERS) != _NO_TLS12_CIPHER:
        message = "call xds.channel.force_tls13() before grpc is imported"
        raise RuntimeError(message)

    def configuration(leaf: Leaf) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(leaf.key_pem.reveal(), leaf.certificate_pem)])

    served = current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        latest = current()
        if latest is served:
            return None  # gRPC keeps what it has
        served = latest
        return configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        configuration(served),
        fetch,  # type: ignore[arg-type]  # None means "unchanged"; the stubs leave it out
        require_client_authentication=False,
    )
