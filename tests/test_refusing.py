"""Who refuses stands before the filter that cannot say it, and nowhere behind it."""

from __future__ import annotations

from dataclasses import replace

from xds import ir
from xds.api.core import Protocol
from xds.features.rate_limit import Rule
from xds.features.shared_limit import Entry, Service
from xds.observed import NOTHING_OBSERVED, AccessLog, Observed, Stream
from xds.pb.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from xds.pb.envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2
from xds.resources.inbound_routes import passed
from xds.resources.refusing import told


def words(*names: str, **objects: str) -> list[str]:
    """Return the filters of a chain, with what is said between them in their places."""
    parts = told([(name, rbac_pb2.RBAC()) for name in names], objects)
    return [_said(config) if isinstance(config, set_metadata_pb2.Config) else name for name, config in parts]


def _said(config: set_metadata_pb2.Config) -> str:
    (entry,) = config.metadata
    assert (entry.metadata_namespace, entry.allow_overwrite) == ("proa", True)
    return f"<{entry.value.fields['refused_by'].string_value}>"


def test_nothing_is_said_where_every_filter_names_itself() -> None:
    """A chain without tokens and limits is what it was."""
    assert words("deny", "allow") == ["deny", "allow"]


def test_the_word_is_taken_back_behind_the_filter() -> None:
    """What refuses later, the application among it, is not said to be the object."""
    assert words("tokens", "deny", tokens="A") == ["<A>", "tokens", "<>", "deny"]
    assert words("allow", "local", "shared", local="L", shared="S") == [
        "allow",
        "<L>",
        "local",
        "<S>",
        "shared",
        "<>",
    ]


def test_one_object_of_two_filters_is_said_once() -> None:
    """A RateLimit may have both kinds of limits."""
    assert words("local", "shared", local="L", shared="L") == ["<L>", "local", "shared", "<>"]


PORT = ir.Inbound(
    "inbound|8080",
    "10.0.0.1",
    8080,
    Protocol.HTTP,
    ir.MtlsMode.STRICT,
    "inbound|8080||",
    ir.Workload("orders", "shop", "orders", "orders", "v1", "cluster.local"),
    limits=ir.Limits(
        rules=(("RateLimit/shop/own/0", Rule(1, 1000, 1)),),
        asked=Service("provider|counters", "shop", 20, fail_open=False),
        descriptors=((Entry("service", "orders"),),),
        asked_by="RateLimit/shop/shared",
    ),
    observed=Observed((AccessLog(Stream()),)),
)


def test_each_limit_has_its_own_object() -> None:
    """One that the Pod counts, and one that instances share, may come from two RateLimits; unread, neither is said."""
    silent = replace(PORT, observed=NOTHING_OBSERVED)
    said = [_said(config) for _, config in passed(PORT) if isinstance(config, set_metadata_pb2.Config)]

    assert said == ["<RateLimit/shop/own>", "<RateLimit/shop/shared>", "<>"]
    for unread in (silent, replace(PORT, is_older=True)):
        assert not any(isinstance(config, set_metadata_pb2.Config) for _, config in passed(unread))
