"""Random policies and requests near them: what a campaign asks both the reference evaluator and real proxies.

Everything follows from a seed and a number, so that any pair can be made again alone; it must never look at what
either side answers, nor import what is tested.

A world is one namespace with one workload, the policies that hold for it from all scopes, and what is asked of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tests import access_tokens as tokens
from tests.access_reference import Connection, Http, Manifest

Document: TypeAlias = dict[str, Any]

HTTP_PORT, TCP_PORT = 22080, 22090
ROOT_NAMESPACE: Final = "proa-system"
EXTRAS: Final = frozenset({"custom", "tokens", "hosts"})
"""What a campaign can do without: external authorizers, requests with tokens, and requests with two Host lines."""

PROVIDER: Final = "judge"
"""The external authorizer; it lets through what carries ``x-ext: allow``."""

NOW: Final = 4_000_000_000
"""Tokens are good until this second, far away, or were until 2001: the answer never depends on when it is asked."""
PAST: Final = 1_000_000_000

PEERS: Final = (
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/sa/web.v1",
    "cluster.local/ns/shop/sa/webxv1",
    "cluster.local/ns/shop/sa/a.web.v1",
    "cluster.local/ns/shop-a/sa/web.v1",
    "cluster.local/ns/shopx/sa/admin",
    "cluster.local/ns/test/sa/web",
)
"""Names with dots, and names that differ only where a dot is read as "any character"."""

SNIS: Final = ("", "outbound_.80_._.orders.shop", "orders.shop.svc", "ordersxshop.svc")
METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
HOSTS: Final = (
    "orders.example",
    "ordersxexample",
    "api.orders.example",
    "orders.example:8080",
    "shop",
    "10.1.2.3:80",
)


def dotted(host: str) -> str:
    """The same host, its name written out in full: with a dot at its end, and any port behind that."""
    name, colon, port = host.partition(":")
    return f"{name}.{colon}{port}"


PATHS: Final = (
    "/",
    "/info",
    "/info/1",
    "/admin",
    "/admin/",
    "/admin/users",
    "/a/b/c",
    "/v1/items/42/detail",
    "/Admin",
    "/a.b/c",
)
HEADERS: Final = {
    "x-role": ("user", "admin", "admin.x", "user,admin", ""),
    "x-team": ("red", "blue", "red.blue", "redxblue"),
}
FORWARDED: Final = ("203.0.113.7", "198.51.100.2", "2001:db8::7")
_BLOCKS: Final = ("203.0.113.7", "203.0.113.0/24", "198.51.100.0/31", "2001:db8::/32", "0.0.0.0/0", "::/0")
ISSUERS: Final = ("https://issuer.example/a", "https://issuer.example", "issuer-b")
SUBJECTS: Final = ("ann", "bob", "ann.x")
_AUDIENCES: Final = ("shop", "bank")
_CLAIMS: Final = {"groups": ("red", "blue", "red.x"), "a][b": ("deep", "deep.x"), "scope": ("read", "write")}


@dataclass(frozen=True, slots=True)
class Client:
    """Who connects: a certificate or none, the address it comes from (a number), and the name it asks for in TLS."""

    peer: str
    source: int
    sni: str
    is_http2: bool = False
    """Whether it speaks HTTP/2, where that can say its request."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One request of one client; ``http`` is None for a TCP connection."""

    client: Client
    http: Http | None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where worlds and clients are: the block of 127.0.0.0/8 that is ours, and the first number of a workload in it.

    With ``is_v6`` they have IPv6 addresses; where ``is_intercepted``, what is sent to them is redirected.
    """

    block: int
    first: int = 0
    is_v6: bool = False
    is_intercepted: bool = False

    def of_workload(self, number: int) -> str:
        """The Pod of a world."""
        high, low = divmod(self.first + number, 250)
        return self._at(high, 1 + low)

    def of_client(self, source: int) -> str:
        """An address that clients call from: the first two lie in one `near`, the first three in one `far`."""
        return self._at((240, 240, 241, 130)[source], (1, 2, 1, 1)[source])

    def _at(self, high: int, low: int) -> str:
        return (
            f"fd7f:{self.block:x}::{high + 1:x}:{low:x}" if self.is_v6 else f"127.{self.block}.{high}.{low}"
        )

    def blocks(self) -> tuple[str, ...]:
        """What policies say of clients: each for itself, blocks of one, two, three and of all of them."""
        clients = [self.of_client(source) for source in range(4)]
        rest = 96 if self.is_v6 else 0
        parts = (f"{ip}/{bits + rest}" for ip in clients for bits in (24, 17, 31))
        return (*clients, *parts, f"{clients[0]}/{16 + rest}", "::/0")

    def here(self, number: int) -> tuple[str, ...]:
        """What policies say of the Pod of a world: itself, all of them, nobody."""
        own = self.of_workload(number)
        return own, f"{own}/{113 if self.is_v6 else 17}", "10.0.0.0/8"


@dataclass(frozen=True, slots=True)
class World:
    """A namespace, its workload and the policies that are said for it."""

    number: int
    policies: tuple[Manifest, ...]
    pairs: tuple[Pair, ...]

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return f"w{self.number}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its Pod; ``world`` tells it from all others in the mesh."""
        return {"app": "orders", "version": "v1", "world": self.namespace}

    def connection(self, pair: Pair, at: Addresses) -> Connection:
        """Who calls where, in the evaluator's words."""
        port = TCP_PORT if pair.http is None else HTTP_PORT
        ours, theirs = at.of_workload(self.number), at.of_client(pair.client.source)
        return Connection(pair.client.peer, theirs, ours, port, pair.client.sni)


# -- policies ------------------------------------------------------------------------------------------------


class Policies:
    """Random policies that are valid: what is refused has its own tests."""

    def __init__(self, rng: random.Random, world: World, at: Addresses, extras: frozenset[str]) -> None:
        self.rng, self.world, self.extras = rng, world, extras
        self.blocks, self.here = at.blocks(), at.here(world.number)

    def policies(self) -> Iterator[Manifest]:
        """One to four access policies, with none to two of authentication."""
        for n in range(self.rng.choice((1, 1, 2, 2, 3, 4))):
            yield self._policy(n)
        issuers = self.rng.sample(ISSUERS, self.rng.choice((0, 1, 2, 3)) if "tokens" in self.extras else 0)
        for n, some in enumerate((issuers[:2], issuers[2:])):
            if some:
                yield self._authentication(n, some)

    def _policy(self, n: int) -> Manifest:
        actions = (
            ["ALLOW"] * 10 + ["DENY"] * 8 + ["AUDIT"] + ["CUSTOM"] * (3 if "custom" in self.extras else 0)
        )
        action = self.rng.choice(actions)
        spec: Document = {} if action == "ALLOW" and self.rng.random() < 0.5 else {"action": action}
        if action == "CUSTOM":
            spec["provider"] = {"name": PROVIDER}
        rules = [self._rule() for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3)))]
        if rules or self.rng.random() < 0.5:
            spec["rules"] = rules
        found = self._placed("AuthorizationPolicy", f"p{n}", spec)
        if self.rng.random() < 0.08:
            found["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
        return found

    def _placed(self, kind: str, name: str, spec: Document) -> Document:
        """Put a policy somewhere: mostly where it holds, sometimes where it does not."""
        labels = self.world.labels
        selectors = [
            {"app": "orders"},
            {"version": "v1", "app": "orders"},
            {"version": "v2"},
            {"app": "other"},
        ]
        namespace, chosen = self.world.namespace, None
        match self.rng.choice(["namespace"] * 4 + ["workload"] * 4 + ["root"] * 2 + ["elsewhere"]):
            case "namespace":
                pass
            case "workload":
                chosen = self.rng.choice(selectors[:2] * 3 + selectors[2:])
            case "root":
                namespace = ROOT_NAMESPACE
                chosen = {
                    "world": labels["world"],
                    **self.rng.choice(({}, {}, {"version": "v1"}, {"version": "v2"})),
                }
            case _:
                namespace = "elsewhere"
        if chosen is not None:
            spec = {"selector": {"matchLabels": chosen}, **spec}
        name = f"{self.world.namespace}-{name}"
        meta = {"name": name, "namespace": namespace}
        return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}

    def _authentication(self, n: int, issuers: Sequence[str]) -> Manifest:
        rules: list[Document] = []
        for issuer in issuers:
            rule: Document = {"issuer": issuer, "jwks": tokens.jwks(self.rng.choice((1, 1, 1, 2)))}
            if self.rng.random() < 0.3:
                rule["audiences"] = self.rng.sample(_AUDIENCES, self.rng.choice((1, 2)))
            if self.rng.random() < 0.2:
                rule["fromHeaders"] = [{"name": "x-jwt", **self.rng.choice(({}, {"prefix": "Token "}))}]
            if self.rng.random() < 0.15:
                rule["fromParams"] = ["token"]
            if self.rng.random() < 0.2:
                rule["forwardOriginalToken"] = True
            rules.append(rule)
        return self._placed("RequestAuthentication", f"r{n}", {"jwtRules": rules})

    def _rule(self) -> Document:
        rule: Document = {}
        if self.rng.random() < 0.55:
            rule["from"] = [{"source": self._fields(self._source)} for _ in range(self.rng.choice((1, 1, 2)))]
        if self.rng.random() < 0.6:
            rule["to"] = [
                {"operation": self._fields(self._operation)} for _ in range(self.rng.choice((1, 1, 2)))
            ]
        if self.rng.random() < 0.3:
            rule["when"] = [self._condition() for _ in range(self.rng.choice((1, 1, 2)))]
        return rule

    def _fields(self, some: Callable[[], tuple[str, list[str]]]) -> Document:
        found: Document = {}
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            name, values = some()
            if self.rng.random() < 0.25:
                name = f"not{name[0].upper()}{name[1:]}"
            found[name] = values
        return found

    def _source(self) -> tuple[str, list[str]]:
        last = 6 if "tokens" in self.extras else 5
        return self.rng.choice((
            ("principals", self._some(self._like(PEERS))),
            ("principals", self._some(self._like(PEERS))),
            ("namespaces", self._some(self._like(tuple(peer.split("/")[2] for peer in PEERS)))),
            ("ipBlocks", self._some(self._one(self.blocks))),
            ("remoteIpBlocks", self._some(self._one(_BLOCKS + self.blocks[:4]))),
            ("requestPrincipals", self._some(self._principal)),
        )[:last])  # fmt: skip

    def _operation(self) -> tuple[str, list[str]]:
        return self.rng.choice((
            ("hosts", self._some(self._host)),
            ("ports", self._some(self._one((str(HTTP_PORT), str(HTTP_PORT), str(TCP_PORT), "80")))),
            ("methods", self._some(self._like(METHODS))),
            ("paths", self._some(self._path)),
            ("paths", self._some(self._path)),
        ))  # fmt: skip

    def _condition(self) -> Document:
        header, claim = self.rng.choice(list(HEADERS)), self.rng.choice(list(_CLAIMS))
        named = [value for value in HEADERS[header] if value]
        keys: dict[str, Callable[[], str]] = {
            f"request.headers[{self._case(header)}]": self._like(named),
            "source.ip": self._one(self.blocks),
            "remote.ip": self._one(_BLOCKS + self.blocks[:4]),
            "source.namespace": self._like(tuple(peer.split("/")[2] for peer in PEERS)),
            "source.principal": self._like(PEERS),
            "request.auth.principal": self._principal,
            "request.auth.audiences": self._like(_AUDIENCES),
            "request.auth.presenter": self._like(("app", "app.x")),
            f"request.auth.claims[{claim}]": self._like(_CLAIMS[claim]),
            "request.auth.claims[iss]": self._like(ISSUERS),
            "destination.ip": self._one(self.here),
            "destination.port": self._one((str(HTTP_PORT), str(TCP_PORT), "80")),
            "connection.sni": self._like(SNIS[1:]),
        }
        if "tokens" not in self.extras:
            keys = {key: each for key, each in keys.items() if not key.startswith("request.auth.")}
        key = self.rng.choice([*list(keys)[:1] * 4, *keys])
        found: Document = {"key": key}
        chosen = self.rng.choice((("values",), ("values",), ("notValues",), ("values", "notValues")))
        for name in chosen:
            found[name] = self._some(keys[key])
        return found

    def _principal(self) -> str:
        return self._like([f"{issuer}/{subject}" for issuer in ISSUERS for subject in SUBJECTS])()

    def _host(self) -> str:
        host = self._like(HOSTS)()
        if host[-1] != "*" and self.rng.random() < 0.1:
            return dotted(host)
        return (
            self._case(host)
            if self.rng.random() < 0.3
            else f"{host}:*"
            if host[-1] not in "*0" and self.rng.random() < 0.1
            else host
        )

    def _path(self) -> str:
        path = self.rng.choice(PATHS)
        if self.rng.random() < 0.75:
            return self._like((path,))()
        parts = path.split("/")
        parts[self.rng.randrange(1, len(parts))] = "{*}"
        if self.rng.random() < 0.5:
            parts[self.rng.randrange(parts.index("{*}"), len(parts)) :] = ["{**}"]
            parts += path.split("/")[-1:] if self.rng.random() < 0.3 else []
        return "/".join(parts)

    def _like(self, values: Sequence[str]) -> Callable[[], str]:
        def one() -> str:
            value = self.rng.choice(values)
            cut = self.rng.randrange(1, len(value) + 1)
            forms = (
                [value] * 9
                + [f"{value[:cut]}*"] * 4
                + [f"*{value[cut - 1 :]}"] * 3
                + ["*", value.replace(".", "x"), f"{value}x"]
            )
            return self.rng.choice(forms)

        return one

    def _one(self, values: Sequence[str]) -> Callable[[], str]:
        return lambda: self.rng.choice(values)

    def _some(self, make_one: Callable[[], str]) -> list[str]:
        return list(dict.fromkeys(make_one() for _ in range(self.rng.choice((1, 1, 2, 3)))))

    def _case(self, text: str) -> str:
        return "".join(self.rng.choice((c.lower(), c.upper())) for c in text)
