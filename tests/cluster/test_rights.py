"""The rights of the control plane: each is used, none is missing, as the apiserver itself recorded it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from tests.cluster import rights
from tests.cluster.accounts import Pods
from tests.cluster.cluster import Cluster
from tests.cluster.outside import READY_S, ask, bundle, serve
from tests.fakes.plane import ADS_DELTA, open_stream
from xds import install, settings
from xds.demo.processes import Family, wait_until
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from xds.snapshot import ResourceType

BROKEN: Final = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: broken}
spec: {hosts: [a], http: [{timeout: never, route: [{destination: {host: a}}]}]}
"""


def test_a_right_is_used_when_a_request_needed_it(own_api: Cluster, tmp_path: Path) -> None:
    """A list, a named object and a path are told apart; what was refused is said."""
    own_api.apply(install.carried())
    path = rights.as_control_plane(own_api, tmp_path)
    for words in (("get", "services", "-A"), ("get", "secret", "proa-ca", "-n", "proa-system"),
                  ("get", "--raw", "/openid/v1/jwks"), ("get", "secrets", "-A")):  # fmt: skip
        with contextlib.suppress(subprocess.CalledProcessError):
            argv = [str(own_api.kube.with_name("kubectl")), "--kubeconfig", str(path), *words]
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
    needed, others = rights.used(own_api, rights.granted(install.carried()))

    assert needed == {
        rights.Right("list", "", "services"),
        rights.Right("get", "", "secrets", "proa-system", "proa-ca"),
        rights.Right("get", "", "/openid/v1/jwks"),
    }
    assert [one.partition("?")[0] for one in others] == ["list /api/v1/secrets"]


def test_a_right_that_was_refused_at_the_start_only_is_not_missing(tmp_path: Path) -> None:
    """An apiserver that has not read its roles refuses everybody; what nobody granted later stays named."""
    lines = [
        {"verb": verb, "requestURI": f"/{resource}", "objectRef": {"resource": resource},
         "annotations": {"authorization.k8s.io/decision": decision}, "responseStatus": {"code": 403}}
        for verb, resource, decision in (
            ("list", "services", "forbid"), ("list", "services", "allow"), ("list", "pods", "forbid"),
        )
    ]  # fmt: skip
    (tmp_path / "audit.log").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    given = {rights.Right("list", "", "services"), rights.Right("list", "", "pods")}

    needed, others = rights.used(Cluster(tmp_path, Path("kube"), ""), given)

    assert (needed, others) == ({rights.Right("list", "", "services")}, ["list /pods: 403"])


async def show_token(port: int, roots: str, token: str, node_id: str) -> None:
    """Open a stream as a sidecar does; what comes of it does not matter here."""
    options = (("grpc.ssl_target_name_override", settings.CHANNEL_SERVER_NAME),)
    credentials = grpc.ssl_channel_credentials(roots.encode())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call = open_stream(channel, ADS_DELTA, f"Bearer {token}", timeout_s=30)
        request = DeltaDiscoveryRequest(type_url=ResourceType.CLUSTER.url)
        request.node.id = node_id
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.write(request.SerializeToString())
            await call.read()


def test_every_right_is_used_and_none_is_missing(own_api: Cluster, tmp_path: Path) -> None:
    """One life of a control plane with exactly the chart's rights: start, token, Events, rotation, end."""
    own_api.apply(install.carried())
    own_api.kubectl("-n", "proa-system", "scale", "deployment", "proa", "--replicas=0")
    given = rights.granted(install.carried())
    family = Family(tmp_path / "logs")
    try:
        child, xds, admin = serve(own_api, family, rights.as_control_plane(own_api, tmp_path))
        with own_api.namespace("rights") as namespace:
            pods = Pods(own_api, namespace)
            pods.make("web", sidecar=True)
            asyncio.run(show_token(xds, bundle(own_api), pods.token("web"), f"web.{namespace}"))
            own_api.apply(BROKEN, namespace)
            assert ask(admin, "POST", "/api/v1/ca/rotate?root=workload") == 200
            later = AT_THE_END | AFTER_MINUTES
            wait_until(
                f"all rights but {later} are used",
                lambda: given - rights.used(own_api, given)[0] <= later,
                timeout_s=READY_S,
                child=child,
            )
    finally:
        family.stop()
    needed, others = rights.used(own_api, given)

    assert (given - needed, others) == (AFTER_MINUTES, [])


AT_THE_END: Final = {rights.Right("delete", "coordination.k8s.io", "leases", "proa-system")}
"""A replica takes its own Lease away when it goes."""

AFTER_MINUTES: Final = {rights.Right("patch", "events.k8s.io", "events")}
"""What is still wrong after EVENT_REPEAT_S is counted on its Event: tests of `xds.kube.events` do not wait for it."""
