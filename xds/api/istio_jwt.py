"""Istio's RequestAuthentication: which tokens a workload verifies, and where they stand in a request.

These are frozen values and their reader; keys behind a URL are fetched by proxies, and must never be fetched here.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Final, cast
from urllib.parse import SplitResult, urlsplit

import msgspec

from xds.api.core import Labels, Meta
from xds.api.targets import Target, read_selection
from xds.fields import ConfigError, Reader, show
from xds.grammar import check_header_name


class JwksUri(msgspec.Struct, frozen=True, gc=False):
    """Where keys are fetched from."""

    uri: str
    host: str
    port: int
    is_tls: bool


class JwtRule(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one issuer: ``jwks`` are its keys as JSON, or ``uri`` is where they are.

    Without places (``headers`` with what stands before the token, ``params``, ``cookies``) a token is looked for in
    ``Authorization: Bearer`` and in the parameter ``access_token``. ``claims`` are (header, claim) pairs.
    """

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    uri: JwksUri | None = None
    timeout_ms: float = 5000.0
    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    payload_header: str = ""
    claims: tuple[tuple[str, str], ...] = ()
    forward: bool = False
    spaced: tuple[str, ...] = ()
    """Claims besides ``scope`` and ``permission`` whose text is a list of words."""


class RequestAuthentication(msgspec.Struct, frozen=True, gc=False):
    """A RequestAuthentication; ``is_unreadable`` stands for one that nobody could ever read."""

    meta: Meta
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    rules: tuple[JwtRule, ...] = ()
    is_unreadable: bool = False


MAX_JWKS: Final = 1 << 20
"""Characters of keys written into a policy: they are in every listener of the workload."""

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
)
_NUMERIC: Final = re.compile(r"[\d.]+")
_CLAIM: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,256}")


def read_request_authentication(spec: Reader, meta: Meta) -> RequestAuthentication:
    """Return a RequestAuthentication; keys that no proxy could use are refused."""
    selector, targets = read_selection(spec, meta)
    rules = tuple(_rule(reader) for reader in spec.objects("jwtRules"))
    spec.done()
    return RequestAuthentication(meta, selector, targets, rules)


def unreadable(meta: Meta, spec: object) -> RequestAuthentication:
    """Return what stands for one that could never be read: whom it may concern takes no request."""
    try:
        reader = Reader(spec, "spec", [])
    except ConfigError:
        reader = Reader({}, "spec", [])
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    with contextlib.suppress(ConfigError):
        selector, targets = read_selection(reader, meta)
    return RequestAuthentication(meta, selector, targets, is_unreadable=True)


def _rule(reader: Reader) -> JwtRule:
    issuer = reader.text("issuer")
    if not issuer:
        raise reader.fail("issuer", "must not be empty")
    jwks, uri = _keys(reader)
    timeout_ms = reader.duration_ms("timeout", 5000.0, low_ms=1)
    rule = JwtRule(
        issuer=issuer,
        audiences=_words(reader, "audiences"),
        jwks=jwks,
        uri=uri,
        timeout_ms=timeout_ms or 5000.0,
        headers=tuple(_header(found) for found in reader.objects("fromHeaders")),
        params=_words(reader, "fromParams"),
        cookies=_words(reader, "fromCookies"),
        payload_header=_optional_header(reader, "outputPayloadToHeader"),
        claims=tuple(_claim(found) for found in reader.objects("outputClaimToHeaders")),
        forward=reader.boolean("forwardOriginalToken"),
        spaced=_words(reader, "spaceDelimitedClaims"),
    )
    reader.done()
    return rule


def _words(reader: Reader, name: str) -> tuple[str, ...]:
    found = reader.texts(name)
    for i, text in enumerate(found):
        if not _CLAIM.fullmatch(text):
            raise ConfigError(f"{reader.at(name)}[{i}]", f"must be a word, got {show(text)}")
    return tuple(dict.fromkeys(found))


def _header(reader: Reader) -> tuple[str, str]:
    name = check_header_name(reader.at("name"), reader.text("name"))
    prefix = reader.text("prefix", "")
    reader.done()
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in prefix):
        raise reader.fail("prefix", f"must not hold control characters, got {show(prefix)}")
    return name, prefix


def _optional_header(reader: Reader, name: str) -> str:
    text = reader.text(name, "")
    return check_header_name(reader.at(name), text) if text else ""


def _claim(reader: Reader) -> tuple[str, str]:
    header = check_header_name(reader.at("header"), reader.text("header"))
    claim = reader.text("claim")
    reader.done()
    if not _CLAIM.fullmatch(claim):
        raise reader.fail("claim", f"must be a claim's name, with dots between levels, got {show(claim)}")
    return header, claim


def _keys(reader: Reader) -> tuple[str, JwksUri | None]:
    jwks = reader.text("jwks", "", limit=MAX_JWKS)
    uri = reader.text("jwksUri", "")
    old = reader.text("jwks_uri", "") if reader.has("jwks_uri") else ""
    uri = uri or old
    if bool(jwks) == bool(uri):
        reason = (
            "exactly one of jwks and jwksUri is needed: Proa does not ask an issuer where its keys are; "
            "an OpenID issuer says it at /.well-known/openid-configuration"
        )
        raise reader.fail("jwksUri", reason)
    if jwks:
        _check_keys(jwks, reader.at("jwks"))
        return jwks, None
    return "", _uri(uri, reader.at("jwksUri"))


def _uri(text: str, path: str) -> JwksUri:
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ConfigError(path, f"must be http://HOST/PATH or https://HOST/PATH, got {show(text)}") from None
    host = parts.hostname or ""
    if not port or not _HOST.fullmatch(host) or _is_odd(text, parts):
        raise ConfigError(path, f"must be http://HOST/PATH or https://HOST/PATH, got {show(text)}")
    is_tls = parts.scheme == "https"
    if is_tls and _NUMERIC.fullmatch(host):
        raise ConfigError(path, "must have a name as host: a certificate vouches for a name")
    return JwksUri(text, host, port, is_tls)


def _is_odd(text: str, parts: SplitResult) -> bool:
    return (
        not text.isascii()
        or not text.isprintable()
        or " " in text
        or "@" in parts.netloc
        or bool(parts.fragment)
    )


def _check_keys(text: str, path: str) -> None:
    """Raise unless the text is a set of public keys of which a proxy can use each one.

    Envoy refuses the whole route table for a set without a usable key.
    """
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(path, "is no JSON") from None
    keys = cast("dict[str, object]", found).get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ConfigError(path, "must be a JSON object with a list of keys that is not empty")
    for i, key in enumerate(cast("list[object]", keys)):
        if not isinstance(key, dict):
            raise ConfigError(path, f"keys[{i}] must be an object")
        _check_key(cast("dict[str, object]", key), f"keys[{i}]", path)


_KEY_TYPES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "RSA": (("n", "e"), r"(RS|PS)(256|384|512)"),
    "EC": (("crv", "x", "y"), r"ES(256|384|512)"),
    "OKP": (("crv", "x"), r"EdDSA"),
    "oct": (("k",), r"HS(256|384|512)"),
}
_CURVES: Final = {"EC": {"P-256", "P-384", "P-521"}, "OKP": {"Ed25519"}}


def _check_key(key: dict[str, object], name: str, path: str) -> None:
    kind = key.get("kty")
    if not isinstance(kind, str) or kind not in _KEY_TYPES:
        raise ConfigError(path, f"{name}.kty must be one of {', '.join(_KEY_TYPES)}, got {show(kind)}")
    needed, algorithms = _KEY_TYPES[kind]
    for field in needed:
        if not isinstance(key.get(field), str) or not key[field]:
            raise ConfigError(path, f"{name}.{field} is required of a key of type {kind}")
    if kind in _CURVES and key["crv"] not in _CURVES[kind]:
        raise ConfigError(path, f"{name}.crv must be one of {', '.join(sorted(_CURVES[kind]))}")
    algorithm = key.get("alg")
    if algorithm is not None and not (isinstance(algorithm, str) and re.fullmatch(algorithms, algorithm)):
        raise ConfigError(path, f"{name}.alg does not fit a key of type {kind}: {show(algorithm)}")
    if kind != "oct" and "d" in key:
        raise ConfigError(path, f"{name}.d is a private key: whoever may read the policy could sign")
    _load(key, name, path)


def _load(key: dict[str, object], name: str, path: str) -> None:
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        PyJWK(key)
    except (PyJWTError, ValueError, TypeError):
        raise ConfigError(path, f"{name} is no usable key") from None
