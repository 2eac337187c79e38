"""What a stream may cost, and what a session says about a request: values, in the words of the protocol.

It owns the vocabulary between `xds.stream` and its shell; it must never decide anything.
"""

import enum
from dataclasses import dataclass

from xds import settings
from xds.ledger import Response
from xds.pb.envoy.config.core.v3 import base_pb2 as core
from xds.snapshot import ResourceType


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may make the server hold; each is generous for a real proxy and small for the server."""

    request_bytes: int = 1024 * 1024
    """Largest request. 61 KiB is Envoy's first; 2,000 names with versions are 200 KiB. upb needs up to 20 times the
    bytes for a hostile message."""
    names_per_request: int = 20_000
    """Names in one request: a SotW client repeats its whole subscription in each."""
    names_per_stream: int = 20_000
    """Names over all types: 10,000 clusters with their endpoints; ≈ 4 MiB."""
    names_on_demand: int = settings.ON_DEMAND_NAMES_MAX
    """Clusters that a client names itself, each of which it then keeps; beyond, it is told that they lead nowhere."""
    types_per_stream: int = 16
    """Distinct type URLs; Envoy has fewer than that."""
    response_bytes: int = 2 * 1024 * 1024
    """Size at which an incremental response is cut and continued after its ACK: half of gRPC's default receive
    limit of 4 MiB, which clients such as google_grpc keep."""
    error_chars: int = 2048
    """Characters kept of a NACK: Envoy's words for one resource fit, a hostile client's novel does not."""


class Status(enum.Enum):
    """Why a stream is closed; the value is the gRPC status code's name."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Node:
    """What the first request says about the client; a claim, never an identity."""

    id: str
    cluster: str = ""
    user_agent: str = ""
    version: str = ""
    """As ``1.40.0``; empty for a client that names none."""
    channel_root: str = ""
    """Fingerprint of the newest control-channel root that its bootstrap holds."""
    is_transparent: bool = False
    """Whether its Pod's traffic is redirected to it: selects the form of its listeners, and widens nothing."""


def node_of(node: core.Node) -> Node:
    """Return what the message says."""
    version = node.user_agent_build_version.version
    numbers = (version.major_number, version.minor_number, version.patch)
    return Node(
        node.id,
        node.cluster,
        node.user_agent_name,
        "{}.{}.{}".format(*numbers) if any(numbers) else "",
        node.metadata.fields[settings.CHANNEL_ROOT_METADATA].string_value,
        node.metadata.fields[settings.INTERCEPTION_METADATA].string_value == settings.INTERCEPTION_REDIRECT,
    )


@dataclass(frozen=True, slots=True)
class Hello:
    """The first request has arrived; nothing happens until the session is attached to a view."""

    node: Node


@dataclass(frozen=True, slots=True)
class Watch:
    """The subscription of one type changed: what the push index must know. `*` stands for the wildcard."""

    type: ResourceType
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stale:
    """A request carried the nonce of a response that is not the latest."""

    type_url: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A type that the mesh does not serve was asked for; it is answered with nothing."""

    type_url: str


@dataclass(frozen=True, slots=True)
class Denied:
    """A name that this identity may not have was asked for; it is answered as absent."""

    type: ResourceType
    name: str


@dataclass(frozen=True, slots=True)
class Close:
    """The stream must end. The text is constant: it names no object of the mesh."""

    status: Status
    text: str


Event = Hello | Watch | Stale | Unknown | Denied | Close | Response
"""A Response is the event of its own answer: see its `state`."""

Events = tuple[Event, ...]
