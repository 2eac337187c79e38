"""Istio's AuthorizationPolicy: who may do what with a workload, read field by field.

These are frozen values and their reader; which policies hold for a Pod is decided in ``compile``, never here.
"""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING, Final

import msgspec

from xds.api.conditions import Attribute, Condition, check, read_key
from xds.api.core import Labels, Meta, label
from xds.api.targets import Target, read_selection
from xds.fields import ConfigError, Reader, show
from xds.grammar import check_header_name

if TYPE_CHECKING:
    from collections.abc import Iterator


class Action(enum.Enum):
    """What happens to a request that a rule of the policy matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


Alternative = tuple[Condition, ...]
"""Conditions that must all hold."""


class Rule(msgspec.Struct, frozen=True, gc=False):
    """Matches if one source, one operation and every condition of ``when`` do; no sources mean anybody, and so on."""

    sources: tuple[Alternative, ...] = ()
    operations: tuple[Alternative, ...] = ()
    when: Alternative = ()


class AuthorizationPolicy(msgspec.Struct, frozen=True, gc=False):
    """An AuthorizationPolicy; an empty ``selector`` without ``targets`` holds for the whole namespace.

    ``provider`` is whom a CUSTOM policy asks; ``dry_run`` means that its verdict is only told.
    """

    meta: Meta
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    action: Action = Action.ALLOW
    rules: tuple[Rule, ...] = ()
    provider: str = ""
    dry_run: bool = False


DRY_RUN: Final = "istio.io/dry-run"
"""Annotation that lets a policy be tried: its verdict is told, and nothing else."""

_SOURCE: Final = (
    (Attribute.PRINCIPAL, "principals", "notPrincipals"),
    (Attribute.REQUEST_PRINCIPAL, "requestPrincipals", "notRequestPrincipals"),
    (Attribute.NAMESPACE, "namespaces", "notNamespaces"),
    (Attribute.SERVICE_ACCOUNT, "serviceAccounts", "notServiceAccounts"),
    (Attribute.SOURCE_IP, "ipBlocks", "notIpBlocks"),
    (Attribute.REMOTE_IP, "remoteIpBlocks", "notRemoteIpBlocks"),
)
_OPERATION: Final = (
    (Attribute.HOST, "hosts", "notHosts"),
    (Attribute.PORT, "ports", "notPorts"),
    (Attribute.METHOD, "methods", "notMethods"),
    (Attribute.PATH, "paths", "notPaths"),
)


def read_authorization_policy(spec: Reader, meta: Meta) -> AuthorizationPolicy:
    """Return an AuthorizationPolicy; what Istio would let match nothing, or everything, by accident is refused."""
    selector, targets = read_selection(spec, meta)
    action = spec.choice("action", Action, Action.ALLOW)
    provider = _provider(spec, action)
    rules = tuple(_rule(reader, meta) for reader in spec.objects("rules"))
    if not rules and action is not Action.ALLOW:
        spec.warn("rules", f"is empty: a policy of action {action.value} without rules never matches")
    spec.done()
    return AuthorizationPolicy(meta, selector, targets, action, rules, provider, is_dry_run(meta))


def closed(meta: Meta, spec: object) -> AuthorizationPolicy:
    """Return what stands for a policy that could never be read: it lets nothing through that it may concern."""
    try:
        reader = Reader(spec, "spec", [])
    except ConfigError:
        reader = Reader({}, "spec", [])
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    action = Action.DENY
    with contextlib.suppress(ConfigError):
        selector, targets = read_selection(reader, meta)
    with contextlib.suppress(ConfigError):
        action = reader.choice("action", Action, Action.ALLOW)
    rules = () if action in {Action.ALLOW, Action.AUDIT} else (Rule(),)
    held = Action.DENY if action is Action.CUSTOM else action
    return AuthorizationPolicy(meta, selector, targets, held, rules, "", is_dry_run(meta))


def is_dry_run(meta: Meta) -> bool:
    """Tell whether an object asks to be tried only."""
    return label(meta.annotations, DRY_RUN).lower() == "true"


def _provider(spec: Reader, action: Action) -> str:
    reader = spec.object("provider")
    if reader is None:
        if action is Action.CUSTOM:
            raise spec.fail("provider", "is required with action CUSTOM: the name of an extension provider")
        return ""
    name = reader.text("name")
    reader.done()
    if action is not Action.CUSTOM:
        raise spec.fail("provider", f"belongs to action CUSTOM, not to {action.value}")
    if not name:
        raise reader.fail("name", "must not be empty")
    return name


def _rule(reader: Reader, meta: Meta) -> Rule:
    sources = tuple(_alternatives(reader, "from", "source", _SOURCE))
    operations = tuple(_alternatives(reader, "to", "operation", _OPERATION))
    when = tuple(_when(found, meta) for found in _some(reader, "when"))
    reader.done()
    return Rule(tuple(_qualified(found, meta) for found in sources), operations, when)


def _some(reader: Reader, name: str) -> tuple[Reader, ...]:
    """Return the readers of a list that, where it is there, must not be empty: empty would mean "any"."""
    found = reader.objects(name)
    if not found and reader.has(name):
        raise reader.fail(name, "must not be empty; leave it out to mean any")
    return found


def _alternatives(
    reader: Reader, field: str, inner: str, table: tuple[tuple[Attribute, str, str], ...]
) -> Iterator[Alternative]:
    for holder in _some(reader, field):
        holder.need(inner)
        found = holder.object(inner)
        holder.done()
        if found is None:
            continue
        conditions = tuple(_conditions(found, table))
        found.done()
        if not conditions:
            raise holder.fail(inner, "must not be empty: it would mean any")
        _check_accounts(found, conditions)
        yield conditions


def _conditions(reader: Reader, table: tuple[tuple[Attribute, str, str], ...]) -> Iterator[Condition]:
    for attribute, wanted, unwanted in table:
        values, not_values = _values(reader, wanted, attribute), _values(reader, unwanted, attribute)
        if values or not_values:
            yield Condition(attribute, values, not_values)


def _values(reader: Reader, name: str, attribute: Attribute) -> tuple[str, ...]:
    texts = reader.texts(name)
    if not texts and reader.has(name):
        raise reader.fail(name, "must not be empty; leave it out to mean any")
    found = tuple(check(attribute, text, f"{reader.at(name)}[{i}]") for i, text in enumerate(texts))
    for i, text in enumerate(found):
        _remark(reader, f"{name}[{i}]", attribute, text)
    return tuple(dict.fromkeys(found))


def _remark(reader: Reader, name: str, attribute: Attribute, text: str) -> None:
    if "*" in text[1:-1] and "{" not in text:
        reader.warn(
            name, f"a * within {show(text)} stands for itself; only the first or last one stands for more"
        )
    if attribute is Attribute.METHOD and text != text.upper():
        reader.warn(name, f"methods are compared as they are: {show(text)} is not {text.upper()}")


def _check_accounts(reader: Reader, conditions: Alternative) -> None:
    named = {condition.attribute for condition in conditions}
    if Attribute.SERVICE_ACCOUNT in named and named & {Attribute.PRINCIPAL, Attribute.NAMESPACE}:
        raise reader.fail("serviceAccounts", "stands in place of principals and namespaces, not beside them")


def _when(reader: Reader, meta: Meta) -> Condition:
    key = reader.text("key")
    attribute, parts = read_key(key, reader.at("key"))
    if attribute is Attribute.HEADER:
        parts = (check_header_name(reader.at("key"), parts[0]),)
    values, not_values = _values(reader, "values", attribute), _values(reader, "notValues", attribute)
    reader.done()
    if not values and not not_values:
        raise ConfigError(reader.path, "must have values or notValues")
    return _qualify(Condition(attribute, values, not_values, parts), meta)


def _qualified(found: Alternative, meta: Meta) -> Alternative:
    return tuple(_qualify(condition, meta) for condition in found)


def _qualify(found: Condition, meta: Meta) -> Condition:
    """Write a ServiceAccount without a namespace with the policy's."""
    if found.attribute is not Attribute.SERVICE_ACCOUNT:
        return found
    values, not_values = (
        tuple(text if "/" in text else f"{meta.namespace}/{text}" for text in texts)
        for texts in (found.values, found.not_values)
    )
    return Condition(found.attribute, values, not_values)
