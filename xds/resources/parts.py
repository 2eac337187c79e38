"""Pieces that several resources are made of: the ADS source, addresses, packed extensions, serialised bytes.

It owns the one way to make bytes, a deterministic one; it must never know what a resource is for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from google.protobuf import any_pb2

from xds.pb.envoy.config.core.v3 import address_pb2, config_source_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

WAIT_FOR_EVER: Final = timedelta(0)
"""Envoy's "no limit". With the default of 15 s a cluster or listener goes live without what it waits for."""

OFF: Final = timedelta(0)
"""Envoy's "no timeout", for what only the application may end."""


def serialise(message: Message) -> bytes:
    """Return the message's bytes; equal messages give equal bytes, maps included."""
    return message.SerializeToString(deterministic=True)


def pack(message: Message) -> any_pb2.Any:
    """Return the message as an ``Any`` under Envoy's type URL."""
    return any_pb2.Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}", value=serialise(message)
    )


def ads() -> config_source_pb2.ConfigSource:
    """Return the source "the stream that this resource came on"."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=WAIT_FOR_EVER,
    )


def socket_address(host: str, port: int) -> address_pb2.Address:
    """Return the TCP address ``host:port``; ``host`` is an IP address, or a name in a DNS cluster."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def dual_stack_address(port: int) -> address_pb2.Address:
    """Return the TCP port on every address of the machine, IPv4 and IPv6 with one socket."""
    socket = address_pb2.SocketAddress(address="::", port_value=port, ipv4_compat=True)
    return address_pb2.Address(socket_address=socket)


def stat_name(name: str) -> str:
    """Return the name under which a cluster or listener counts.

    Envoy's own tag rules end ``envoy_cluster_name`` at the first dot, so ``outbound|80||orders.shop.svc...``
    would be torn apart; Kubernetes names hold no underscore, so two names never meet.
    """
    return name.replace(".", "_")
