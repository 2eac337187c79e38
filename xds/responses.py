"""The message that tells one subscription what is new, in both variants, and the version of a whole state.

It owns what a message must repeat; it must never decide what is sent, nor look at what a resource holds.
"""

from xxhash import xxh3_64_hexdigest

from xds import frames
from xds.dialects import Form, form_of
from xds.events import Node
from xds.held import Items
from xds.snapshot import Resource, ResourceType
from xds.subscription import Subscription

_URL_FIELDS = {kind.url: frames.type_url_field(kind.url) for kind in ResourceType}


def encode(sub: Subscription, items: Items, nonce: str, client: Node | None = None) -> bytes:
    """Return the response that carries these items, None standing for a removal, in the client's form."""
    form = form_of(client, sub.type)
    return _delta(sub, items, nonce, form) if sub.tells_absence else _sotw(sub, items, nonce, form)


def _delta(sub: Subscription, items: Items, nonce: str, form: Form | None) -> bytes:
    """Frame an incremental response; 'Duplicate Resource Names' cannot occur, as `items` is a mapping."""
    parts: list[bytes] = []
    removed: list[str] = []
    for name, resource in items.items():
        if resource is None:
            removed.append(name)
        else:
            formed = resource if form is None else form(resource)
            parts += (formed.delta_prefix, formed.sotw)
    return frames.delta_response(parts, removed, _url_field(sub.url), nonce)


def _sotw(sub: Subscription, items: Items, nonce: str, form: Form | None) -> bytes:
    """Frame a SotW response.

    'Deleting Resources': in LDS and CDS, what is not in the response is deleted. So it holds everything
    that the client accepted, with `items` laid over: what is quarantined keeps its last accepted version,
    and what is to go stays until its own step.
    """
    state: dict[str, Resource] = {}
    if sub.full:
        state.update((name, held) for name, held in sub.held.items() if isinstance(held, Resource))
    for name, resource in items.items():
        if resource is None:
            state.pop(name, None)
        else:
            state[name] = resource
    parts = [(resource if form is None else form(resource)).sotw for resource in state.values()]
    return frames.sotw_response(parts, state_version(state), _url_field(sub.url), nonce)


def state_version(state: dict[str, Resource]) -> str:
    """Return the version of a set of resources: equal sets are equal on every replica, in any order."""
    if len(state) == 1:
        return next(iter(state.values())).version
    text = "\0".join(f"{name}\0{state[name].version}" for name in sorted(state))
    return xxh3_64_hexdigest(text.encode())


def _url_field(url: str) -> bytes:
    framed = _URL_FIELDS.get(url)
    return frames.type_url_field(url) if framed is None else framed
