"""Who gets in: AuthorizationPolicies in front of real sidecars, for every field and every kind of port."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from rig import STRICT, App, MeshUnderTest, address
from test_access_tokens import CLAIMS

from xds.api.conditions import Attribute
from xds.demo.manifests import OUTBOUND_PORT

LINES = (address(), 7000)
"""Where the client finds the service of bytes."""

NAMES: Final = (f"p{n}" for n in itertools.count())

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def policy(spec: str, *, name: str = "p", namespace: str = "shop") -> str:
    """A manifest of one policy for the orders."""
    return f"---{POLICY.format(name=name, namespace=namespace, spec=spec)}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client, another, and orders, all with sidecars, under STRICT."""
    work: Path = tmp_path_factory.mktemp("access") / "mesh"
    client = App("web", annotations={"proa.dev/upstreams": f"{LINES[0]}:{LINES[1]}=lines:7000"})
    lines = App("lines", serves="tcp", protocol="tcp", service_port=7000, port=7000)
    mesh = MeshUnderTest(work, (client, App("admin"), App("orders"), lines), STRICT, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def put(mesh: MeshUnderTest, *policies: str) -> None:
    """Put these policies in force and wait until every proxy has them."""
    mesh.edit("manifests.yaml", STRICT + "".join(policies))


def status(mesh: MeshUnderTest, source: str, path: str = "/echo", method: str = "GET", **headers: str) -> int:
    """What a request from a pod to the orders is answered with."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return mesh.get(source, f"http://orders{path}", headers=named, method=method).status


ALLOWING: Final = (
    ("{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}", 200, 403),
    ("{from: [{source: {principals: ['*/sa/web']}}]}", 200, 403),
    ("{from: [{source: {principals: ['cluster.local/ns/shop/sa/w*']}}]}", 200, 403),
    ("{from: [{source: {principals: ['*']}}]}", 200, 200),
    ("{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/web]}}]}", 403, 200),
    ("{from: [{source: {namespaces: [shop], notPrincipals: ['*admin']}}]}", 200, 403),
    ("{from: [{source: {namespaces: [sho]}}]}", 403, 403),
    ("{from: [{source: {serviceAccounts: [web]}}]}", 200, 403),
    ("{from: [{source: {serviceAccounts: [shop/admin]}}]}", 403, 200),
    ("{from: [{source: {notServiceAccounts: [web]}}]}", 403, 200),
    ("{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}", 200, 200),
    ("{from: [{source: {notIpBlocks: [127.0.0.0/8]}}]}", 403, 403),
    ("{from: [{source: {principals: ['*/web']}}, {source: {principals: ['*/admin']}}]}", 200, 200),
    ("{to: [{operation: {methods: [GET], paths: [/ech*]}}]}", 200, 200),
    ("{to: [{operation: {notMethods: [GET]}}]}", 403, 403),
    ("{to: [{operation: {paths: ['/{*}']}}]}", 200, 200),
    ("{to: [{operation: {paths: ['/{*}/{*}']}}]}", 403, 403),
    ("{to: [{operation: {ports: ['8080'], hosts: [ORDERS]}}]}", 200, 200),
    ("{to: [{operation: {ports: ['80']}}]}", 403, 403),
    ("{to: [{operation: {notHosts: [orders]}}]}", 403, 403),
    ("{when: [{key: source.principal, values: [cluster.local/ns/shop/sa/web]}]}", 200, 403),
    ("{when: [{key: source.namespace, notValues: [shop]}]}", 403, 403),
    ("{when: [{key: destination.port, values: ['8080']}]}", 200, 200),
    ("{when: [{key: connection.sni, values: ['*orders.shop.svc.cluster.local']}]}", 200, 200),
    ("{when: [{key: 'request.headers[x-team]', values: ['*']}]}", 403, 403),
    ("{}", 200, 200),
    ("{from: [{source: {notNamespaces: [shop]}}]}", 403, 403),
    ("{from: [{source: {remoteIpBlocks: [127.0.0.0/8]}}]}", 200, 200),
    ("{from: [{source: {notRemoteIpBlocks: [127.0.0.0/8]}}]}", 403, 403),
    ("{to: [{operation: {notPorts: ['8080']}}]}", 403, 403),
    ("{to: [{operation: {notPaths: [/ech*]}}]}", 403, 403),
    ("{when: [{key: source.serviceAccount, values: [web]}]}", 200, 403),
    ("{when: [{key: source.ip, values: [127.0.0.0/8]}]}", 200, 200),
    ("{when: [{key: remote.ip, notValues: [127.0.0.0/8]}]}", 403, 403),
    ("{when: [{key: destination.ip, values: [127.0.0.0/8]}]}", 200, 200),
    ("{when: [{key: 'request.headers[x-request-id]', values: ['*']}]}", 200, 200),
)
"""Rules, and what the two clients get under them."""


@pytest.mark.parametrize(("rule", "web", "admin"), ALLOWING)
def test_allow(mesh: MeshUnderTest, rule: str, web: int, admin: int) -> None:
    """One rule that allows decides for both callers; what it does not match is denied."""
    # Some rules mean the same: under the same name, one after the other would be no change to wait for.
    put(mesh, policy(f"{{selector: {{matchLabels: {{app: orders}}}}, rules: [{rule}]}}", name=next(NAMES)))

    assert (status(mesh, "web"), status(mesh, "admin")) == (web, admin)


def test_a_template_with_a_segment_behind_any_number(mesh: MeshUnderTest) -> None:
    """``{**}`` may stand in the middle, and is at least one segment there, which may be empty."""
    put(mesh, policy("{rules: [{to: [{operation: {paths: ['/echo/{**}/last']}}]}]}"))
    paths = ("/echo/a/last", "/echo/a/b/c/last", "/echo/last", "/echo/a/lasting")

    assert [status(mesh, "web", path=path) for path in paths] == [200, 200, 403, 403]


def test_every_field_has_traffic() -> None:
    """No field of a source or an operation and no key of a condition is without a rule here or with tokens."""
    listed = (Path(__file__).resolve().parents[2] / "docs" / "istio_fields.txt").read_text("utf-8")
    fields = re.findall(
        r"^AuthorizationPolicy rules\[\]\.\w+\[\]\.(?:source|operation)\.(\w+)$", listed, re.MULTILINE
    )
    keys = {found.value for found in Attribute} - {"hosts", "methods", "paths"}
    rules = "".join(rule for rule, *_ in (*ALLOWING, *CLAIMS))

    assert len(fields) > len(Attribute)
    assert [name for name in fields if f"{name}: [" not in rules] == []
    assert [key for key in keys if not re.search(rf"key: '?{re.escape(key)}[,\[]", rules)] == []


def test_deny_goes_before_allow(mesh: MeshUnderTest) -> None:
    """Whoever a rule denies is not asked about any more; the root namespace's policies hold as well."""
    allow = policy("{rules: [{}]}")
    deny = policy("{action: DENY, rules: [{from: [{source: {principals: ['*/admin']}}]}]}", name="deny")
    put(mesh, allow, deny.replace("namespace: shop", "namespace: proa-system"))

    assert (status(mesh, "web"), status(mesh, "admin")) == (200, 403)


def test_a_change_holds_for_open_connections(mesh: MeshUnderTest) -> None:
    """The next request of a connection that is kept open is decided by the new policy, and the connection stays."""
    put(mesh, policy("{rules: [{to: [{operation: {paths: [/echo]}}]}]}"))
    connection = http.client.HTTPConnection(mesh.pods["web"].pod_ip, OUTBOUND_PORT, timeout=20)
    with contextlib.closing(connection):
        before = _ask(connection)
        connected = mesh.stats("orders", r"^listener\.inbound.8080\.downstream_cx_total$")
        put(mesh, policy("{rules: [{to: [{operation: {paths: [/other]}}]}]}"))
        after = _ask(connection)

    assert (before, after) == (200, 403)
    assert mesh.stats("orders", r"^listener\.inbound.8080\.downstream_cx_total$") == connected


def test_no_request_falls_between_two_policies(mesh: MeshUnderTest) -> None:
    """What the old and the new policies allow passes throughout, what both deny never does, while they are replaced."""
    allow = "{{rules: [{{to: [{{operation: {{paths: [/echo, /{0}], methods: [GET]}}}}]}}]}}"
    deny = "{{action: DENY, rules: [{{when: [{{key: 'request.headers[x-no]', values: ['1', '{0}']}}]}}]}}"

    def both(turn: int) -> tuple[str, str]:
        return policy(allow.format(turn)), policy(deny.format(f"n{turn}"), name=f"deny-{turn % 2}")

    put(mesh, *both(0))
    seen: dict[str, set[int]] = {"allowed": set(), "denied": set(), "other path": set()}
    over = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection(mesh.pods["web"].pod_ip, OUTBOUND_PORT, timeout=20)
        with contextlib.closing(connection):
            while not over.is_set():
                seen["allowed"].add(_ask(connection))
                seen["denied"].add(_ask(connection, no="1"))
                seen["other path"].add(_ask(connection, path="/call?url=x&n=0"))

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for turn in range(1, 9):
            put(mesh, *both(turn))
    finally:
        over.set()
        for sender in senders:
            sender.join(30)

    assert seen == {"allowed": {200}, "denied": {403}, "other path": {403}}


def _ask(connection: http.client.HTTPConnection, path: str = "/echo", no: str = "0") -> int:
    connection.request("GET", path, headers={"Host": "orders", "x-no": no})
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", b""),
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", b""),
        ("{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}", b"knock"),
        (
            "{rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {ports: ['7000']}}]}]}",
            b"knock",
        ),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['7000']}}]}]}", b""),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['7001']}}]}]}", b"knock"),
    ],
)
def test_connections_of_bytes(mesh: MeshUnderTest, spec: str, expected: bytes) -> None:
    """What allows and asks for a request never matches; what denies drops that part and denies by the rest."""
    put(mesh, policy(spec))

    assert said_by_lines(mesh) == expected


def said_by_lines(mesh: MeshUnderTest) -> bytes:
    """What comes back of a line that is sent through the client's sidecar, as far as the server lets it through."""
    del mesh
    with contextlib.closing(socket.create_connection(LINES, 10)) as raw:
        raw.settimeout(10)
        raw.sendall(b"knock\n")
        got = b""
        with contextlib.suppress(OSError):
            while b"knock" not in got and (chunk := raw.recv(4096)):
                got += chunk
    return b"knock" if b"knock" in got else b""
