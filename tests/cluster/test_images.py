"""The control plane's image in a real kubelet: under the restricted standard, on a read-only root, without a shell."""

from __future__ import annotations

import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import images, node
from tests.cluster.cluster import Cluster
from xds import install


def as_installed(*args: str) -> dict[str, Any]:
    """Return a Pod like those of the Deployment, with other arguments and without what only a server has."""
    deployment = next(one for one in install.documents(install.carried()) if one.kind == "Deployment")
    spec = yaml.safe_load(deployment.text)["spec"]["template"]["spec"]
    del spec["serviceAccountName"]
    container = spec["containers"][0]
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        del container[key]
    container["args"] = list(args)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "proa"},
        "spec": {**spec, "restartPolicy": "Never", "automountServiceAccountToken": False},
    }


def test_older_states_of_an_image_go_and_others_stay(tmp_path: Path) -> None:
    """The cache holds what somebody used within the hour, whatever has been built since."""
    now = time.time()
    ages = {
        "control-new": 0, "control-other": 1800, "control-old": 2 * images.IN_USE_S,
        "proxy-old": 2 * images.IN_USE_S, "control-base-old": 2 * images.IN_USE_S,
    }  # fmt: skip
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.tar").touch()
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / "shop-old.tar").touch()
    images.prune(tmp_path / "control-new")

    assert {place.name for place in tmp_path.iterdir()} == {*ages, "shop-old.tar"} - {"control-old"}


def test_it_runs_as_the_manifest_says(cluster: Cluster) -> None:
    """Python, `proa` and every library are there; the namespace enforces the restricted standard."""
    node.import_image(cluster.folder, images.proa("control"))
    with cluster.namespace("control", {"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        cluster.apply(json.dumps(as_installed("bootstrap", "--help")), namespace)
        cluster.kubectl(
            "-n", namespace, "wait", "pod/proa", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s"
        )
        said = cluster.kubectl("-n", namespace, "logs", "proa")

    assert "--transparent" in said


def test_there_is_no_shell_and_nothing_to_install_with() -> None:
    """Whoever gets in finds Python, and no pip, no compiler, no shell."""
    names = _names(images.proa("control"))

    assert names >= {"usr/local/bin/python3", "tmp"}
    assert not names & {"bin/sh", "bin/bash", "usr/bin/sh", "usr/bin/env", "usr/local/bin/pip", "usr/bin/cc"}
    assert not {name for name in names if name.startswith("usr/local/lib/python3") and "/pip/" in name}


def _names(archive: Path) -> set[str]:
    """Return the paths in the layers of a docker archive."""
    found: set[str] = set()
    with tarfile.open(archive) as outer:
        for member in outer.getmembers():
            layer = outer.extractfile(member) if member.name.endswith(".tar") and member.isfile() else None
            if layer is not None:
                with tarfile.open(fileobj=layer) as inner:
                    found |= {name.rstrip("/") for name in inner.getnames()}
    return found
