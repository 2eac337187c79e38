"""The field ``gateways`` of Istio's VirtualService: which of its rules are for sidecars, and which for gateways alone.

It must never read what a rule does: what no sidecar goes by may hold anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.grammar import check_host, check_label

if TYPE_CHECKING:
    from xds.fields import Reader

MESH: Final = "mesh"
"""The gateway name that stands for all sidecars, and the default (Istio's reserved word)."""


def read_gateways(reader: Reader) -> tuple[str, ...]:
    """Return the names of gateways, ``NAME`` or ``NAMESPACE/NAME``."""
    gateways = reader.texts("gateways")
    for i, gateway in enumerate(gateways):
        namespace, _, name = gateway.rpartition("/")
        path = f"{reader.at('gateways')}[{i}]"
        check_host(path, name)
        if namespace:
            check_label(path, namespace)
    return gateways


def read_elsewhere(rule: Reader, gateways: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the gateways of each match of a rule that only gateways go by, nothing for a rule that sidecars have.

    ``gateways`` are those of the VirtualService, which hold for a match that names none.
    """
    matches = rule.objects("match")
    bound = tuple(read_gateways(match) for match in matches)
    if not bound or any(MESH in (names or (MESH,)) for names in bound):
        return ()
    for match, names in zip(matches, bound, strict=True):
        warn_unbound(match, names, gateways)
    return bound


def warn_unbound(match: Reader, names: tuple[str, ...], gateways: tuple[str, ...]) -> None:
    """Warn of a match that names none of the VirtualService's gateways: a typing error, most likely."""
    if names and not set(names) & set(gateways):
        match.warn("gateways", "names no gateway of this VirtualService, so this match never holds")


def leave_connections(spec: Reader, gateways: tuple[str, ...], *, has_requests: bool) -> None:
    """Leave out the rules for connections, which Proa balances as the Service says.

    ``has_requests`` says that sidecars have rules for requests as well. These hold all the same; without any the
    object would do nothing, and is refused.
    """
    for name in ("tcp", "tls"):
        if all(read_elsewhere(rule, gateways) for rule in spec.objects(name)):
            continue  # for gateways alone, or none
        if has_requests:
            spec.leave(
                name, "these connections go where the Service points; without http the object is refused"
            )
        else:
            spec.refuse(name, "these connections would go where the Service points instead")
