"""One condition of access in Envoy's words: who asks as a principal, what is asked for as a permission.

It owns how texts are compared; every doubt here must let a condition hold less often where it allows, never more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from google.protobuf import wrappers_pb2

from xds.api.conditions import ONE_SEGMENT, REST, Attribute
from xds.pb.envoy.config.core.v3 import address_pb2, extension_pb2
from xds.pb.envoy.config.rbac.v3 import rbac_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2
from xds.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2
from xds.pb.envoy.type.matcher.v3 import metadata_pb2, path_pb2, string_pb2, value_pb2
from xds.resources.parts import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xds.api.conditions import Condition

Principal = rbac_pb2.Principal
Permission = rbac_pb2.Permission
_String = string_pb2.StringMatcher
_San = common_pb2.SubjectAltNameMatcher
_Authenticated = mtls_authenticated_pb2.Config

SPIFFE: Final = "spiffe://"

PAYLOAD: Final = ("envoy.filters.http.jwt_authn", "payload")
"""Where the claims of a verified token are kept: the filter that has verified it, and its word for them."""

_ANYTHING: Final = "(?s).+"
"""Present and not empty."""

_CLAIMS: Final = {Attribute.AUDIENCE: ("aud",), Attribute.PRESENTER: ("azp",)}


def principals(condition: Condition, *, allows: bool) -> list[Principal]:
    """Return what must hold for who asks.

    Whoever has no identity is nobody's "anyone but": in a rule that allows, a negation asks for an identity as well.
    """
    make = _principal(condition)
    out: list[Principal] = []
    if condition.values:
        out.append(_one_of(make(text) for text in condition.values))
    if condition.not_values:
        if allows and condition.attribute.is_identity:
            out.append(_identity(None))
        out.append(Principal(not_id=_one_of(make(text) for text in condition.not_values)))
    return out


def permissions(condition: Condition) -> list[Permission]:
    """Return what must hold for what is asked for."""
    make = _permission(condition.attribute)
    out: list[Permission] = []
    if condition.values:
        out.append(_one_permission(make(text) for text in condition.values))
    if condition.not_values:
        out.append(Permission(not_rule=_one_permission(make(text) for text in condition.not_values)))
    return out


def _one_of(found: Iterable[Principal]) -> Principal:
    ids = list(found)
    return ids[0] if len(ids) == 1 else Principal(or_ids=Principal.Set(ids=ids))


def _one_permission(found: Iterable[Permission]) -> Permission:
    rules = list(found)
    return rules[0] if len(rules) == 1 else Permission(or_rules=Permission.Set(rules=rules))


def _principal(condition: Condition) -> Callable[[str], Principal]:
    match condition.attribute:
        case Attribute.PRINCIPAL:
            return lambda text: _identity(_spiffe_id(text))
        case Attribute.NAMESPACE:
            return lambda text: _identity(_pattern(f"{SPIFFE}[^/]+/ns/{_within_segment(text)}/sa/[^/]+"))
        case Attribute.SERVICE_ACCOUNT:
            return lambda text: _identity(_pattern(f"{SPIFFE}[^/]+/ns/{_account(text)}"))
        case Attribute.SOURCE_IP:
            return lambda text: Principal(direct_remote_ip=_range(text))
        case Attribute.REMOTE_IP:
            return lambda text: Principal(remote_ip=_range(text))
        case Attribute.HEADER:
            return lambda text: Principal(header=_header(condition.key[0], compared(text)))
        case Attribute.REQUEST_PRINCIPAL:
            return _request_principal
        case Attribute.AUDIENCE | Attribute.PRESENTER | Attribute.CLAIM:
            path = condition.key or _CLAIMS[condition.attribute]
            return lambda text: _claim(path, compared(text), in_lists=True)
        case _:
            raise AssertionError(condition)


def _permission(attribute: Attribute) -> Callable[[str], Permission]:
    match attribute:
        case Attribute.HOST:
            return lambda text: Permission(header=_header(":authority", compared(text, ignore_case=True)))
        case Attribute.METHOD:
            return lambda text: Permission(header=_header(":method", compared(text)))
        case Attribute.PATH:
            return lambda text: Permission(url_path=path_pb2.PathMatcher(path=_path(text)))
        case Attribute.PORT:
            return lambda text: Permission(destination_port=int(text))
        case Attribute.DESTINATION_IP:
            return lambda text: Permission(destination_ip=_range(text))
        case Attribute.SNI:
            return lambda text: Permission(requested_server_name=compared(text))
        case _:
            raise AssertionError(attribute)


def compared(text: str, *, ignore_case: bool = False) -> _String:
    """Return the comparison that a text of Istio's stands for: exact, ``prefix*``, ``*suffix``, ``*``."""
    if text == "*":
        return _pattern(_ANYTHING)
    if text.startswith("*"):
        return _String(suffix=text[1:], ignore_case=ignore_case)
    if text.endswith("*"):
        return _String(prefix=text[:-1], ignore_case=ignore_case)
    return _String(exact=text, ignore_case=ignore_case)


def _pattern(regex: str) -> _String:
    matcher = _String()
    matcher.safe_regex.regex = regex
    return matcher


def _spiffe_id(text: str) -> _String:
    if text.startswith("*"):
        return _pattern(f"(?s){SPIFFE}.*{re.escape(text[1:])}" if len(text) > 1 else f"(?s){SPIFFE}.+")
    if text.endswith("*"):
        return _String(prefix=f"{SPIFFE}{text[:-1]}")
    return _String(exact=f"{SPIFFE}{text}")


def _within_segment(text: str) -> str:
    """Return the pattern of a text within one segment of a path; a ``*`` never goes beyond it."""
    head, star, tail = text.partition("*")
    if not star:
        return re.escape(text)
    if text == "*":
        return "[^/]+"
    return f"{re.escape(head)}[^/]*{re.escape(tail)}"


def _account(text: str) -> str:
    namespace, _, name = text.partition("/")
    return f"{re.escape(namespace)}/sa/{re.escape(name)}"


def _identity(matcher: _String | None) -> Principal:
    """Return "holds a certificate of the mesh", whose SPIFFE ID the matcher takes; no other name in it counts."""
    config = _Authenticated(any_validated_client_certificate=True)
    if matcher is not None:
        config = _Authenticated(san_matcher=_San(san_type=_San.URI, matcher=matcher))
    return Principal(
        custom=extension_pb2.TypedExtensionConfig(
            name="envoy.rbac.principals.mtls_authenticated", typed_config=pack(config)
        )
    )


def _header(name: str, matcher: _String) -> route_components_pb2.HeaderMatcher:
    return route_components_pb2.HeaderMatcher(name=name, string_match=matcher)


def _range(text: str) -> address_pb2.CidrRange:
    address, _, length = text.partition("/")
    return address_pb2.CidrRange(
        address_prefix=address, prefix_len=wrappers_pb2.UInt32Value(value=int(length))
    )


def _path(text: str) -> _String:
    """Return a path's comparison; a template becomes a pattern of our own.

    Envoy's templates take fewer characters in a segment than a request may hold, so that a rule which denies could
    be passed; and one that Envoy 1.40 cannot parse ends the process.
    """
    if ONE_SEGMENT not in text and REST not in text:
        return compared(text)
    segments = ("[^/]+" if part == ONE_SEGMENT else part for part in text.split("/"))
    written = "/".join(part if part == "[^/]+" else _rest(part) for part in segments)
    return _pattern(f"(?s){written}")


def _rest(segment: str) -> str:
    return ".*" if segment == REST else re.escape(segment)


def _request_principal(text: str) -> Principal:
    """Return the comparison with ``ISSUER/SUBJECT``, of which Envoy keeps the halves alone.

    Either may hold slashes, so every one of the text is tried as the one between them.
    """
    if text == "*":
        return _both(_pattern(_ANYTHING), _pattern(_ANYTHING))
    splits = [(text[:i], text[i + 1 :]) for i, c in enumerate(text) if c == "/"]
    found: list[Principal] = []
    if text.startswith("*"):
        found.append(_both(_pattern(_ANYTHING), _String(suffix=text[1:])))
        found += [_both(compared(head), _exact(tail)) for head, tail in splits]
    elif text.endswith("*"):
        found.append(_both(_String(prefix=text[:-1]), _pattern(_ANYTHING)))
        found += [_both(_exact(head), _beginning(tail[:-1])) for head, tail in splits]
    else:
        found += [_both(_exact(head), _exact(tail)) for head, tail in splits]
    return _one_of(found) if found else Principal(not_id=Principal(any=True))


def _beginning(text: str) -> _String:
    return _String(prefix=text) if text else _pattern(_ANYTHING)


def _exact(text: str) -> _String:
    return _String(exact=text)


def _both(issuer: _String, subject: _String) -> Principal:
    pair = [_claim(("iss",), issuer, in_lists=False), _claim(("sub",), subject, in_lists=False)]
    return Principal(and_ids=Principal.Set(ids=pair))


def _claim(path: tuple[str, ...], matcher: _String, *, in_lists: bool) -> Principal:
    value = value_pb2.ValueMatcher(string_match=matcher)
    if in_lists:
        listed = value_pb2.ValueMatcher(
            list_match=value_pb2.ListMatcher(one_of=value_pb2.ValueMatcher(string_match=matcher))
        )
        value = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[value, listed]))
    where, word = PAYLOAD
    steps = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in (word, *path)]
    found = metadata_pb2.MetadataMatcher(filter=where, path=steps, value=value)
    return Principal(sourced_metadata=rbac_pb2.SourcedMetadata(metadata_matcher=found))
