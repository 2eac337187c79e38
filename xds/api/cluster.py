"""Readers of the cluster's own furniture: nodes with their zones, and the ranges that addresses come from.

Nothing here belongs to a namespace, and this module must never decide what a range is used for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.api.addresses import read_cidr
from xds.api.core import Node, ServiceCIDR, label
from xds.api.kubernetes import ZONE_LABEL
from xds.api.meta import read_meta
from xds.fields import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_node(top: Reader) -> Node:
    """Return a Node; one without ranges (``spec.podCIDRs``) gets them from somebody else, as with some CNI plugins."""
    meta = read_meta(top, scoped=False)
    spec = _spec(top)
    ranges = tuple(_cidrs(spec, "podCIDRs")) or tuple(
        read_cidr(one, spec.at("podCIDR")) for one in (spec.text("podCIDR", ""),) if one
    )
    return Node(meta, label(meta.labels, ZONE_LABEL), ranges)


def read_service_cidr(top: Reader) -> ServiceCIDR:
    """Return a ServiceCIDR."""
    return ServiceCIDR(read_meta(top, scoped=False), tuple(_cidrs(_spec(top), "cidrs")))


def _spec(top: Reader) -> Reader:
    return top.object("spec") or Reader({}, top.at("spec"), top.notes)


def _cidrs(spec: Reader, name: str) -> Iterator[str]:
    for index, text in enumerate(spec.texts(name)):
        yield read_cidr(text, f"{spec.at(name)}[{index}]")
