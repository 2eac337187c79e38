"""Readers of security kinds raise nothing but ConfigError; what they accept can be built, the rest opens nothing."""

from __future__ import annotations

import re2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.props.strategies import AUTHORIZATION_POLICY, JSON, REQUEST_AUTHENTICATION, broken
from xds.access import Access, Issuer, Named, closed_allow, closed_deny
from xds.api.conditions import Attribute, Condition
from xds.api.core import Meta
from xds.api.istio_authorization import Action, AuthorizationPolicy, Rule, closed, read_authorization_policy
from xds.api.istio_jwt import RequestAuthentication, read_request_authentication, unreadable
from xds.fields import ConfigError, Reader
from xds.pb.envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2
from xds.resources.access import chain, of_connection, of_requests
from xds.resources.conditions import principals

META = Meta("shop", "orders")
SLOW_INPUTS = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def policy(spec: object) -> AuthorizationPolicy | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_authorization_policy(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def authentication(spec: object) -> RequestAuthentication | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_request_authentication(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def test_the_examples_are_accepted() -> None:
    """Or breaking them would say nothing."""
    assert policy(AUTHORIZATION_POLICY) is not None
    assert authentication(REQUEST_AUTHENTICATION) is not None


@SLOW_INPUTS
@given(broken(AUTHORIZATION_POLICY) | JSON)
def test_a_policy_is_refused_or_built(spec: object) -> None:
    """Both as what denies and as what allows, for requests and for bytes."""
    found = policy(spec)
    for index, rule in enumerate(found.rules if found else ()):
        named = Named(f"AuthorizationPolicy/shop/orders/{index}", closed_deny(rule))
        allowed = closed_allow(rule)
        assert allowed is not None
        access = Access(deny=(named,), allow=(Named(named.name, allowed),), audit=(named,))
        assert chain(of_requests(access)).value
        assert len(of_connection("inbound|80", access)) == 3


@SLOW_INPUTS
@given(broken(REQUEST_AUTHENTICATION) | JSON)
def test_an_authentication_is_refused_or_built(spec: object) -> None:
    """Every rule that is accepted becomes a provider of Envoy's."""
    found = authentication(spec)
    issuers = [Issuer(str(i), rule, "keys") for i, rule in enumerate(found.rules if found else ())]
    assert chain(of_requests(Access(issuers=tuple(issuers)))).value


@SLOW_INPUTS
@given(broken(AUTHORIZATION_POLICY) | JSON)
def test_what_stands_for_a_policy_allows_nothing(spec: object) -> None:
    """Whatever stood there: no rule that allows, or one that denies everything."""
    found = closed(META, spec)

    assert (found.action, found.rules) in {
        (Action.ALLOW, ()),
        (Action.AUDIT, ()),
        (Action.DENY, (Rule(),)),
    }
    assert unreadable(META, spec).is_unreadable


ACCOUNTS = st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True)


@given(ACCOUNTS, ACCOUNTS, st.sampled_from([Attribute.SERVICE_ACCOUNT, Attribute.NAMESPACE]))
def test_a_name_matches_itself_alone(name: str, other: str, attribute: Attribute) -> None:
    """Dots and dashes in names of ServiceAccounts and namespaces are letters like others."""
    text = f"shop/{name}" if attribute is Attribute.SERVICE_ACCOUNT else name
    (who,) = principals(Condition(attribute, (text,)), allows=True)
    config = mtls_authenticated_pb2.Config.FromString(who.custom.typed_config.value)
    pattern: str = config.san_matcher.matcher.safe_regex.regex

    def holds(word: str) -> bool:
        place = f"ns/shop/sa/{word}" if attribute is Attribute.SERVICE_ACCOUNT else f"ns/{word}/sa/a"
        return bool(re2.fullmatch(pattern, f"spiffe://cluster.local/{place}"))  # pyright: ignore[reportUnknownMemberType]

    assert holds(name)
    assert holds(other) == (name == other)
