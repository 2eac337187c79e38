"""Short ways to read a piece of YAML as a user's object, and to see what was said about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import yaml

from xds.fields import ConfigError, Note, Reader
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2

T = TypeVar("T")


def reader(text: str, notes: list[Note] | None = None) -> Reader:
    """Return a reader of the YAML under the path ``x``."""
    return Reader(yaml.safe_load(text), "x", [] if notes is None else notes)


def refusal(read: Callable[[Reader], object], text: str) -> str:
    """Return why the YAML is refused; it is a failure when it is not."""
    try:
        accepted = read(reader(text))
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"was accepted: {accepted}")


def notes(read: Callable[[Reader], object], text: str) -> list[str]:
    """Return what the user is told of an accepted object."""
    said: list[Note] = []
    read(reader(text, said))
    return [f"{note.severity.value}: {note.path}: {note.reason}" for note in said]


def route() -> route_components_pb2.Route:
    """Return an Envoy route that forwards, as every builder hands it to a feature."""
    return route_components_pb2.Route(route=route_components_pb2.RouteAction(cluster="c"))


def cluster() -> cluster_pb2.Cluster:
    """Return an empty Envoy cluster."""
    return cluster_pb2.Cluster()


def present(value: T | None) -> T:
    """Return a value that must be there."""
    if value is None:
        raise AssertionError("nothing was read")
    return value
