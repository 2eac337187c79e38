"""Filters that guard an application: Envoy's RBAC for requests and for connections, in the order of Istio's actions.

It owns that order and the names under which a verdict is told; it must never decide which policies hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.access import OPEN
from xds.pb.envoy.config.core.v3 import extension_pb2
from xds.pb.envoy.config.listener.v3 import listener_components_pb2
from xds.pb.envoy.config.rbac.v3 import rbac_pb2
from xds.pb.envoy.extensions.filters.http.filter_chain.v3 import filter_chain_pb2
from xds.pb.envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from xds.pb.envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from xds.resources import asking, tokens
from xds.resources.conditions import Permission, Principal, permissions, principals
from xds.resources.filters import http_filter
from xds.resources.parts import pack, stat_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.any_pb2 import Any
    from google.protobuf.message import Message

    from xds.access import Access, Named
    from xds.api.istio_authorization import Alternative, Rule
    from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
        http_connection_manager_pb2,
    )

GUARD: Final = "envoy.filters.http.filter_chain"
"""The filter that takes its filters from the route: rules come with a route table, and hold for the next request of
every open connection; a listener's filters hold for connections that come after it."""

ALLOW: Final = "allow"
"""The last of these filters; until the route brings its own, it lets nothing through."""

UNVERIFIED: Final = "unverified"
TOKENS: Final = "tokens"
_CUSTOM: Final = "custom"
ASKED: Final = "asked"
"""Beginning of the names of those who are asked."""

DENY: Final = "deny"
AUDIT: Final = "audit"

TRIED_DENY: Final = "istio_dry_run_deny_"
TRIED_ALLOW: Final = "istio_dry_run_allow_"
AUDITED: Final = "audit_"
"""How the keys begin under which a verdict without effect is told, in metadata and counters; two are Istio's."""

Part = tuple[str, "Message"]
"""A filter: its name among those of a port, and what it is configured with."""

_Chain = filter_chain_pb2.FilterChain
_Http = http_rbac_pb2.RBAC
_Network = network_rbac_pb2.RBAC
_Rbac = rbac_pb2.RBAC


def guard() -> http_connection_manager_pb2.HttpFilter:
    """Return the filter of a listener that asks the route for its rules, and denies where the route has none."""
    closed = filter_chain_pb2.FilterChain(filters=[_extension(ALLOW, nobody())])
    return http_filter(GUARD, filter_chain_pb2.FilterChainConfig(default_filter_chain=closed))


def nobody() -> http_rbac_pb2.RBAC:
    """Return rules that let nothing through."""
    return _Http(rules=_Rbac(action=_Rbac.ALLOW))


def chain(parts: Iterable[Part]) -> Any:
    """Return what a route tells that filter: what a request passes, in order."""
    filters = [_extension(name, config) for name, config in parts]
    return pack(filter_chain_pb2.FilterChainConfigPerRoute(filter_chain=_Chain(filters=filters)))


def of_requests(access: Access | None) -> list[Part]:
    """Return what a request must pass, in order; None: everybody may."""
    found = access or OPEN
    parts: list[Part] = []
    if found.unverified:
        parts.append((UNVERIFIED, _Http(rules=rules(_Rbac.DENY, found.unverified))))
    if found.issuers:
        parts.append((TOKENS, tokens.verified(found.issuers)))
    for index, asked in enumerate(found.asked):
        matching = _Http(
            shadow_rules=rules(_Rbac.DENY, asked.rules), shadow_rules_stat_prefix=asking.prefix(index)
        )
        parts.append((f"{_CUSTOM}-{index}", matching))
        parts.append((f"{ASKED}-{index}", asking.of_requests(index, asked)))
    if found.audit:
        audit = _Http(shadow_rules=rules(_Rbac.DENY, found.audit), shadow_rules_stat_prefix=AUDITED)
        parts.append((AUDIT, audit))
    deny = _Http()
    if found.deny:
        deny.rules.CopyFrom(rules(_Rbac.DENY, found.deny))
    if found.tried_deny:
        deny.shadow_rules.CopyFrom(rules(_Rbac.DENY, found.tried_deny))
        deny.shadow_rules_stat_prefix = TRIED_DENY
    if deny.ListFields():
        parts.append((DENY, deny))
    allow = _Http()
    if found.allow is not None:
        allow.rules.CopyFrom(rules(_Rbac.ALLOW, found.allow))
    if found.tried_allow is not None:
        allow.shadow_rules.CopyFrom(rules(_Rbac.ALLOW, found.tried_allow))
        allow.shadow_rules_stat_prefix = TRIED_ALLOW
    parts.append((ALLOW, allow))
    return parts


def of_connection(name: str, access: Access | None) -> list[listener_components_pb2.Filter]:
    """Return the filters in front of a proxy of bytes; ``name`` is what counts their verdicts."""
    if access is None:
        return []
    found = access.on_bytes()
    out: list[listener_components_pb2.Filter] = []
    for index, asked in enumerate(found.asked):
        matching = _Network(
            stat_prefix=f"{stat_name(name)}.",
            shadow_rules=rules(_Rbac.DENY, asked.rules),
            shadow_rules_stat_prefix=asking.prefix(index),
        )
        question = asking.of_connections(f"{stat_name(name)}.", index, asked)
        out.append(listener_components_pb2.Filter(name=asking.NETWORK_RBAC, typed_config=pack(matching)))
        out.append(
            listener_components_pb2.Filter(
                name="envoy.filters.network.ext_authz", typed_config=pack(question)
            )
        )
    for action, enforced, tried, prefix in (
        (_Rbac.DENY, None, found.audit or None, AUDITED),
        (_Rbac.DENY, found.deny or None, found.tried_deny or None, TRIED_DENY),
        (_Rbac.ALLOW, found.allow, found.tried_allow, TRIED_ALLOW),
    ):
        if enforced is None and tried is None:
            continue
        rbac = _Network(stat_prefix=f"{stat_name(name)}.")
        if enforced is not None:
            rbac.rules.CopyFrom(rules(action, enforced))
        if tried is not None:
            rbac.shadow_rules.CopyFrom(rules(action, tried))
            rbac.shadow_rules_stat_prefix = prefix
        out.append(listener_components_pb2.Filter(name=asking.NETWORK_RBAC, typed_config=pack(rbac)))
    return out


def rules(action: rbac_pb2.RBAC.Action, found: tuple[Named, ...]) -> rbac_pb2.RBAC:
    """Return the rules of one action by name; none of action ALLOW match nobody, so that all are denied."""
    allows = action == _Rbac.ALLOW
    return _Rbac(action=action, policies={named.name: _policy(named.rule, allows=allows) for named in found})


def _policy(rule: Rule, *, allows: bool) -> rbac_pb2.Policy:
    asked = [found for found in rule.when if found.attribute.is_destination]
    asking = [found for found in rule.when if not found.attribute.is_destination]
    return rbac_pb2.Policy(
        permissions=[_what((*part, *asked)) for part in rule.operations or ((),)],
        principals=[_who((*part, *asking), allows=allows) for part in rule.sources or ((),)],
    )


def _what(part: Alternative) -> Permission:
    found = [permission for condition in part for permission in permissions(condition)]
    if not found:
        return Permission(any=True)
    return found[0] if len(found) == 1 else Permission(and_rules=Permission.Set(rules=found))


def _who(part: Alternative, *, allows: bool) -> Principal:
    found = [who for condition in part for who in principals(condition, allows=allows)]
    if not found:
        return Principal(any=True)
    return found[0] if len(found) == 1 else Principal(and_ids=Principal.Set(ids=found))


def _extension(name: str, config: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))
