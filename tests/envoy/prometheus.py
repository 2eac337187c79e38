"""A real Prometheus that reads a mesh under test by the scrape configuration that we ship.

It owns the installation, the process and the asking; it must never change a relabelling under test: only how targets
are found differs, because Pods of a test are no objects of a cluster.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import yaml
from rig import MeshUnderTest

from tests.cluster import packages
from xds.bootstrap import METRICS_PORT
from xds.demo import admin
from xds.demo.mesh import free_port
from xds.demo.processes import wait_until

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "observability"

NEEDS: Final = (partial(packages.install, ("prometheus",)),)
"""What tests with it need of the machine."""

SCRAPE: Final = "1s"
"""Instead of 15 s, so that a test need not last minutes."""

_START_S: Final = 60
_READ_S: Final = 90


class Prometheus:
    """A running Prometheus; `stop` belongs to the mesh's family of processes."""

    def __init__(self, mesh: MeshUnderTest, applications: Mapping[str, str] | None = None) -> None:
        """Start on a free port; ``applications`` are addresses by pod that the job of applications reads."""
        packages.install(("prometheus",))
        self.mesh = mesh
        self.port = free_port()
        work = mesh.mesh.work / "prometheus"
        work.mkdir()
        (work / "rules.yaml").write_text((SHIPPED / "rules.yaml").read_text("utf-8"), "utf-8")
        config = work / "prometheus.yaml"
        config.write_text(yaml.safe_dump(self._config(applications or {})), "utf-8")
        argv = ["/usr/bin/prometheus", f"--config.file={config}", f"--storage.tsdb.path={work / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self.child = mesh.mesh.family.start("prometheus", argv)
        wait_until("Prometheus is ready", self._is_ready, timeout_s=_START_S, child=self.child)

    def _config(self, applications: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text("utf-8"))
        found["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
        pods = self.mesh.pods.values()
        targets = {
            "proa-proxies": [(pod.name, f"{pod.pod_ip}:{METRICS_PORT}") for pod in pods],
            "proa-control-plane": [("proa", f"127.0.0.1:{self.mesh.mesh.admin_port}")],
            "applications": list(applications.items()),
        }
        self._targets = sum(map(len, targets.values()))
        for job in found["scrape_configs"]:
            del job["kubernetes_sd_configs"], job["relabel_configs"]
            job["static_configs"] = [
                {"targets": [address], "labels": {"pod": pod, "namespace": "shop"}}
                for pod, address in targets[job["job_name"]]
            ]
        return found

    def _is_ready(self) -> bool:
        with contextlib.suppress(admin.Unreachable):
            return b"Ready" in admin.get("127.0.0.1", self.port, "/-/ready")
        return False

    def ask(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Return the value of each series of an expression now."""
        path = "/api/v1/query?" + urlencode({"query": expr})
        answer = json.loads(admin.get("127.0.0.1", self.port, path))
        assert answer["status"] == "success", answer
        result = answer["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def value(self, expr: str) -> float:
        """Return the value of an expression that has one series, 0 if it has none."""
        found = self.ask(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0

    def wait_scraped(self) -> None:
        """Wait until every target has been read after now, and Envoy has merged what its threads counted."""
        # Histograms are merged at each flush of the statistics (bootstrap: 5 s), counters at once.
        since = time.time() + 6
        wait_until("every target is read", lambda: self._is_read(since), timeout_s=_READ_S, child=self.child)

    def _is_read(self, since: float) -> bool:
        """Tell whether the last reading of every target succeeded, and began after a time (epoch, seconds)."""
        with contextlib.suppress(admin.Unreachable):
            read_at = [at for _, at in self.ask("timestamp(up)")]
            is_up = self.value("count(up == 0) or vector(0)") == 0
            return len(read_at) == self._targets and min(read_at) >= since and is_up
        return False

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules as Prometheus has them."""
        answer = json.loads(admin.get("127.0.0.1", self.port, "/api/v1/rules"))
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def check(kind: str, path: Path) -> None:
    """Let promtool judge a file."""
    packages.install(("prometheus",))
    done = subprocess.run(
        ["/usr/bin/promtool", "check", kind, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def check_text(text: str) -> None:
    """Let promtool parse what a target answers."""
    packages.install(("prometheus",))
    done = subprocess.run(
        ["/usr/bin/promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "error while linting" not in done.stderr + done.stdout, done.stderr
    assert done.returncode in {0, 3}, done.stderr  # 3: it would name metrics differently
