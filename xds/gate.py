"""What the xDS port asks its composition root, and what the port itself is bounded by.

It owns the contract between `xds.server` and whoever starts it; it must never do anything itself.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from xds import settings
from xds.events import Node, Watch
from xds.identity import Identity
from xds.ledger import Response
from xds.snapshot import ResourceType, View
from xds.stream import Session

Caller = Identity | None
"""Who calls; None is a caller that proved nothing and named no known pod (`--insecure` only)."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a caller presents."""

    metadata: Mapping[str, str] = field(repr=False)
    """May hold a bearer token: never shown."""
    peer: str
    node: Node | None
    """From the first discovery request; None for calls that have none."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What the composition root decides about calls; no callable but `authenticate` may wait."""

    authenticate: Callable[[Call], Awaitable[Caller]]
    """Return who is calling, or raise Refused."""
    rule_of: Callable[[Caller, ResourceType], Callable[[str], bool]]
    """Which names of a type a caller may have: asked once for a stream and type, and its answer for every name."""
    connect: Callable[[Caller, Session], View]
    """Return the view of a stream whose `node` is known, with its own `stream/<id>` layer if it has one."""
    on_secret: Callable[[Session, Caller, str, str | None], None]
    """A secret was subscribed (session, caller, name, claimed version): put it into the stream's layer."""
    on_close: Callable[[Session], None]
    """A stream that was connected has ended: drop its layer."""
    on_metrics: Callable[[Caller, bytes], None]
    """An OTLP ExportMetricsServiceRequest arrived."""
    ready: Callable[[], bool]
    """Whether every source has synced: before that, no byte of xDS."""
    now: Callable[[], float]
    """Seconds since the epoch."""
    on_logs: Callable[[Caller, bytes], None] = lambda _caller, _export: None
    """An OTLP ExportLogsServiceRequest arrived: what a sidecar saw of sampled requests."""
    on_names: Callable[[Session, Watch], None] = lambda _session, _watch: None
    """A stream's subscription changed, and the push index knows it: compile what is asked for by name."""
    on_answer: Callable[[Response], None] = lambda _response: None
    """A proxy has accepted or rejected a response: count it."""
    holds: Callable[[Caller], bool] = lambda _caller: True
    """Whether an open stream's caller is still who it was: False ends the stream, and whoever comes back is asked."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Deadlines and bounds of the transport."""

    stall_deadline_s: float = 30.0
    """How long a response may wait to be read and answered. Envoy answers in milliseconds, under load in
    seconds; a client that stopped reading holds one response per type until then."""
    first_request_deadline_s: float = 10.0
    """How long a stream may stay open without saying who it is; Envoy writes its first request at once."""
    stream_life_s: float | None = None
    """Close streams after this long, so that proxies show who they are again; None: never."""
    stream_life_jitter: float = settings.STREAM_LIFE_JITTER
    """Share by which the life of one stream differs from another's."""
    max_receive_bytes: int = 1024 * 1024
    """Largest message accepted, pre-auth as well: gRPC has no limit per stream. Envoy's largest is ≈ 200 KiB."""
    max_metadata_bytes: int = 16 * 1024
    """Largest request headers: a ServiceAccount token is ≈ 1.5 KiB."""
    max_concurrent_streams: int = 100
    """Streams on one connection. A proxy has two: ADS and telemetry."""
    pending_requests: int = 100_000
    """Calls accepted by the transport and not yet by Python. The default of 1,000 refused a third of 5,000
    simultaneous connects."""
    handshake_timeout_ms: int = 10_000
    """TLS handshake; gRPC's default is 120 s, which is slowloris' favourite."""
    connection_idle_ms: int = 60_000
    """How long a connection may stay without a call; a proxy's ADS stream is one that never ends, so only
    strangers are ever idle: after the handshake gRPC would keep them for ever."""
    keepalive_ms: int = 30_000
    """Idle time before a ping: a vanished node is noticed within 40 s, and NAT entries stay fresh."""
    keepalive_timeout_ms: int = 10_000
    """How long a ping may stay unanswered."""
    ping_interval_ms: int = 5_000
    """Smallest interval between a client's own pings; gRPC's default of 5 min breaks clients that ping more."""

    def life_s(self, caller: Caller, now: float, draw: float) -> float | None:
        """Return how long a caller's stream may last: jittered by `draw` (0..1), and no longer than its proof.

        A proof that is about to end gives a short life, not none: it was good when it was shown.
        """
        if self.stream_life_s is None:
            return None
        life_s = self.stream_life_s * (1 + self.stream_life_jitter * (2 * draw - 1))
        until = None if caller is None else caller.valid_until
        if until is not None:
            life_s = min(life_s, max(until - now, settings.STREAM_LIFE_MIN_S))
        return life_s

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the options in gRPC's words."""
        return [
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a lottery
            ("grpc.max_receive_message_length", self.max_receive_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.server.max_pending_requests", self.pending_requests),
            ("grpc.server.max_pending_requests_hard_limit", 2 * self.pending_requests),
            ("grpc.server_handshake_timeout_ms", self.handshake_timeout_ms),
            ("grpc.max_connection_idle_ms", self.connection_idle_ms),
            ("grpc.keepalive_time_ms", self.keepalive_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", self.ping_interval_ms),
            # A ping for each received message, to size a receive window that requests of 70 bytes never fill.
            ("grpc.http2.bdp_probe", 0),
        ]
