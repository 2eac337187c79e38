"""An apiserver with a control plane behind it: its Pods, its Lease, and what each Pod says on its admin port.

Owns kubelet's side of a port-forward over WebSocket; it must never use the code under test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

PROTOCOL: Final = "v4.channel.k8s.io"


class Pods:
    """Replicas by name, each with its answers by path; None: its port is closed."""

    def __init__(self, pods: Mapping[str, Mapping[str, object] | None], holder: str = "") -> None:
        self._pods = pods
        self._holder = holder
        self.asked: list[tuple[str, str]] = []
        """Pod, and method with path, in the order in which they came."""

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncGenerator[Path]:
        """Serve, and yield a kubeconfig."""
        app = web.Application()
        home = "/namespaces/proa-system"
        app.router.add_get(f"/api/v1{home}/pods", self._list)
        app.router.add_get(f"/apis/coordination.k8s.io/v1{home}/leases/proa", self._lease)
        app.router.add_get(f"/api/v1{home}/pods/{{pod}}/portforward", self._forward)
        async with TestServer(app) as server:
            path = folder / "kubeconfig"
            path.write_text(json.dumps(_kubeconfig(str(server.make_url("")))), "utf-8")
            yield path

    async def _list(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app.kubernetes.io/name=proa"
        return web.json_response(
            {"kind": "PodList", "metadata": {}, "items": [_pod(name) for name in self._pods]}
        )

    async def _lease(self, _request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"name": "proa"}, "spec": {"holderIdentity": self._holder}})

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query["ports"] == "15014"
        port = (15014).to_bytes(2, "little")
        messages = web.WebSocketResponse(protocols=(PROTOCOL,))
        await messages.prepare(request)
        for channel in (0, 1):
            await messages.send_bytes(bytes((channel,)) + port)
        pod = request.match_info["pod"]
        answers = self._pods[pod]
        if answers is None:
            await messages.send_bytes(b"\x01connection refused")
            return messages
        async for message in messages:
            if message.type is WSMsgType.BINARY and message.data[0] == 0:
                method, path, _ = message.data[1:].decode("ascii").split(" ", 2)
                self.asked.append((pod, f"{method} {path}"))
                for piece in _http(answers.get(path)):
                    await messages.send_bytes(b"\x00" + piece)
        return messages


def _http(document: object) -> list[bytes]:
    """Return an answer in pieces that end where no reader expects it."""
    body = b"not found\n" if document is None else json.dumps(document).encode()
    status = "404 Not Found" if document is None else "200 OK"
    whole = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return [whole[at : at + 50] for at in range(0, len(whole), 50)]


def _pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "proa-system", "labels": {"app.kubernetes.io/name": "proa"}},
        "spec": {"containers": [{"name": "proa", "image": "control"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
