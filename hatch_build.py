"""Wheel hook: generate ``xds/pb``, and take along the example that ``proa demo`` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateEnvoyApi(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves its config type open
    """Runs ``protos/generate.py`` in the isolated build environment, which holds its inputs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Generate for wheels and editable installs; a checkout finds the example in its own place."""
        root = Path(self.root)
        subprocess.run([sys.executable, str(root / "protos" / "generate.py"), "--out", str(root)], check=True)
        if version == "standard":
            build_data["force_include"] = {
                str(root / "examples" / "go-services"): "xds/_examples/go-services"
            }
