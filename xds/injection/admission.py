"""AdmissionReview v1 in, AdmissionReview v1 out: bytes to bytes.

It owns what of a review is read and how it is answered; it must never answer anything but yes, yes with a patch, or a
no that names the annotation to mend, and never let a body that is none of these through as an error of ours.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from xds.api.core import Labels, Meta, Namespace
from xds.fields import ConfigError
from xds.inject import INJECT
from xds.injection.decision import Outcome, Patched, Untouched, inject
from xds.injection.istio import IstioRule
from xds.injection.names import Arrival, read_arrival
from xds.injection.patch import Json
from xds.injection.template import Template
from xds.notices import Notice, Reference

API_VERSION: Final = "admission.k8s.io/v1"


class Selected(enum.Enum):
    """Which of our webhooks the apiserver asked: it knows a namespace's labels before any watch tells them."""

    ANY = ""
    """None in particular: the namespace's labels as the caller knows them decide."""
    NAMESPACE = "namespace"
    POD = "pod"
    ISTIO_NAMESPACE = "istio-namespace"
    ISTIO_POD = "istio-pod"
    RESERVED = "reserved"


_IMPLIED: Final[Mapping[Selected, Labels]] = {
    Selected.NAMESPACE: ((INJECT, "enabled"),),
    Selected.RESERVED: ((INJECT, "enabled"),),
    Selected.ISTIO_NAMESPACE: (("istio-injection", "enabled"),),
}
"""What a namespace is labelled with when a webhook's selector has matched."""


class BadReviewError(Exception):
    """A body that is no review that we can answer; the text says why, in one line."""


class _Kind(msgspec.Struct, frozen=True):
    kind: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of AdmissionRequest that decide; a Pod without a name has none here either."""

    uid: str
    kind: _Kind = _Kind()
    namespace: str | None = None
    operation: str = ""
    sub_resource: str | None = None
    dry_run: bool | None = None
    object: Any = None


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


class _Status(msgspec.Struct, frozen=True):
    message: str
    code: int = 403
    reason: str = "Forbidden"


class _Response(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    uid: str
    allowed: bool
    patch_type: str | None = None
    patch: str | None = None
    status: _Status | None = None
    warnings: tuple[str, ...] = ()


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    response: _Response
    api_version: str = API_VERSION
    kind: str = "AdmissionReview"


_DECODER: Final = msgspec.json.Decoder(_Review)
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The body to send back, what became of the Pod (a reason's value, or ``Injected``), and what to tell."""

    body: bytes
    outcome: str
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What a review is judged by."""

    template: Template
    labels: Callable[[str], Labels | None]
    """The labels of a namespace, None where it is not known (yet)."""
    istio: IstioRule


def answer(body: bytes, selected: Selected, world: World) -> Verdict:
    """Return the answer to a review; BadReviewError where the body is none."""
    request = _read(body)
    if request.kind.kind != "Pod" or request.operation != "CREATE" or request.sub_resource:
        return Verdict(_encode(_Response(request.uid, allowed=True)), "NotAPod")
    carried: object = request.object
    if not isinstance(carried, dict):
        raise BadReviewError("request.object: must be a Pod")
    pod = cast("Json", carried)
    namespace = _namespace(request.namespace or "", selected, world.labels)
    try:
        arrival = read_arrival(pod)
        outcome = inject(pod, namespace, world.template, istio=world.istio)
        encoded = _respond(request.uid, outcome)
    except (ConfigError, UnicodeEncodeError) as error:
        raise BadReviewError(f"request.object: {error}") from None
    about = _about(arrival, namespace.meta.name)
    notice = None if request.dry_run else _notice(outcome, about)
    return Verdict(encoded, "Injected" if isinstance(outcome, Patched) else outcome.reason.value, notice)


def _read(body: bytes) -> _Request:
    try:
        review = _DECODER.decode(body)
    except RecursionError:
        raise BadReviewError("is nested too deeply") from None
    except ValueError as error:  # msgspec's own, and text that is no UTF-8
        raise BadReviewError(f"is no AdmissionReview: {error}") from None
    if review.kind != "AdmissionReview" or review.api_version != API_VERSION:
        raise BadReviewError(f"must be an AdmissionReview of {API_VERSION}")
    return review.request


def _namespace(name: str, selected: Selected, labels: Callable[[str], Labels | None]) -> Namespace:
    """Return the namespace; what the apiserver has matched holds, whatever a watch that lags behind says."""
    merged = {**dict(labels(name) or ()), **dict(_IMPLIED.get(selected, ()))}
    return Namespace(Meta("", name, tuple(sorted(merged.items()))))


def _respond(uid: str, outcome: Outcome) -> bytes:
    match outcome:
        case Patched(operations, warnings):
            patch = base64.b64encode(_ENCODER.encode(operations)).decode("ascii")
            return _encode(
                _Response(uid, allowed=True, patch_type="JSONPatch", patch=patch, warnings=warnings)
            )
        case Untouched(is_refusal=True, message=message):
            return _encode(_Response(uid, allowed=False, status=_Status(message)))
        case Untouched():
            return _encode(_Response(uid, allowed=True))


def _encode(response: _Response) -> bytes:
    return _ENCODER.encode(_Answer(response))


def _notice(outcome: Outcome, about: Reference) -> Notice | None:
    """Return what to tell, None for nothing.

    A controller that creates the Pod reads our warnings, and shows them to nobody: so they are an Event too.
    """
    match outcome:
        case Patched(warnings=()):
            return None
        case Patched(warnings=warnings):
            return Notice(about, "InjectedWithWarnings", "\n".join(warnings))
        case Untouched():
            return (
                Notice(about, outcome.reason.value, outcome.message, outcome.is_refusal)
                if outcome.is_told
                else None
            )


def _about(arrival: Arrival, namespace: str) -> Reference:
    """Return something that exists by the time that it is told of: the Pod if it has a name, else who makes it."""
    if arrival.name:
        return Reference("Pod", namespace, arrival.name, "v1")
    owner = arrival.controller
    # The apiserver has not checked the Pod yet: what is not whole is not believed.
    if owner.kind.isalnum() and owner.name and owner.uid and owner.api_version:
        return Reference(owner.kind, namespace, owner.name, owner.api_version, owner.uid)
    return Reference("Namespace", "", namespace, "v1")
