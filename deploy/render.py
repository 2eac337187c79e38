"""Render the manifest that `proa install` prints: a real helm, the chart with its defaults, the Namespace in front.

Owns `xds/install/manifest.yaml` and the chart's copies of deploy/observability; it must never write a line that helm
did not, except the Namespace and the head.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from xds.demo.programs import cache, go  # noqa: E402  # a script finds the package only now

CHART: Final = ROOT / "deploy" / "helm" / "proa"
TOOLS: Final = ROOT / "deploy" / "tools"
OBSERVABILITY: Final = ROOT / "deploy" / "observability"
_DASHBOARDS: Final = tuple((OBSERVABILITY / "dashboards").glob("*.json"))
MANIFEST: Final = ROOT / "xds" / "install" / "manifest.yaml"

KUBE_VERSION: Final = "1.29.0"
"""The oldest Kubernetes that the chart takes; helm would otherwise ask the version that it was built for."""

BUILD_TIMEOUT_S: Final = 1800
"""helm has 700 packages: 3 minutes of CPU, the first time."""

HEAD: Final = """\
# Proa on Kubernetes, as `proa install` prints it. Rendered by `make manifest` from deploy/helm/proa; do not edit.
---
apiVersion: v1
kind: Namespace
metadata:
  name: proa-system
  labels:
    app.kubernetes.io/part-of: proa
    pod-security.kubernetes.io/enforce: restricted
"""


def helm() -> Path:
    """Return helm, built at most once for each state of deploy/tools and each version of Go."""
    command = go(TOOLS)
    digest = hashlib.sha256((TOOLS / "go.sum").read_bytes() + (TOOLS / "go.mod").read_bytes())
    binary = cache() / "helm" / digest.hexdigest()[:16] / "helm"
    if not binary.is_file():
        _build(command, binary)
    return binary


def _build(command: Path, binary: Path) -> None:
    """Build beside the target and rename, so that two builds at once end with one whole binary."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    env.setdefault("GOCACHE", str(cache() / "go-build"))
    with tempfile.TemporaryDirectory(dir=binary.parent) as place:
        made = Path(place) / "helm"
        argv = [command, "build", "-trimpath", "-ldflags", "-s -w", "-o", made, "helm.sh/helm/v4/cmd/helm"]
        subprocess.run(argv, cwd=TOOLS, env=env, check=True, timeout=BUILD_TIMEOUT_S)
        made.rename(binary)


def render(binary: Path, *flags: str) -> str:
    """Return what helm makes of the chart; it is told of no cluster and writes nothing into the home directory."""
    with tempfile.TemporaryDirectory() as home:
        env = {"HOME": home, "PATH": os.defpath}
        argv = [
            binary,
            "template",
            "proa",
            CHART,
            "--namespace",
            "proa-system",
            "--kube-version",
            KUBE_VERSION,
        ]
        done = subprocess.run(
            [*argv, *flags], env=env, capture_output=True, text=True, check=False, timeout=60
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def manifest() -> str:
    """Return the whole manifest: the Namespace, and the rest in the order that helm installs it."""
    return HEAD + render(helm())


def copies() -> dict[Path, str]:
    """Return what the chart holds of deploy/observability: helm reads nothing outside of its chart."""
    names = ("podmonitor.yaml", "prometheusrule.yaml", *sorted(f"dashboards/{p.name}" for p in _DASHBOARDS))
    return {CHART / "monitoring" / name: (OBSERVABILITY / name).read_text("utf-8") for name in names}


def main() -> None:
    """Write the copies and the manifest, or with --check tell whether something has changed since."""
    parser = argparse.ArgumentParser(description="Render xds/install/manifest.yaml with a real helm.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when it is out of date")
    is_check = parser.parse_args().check
    for path, text in copies().items():
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            raise SystemExit(f"{path}: out of date, run `make manifest` and commit it")
    text = manifest()
    if not is_check:
        MANIFEST.parent.mkdir(exist_ok=True)
        MANIFEST.write_text(text, "utf-8")
    elif MANIFEST.read_text("utf-8") != text:
        raise SystemExit(f"{MANIFEST}: out of date, run `make manifest` and commit it")


if __name__ == "__main__":
    main()
