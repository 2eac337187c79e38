"""What every sidecar of a mesh has in common: its image, its bootstrap, and how a Pod's own values enter it.

It owns the step from a bootstrap document to a command line; it must never take a value from a Pod that could change
what is executed, as whom, or with which capabilities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from xds import settings
from xds.fields import ConfigError
from xds.injection.names import TOKEN_FILE
from xds.injection.patch import Json
from xds.injection.probes import Watched

VARIABLES: Final = (
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_UID",
    "SERVICE_ACCOUNT",
    "WORKLOAD_NAME",
    "APP",
    "VERSION",
)
"""Environment of every sidecar. In a bootstrap ``$(POD_NAME)`` is expanded by the kubelet, and
``%ENVIRONMENT(POD_NAME)%`` by Envoy."""

_DOLLAR = re.compile(rf"\$(?!\((?:{'|'.join(VARIABLES)})\))")

RESERVED_NAMESPACES: Final = frozenset({"kube-system", "proa-system"})
"""Namespaces that never get sidecars: what the mesh itself stands on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A mesh's sidecar. Raises ConfigError for a bootstrap that no command line could carry."""

    image: str
    bootstrap: Json
    """The document that `proa bootstrap --transparent` prints."""
    watch: Callable[[Json, Sequence[Watched]], Json]
    """Adds to a bootstrap what the sidecar asks in place of probes (`xds.bootstrap.probes`)."""
    pull_policy: str = ""
    """``imagePullPolicy`` of both containers; empty leaves it to Kubernetes."""
    reserved: frozenset[str] = RESERVED_NAMESPACES
    _text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", _argument(self.bootstrap))

    def argument(self, watched: Sequence[Watched]) -> str:
        """Return the bootstrap of a Pod as the text of ``--config-yaml``, with what stands for its probes.

        Raises ConfigError where there are more of them than a command line holds.
        """
        return _argument(self.watch(self.bootstrap, watched)) if watched else self._text


def token_secret() -> str:
    """Return the text of the file that names the token to Envoy, equal for all Pods (`xds.bootstrap.channel`)."""
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "control-plane-token",
        "generic_secret": {"secret": {"filename": TOKEN_FILE}},
    }
    return json.dumps({"resources": [secret]}, separators=(",", ":"))


def literal(text: str) -> str:
    """Return a text that the kubelet leaves as it is: in commands and environments ``$(NAME)`` is a reference."""
    return text.replace("$", "$$")


def _argument(bootstrap: Json) -> str:
    text = json.dumps(bootstrap, separators=(",", ":"))
    size = len(text.encode())
    if size > settings.SIDECAR_ARGUMENT_MAX_BYTES:
        limit = settings.SIDECAR_ARGUMENT_MAX_BYTES
        raise ConfigError("spec.containers", f"the sidecar's bootstrap takes {size} bytes, more than {limit}")
    return _DOLLAR.sub("$$", text)
