"""What Istio's documents say about one request: an evaluator that knows no compiler, no Envoy and nothing of ``xds``.

It owns the answer that real proxies are compared with, written from the reference pages of AuthorizationPolicy,
RequestAuthentication, conditions and normalisation; it must never import what it judges, nor copy its constants.

Four answers are stricter than those pages, and all of them close: a negated peer field of an ALLOW rule does not
match a caller without identity (ISTIO-SECURITY-2021-004), a request with two ``Host`` lines is refused, lines of one
header are compared one by one (CVE-2026-26308), not joined by commas, and ``orders.`` is the host ``orders``.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from tests.path_reference import normalise, undotted

Manifest = Mapping[str, Any]
Claims = Mapping[str, Any]


class Verdict(enum.Enum):
    """What becomes of a request; UNAUTHENTICATED is refused for its token, whatever the status."""

    ALLOW = "allowed"
    DENY = "403"
    UNAUTHENTICATED = "401"
    MALFORMED = "400"


class _Ends(Exception):  # noqa: N818  # no error: an answer
    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class Workload(NamedTuple):
    """Whose policies are asked for; ``services`` are the names of the Services that select it."""

    namespace: str
    labels: Mapping[str, str]
    services: frozenset[str] = frozenset()


class Connection(NamedTuple):
    """Who calls where: ``peer`` is ``TRUSTDOMAIN/ns/NS/sa/SA``, empty without mutual TLS."""

    peer: str
    source_ip: str
    destination_ip: str
    port: int
    sni: str = ""


class Http(NamedTuple):
    """A request as it was written: the target of the request line, and the lines of the header in order."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """The values of every line with this name."""
        return [value for found, value in self.headers if found.lower() == name.lower()]


class Mesh(NamedTuple):
    """What else an answer depends on: settings, the time, who verifies tokens under a key set, whom CUSTOM asks."""

    normalization: str = "BASE"
    root_namespace: str = "istio-system"
    now: float = 0.0
    verified: Callable[[str, str], Claims | None] = lambda _token, _key_set: None
    external: Callable[[str, Http | None], bool] = lambda _provider, _http: False


def decide(
    manifests: Iterable[Manifest], workload: Workload, at: Connection, http: Http | None, mesh: Mesh
) -> Verdict:
    """The answer for one request, or for one TCP connection if ``http`` is None."""
    held = [manifest for manifest in manifests if _applies(manifest, workload, mesh)]
    try:
        facts = _Facts(held, at, http, mesh)
    except _Ends as end:
        return end.verdict
    policies: dict[str, list[Manifest]] = {"CUSTOM": [], "DENY": [], "ALLOW": [], "AUDIT": []}
    for found in held:
        is_dry_run = _map(found["metadata"].get("annotations")).get("istio.io/dry-run") == "true"
        if found["kind"] == "AuthorizationPolicy" and not is_dry_run:
            policies[_map(found.get("spec")).get("action", "ALLOW")].append(_map(found.get("spec")))
    custom, deny, allow, _ = policies.values()
    for spec in custom:
        if facts.match(spec, closes=True) and not mesh.external(spec["provider"]["name"], http):
            return Verdict.DENY
    if any(facts.match(spec, closes=True) for spec in deny):
        return Verdict.DENY
    is_allowed = not allow or any(facts.match(spec, closes=False) for spec in allow)
    return Verdict.ALLOW if is_allowed else Verdict.DENY


def _applies(manifest: Manifest, workload: Workload, mesh: Mesh) -> bool:
    namespace, spec = manifest["metadata"]["namespace"], _map(manifest.get("spec"))
    if namespace not in {workload.namespace, mesh.root_namespace}:
        return False
    if "targetRefs" in spec:
        named = {found["name"] for found in spec["targetRefs"] if found["kind"] == "Service"}
        return namespace == workload.namespace and bool(named & workload.services)
    labels = _map(_map(spec.get("selector")).get("matchLabels"))
    return all(workload.labels.get(name) == value for name, value in labels.items())


def _tokens(rule: Manifest, http: Http, query: str) -> Iterator[str]:
    headers, params = _list(rule.get("fromHeaders")), _list(rule.get("fromParams"))
    if not headers and not params:
        headers, params = [{"name": "Authorization", "prefix": "Bearer "}], ["access_token"]
    for place in headers:
        prefix = place.get("prefix", "")
        yield from (v.removeprefix(prefix) for v in http.values(place["name"]) if v.startswith(prefix))
    yield from (value for name, value in parse_qsl(query) if name in params)


def _authenticate(rules: Sequence[Manifest], http: Http, query: str, mesh: Mesh) -> Claims:
    """The claims of a valid token, nothing where no token is; ends with the answer for one that is not valid."""
    found = False
    for rule, token in [(each, token) for each in rules for token in _tokens(each, http, query)]:
        claims = mesh.verified(token, rule["jwks"]) or {}
        is_in_time = claims.get("nbf", 0) <= mesh.now < claims.get("exp", mesh.now + 1)
        wanted = {*_list(rule.get("audiences"))}
        is_meant = not wanted or bool(wanted & {*_strings(claims.get("aud"))})
        if claims.get("iss") == rule["issuer"] and is_in_time and is_meant:
            return claims
        found = True
    if found:
        raise _Ends(Verdict.UNAUTHENTICATED)
    return {}


_FIELDS = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "ipBlocks": "source.ip",
    "remoteIpBlocks": "remote.ip",
    "requestPrincipals": "request.auth.principal",
    "hosts": "request.host",
    "methods": "request.method",
    "paths": "request.path",
    "ports": "destination.port",
}


class _Term(NamedTuple):
    """One attribute, the values of which one must hold, and those of which none may."""

    key: str
    values: list[str]
    not_values: list[str]

    def is_http(self) -> bool:
        return self.key.startswith("request.") and bool(self.values or self.not_values)


class _Facts:
    """The attributes of one request or connection."""

    def __init__(self, held: list[Manifest], at: Connection, http: Http | None, mesh: Mesh) -> None:
        self.http, self.claims = http, dict[str, Any]()
        self.found = {
            "source.principal": [at.peer],
            "source.namespace": re.findall(r"^[^/]+/ns/([^/]+)/sa/[^/]+$", at.peer),
            "source.ip": [at.source_ip],
            "remote.ip": [_last_forwarded(http) or at.source_ip],
            "destination.ip": [at.destination_ip],
            "destination.port": [str(at.port)],
            "connection.sni": [at.sni],
        }
        if http is not None:
            self._read(held, http, mesh)

    def _read(self, held: list[Manifest], http: Http, mesh: Mesh) -> None:
        hosts, target = http.values("host"), http.target
        if absolute := re.fullmatch("https?://([^/?#]*)(.*)", target, re.IGNORECASE):
            hosts, target = [absolute[1]], absolute[2] or "/"  # RFC 9112 §3.2.2: the line wins over Host
        path = normalise(target, mesh.normalization)
        hosts = [undotted(host) for host in hosts]
        is_host = len(hosts) == 1 and hosts[0] == undotted(hosts[0])
        if not is_host or http.method != http.method.upper() or path is None:
            raise _Ends(Verdict.MALFORMED)
        specs = [_map(each.get("spec")) for each in held if each["kind"] == "RequestAuthentication"]
        rules = [rule for spec in specs for rule in _list(spec.get("jwtRules"))]
        self.claims = claims = _authenticate(rules, http, target.partition("?")[2], mesh)
        both = [*_strings(claims.get("iss")), *_strings(claims.get("sub"))]
        self.found |= {
            "request.host": hosts,
            "request.method": [http.method],
            "request.path": [path],
            "request.auth.principal": ["/".join(both)] if len(both) == len(("iss", "sub")) else [],
            "request.auth.audiences": _strings(claims.get("aud")),
            "request.auth.presenter": _strings(claims.get("azp")),
        }

    def match(self, spec: Manifest, *, closes: bool) -> bool:
        """Whether one of a policy's rules holds; ``closes`` tells a policy that refuses from one that admits."""
        return any(self._rule(rule, closes=closes) for rule in _list(spec.get("rules")))

    def _rule(self, rule: Manifest, *, closes: bool) -> bool:
        sources = [_terms(each["source"]) for each in _list(rule.get("from"))] or [[]]
        operations = [_terms(each["operation"]) for each in _list(rule.get("to"))] or [[]]
        conditions = [
            _Term(each["key"], _list(each.get("values")), _list(each.get("notValues")))
            for each in _list(rule.get("when"))
        ]
        every = (term for terms in (*sources, *operations, conditions) for term in terms)
        if self.http is None and not closes and any(term.is_http() for term in every):
            return False
        return all(
            any(all(self._term(term, closes=closes) for term in terms) for terms in choice)
            for choice in (sources, operations, [conditions])
        )

    def _term(self, term: _Term, *, closes: bool) -> bool:
        if self.http is None and term.is_http():
            return True  # only a policy that refuses comes here
        if term.values and not any(self._holds(term.key, value) for value in term.values):
            return False
        asks_peer = term.not_values and term.key in {"source.principal", "source.namespace"}
        if asks_peer and self.found["source.principal"] == [""] and not closes:
            return False
        return not any(self._holds(term.key, value) for value in term.not_values)

    def _holds(self, key: str, wanted: str) -> bool:
        values = self._values(key)
        match key:
            case "source.ip" | "remote.ip" | "destination.ip":
                return any(_is_within(value, wanted) for value in values)
            case "destination.port":
                return wanted in values
            case "request.host":
                return any(_is_like(value.lower(), undotted(wanted.lower())) for value in values)
            case "request.path" if "{" in wanted:
                return any(re.fullmatch(_template(wanted), value) for value in values)
            case _:
                return any(_is_like(value, wanted) for value in values)

    def _values(self, key: str) -> list[str]:
        names: list[str] = re.findall(r"\[([^\]]+)\]", key)
        if key.startswith("request.headers[") and self.http is not None:
            return self.http.values(names[0])
        if not key.startswith("request.auth.claims["):
            return self.found[key]
        claims: Any = self.claims
        for name in names:
            claims = _map(claims).get(name) if isinstance(claims, dict) else None
        is_spaced = isinstance(claims, str) and names in (["scope"], ["permission"])
        return claims.split(" ") if is_spaced else _strings(claims)


def _terms(fields: Manifest) -> list[_Term]:
    pairs = [(key, name, f"not{name[0].upper()}{name[1:]}") for name, key in _FIELDS.items()]
    return [_Term(key, _list(fields.get(name)), _list(fields.get(negated))) for key, name, negated in pairs]


def _is_like(value: str, wanted: str) -> bool:
    if wanted.startswith("*"):
        return value.endswith(wanted[1:]) and value != ""
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def _template(wanted: str) -> str:
    parts = re.split(r"(\{\*\*?\})", wanted)
    return "".join({"{*}": "[^/]+", "{**}": ".*"}.get(part) or re.escape(part) for part in parts)


def _is_within(address: str, block: str) -> bool:
    found, network = ipaddress.ip_address(address), ipaddress.ip_network(block, strict=False)
    return found.version == network.version and found in network


def _last_forwarded(http: Http | None) -> str:
    """The last entry of X-Forwarded-For, which is what the caller itself says; empty if it is no address."""
    last = ",".join(http.values("x-forwarded-for") if http else []).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return ""


def _strings(value: Any) -> list[str]:
    return [item for item in (_list(value) if isinstance(value, list) else [value]) if isinstance(item, str)]


def _map(value: Any) -> Manifest:
    return value or {}


def _list(value: Any) -> list[Any]:
    return value or []
