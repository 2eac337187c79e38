"""An application that holds every request for a while and knows how many it held at once.

It owns that server and the clients that call it all at the same time; it must never assert: tests do.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rig import Reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # the kernel's queue must never be what limits


@dataclass(slots=True)
class Gate:
    """Counts requests from when the handler sees them until it answers; ``/free`` paths are not held."""

    hold_s: float = 1.0
    """Long enough for a busy machine to bring all that may come in at once."""
    status: int = 200
    served: int = 0
    at_once: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _never: threading.Event = field(default_factory=threading.Event)

    def listen(self, host: str, port: int) -> None:
        """Serve on an address until the process ends."""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Hold the request, then answer how many there were."""
                gate.enter()
                if not self.path.startswith("/free"):
                    gate.hold()
                gate.leave()
                self.send_response(gate.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
                """Say nothing."""

        server = _Server((host, port), Handler)
        threading.Thread(target=server.serve_forever, name=f"gate-{port}", daemon=True).start()

    def enter(self) -> None:
        """Count a request in."""
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)

    def hold(self) -> None:
        """Let it wait; nobody ends the wait early."""
        self._never.wait(self.hold_s)

    def leave(self) -> None:
        """Count it out."""
        with self._lock:
            self.at_once -= 1
            self.served += 1


def all_at_once(calls: list[Callable[[], Reply]], rounds: int = 1) -> Counter[int]:
    """Make all calls at the same moment, as often as that, each round after the last answer; count the statuses."""
    statuses: Counter[int] = Counter()
    start = threading.Barrier(len(calls))

    def one(call: Callable[[], Reply]) -> int:
        start.wait()
        return call().status

    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(rounds):
            statuses.update(pool.map(one, calls))
    return statuses
