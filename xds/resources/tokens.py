"""Tokens of requests: Envoy's JWT filter, which verifies them and keeps their claims for the filters behind it.

It owns where a token is looked for and what becomes of it; a token that cannot be verified must never pass, and one
that is not there must never be an error: whether a request needs one is for policies to say.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from xds.pb.envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from xds.resources.conditions import PAYLOAD

if TYPE_CHECKING:
    from xds.access import Issuer

_SPACED: Final = ("scope", "permission")
"""Claims whose text is a list of words (RFC 8693 section 4.2, and Istio)."""

_KEPT: Final = timedelta(minutes=20)
"""How long fetched keys are used before they are fetched again; Istio's interval."""

_Jwt = config_pb2.JwtAuthentication
_Provider = config_pb2.JwtProvider
_Requirement = config_pb2.JwtRequirement


def verified(issuers: tuple[Issuer, ...]) -> _Jwt:
    """Return the filter that takes a request without a token, or with one of one of these issuers."""
    found = _Jwt(providers={issuer.name: _provider(issuer) for issuer in issuers})
    rule = found.rules.add()
    rule.match.prefix = "/"
    choices = [_Requirement(provider_name=issuer.name) for issuer in issuers]
    missing = _Requirement()
    missing.allow_missing.SetInParent()
    rule.requires.requires_any.requirements.extend([*choices, missing])
    return found


def _provider(issuer: Issuer) -> _Provider:
    rule = issuer.rule
    provider = _Provider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward,
        from_headers=[config_pb2.JwtHeader(name=name, value_prefix=prefix) for name, prefix in rule.headers],
        from_params=rule.params,
        from_cookies=rule.cookies,
        forward_payload_header=rule.payload_header,
        claim_to_headers=[
            config_pb2.JwtClaimToHeader(header_name=header, claim_name=claim) for header, claim in rule.claims
        ],
        payload_in_metadata=PAYLOAD[1],
    )
    provider.normalize_payload_in_metadata.space_delimited_claims.extend((*_SPACED, *rule.spaced))
    if rule.uri is None:
        provider.local_jwks.inline_string = rule.jwks
        return provider
    fetched = provider.remote_jwks
    fetched.http_uri.uri = rule.uri.uri
    fetched.http_uri.cluster = issuer.cluster
    fetched.http_uri.timeout.FromMilliseconds(int(rule.timeout_ms))
    fetched.cache_duration.FromTimedelta(_KEPT)
    # Rules must not wait for keys: until they are there, a token cannot be verified, and is refused.
    fetched.async_fetch.fast_listener = True
    return provider
