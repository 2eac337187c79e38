"""The MutatingWebhookConfiguration `proa-injector`: whom the apiserver asks us about, and whom it must believe.

It owns that object and the patch that mends it; it must never send anything, nor change a webhook that is not ours.
Whoever is selected cannot be created while nobody answers; so the selectors name what asked for a sidecar and nothing
else, never kube-system or our own namespace, and of Istio's labels only those that Istio does not serve.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from xds.api.core import Labels
from xds.fields import ConfigError, Reader
from xds.inject import INJECT
from xds.injection.admission import Selected
from xds.injection.istio import IstioLabels, IstioRule
from xds.injection.patch import Json, Operation
from xds.injection.template import RESERVED_NAMESPACES

NAME: Final = "proa-injector"
DOMAIN: Final = "injector.proa.dev"

_TIMEOUT_S: Final = 5
"""How long a creation may wait for us; an answer takes milliseconds."""

_RESERVED_TIMEOUT_S: Final = 2
"""The same in namespaces that the mesh itself stands on: they are never held up for long."""

_POD_ISTIO: Final = "sidecar.istio.io/inject"
_NAMESPACE_ISTIO: Final = "istio-injection"
_NAME_LABEL: Final = "kubernetes.io/metadata.name"

_RULE: Final[Json] = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "operations": ["CREATE"],
    "resources": ["pods"],
    "scope": "Namespaced",
}


class _Requirement(NamedTuple):
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def json(self) -> Json:
        values: Json = {"values": list(self.values)} if self.values else {}
        return {"key": self.key, "operator": self.operator, **values}


class _Entry(NamedTuple):
    """Whom one webhook selects. Two of Istio's may select the same Pod: the second finds it injected."""

    selected: Selected
    namespaces: tuple[_Requirement, ...]
    pods: tuple[_Requirement, ...] = ()


_FREE: Final = _Requirement(_NAME_LABEL, "NotIn", tuple(sorted(RESERVED_NAMESPACES)))
_UNASKED: Final = _Requirement(INJECT, "NotIn", ("true",))
_NOT_ON: Final = _Requirement(INJECT, "NotIn", ("enabled",))

_ENTRIES: Final = (
    _Entry(Selected.NAMESPACE, (_Requirement(INJECT, "In", ("enabled",)), _FREE)),
    _Entry(Selected.POD, (_NOT_ON, _FREE), (_Requirement(INJECT, "In", ("true",)),)),
    _Entry(
        Selected.ISTIO_NAMESPACE,
        (
            _Requirement(_NAMESPACE_ISTIO, "In", ("enabled",)),
            _Requirement(INJECT, "NotIn", ("enabled", "disabled")),
            _FREE,
        ),
        (_UNASKED,),
    ),
    _Entry(
        Selected.ISTIO_POD,
        (_NOT_ON, _FREE),
        (_Requirement(_POD_ISTIO, "In", ("true",)), _UNASKED),
    ),
    # Never patches, and is passed over while we are away: it only says why nothing happens there.
    _Entry(
        Selected.RESERVED,
        (
            _Requirement(INJECT, "In", ("enabled",)),
            _Requirement(_NAME_LABEL, "In", tuple(sorted(RESERVED_NAMESPACES))),
        ),
    ),
)

_ISTIOS: Final[dict[Selected, tuple[Labels, Labels]]] = {
    Selected.ISTIO_NAMESPACE: (((_NAMESPACE_ISTIO, "enabled"),), ()),
    Selected.ISTIO_POD: ((), ((_POD_ISTIO, "true"),)),
}
"""The plainest Pod that each of these selects: if an Istio injector selects it as well, it is Istio's."""


def configuration(client: Callable[[str], Json], mode: IstioLabels = IstioLabels.AUTO) -> Json:
    """Return the object as it is installed; ``client`` gives a ``clientConfig`` for a path.

    Without a CA bundle nobody is believed, so what it selects is refused until the leader has added one.
    """
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [
            _webhook(entry, client(f"/inject/{entry.selected.value}"), mode)
            for entry in _ENTRIES
            if mode is not IstioLabels.OFF or entry.selected not in _ISTIOS
        ],
    }


def _webhook(entry: _Entry, client: Json, mode: IstioLabels) -> Json:
    is_reserved = entry.selected is Selected.RESERVED
    is_ignored = is_reserved or (entry.selected in _ISTIOS and mode is IstioLabels.AUTO)
    pods: Json = (
        {"objectSelector": {"matchExpressions": [each.json() for each in entry.pods]}} if entry.pods else {}
    )
    return {
        "name": _name(entry.selected),
        "clientConfig": client,
        "rules": [dict(_RULE)],
        "namespaceSelector": {"matchExpressions": [each.json() for each in entry.namespaces]},
        **pods,
        "failurePolicy": "Ignore" if is_ignored else "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "NoneOnDryRun",  # an Event says why a Pod was left alone
        "timeoutSeconds": _RESERVED_TIMEOUT_S if is_reserved else _TIMEOUT_S,
        "admissionReviewVersions": ["v1"],
    }


def _name(selected: Selected) -> str:
    return f"{selected.value}.{DOMAIN}"


def mend(live: object, roots: Sequence[str], istio: IstioRule | None) -> tuple[Operation, ...]:
    """Return what makes a MutatingWebhookConfiguration believe exactly these roots (PEM); nothing if it does.

    Istio's entries refuse what nobody answered for only while Istio does not serve them; None leaves that as it is.
    The patch carries the version that was read, so that one made for an older object is a conflict. Raises
    ConfigError for JSON that is no such configuration.
    """
    top = Reader(live, "", [])
    metadata = top.object("metadata") or Reader({}, "metadata", [])
    version = metadata.text("resourceVersion")
    bundle = base64.b64encode("".join(roots).encode("ascii")).decode("ascii")
    operations = [
        operation
        for index, webhook in enumerate(top.objects("webhooks"))
        if webhook.text("name").endswith(f".{DOMAIN}")
        for operation in _mend(webhook, f"/webhooks/{index}", bundle, istio)
    ]
    if not operations:
        return ()
    return (Operation("replace", "/metadata/resourceVersion", version), *operations)


def _mend(webhook: Reader, at: str, bundle: str, istio: IstioRule | None) -> list[Operation]:
    operations: list[Operation] = []
    client = webhook.object("clientConfig")
    if client is None:
        raise ConfigError(webhook.at("clientConfig"), "is required")
    if client.text("caBundle", "", limit=len(bundle) * 2 + 65536) != bundle:
        operations.append(Operation("add", f"{at}/clientConfig/caBundle", bundle))
    wanted = _policy(webhook.text("name"), istio)
    if wanted and webhook.text("failurePolicy", "Fail") != wanted:
        operations.append(Operation("add", f"{at}/failurePolicy", wanted))
    return operations


def _policy(name: str, istio: IstioRule | None) -> str:
    """Return the failure policy of one of Istio's entries, empty for what is none of the leader's."""
    for selected, (namespace, pod) in _ISTIOS.items():
        if name == _name(selected) and istio is not None:
            return "Ignore" if istio.objection(namespace, pod) else "Fail"
    return ""
