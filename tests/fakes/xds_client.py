"""A model of an xDS client, written from the protocol document alone and without I/O.

It owns what a conforming client remembers and answers, and it checks what the document demands of a server; it
must never share code with `xds.stream`.

Envoy docs, api-docs/xds_protocol; rules are named by the title of their section.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from xds.pb.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

NODE = "web.shop"
POISON = b"bad"
"""A body that starts like this is rejected."""


class Violation(AssertionError):  # noqa: N818 not an error: a finding
    """The server broke a rule of the protocol."""


@dataclass
class Rejections:
    """What was refused on its own: it must not come again before something else was accepted."""

    alone: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def check(self, items: Iterable[tuple[str, str]]) -> None:
        """Refuse to see a payload again that was found guilty on its own."""
        for item in items:
            if item in self.alone:
                raise Violation(f"{item} was rejected and is sent again")

    def forget(self, name: str) -> None:
        """The client let a name go, or accepted another version of it: it may be tried again."""
        self.alone = {item for item in self.alone if item[0] != name}


@dataclass
class DeltaType:
    """One type of an incremental client."""

    url: str
    names: set[str] = field(default_factory=set[str])
    wildcard: bool = False
    cache: dict[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    absent: set[str] = field(default_factory=set[str])
    rejections: Rejections = field(default_factory=Rejections)
    opened: bool = False

    def wants(self, name: str) -> bool:
        """Whether the client would keep this name."""
        return self.wildcard or name in self.names


class DeltaClient:
    """An incremental client: `requests` is what it has written."""

    def __init__(self, urls: Iterable[str]) -> None:
        self.types = {url: DeltaType(url) for url in urls}
        self.requests: list[bytes] = []
        self._introduced = False

    def _write(self, request: DeltaDiscoveryRequest) -> None:
        if not self._introduced:
            # 'Basic Protocol Overview': only the first request is guaranteed to carry the node.
            request.node.id = NODE
            self._introduced = True
        self.requests.append(request.SerializeToString())

    def legacy(self, url: str) -> None:
        """Open a type with an empty request: the wildcard of old."""
        kind = self.types[url]
        if kind.opened:
            return
        kind.opened = kind.wildcard = True
        self._write(DeltaDiscoveryRequest(type_url=url))

    def subscribe(self, url: str, names: Iterable[str]) -> None:
        """Add names, `*` among them perhaps."""
        kind = self.types[url]
        names = list(names)
        kind.opened = True
        for name in names:
            if name == "*":
                kind.wildcard = True
            else:
                kind.names.add(name)
        self._write(DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names))

    def forget_and_resubscribe(self, url: str, name: str) -> None:
        """'Subscribing to Resources': the client may have forgotten what it is subscribed to."""
        kind = self.types[url]
        if name in kind.names:
            kind.cache.pop(name, None)
            kind.absent.discard(name)
            self.subscribe(url, [name])

    def unsubscribe(self, url: str, names: Iterable[str]) -> None:
        """Drop names; those that are not subscribed are phantoms, which the server must ignore."""
        kind = self.types[url]
        names = list(names)
        kind.opened = True
        for name in names:
            if name == "*":
                kind.wildcard = False
            kind.names.discard(name)
        for name in [name for name in kind.cache if not kind.wants(name)]:
            del kind.cache[name]
        kind.absent &= kind.names
        for name in {name for name, _ in kind.rejections.alone if not kind.wants(name)} | set(names):
            kind.rejections.forget(name)
        self._write(DeltaDiscoveryRequest(type_url=url, resource_names_unsubscribe=names))

    def reconnect(self) -> None:
        """'Incremental xDS': a new stream starts with all names and the versions that are held."""
        self.requests.clear()
        self._introduced = False
        for kind in self.types.values():
            kind.rejections = Rejections()
            kind.opened = bool(kind.names or kind.wildcard)
            if not kind.opened:
                kind.cache.clear()
                continue
            names = sorted(kind.names) + (["*"] if kind.wildcard else [])
            request = DeltaDiscoveryRequest(type_url=kind.url, resource_names_subscribe=names)
            for name, (version, _) in kind.cache.items():
                request.initial_resource_versions[name] = version
            kind.absent.clear()
            self._write(request)

    def receive(self, data: bytes, *, stale_nonce: bool = False) -> None:
        """Take a response and answer it; raises Violation."""
        response = DeltaDiscoveryResponse.FromString(data)
        kind = self.types[response.type_url]
        names = [resource.name for resource in response.resources] + list(response.removed_resources)
        if len(names) != len(set(names)):
            raise Violation(f"duplicate names in one response: {names}")
        if not names:
            raise Violation("an incremental response without content")
        versions = [(r.name, r.version) for r in response.resources]
        kind.rejections.check((n, v) for n, v in versions if kind.wants(n))
        request = DeltaDiscoveryRequest(type_url=kind.url, response_nonce=response.nonce)
        if any(r.resource.value.startswith(POISON) for r in response.resources if kind.wants(r.name)):
            request.error_detail.message = "poison"
            if len(names) == 1:
                kind.rejections.alone.update(versions)
        else:
            self._apply(kind, response)
        if stale_nonce:
            # A request for another name crosses the answer: its nonce is old, its content counts.
            self._write(DeltaDiscoveryRequest(type_url=kind.url, response_nonce="stale"))
        self._write(request)

    def _apply(self, kind: DeltaType, response: DeltaDiscoveryResponse) -> None:
        for resource in response.resources:
            if kind.wants(resource.name):
                if kind.cache.get(resource.name, ("",))[0] != resource.version:
                    kind.rejections.forget(resource.name)
                kind.cache[resource.name] = (resource.version, resource.resource.value)
                kind.absent.discard(resource.name)
        for name in response.removed_resources:
            kind.cache.pop(name, None)
            if name in kind.names:
                kind.absent.add(name)


@dataclass
class SotwType:
    """One type of a state-of-the-world client. `complete`: LDS and CDS, where absence means deletion."""

    url: str
    complete: bool
    names: set[str] = field(default_factory=set[str])
    explicit: bool = False
    wildcard: bool = False
    cache: dict[str, bytes] = field(default_factory=dict[str, bytes])
    version: str = ""
    nonce: str = ""
    refused: list[dict[str, bytes]] = field(default_factory=list[dict[str, bytes]])
    opened: bool = False
    rejected_first: bool = False
    """It came with a state of an earlier stream, and has rejected every response of this one."""
    is_new: bool = True
    """It has accepted no response of this stream."""

    def wants(self, name: str) -> bool:
        """Whether the client would keep this name."""
        return self.wildcard or name in self.names


class SotwClient:
    """A state-of-the-world client: `requests` is what it has written."""

    def __init__(self, urls: Iterable[str], complete: Iterable[str]) -> None:
        complete = set(complete)
        self.types = {url: SotwType(url, url in complete) for url in urls}
        self.requests: list[bytes] = []
        self._introduced = False

    def _write(self, kind: SotwType, error: str = "") -> None:
        names = sorted(kind.names) + (["*"] if kind.wildcard and kind.explicit else [])
        request = DiscoveryRequest(
            type_url=kind.url, resource_names=names, version_info=kind.version, response_nonce=kind.nonce
        )
        if not self._introduced:
            request.node.id = NODE
            self._introduced = True
        if error:
            request.error_detail.message = error
        self.requests.append(request.SerializeToString())

    def legacy(self, url: str) -> None:
        """Open a type with an empty list: the wildcard of old."""
        kind = self.types[url]
        if kind.opened:
            return
        kind.opened = True
        kind.wildcard = kind.complete
        self._write(kind)

    def want(self, url: str, names: Iterable[str]) -> None:
        """Replace the list of names; an empty one unsubscribes once a name was given."""
        kind = self.types[url]
        names = set(names)
        if not kind.opened and not names:
            return
        if not names and not kind.explicit:
            return
        kind.opened = kind.explicit = True
        kind.wildcard = "*" in names and kind.complete
        kind.names = names - {"*"}
        kind.refused.clear()
        self._write(kind)

    def reconnect(self) -> None:
        """A new stream: the last accepted version is told, the nonce is not."""
        self.requests.clear()
        self._introduced = False
        for kind in self.types.values():
            kind.nonce = ""
            kind.refused.clear()
            kind.rejected_first, kind.is_new = False, True
            kind.opened = bool(kind.names or kind.wildcard)
            if kind.opened:
                kind.explicit = kind.explicit and bool(kind.names or kind.wildcard)
                self._write(kind)
            else:
                kind.explicit = False
                kind.version = ""  # a type that was given up is begun anew, with nothing held

    def receive(self, data: bytes) -> None:
        """Take a response and answer it; raises Violation."""
        response = DiscoveryResponse.FromString(data)
        kind = self.types[response.type_url]
        state = {
            resource.value.split(b"=")[0].removeprefix(POISON).decode(): resource.value
            for resource in response.resources
        }
        if len(state) != len(response.resources):
            raise Violation("duplicate names in one response")
        if state in kind.refused:
            raise Violation("the rejected response is sent again")
        kind.nonce = response.nonce
        if any(body.startswith(POISON) for name, body in state.items() if kind.wants(name)):
            if len(state) == 1:
                kind.refused.append(state)
            kind.rejected_first = kind.is_new and bool(kind.version)
            self._write(kind, "poison")
            return
        kind.version = response.version_info
        kind.rejected_first = kind.is_new = False
        if kind.complete:
            kind.cache.clear()
        # 'How the client specifies …': "The client will silently ignore any supplied resources" it did not ask for.
        kind.cache.update((name, body) for name, body in state.items() if kind.wants(name))
        self._write(kind)
