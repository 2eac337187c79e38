"""Requests to an API that answers in every way it can: bounds, deadlines, one error, and credentials that change."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.entropy import counted_entropy
from xds import settings
from xds.ca import new_channel_root, pem_of
from xds.kube.client import Client, split
from xds.kube.credentials import Credentials
from xds.sources.transport import NO_ANSWER, TOO_LARGE, ApiError

SECRET = "s3cr3t-t0k3n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def kubeconfig(folder: Path, url: str, user: dict[str, Any] | None = None, **context: str) -> Path:
    """Write a kubeconfig of one context."""
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user or {"token": SECRET}}],
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **context}}],
            }
        )
    )
    return path


@asynccontextmanager
async def talking(
    folder: Path, handler: Handler, user: dict[str, Any] | None = None, **context: str
) -> AsyncGenerator[Client]:
    """Serve every path with one handler, and yield a client of it."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    async with (
        TestServer(app) as server,
        await Client.connect(kubeconfig(folder, str(server.make_url("")), user, **context)) as client,
    ):
        yield client


async def refusal(call: Awaitable[object]) -> ApiError:
    """Return the error of a call that must fail."""
    with pytest.raises(ApiError) as caught:
        await call
    assert SECRET not in str(caught.value) + repr(caught.value)
    return caught.value


def stream(*chunks: bytes, then: float = 0.0) -> Handler:
    """Return a handler that sends chunks as they are, then waits, then ends."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        await asyncio.sleep(then)  # the server is slow: the client must not wait for it
        return response

    return handler


# -- Calls -----------------------------------------------------------------------------------------


async def test_a_call_sends_what_it_is_given(tmp_path: Path) -> None:
    """Method, path, query, body, content type and token."""
    seen: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        seen.extend([request.method, request.path_qs, request.headers["Authorization"]])
        seen.extend([request.content_type, await request.json()])
        return web.Response(body=b"answer")

    async with talking(tmp_path, handler, namespace="shop") as client:
        body = await client.call(
            "PATCH",
            "/api/v1/x",
            query={"a": "b c"},
            body={"k": 1},
            content_type="application/merge-patch+json",
        )
        assert (body, client.namespace) == (b"answer", "shop")
    assert seen == [
        "PATCH",
        "/api/v1/x?a=b+c",
        f"Bearer {SECRET}",
        "application/merge-patch+json",
        {"k": 1},
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            web.json_response({"reason": "NotFound", "message": "no x", "code": 404}, status=404),
            (404, "NotFound", "no x", None),
        ),
        (
            web.Response(status=429, text="too many", headers={"Retry-After": "3"}),
            (429, None, "too many", 3.0),
        ),
        (
            web.json_response({"reason": "Busy", "details": {"retryAfterSeconds": 9}}, status=503),
            (503, "Busy", "", 9.0),
        ),
        (web.Response(status=500, body=b"\xff\n<html>"), (500, None, "\ufffd <html>", None)),
        (web.Response(status=503, headers={"Retry-After": "Mon, 1 Jan 2001"}), (503, None, "", None)),
    ],
)
async def test_a_refusal_says_what_the_api_said(
    tmp_path: Path, answer: web.Response, expected: tuple[Any, ...]
) -> None:
    """Status, reason, message and how long to wait, whatever the body is."""

    async def handler(_: web.Request) -> web.Response:
        return answer

    async with talking(tmp_path, handler) as client:
        error = await refusal(client.call("GET", "/x"))
    status, reason, message, wait_s = expected
    assert (error.status, error.message, error.retry_after_s) == (status, message, wait_s)
    assert reason is None or error.reason == reason


async def test_a_long_message_is_cut(tmp_path: Path) -> None:
    """A validation error may list every field; what is read of it is bounded as well."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"message": "x" * 10_000}, status=422)

    async with talking(tmp_path, handler) as client:
        error = await refusal(client.call("POST", "/x"))
    assert len(error.message) == settings.KUBE_MESSAGE_MAX_CHARS


async def test_a_body_has_a_bound(tmp_path: Path) -> None:
    """More than it is no answer: the caller asks for less."""
    half = b"x" * (settings.KUBE_BODY_MAX_BYTES // 2)

    async with talking(tmp_path, stream(half, half)) as client:
        assert len(await client.call("GET", "/x")) == settings.KUBE_BODY_MAX_BYTES
    async with talking(tmp_path, stream(half, half, b"x")) as client:
        error = await refusal(client.call("GET", "/x"))
    assert (error.status, error.reason) == (NO_ANSWER, TOO_LARGE)


async def test_a_call_has_a_deadline(tmp_path: Path) -> None:
    """For all of the answer, not for its first byte."""
    async with talking(tmp_path, stream(b"x", then=5)) as client:
        began_at = time.monotonic()
        error = await refusal(client.call("GET", "/x", timeout_s=0.2))
    assert (error.status, error.reason) == (NO_ANSWER, "Timeout")
    assert time.monotonic() - began_at < 4  # before the rest would have come


async def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    """Also in a watch."""
    async with await Client.connect(kubeconfig(tmp_path, "http://127.0.0.1:1")) as client:
        call = await refusal(client.call("GET", "/x"))
        with pytest.raises(ApiError) as watch:
            async with client.lines("/x", query={}, read_timeout_s=1):
                pass
    assert (call.status, watch.value.status) == (NO_ANSWER, NO_ANSWER)


async def test_a_broken_answer_is_no_answer(tmp_path: Path) -> None:
    """A body that is cut off is not taken for a shorter one."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    async with talking(tmp_path, handler) as client:
        assert (await refusal(client.call("GET", "/x"))).status == NO_ANSWER


# -- Watches ---------------------------------------------------------------------------------------


async def test_a_line_of_four_mebibytes_comes_whole(tmp_path: Path) -> None:
    """And so do its neighbours, however the bytes were cut."""
    big = b"b" * (4 << 20)
    whole = b"a\n" + big + b"\nc\n"
    chunks = [whole[i : i + 100_000] for i in range(0, len(whole), 100_000)]

    async with (
        talking(tmp_path, stream(*chunks)) as client,
        client.lines("/x", query={"watch": "1"}, read_timeout_s=5) as lines,
    ):
        found = [line async for line in lines]
    assert [len(line) for line in found] == [1, 4 << 20, 1]


async def test_a_line_has_a_bound(tmp_path: Path) -> None:
    """Memory is not the server's to take."""
    chunk = b"x" * (1 << 20)

    async with talking(tmp_path, stream(*[chunk] * 17)) as client:
        with pytest.raises(ApiError) as caught:
            async with client.lines("/x", query={}, read_timeout_s=5) as lines:
                assert [line async for line in lines] == []
    assert caught.value.reason == TOO_LARGE


async def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    """What had come before the silence was handed on."""
    async with (
        talking(tmp_path, stream(b"one\n", then=5)) as client,
        client.lines("/x", query={}, read_timeout_s=0.2) as lines,
    ):
        assert await anext(lines) == b"one"
        with pytest.raises(ApiError) as caught:
            await anext(lines)
    assert caught.value.reason == "Timeout"


async def test_a_refused_watch_says_why(tmp_path: Path) -> None:
    """When it is opened."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Expired", "code": 410, "message": "too old"}, status=410)

    async with talking(tmp_path, handler) as client:
        with pytest.raises(ApiError) as caught:
            async with client.lines("/x", query={}, read_timeout_s=5):
                pass
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


async def _from(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.binary(max_size=6)), st.binary(max_size=4))
def test_lines_do_not_depend_on_chunks(chunks: list[bytes], rest: bytes) -> None:
    """Whatever the cuts are; what has no end is no line."""

    async def collect() -> list[bytes]:
        return [line async for line in split(_from([*chunks, rest.replace(b"\n", b"")]))]

    whole = b"".join(chunks) + rest.replace(b"\n", b"")
    assert asyncio.run(collect()) == [line for line in whole.split(b"\n")[:-1] if line]


# -- Credentials -----------------------------------------------------------------------------------


def plugin(folder: Path, expires: str = "") -> dict[str, Any]:
    """Write an exec plugin that gives another token each time, and return the user that it belongs to."""
    status = {"token": "'$n'", **({"expirationTimestamp": expires} if expires else {})}
    answer = json.dumps(
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    )
    script = folder / "plugin.sh"
    script.write_text(
        f"#!/bin/sh\necho x >> {folder}/runs\nn=token-$(wc -l < {folder}/runs | tr -d ' ')\necho '{answer}'\n"
    )
    script.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


async def test_a_plugin_is_asked_again_when_its_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each refusal, and not before its time if nobody refuses."""
    monkeypatch.setattr(settings, "KUBE_CREDENTIALS_RETRY_S", 0.0)
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=200 if request.headers["Authorization"] == "Bearer token-2" else 401)

    async with talking(tmp_path, handler, plugin(tmp_path, "2099-01-01T00:00:00Z")) as client:
        await client.call("GET", "/x")
        await client.call("GET", "/x")
    assert seen == ["Bearer token-1", "Bearer token-2", "Bearer token-2"]


async def test_refused_for_good_is_told(tmp_path: Path) -> None:
    """A plugin is not run for every request of a user without rights."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)

    async with talking(tmp_path, handler, plugin(tmp_path)) as client:
        for _ in range(5):
            assert (await refusal(client.call("GET", "/x"))).status == 401
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


async def test_a_token_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projected tokens are swapped under the same name."""
    monkeypatch.setattr(settings, "KUBE_CREDENTIALS_REFRESH_S", 0.0)
    token = tmp_path / "token"
    token.write_text("first")
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response()

    async with talking(tmp_path, handler, {"tokenFile": str(token)}) as client:
        await client.call("GET", "/x")
        token.write_text("second")
        await client.call("GET", "/x")
    assert seen == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "unexpected shape"), ("{", "parsing"), ('{"current-context": "x", "contexts": []}', "x")],
)
async def test_a_configuration_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    """In one line, without a credential."""
    path = tmp_path / "config"
    path.write_text(text)
    error = await refusal(Credentials.load(path, None))

    assert words in error.message
    assert "\n" not in error.message


async def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The library would pass over it."""
    assert str(await refusal(Client.connect(tmp_path / "nope"))) == (
        f"no answer configuration: {tmp_path}/nope is not a file"
    )


async def test_a_pod_reads_its_own_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig: host, token and namespace are the kubelet's."""
    from kubernetes.aio import config
    from kubernetes.aio.config import incluster_config

    from xds.kube import credentials

    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "namespace").write_text("proa-system")
    root = new_channel_root(now=time.time(), entropy=counted_entropy())
    (tmp_path / "ca.crt").write_bytes(pem_of([root.certificate]))
    monkeypatch.setattr(config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(credentials, "_POD_FILES", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = await Credentials.load(None, None)
    headers: dict[str, str] = {}
    await found.authorize(headers)

    assert (found.host, found.namespace) == ("https://[fd00::1]:443", "proa-system")
    assert headers == {"authorization": f"bearer {SECRET}"}
    await found.api.close()
