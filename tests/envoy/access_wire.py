"""Clients that write exact bytes to workloads behind access rules, over HTTP/1, HTTP/2 and TCP, with or without TLS.

It owns their certificates, connections and what an answer means; it must never say what the answer should be.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.access_reference import Http, Verdict
from tests.access_worlds import HTTP_PORT, PEERS, TCP_PORT, Addresses, Client, Pair, World
from tests.envoy import access_h2
from tests.fakes.entropy import counted_entropy
from xds import ca
from xds.identity import Identity

APPLICATION: Final = "x-application"
"""The header in which the application says which target it was sent."""

CLOSED: Final = ("reset", "closed")
"""The words of an answer that is none: the connection ended."""

_WAIT_S: Final = 30
_WORDS: Final = b"hello\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the verdict that it means, None if it means none, and the target that the application saw."""

    verdict: Verdict | None
    words: str
    target: str = ""


class Wire:
    """Connections to the workloads of a running Envoy, by clients with certificates of the mesh."""

    def __init__(self, directory: Path, root: ca.Authority, at: Addresses) -> None:
        self.at = at
        self._identities = {peer: _identity(directory, root, peer) for peer in PEERS}

    def ask(self, world: World, pairs: Sequence[Pair]) -> list[Answer]:
        """The answers to a world's pairs, in order; those of one client share a connection as far as it lasts."""
        found: dict[int, Answer] = {}
        queues: dict[tuple[Client, bool], list[int]] = {}
        for index, pair in enumerate(pairs):
            if pair.http is None:
                found[index] = self._connect_only(world, pair.client)
            else:
                queues.setdefault((pair.client, is_http2(pair)), []).append(index)
        for (client, is_modern), indexes in queues.items():
            requests = [request for index in indexes if (request := pairs[index].http) is not None]
            converse = self._converse_http2 if is_modern else self._converse
            found |= zip(indexes, converse(world, client, requests), strict=True)
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

    def _converse_http2(self, world: World, client: Client, requests: Sequence[Http]) -> list[Answer]:
        answers: list[Answer] = []
        while len(answers) < len(requests):
            with self.connected(world, client, HTTP_PORT) as wire:
                talk = access_h2.Conversation(wire)
                for http in requests[len(answers) :]:
                    response = talk.ask(access_h2.fields(http))
                    answers.append(
                        _meaning(response.headers, response.body)
                        if response.headers
                        else Answer(None, CLOSED[0])
                    )
                    if talk.is_over:
                        break
        return answers


def is_http2(pair: Pair) -> bool:
    """Whether this request goes over HTTP/2."""
    return pair.client.is_http2 and pair.http is not None and access_h2.is_sayable(pair.http)


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
    return _meaning({b":status": first.split()[1], **headers}, body), headers.get(b"connection") == b"close"


def _meaning(headers: Mapping[bytes, bytes], body: bytes) -> Answer:
    status = headers[b":status"].decode()
    seen = headers.get(APPLICATION.encode())
    verdict = Verdict.ALLOW if seen is not None else _VERDICTS.get(int(status))
    return Answer(
        verdict, f"{status} {body.decode(errors='replace')}".strip(), (seen or b"").decode("latin-1")
    )


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
