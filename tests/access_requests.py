"""Random requests near the values of a world's policies, and worlds with both: what a campaign asks two sides.

It owns how requests are written, straight or disguised; it must never look at what either side answers.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests import access_tokens as tokens
from tests.access_reference import Http, Manifest
from tests.access_worlds import (
    FORWARDED,
    HEADERS,
    HOSTS,
    ISSUERS,
    METHODS,
    NOW,
    PAST,
    PATHS,
    PEERS,
    SNIS,
    SUBJECTS,
    Addresses,
    Client,
    Document,
    Pair,
    Policies,
    World,
    dotted,
)  # fmt: skip


def make(  # noqa: PLR0913  # what a world is determined by
    seed: int, index: int, number: int, at: Addresses, *, pairs: int, extras: frozenset[str]
) -> World:
    """World ``index`` of a seed, as the ``number``-th of its batch."""
    rng = random.Random(f"{seed}/{index}")
    policies = Policies(rng, World(number, (), ()), at, extras).policies()
    world = World(number, tuple(policies), ())
    return replace(world, pairs=tuple(Requests(rng, world, extras).pairs(pairs)))


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the pool, and where its claims can be seen without reading it."""

    text: str
    issuer: str
    subject: str


@functools.cache
def pool() -> tuple[Token, ...]:
    """Tokens of every issuer and subject, of keys that are trusted, of one that is not, and spoilt ones."""
    rng = random.Random("tokens")
    found: list[Token] = []
    for issuer in (*ISSUERS, "stranger"):
        for subject in (*SUBJECTS, ""):
            claims: Document = {
                "iss": issuer,
                "exp": NOW,
                "aud": rng.choice(("shop", "bank", ["shop", "x"], "none")),
            }
            claims |= {"sub": subject} if subject else {}
            claims |= {
                "groups": rng.choice((["red", "blue"], "red", "redxx", 7)),
                "scope": rng.choice(("read", "read write")),
            }
            claims |= {
                "a": rng.choice(({"b": "deep"}, {"b": ["deepxx", "deep"]}, "deep", {"c": 1})),
                "azp": rng.choice(("app", "appxx")),
            }
            for seed in (1, 1, 2, 3):
                late = {"exp": PAST} if rng.random() < 0.06 else {}
                found.append(Token(tokens.sign({**claims, **late}, seed), issuer, subject))
    return tuple(found)


@dataclass(slots=True)
class _Draft:
    """A request that is being made."""

    client: Client
    method: str
    host: str
    path: str
    headers: list[tuple[str, str]]
    token: str


class Requests:
    """Requests that are near the values of a world's policies, most of them written straight, some of them not."""

    def __init__(self, rng: random.Random, world: World, extras: frozenset[str]) -> None:
        self.rng, self.extras = rng, extras
        self.rules = [rule for found in world.policies for rule in found["spec"].get("rules", [])]
        self.rules_of_tokens = [
            rule for found in world.policies for rule in found["spec"].get("jwtRules", [])
        ]
        self.clients = [self._client() for _ in range(5)] + [Client("", rng.randrange(4), "")]

    def pairs(self, count: int) -> Iterator[Pair]:
        """This many; a few of them are connections without HTTP."""
        for _ in range(count):
            draft = self._draft()
            yield Pair(draft.client, None if self.rng.random() < 0.06 else self._written(draft))

    def _client(self) -> Client:
        peers = [
            source
            for rule in self.rules
            for each in rule.get("from", [])
            for source in each["source"].get("principals", [])
        ]
        wanted = self.rng.choice(peers) if peers and self.rng.random() < 0.6 else "*"
        fitting = [peer for peer in PEERS if _fits(peer, wanted)] or list(PEERS)
        rng = self.rng
        return Client(rng.choice(fitting), rng.randrange(4), rng.choice(SNIS), is_http2=rng.random() < 0.4)

    def _draft(self) -> _Draft:
        rng = self.rng
        headers = [(name, rng.choice(values)) for name, values in HEADERS.items() if rng.random() < 0.4]
        draft = _Draft(
            rng.choice(self.clients),
            rng.choice(METHODS[:3]),
            rng.choice(HOSTS),
            rng.choice(PATHS),
            headers,
            "",
        )
        if self.rules_of_tokens and rng.random() < 0.45:
            known = [rule["issuer"] for rule in self.rules_of_tokens]
            draft.token = rng.choice([token for token in pool() if token.issuer in known] or pool()).text
        if self.rules and rng.random() < 0.85:
            self._approach(draft, rng.choice(self.rules))
        if rng.random() < 0.3:
            self._stray(draft)
        return draft

    def _approach(self, draft: _Draft, rule: Manifest) -> None:
        """Make the request one that the rule holds for, as far as one can say so field by field."""
        for each in [self.rng.choice(rule["to"])["operation"]] if "to" in rule else []:
            draft.host = self._instance(each.get("hosts"), draft.host)
            draft.method = self._instance(each.get("methods"), draft.method, METHODS)
            draft.path = self._instance(each.get("paths"), draft.path)
        for each in [self.rng.choice(rule["from"])["source"]] if "from" in rule else []:
            fitting = [
                client
                for client in self.clients
                if any(_fits(client.peer, wanted) for wanted in each.get("principals", ["*"]))
            ]
            draft.client = self.rng.choice(fitting or self.clients)
            if "requestPrincipals" in each:
                wanted = self.rng.choice(each["requestPrincipals"])
                known = [token.text for token in pool() if _fits(f"{token.issuer}/{token.subject}", wanted)]
                draft.token = self.rng.choice(known or [draft.token])
        for each in rule.get("when", []):
            key, values = each["key"], each.get("values")
            if key.startswith("request.headers[") and values:
                name = key[len("request.headers[") : -1]
                draft.headers = [pair for pair in draft.headers if pair[0].lower() != name.lower()]
                draft.headers.append((name, self._instance(values, "")))
            elif key == "remote.ip":
                draft.headers.append(("x-forwarded-for", self.rng.choice(FORWARDED)))

    def _instance(self, wanted: Sequence[str] | None, otherwise: str, among: Sequence[str] = ()) -> str:
        """Return a value that one of the patterns matches."""
        if not wanted:
            return otherwise
        one = self.rng.choice(wanted)
        if fitting := [value for value in among if _fits(value, one)]:
            return self.rng.choice(fitting)
        one = one.replace("{**}", self.rng.choice(("", "x/y", "z"))).replace(
            "{*}", self.rng.choice(("x", "x.y", "a=b", "x*y", "1;v=2", "~"))
        )
        value = (
            one.replace("*", self.rng.choice(("", "x", "admin"))) if one[0] == "*" or one[-1] == "*" else one
        )
        return value or otherwise

    def _stray(self, draft: _Draft) -> None:
        """Change one thing."""
        match self.rng.randrange(6):
            case 0:
                draft.method = self.rng.choice(METHODS)
            case 1:
                draft.host = self.rng.choice(HOSTS)
            case 2:
                draft.path = self.rng.choice((draft.path + "/", draft.path + "x", draft.path.upper(), *PATHS))
            case 3:
                draft.client = self.rng.choice(self.clients)
            case 4:
                draft.token = self.rng.choice(("", self.rng.choice(pool()).text, "x.y.z"))
            case _:
                draft.headers = [
                    (name, self.rng.choice(("admin", "red", value))) for name, value in draft.headers
                ]

    def _written(self, draft: _Draft) -> Http:
        rng = self.rng
        target = draft.path if draft.path.startswith("/") else f"/{draft.path}"
        if rng.random() < 0.4:
            target = self._disguised(target)
        headers = [*draft.headers, *self._more_headers(draft.headers)]
        if draft.token:
            place = self._place()
            if place.startswith("?"):
                target += f"{'&' if '?' in target else '?'}{place[1:]}{draft.token}"
            else:
                name, _, prefix = place.partition(": ")
                headers.append((name, prefix + draft.token))
        if rng.random() < 0.04:
            target = f"http://{rng.choice(HOSTS)}{target}"
        method = draft.method if rng.random() > 0.01 else draft.method.lower()
        return Http(method, target, tuple(self._lines(headers, draft.host)))

    def _lines(self, headers: list[tuple[str, str]], host: str) -> list[tuple[str, str]]:
        rng = self.rng
        lines = [(self._spelt(name), value) for name, value in headers]
        rng.shuffle(lines)
        if rng.random() < 0.2 and "hosts" in self.extras:
            host = dotted(host) if rng.random() < 0.9 else dotted(dotted(host))
        lines.insert(rng.randrange(len(lines) + 1), (self._spelt("host"), self._spelt(host)))
        if rng.random() < 0.01 and "hosts" in self.extras:
            lines.append(("Host", rng.choice(HOSTS)))
        return lines

    def _more_headers(self, headers: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        rng = self.rng
        if headers and rng.random() < 0.2:  # a second line of the same name
            name, _ = rng.choice(headers)
            yield name, rng.choice(HEADERS.get(name.lower(), ("x",)))
        if rng.random() < 0.15:
            hops = [rng.choice((*FORWARDED, "junk")) for _ in range(rng.choice((1, 2)))]
            yield "x-forwarded-for", ", ".join(hops)
        if rng.random() < 0.15:
            yield rng.choice(_SPOOFS)
        if rng.random() < 0.3:
            yield "x-ext", rng.choice(("allow", "allow", "deny"))

    def _place(self) -> str:
        """Where the token is put: anywhere, but mostly where a rule looks."""
        place = self.rng.choice(_PLACES)
        for rule in self.rules_of_tokens:
            place = _place(rule) if self.rng.random() < 0.5 else place
        return place

    def _spelt(self, text: str) -> str:
        return (
            text
            if self.rng.random() < 0.7
            else "".join(self.rng.choice((c.lower(), c.upper())) for c in text)
        )

    def _disguised(self, target: str) -> str:
        """Write the same path, or one that a careless reader takes for the same, in another way."""
        at = self.rng.randrange(len(target))
        slash = self.rng.choice([found.start() for found in re.finditer("/", target)])
        escaped = (
            f"{target[:at]}%{ord(target[at]):02x}{target[at + 1 :]}"
            if target[at].isascii() and at
            else target
        )
        before, after = target[:slash], target[slash + 1 :]
        forms = [escaped, escaped.replace("%", "%25", 1)]
        forms += [f"{before}{between}{after}" for between in _BETWEEN if slash or between[0] == "/"]
        forms += [f"{target}{end}" for end in _ENDS]
        return self.rng.choice([*forms, f"/..{target}"])


_BETWEEN: Final = ("//", "/./", "/x/../", "/%2e%2E/", "%2F", "\\", "%5c", ";a=b/")
_ENDS: Final = (
    ";v=1",
    "/",
    "/.",
    "/..",
    "%00",
    "%20",
    "%C3%A9",
    "#top",
    "?",
    "?a=/admin",
    "?x=%2F..%2Fadmin",
    "?v=1;w=2",
)
_PLACES: Final = (
    "authorization: Bearer ", "authorization: Bearer ", "x-jwt: ", "x-jwt: Token ", "?token=", "?access_token=",
)  # fmt: skip
_SPOOFS: Final = tuple(
    [
        ("x-forwarded-client-cert", f"By=spiffe://cluster.local/ns/x/sa/y;URI=spiffe://{peer}")
        for peer in PEERS[:3]
    ]
    + [
        ("x-forwarded-host", HOSTS[0]),
        ("x-original-url", "/info"),
        ("x-envoy-original-path", "/info"),
        ("x-http-method-override", "GET"),
    ]
)


def _place(rule: Manifest) -> str:
    """Where a rule of RequestAuthentication looks for its token, as the start of a header line or of a parameter."""
    if "fromHeaders" in rule:
        return f"{rule['fromHeaders'][0]['name']}: {rule['fromHeaders'][0].get('prefix', '')}"
    return f"?{rule['fromParams'][0]}=" if "fromParams" in rule else "authorization: Bearer "


def _fits(value: str, wanted: str) -> bool:
    """Whether a pattern means a value, to steer by; who is right about that is not decided here."""
    return re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), value) is not None
