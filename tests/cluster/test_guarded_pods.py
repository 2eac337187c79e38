"""Who may call injected Pods, and how often: rules applied with kubectl, decided by ServiceAccount."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster import mesh as proa
from tests.cluster import shop
from tests.cluster.cluster import Cluster

ALLOW: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: APP}
spec:
  selector: {matchLabels: {app: APP}}
  action: ACTION
  rules: [{from: [{source: {principals: [cluster.local/ns/NAMESPACE/sa/web]}}]}]
"""

LIMIT: Final = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: orders}
spec: {targetRef: {kind: Service, name: orders}, rules: [{requests: 3, interval: 1h}]}
"""


def applied(mesh: Cluster, namespace: str, folder: Path, text: str) -> None:
    """Apply a manifest and wait, as a user would, until every proxy has accepted it."""
    file = folder / "rules.yaml"
    file.write_text(text.replace("metadata: {", f"metadata: {{namespace: {namespace}, "), "utf-8")
    mesh.kubectl("apply", "-f", str(file))
    done = proa.verb(mesh, "wait", "-f", str(file))
    assert done.exit_code == 0, done.output


def statuses(client: shop.Client) -> tuple[int, int]:
    """Return what one call of orders and one of the ledger, which is bytes to both sidecars, is answered; 0: closed."""
    answers: list[Any] = [
        client.call(url, timeout="5s", fresh="true")
        for url in ("http://orders/echo", "http://ledger:9000/echo")
    ]
    return answers[0].get("status", 0), answers[1].get("status", 0)


IN: Final = (200, 200)
OUT: Final = (403, 0)


@pytest.mark.parametrize(("action", "expected"), [("ALLOW", (IN, OUT)), ("DENY", (OUT, IN))])
def test_a_service_account_decides(
    mesh: Cluster,
    street: str,
    tmp_path: Path,
    action: str,
    expected: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Requests are answered 403, connections of bytes are closed; without the policies everybody is let in again."""
    rules = "---".join(ALLOW.replace("APP", app) for app in ("orders", "ledger"))
    with shop.Client(mesh, street, "web") as web, shop.Client(mesh, street, "visitor") as visitor:
        before = statuses(web), statuses(visitor)
        applied(mesh, street, tmp_path, rules.replace("ACTION", action).replace("NAMESPACE", street))
        during = statuses(web), statuses(visitor)
        mesh.kubectl("delete", "-f", str(tmp_path / "rules.yaml"))
        gone = proa.verb(mesh, "wait", "--gone", "-f", str(tmp_path / "rules.yaml"))
        after = statuses(web), statuses(visitor)

    assert gone.exit_code == 0, gone.output
    assert during == expected
    assert before == after == (IN, IN)


def test_each_pod_of_a_service_has_its_limit(mesh: Cluster, street: str, tmp_path: Path) -> None:
    """Three requests for each of two Pods, whoever asks; the others are answered 429."""
    with shop.Client(mesh, street, "web") as web:
        applied(mesh, street, tmp_path, LIMIT)
        answer: Any = web.call("http://orders/echo", n=40)
        mesh.kubectl("delete", "ratelimit/orders", "-n", street)

    assert answer["by_status"] == {"200": 6, "429": 34}
