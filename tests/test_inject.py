"""Who gets a sidecar."""

from __future__ import annotations

import pytest

from xds.api.core import Labels, Meta, Namespace, Pod
from xds.inject import wants_sidecar

ON: Labels = (("proa.dev/inject", "enabled"),)
ISTIO_ON: Labels = (("istio-injection", "enabled"),)


def wanted(namespace: Labels, labels: Labels = (), annotations: Labels = ()) -> bool:
    """Ask for a Pod in a namespace."""
    pod = Pod(Meta("shop", "a", labels, annotations))
    return wants_sidecar(pod, Namespace(Meta("", "shop", namespace)))


@pytest.mark.parametrize(
    ("namespace", "is_wanted"),
    [
        ((), False),
        (ON, True),
        (ISTIO_ON, True),
        ((("proa.dev/inject", "disabled"), *ISTIO_ON), False),
        ((("istio-injection", "disabled"),), False),
        ((("proa.dev/inject", "true"),), False),
    ],
)
def test_a_namespace_is_meshed_by_its_label(namespace: Labels, *, is_wanted: bool) -> None:
    """Our label, or Istio's; ours decides where both are there."""
    assert wanted(namespace) is is_wanted


@pytest.mark.parametrize("name", ["proa.dev/inject", "sidecar.istio.io/inject"])
def test_a_pod_overrides_its_namespace(name: str) -> None:
    """By label or annotation, in both directions."""
    assert not wanted(ON, labels=((name, "false"),))
    assert not wanted(ON, annotations=((name, "false"),))
    assert wanted((), labels=((name, "true"),))
    assert wanted((), annotations=((name, "true"),))


def test_the_label_wins_over_the_annotation() -> None:
    """As in Istio."""
    assert not wanted((), (("proa.dev/inject", "false"),), (("proa.dev/inject", "true"),))


def test_a_word_that_is_neither_true_nor_false_says_nothing() -> None:
    """The namespace decides."""
    assert wanted(ON, labels=(("proa.dev/inject", "maybe"),))


def test_the_hosts_network_is_never_meshed() -> None:
    """A sidecar there would stand in front of the whole node."""
    pod = Pod(Meta("shop", "a", (("proa.dev/inject", "true"),)), host_network=True)

    assert not wants_sidecar(pod, Namespace(Meta("", "shop", ON)))


def test_an_unknown_namespace_says_nothing() -> None:
    """A Pod may come before its namespace."""
    assert not wants_sidecar(Pod(Meta("shop", "a")), None)
