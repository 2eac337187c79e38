"""Which rights the control plane used, as the apiserver recorded it, and which the manifest gives it.

It owns the comparison, and how one becomes the control plane; it must never decide what that should ask for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cluster.cluster import Cluster
from xds import install


class Right(NamedTuple):
    """One verb on one resource, everywhere (no namespace) or in one namespace, on all names or on one."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


def as_control_plane(cluster: Cluster, folder: Path) -> Path:
    """Return a kubeconfig with which one is the control plane's ServiceAccount."""
    token = cluster.kubectl("-n", "proa-system", "create", "token", "proa").strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "proa.kubeconfig"
    path.write_text(json.dumps(config), "utf-8")
    return path


def granted(manifest: str) -> set[Right]:
    """Return what the roles of a manifest give, one verb and resource at a time; paths are resources of no group."""
    found: set[Right] = set()
    for document in install.documents(manifest):
        if document.kind in {"ClusterRole", "Role"}:
            for rule in yaml.safe_load(document.text)["rules"]:
                found.update(_of_rule(rule, document.namespace))
    return found


def _of_rule(rule: dict[str, Any], namespace: str) -> Iterator[Right]:
    for verb in rule["verbs"]:
        for path in rule.get("nonResourceURLs", ()):
            yield Right(verb, "", path)
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", ("",)):
                    yield Right(verb, group, resource, namespace, name)


def used(cluster: Cluster, rights: Iterable[Right]) -> tuple[set[Right], list[str]]:
    """Return the rights that some request needed, and the requests that were refused or needed none of them.

    An apiserver that has just started refuses everybody until it has read its roles: a right that was granted at any
    other time was not missing.
    """
    rights = list(rights)
    needed: set[Right] = set()
    refused: list[tuple[list[Right], str]] = []
    others: list[str] = []
    log = cluster.folder / "audit.log"
    for line in log.read_text("utf-8").splitlines() if log.exists() else ():
        event = json.loads(line)
        covering = [right for right in rights if _covers(right, event)]
        asked = f"{event['verb']} {event['requestURI']}: {event['responseStatus'].get('code')}"
        if _is_open(event):
            continue
        if not covering:
            others.append(asked)
        # Not by the status: writing into a Namespace that is on its way out is allowed, and answered 403 all the same.
        elif event["annotations"].get("authorization.k8s.io/decision") == "forbid":
            refused.append((covering, asked))
        else:
            needed.update(covering)
    others += [asked for covering, asked in refused if needed.isdisjoint(covering)]
    return needed, others


def _covers(right: Right, event: dict[str, Any]) -> bool:
    if "objectRef" not in event:
        return right.resource.startswith("/") and event["requestURI"].partition("?")[0] == right.resource
    about = event["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    return (
        (event["verb"], about.get("apiGroup", ""), resource) == right[:3]
        and right.namespace in {"", about.get("namespace")}
        and right.name in {"", about.get("name")}
    )


def _is_open(event: dict[str, Any]) -> bool:
    """Tell whether everybody may ask that: which APIs there are, and whether the apiserver is well."""
    return "objectRef" not in event and event["requestURI"].startswith(
        ("/api", "/version", "/readyz", "/livez")
    )
