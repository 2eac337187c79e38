"""What annotations may ask of a sidecar: its resources, its threads, and which traffic passes it by.

It owns the names and grammars of these annotations, our own and Istio's; it must never let one reach an image, a
user, a capability or a command. A value that does not parse refuses the Pod: an exclusion that is silently lost
breaks the application, one that is silently widened leaves the mesh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple, TypeVar, cast

from xds import settings
from xds.address import PORT_MAX
from xds.api.addresses import read_cidr
from xds.documents import DocumentError, parse_yaml
from xds.fields import ConfigError, show

T = TypeVar("T")

LIST_MAX: Final = 64
"""Most ports or ranges of one annotation: each is an element of a set in the kernel, and of a command line."""

_CONFIG_MAX_CHARS: Final = 4096
"""Longest `proxy.istio.io/config` read: a hundred lines."""

_RESERVED: Final = range(15000, 15007)
"""Ports of the sidecar that must stay behind interception: excluding them would open its relays to strangers."""

_QUANTITY = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_SCALE: Final = {
    "m": Fraction(1, 1000), "": Fraction(1), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
}  # fmt: skip
_CPU_SUFFIXES: Final = frozenset({"", "m"})

_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


class Resources(NamedTuple):
    """Requests and limits of a sidecar, as Kubernetes quantities; empty for none."""

    cpu: str = settings.SIDECAR_CPU
    memory: str = settings.SIDECAR_MEMORY
    cpu_limit: str = settings.SIDECAR_CPU_LIMIT
    memory_limit: str = settings.SIDECAR_MEMORY_LIMIT


class Exclusions(NamedTuple):
    """Traffic that interception leaves alone, as `xds.redirect` takes it: parsed, without repetition, bounded."""

    excluded_inbound_ports: tuple[int, ...] = ()
    excluded_outbound_ports: tuple[int, ...] = ()
    excluded_cidrs: tuple[str, ...] = ()
    included_cidrs: tuple[str, ...] = ()
    """Only these are intercepted; empty: all."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one Pod's annotations ask for; ``concurrency`` 0 means a worker thread for each core."""

    resources: Resources
    concurrency: int
    exclusions: Exclusions
    warnings: tuple[str, ...]
    """Annotations of Istio's that are passed over, each with its effect."""


CPU: Final = ("proa.dev/proxy-cpu", "sidecar.istio.io/proxyCPU")
MEMORY: Final = ("proa.dev/proxy-memory", "sidecar.istio.io/proxyMemory")
CPU_LIMIT: Final = ("proa.dev/proxy-cpu-limit", "sidecar.istio.io/proxyCPULimit")
MEMORY_LIMIT: Final = ("proa.dev/proxy-memory-limit", "sidecar.istio.io/proxyMemoryLimit")
INBOUND_PORTS: Final = ("proa.dev/exclude-inbound-ports", "traffic.sidecar.istio.io/excludeInboundPorts")
OUTBOUND_PORTS: Final = ("proa.dev/exclude-outbound-ports", "traffic.sidecar.istio.io/excludeOutboundPorts")
OUTBOUND_CIDRS: Final = (
    "proa.dev/exclude-outbound-cidrs",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
)
INCLUDED_CIDRS: Final = (
    "proa.dev/include-outbound-cidrs",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
)
CONCURRENCY: Final = "proa.dev/concurrency"
ISTIO_CONFIG: Final = "proxy.istio.io/config"

READ: Final = (
    *CPU, *MEMORY, *CPU_LIMIT, *MEMORY_LIMIT, *INBOUND_PORTS, *OUTBOUND_PORTS, *OUTBOUND_CIDRS, *INCLUDED_CIDRS,
    CONCURRENCY, ISTIO_CONFIG,
)  # fmt: skip
"""Every annotation that shapes a sidecar; of each pair ours is asked first."""

_PASSED_OVER: Final = {
    "sidecar.istio.io/proxyImage": "the image is the mesh's",
    "sidecar.istio.io/bootstrapOverride": "the bootstrap is the mesh's",
    "sidecar.istio.io/userVolume": "the sidecar mounts its token alone",
    "sidecar.istio.io/userVolumeMount": "the sidecar mounts its token alone",
    "sidecar.istio.io/interceptionMode": "interception is REDIRECT",
    "traffic.sidecar.istio.io/includeInboundPorts": "every inbound port is intercepted: exclude ports instead",
    "traffic.sidecar.istio.io/includeOutboundPorts": "every outbound port is intercepted: exclude ports instead",
    "traffic.sidecar.istio.io/excludeInterfaces": "every interface is intercepted",
}


def read_wishes(annotations: Mapping[str, str]) -> Wishes:
    """Return what the annotations ask for; raise ConfigError for the first value that does not parse."""
    return Wishes(
        _resources(annotations),
        _concurrency(annotations),
        Exclusions(
            _first(annotations, INBOUND_PORTS, _inbound_ports, ()),
            _first(annotations, OUTBOUND_PORTS, _ports, ()),
            _excluded_cidrs(annotations),
            _first(annotations, INCLUDED_CIDRS, _included_cidrs, ()),
        ),
        tuple(f"{name} is ignored: {why}" for name, why in _PASSED_OVER.items() if name in annotations),
    )


def _first(
    annotations: Mapping[str, str], names: tuple[str, str], read: Callable[[str, str], T], default: T
) -> T:
    for name in names:
        if name in annotations:
            return read(annotations[name], f"metadata.annotations[{name}]")
    return default


def _resources(annotations: Mapping[str, str]) -> Resources:
    default = Resources()
    cpu = _span(annotations, (CPU, CPU_LIMIT), _cpu, (default.cpu, default.cpu_limit))
    memory = _span(annotations, (MEMORY, MEMORY_LIMIT), _memory, (default.memory, default.memory_limit))
    return Resources(cpu[0], memory[0], cpu[1], memory[1])


def _span(
    annotations: Mapping[str, str],
    names: tuple[tuple[str, str], tuple[str, str]],
    read: Callable[[str, str], str],
    default: tuple[str, str],
) -> tuple[str, str]:
    """Return request and limit; a default gives way to what was asked for, so that it never makes a Pod invalid."""
    request, limit = (_first(annotations, pair, read, "") for pair in names)
    if request and limit and _amount(request) > _amount(limit):
        raise ConfigError(
            f"metadata.annotations[{_said(annotations, names[0])}]",
            f"must be at most the limit, {limit}, got {request}",
        )
    asked = request or (default[0] if not limit or _amount(default[0]) <= _amount(limit) else limit)
    if limit or not default[1]:
        return asked, limit
    return asked, default[1] if _amount(asked) <= _amount(default[1]) else asked


def _said(annotations: Mapping[str, str], names: tuple[str, str]) -> str:
    return next(name for name in names if name in annotations)


def _cpu(text: str, path: str) -> str:
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[2] or "") not in _CPU_SUFFIXES or not _amount(text):
        raise ConfigError(path, f"must be an amount of CPU such as 100m or 0.5, got {show(text)}")
    return text


def _memory(text: str, path: str) -> str:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] == "m" or not _amount(text):
        raise ConfigError(path, f"must be an amount of memory such as 128Mi, got {show(text)}")
    return text


def _amount(text: str) -> Fraction:
    match = _QUANTITY.fullmatch(text)
    return Fraction(0) if match is None else Fraction(match[1]) * _SCALE[match[2] or ""]


def _ports(text: str, path: str) -> tuple[int, ...]:
    """Read ``9090, 9091``; empty for none."""
    ports: set[int] = set()
    for word in _words(text, path):
        if not (
            word.isascii() and word.isdigit() and len(word) <= len("65535") and 0 < int(word) <= PORT_MAX
        ):
            raise ConfigError(path, f"must be port numbers of 1..{PORT_MAX} and commas, got {show(word)}")
        ports.add(int(word))
    return tuple(sorted(ports))


def _inbound_ports(text: str, path: str) -> tuple[int, ...]:
    ports = _ports(text, path)
    own = next((port for port in ports if port in _RESERVED), None)
    if own is not None:
        raise ConfigError(
            path, f"must not name {own}: {_RESERVED[0]}..{_RESERVED[-1]} are the sidecar's own doors"
        )
    return ports


def _cidrs(text: str, path: str) -> tuple[str, ...]:
    """Read ``10.0.0.0/8, fd00::/8``; host bits are cleared, as in Go's netip and in Istio."""
    return tuple(sorted({read_cidr(word, path) for word in _words(text, path)}))


def _excluded_cidrs(annotations: Mapping[str, str]) -> tuple[str, ...]:
    excluded = _first(annotations, OUTBOUND_CIDRS, _cidrs, ())
    # Istio: an empty list of included ranges turns outbound interception off.
    is_off = _first(annotations, INCLUDED_CIDRS, lambda text, _path: not text.strip(), default=False)
    return _EVERYWHERE if is_off else excluded


def _included_cidrs(text: str, path: str) -> tuple[str, ...]:
    return () if text.strip() == "*" else _cidrs(text, path)


def _words(text: str, path: str) -> list[str]:
    words = [word.strip() for word in text.split(",", LIST_MAX)] if text.strip() else []
    if len(words) > LIST_MAX:
        raise ConfigError(path, f"must have at most {LIST_MAX} entries")
    return words


def _concurrency(annotations: Mapping[str, str]) -> int:
    if CONCURRENCY in annotations:
        text, path = annotations[CONCURRENCY], f"metadata.annotations[{CONCURRENCY}]"
        is_number = text.isascii() and text.isdigit() and len(text) <= len("64")
        return _threads(int(text) if is_number else text, path)
    if ISTIO_CONFIG in annotations:
        path = f"metadata.annotations[{ISTIO_CONFIG}]"
        return _threads(_istio_config(annotations[ISTIO_CONFIG], path).get("concurrency"), path)
    return settings.SIDECAR_CONCURRENCY


def _threads(value: object, path: str) -> int:
    if value is None:
        return settings.SIDECAR_CONCURRENCY
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 0 <= value <= settings.SIDECAR_CONCURRENCY_MAX
    ):
        raise ConfigError(
            path,
            f"concurrency: must be 0..{settings.SIDECAR_CONCURRENCY_MAX} (0: one for each core), got {show(value)}",
        )
    return value


def _istio_config(text: str, path: str) -> dict[str, object]:
    """Return Istio's ProxyConfig as it is written in an annotation; only `concurrency` means anything here."""
    if len(text) > _CONFIG_MAX_CHARS:
        raise ConfigError(path, f"must be at most {_CONFIG_MAX_CHARS} characters, got {len(text)}")
    try:
        documents = list(parse_yaml(text))
    except DocumentError as error:
        raise ConfigError(path, str(error)) from None
    if not documents:
        return {}
    error, value = documents[0].error, documents[0].value
    if error is not None or not isinstance(value, dict):
        raise ConfigError(path, str(error or "must be a YAML object, as in concurrency: 2"))
    return cast("dict[str, object]", value)
