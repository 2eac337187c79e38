"""Faults that end by themselves: what is read, when they hold, what the command writes, and how a Pod is taken away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tests.fakes.manifests import objects, pod, service, split
from xds.__main__ import main
from xds.cli.fault import apply
from xds.compile import outbound
from xds.compile.hosts import Client, virtual_hosts
from xds.compile.lens import Lens
from xds.control import ControlPlane
from xds.features.fault import Fault, HttpAbort
from xds.fields import ConfigError
from xds.kube.evict import NotEvicted, evict
from xds.snapshot import ResourceType
from xds.sources.directory import Directory
from xds.sources.transport import NO_QUERY, ApiError

CLIENT = Client("shop")
KINDS = (ResourceType.ROUTES,)
ABORT = "{abort: {httpStatus: 503, percentage: {value: 100}}}"


def fault(
    until: str = "2026-01-01T00:01:00Z", name: str = "orders-fault", spec: str = ABORT, **meta: str
) -> str:
    """Return a Fault for Service orders; the epoch of the tests is 2026-01-01T00:00:00Z."""
    said = "".join(f", {key}: '{value}'" for key, value in meta.items())
    return f"""
apiVersion: proa.dev/v1alpha1
kind: Fault
metadata: {{name: {name}, namespace: shop{said}}}
spec: {{targetRef: {{kind: Service, name: orders}}, expiresAt: '{until}', fault: {spec}}}
"""


EPOCH = 1_767_225_600.0


def plane(*texts: str, now: float = EPOCH) -> ControlPlane:
    """Return a control plane that has read these objects and orders."""
    made = ControlPlane()
    made.apply(objects(service("orders"), *texts), at=now, now=now)
    return made


def in_force(made: ControlPlane) -> list[Fault]:
    """Return the fault of each route of orders."""
    hosts = virtual_hosts(Lens(made.plan.world), ("shop", "orders"), CLIENT)
    routes = [route for host in hosts for route in host.routes]
    return [one for route in routes for one in route.features if isinstance(one, Fault)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (fault("tomorrow"), "spec.expiresAt: must be a moment such as"),
        (fault("2026-01-01T00:00:00"), "spec.expiresAt: must say its time zone"),
        (fault(spec="{}"), "spec.fault: must have delay or abort"),
        (fault().replace("kind: Service", "kind: Pod"), "spec.targetRef.kind: must be Service"),
        (fault().replace("name: orders}", "name: Orders}"), "spec.targetRef.name"),
        (fault().replace("expiresAt", "until"), "spec.expiresAt: is required"),
        (fault().replace("fault:", "faults:"), "spec.fault: is required"),
    ],
)
def test_a_fault_is_read_strictly(text: str, words: str) -> None:
    """The first field that is wrong is named."""
    with pytest.raises(ConfigError, match=words):
        objects(text)


def test_a_fault_holds_until_its_moment() -> None:
    """Every route of the Service has it, until the clock that is given says otherwise; then it is told to be over."""
    made = plane(split("orders", v1=1), fault())

    assert in_force(made) == [Fault(None, HttpAbort(503, 100))]
    assert made.tick(EPOCH + 59.9) == (set(), False)
    assert in_force(made) != []
    assert made.tick(EPOCH + 60) == (set(), True)
    assert in_force(made) == []
    assert [problem.reason for problem in made.plan.problems() if problem.subject.startswith("Fault")] == [
        "is over, and holds no more; remove the object"
    ]


def test_a_fault_that_comes_too_late_never_holds() -> None:
    """An object whose moment has passed is as if it were not there."""
    assert in_force(plane(fault(), now=EPOCH + 61)) == []


def test_the_clock_never_goes_back() -> None:
    """What has ended does not begin again."""
    made = plane(fault(), now=EPOCH + 61)
    made.tick(EPOCH)

    assert in_force(made) == []


def test_the_table_is_sent_again_when_a_fault_ends() -> None:
    """The end is a change like any other: a new version of the table, with the Fault as its cause."""
    made = plane(fault(), pod("web-0", "web", "10.0.0.1"))
    view, _ = made.plan.view(("shop", "web-0"))
    before = {layer: made.snapshot.get(layer, kind, "outbound") for layer in view for kind in KINDS}
    outcome, cause = made.plan.tick(EPOCH + 60)

    assert cause == ("Fault shop/orders-fault",)
    assert [place[2] for place in outcome.changed] == ["outbound"]
    assert any(
        made.snapshot.get(layer, kind, "outbound") != before[layer] for layer in view for kind in KINDS
    )


def test_the_oldest_of_two_holds_and_the_other_is_told() -> None:
    """Two Faults of one Service never add up."""
    old = fault(name="z", creationTimestamp="2025-01-01T00:00:00Z")
    new = fault(
        name="a",
        spec="{delay: {fixedDelay: 1s, percentage: {value: 1}}}",
        creationTimestamp="2025-02-01T00:00:00Z",
    )
    made = plane(old, new)

    assert [one.abort for one in in_force(made)] == [HttpAbort(503, 100)]
    told = {problem.subject: problem.reason for problem in made.plan.problems()}
    assert told["Fault shop/a"] == "has no effect while the older Fault shop/z holds"


def test_a_fault_takes_the_place_of_a_rules_own() -> None:
    """For as long as it lasts the rule's fault is not injected, whatever it is; a redirect stays as it is."""
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new}
  - fault: {delay: {fixedDelay: 5s, percentage: {value: 100}}}
    route: [{destination: {host: orders}}]
"""
    assert in_force(plane(text, fault())) == [Fault(None, HttpAbort(503, 100))]


def test_redirected_callers_get_it_by_address() -> None:
    """The rules of the dialled address carry it, also where the Service has no rule of its own."""
    made = plane(service("orders").replace("  selector:", "  clusterIP: 10.96.0.1\n  selector:"), fault())
    found = outbound.rules(Lens(made.plan.world), CLIENT, "o|10.96.0.1:80")

    assert found is not None
    assert [one for route in found.routes for one in route.features if isinstance(one, Fault)] != []


# -- the command -------------------------------------------------------------------------------


def proa(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ("fault", *arguments))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a directory with Service orders."""
    (tmp_path / "orders.yaml").write_text(service("orders"), "utf-8")
    return tmp_path


def test_delay_writes_an_object_that_ends(shop: Path) -> None:
    """A file of its own appears, is read without a remark, and is replaced by the next word and removed by `end`."""
    assert (
        proa("delay", "orders.shop", "2s", "--percent", "50", "--for", "5m", "--dir", str(shop)).exit_code
        == 0
    )
    first = Directory(shop).load()
    assert first.problems == ()
    assert proa("abort", "orders.shop", "UNAVAILABLE", "--dir", str(shop)).exit_code == 0
    assert len(list(shop.glob("fault-*.yaml"))) == 1
    assert proa("end", "orders.shop", "--dir", str(shop)).exit_code == 0
    assert list(shop.glob("fault-*.yaml")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("delay", "orders.shop", "soon"), "spec.fault.delay.fixedDelay"),
        (("abort", "orders.shop", "99"), "spec.fault.abort.httpStatus: must be 200..599"),
        (("abort", "orders.shop", "OOPS"), "spec.fault.abort.grpcStatus"),
        (("delay", "orders", "1s"), "must be NAME.NAMESPACE"),
        (("delay", "orders.shop", "1s", "--for", "25h"), "at most 24h"),
        (("delay", "typo.shop", "1s"), "there is no Service shop/typo"),
    ],
)
def test_what_makes_no_sense_is_refused(shop: Path, arguments: tuple[str, ...], words: str) -> None:
    """Nothing is written, and the word that is wrong is named."""
    result = proa(*arguments, "--dir", str(shop))

    assert result.exit_code != 0
    assert words in result.output
    assert list(shop.glob("fault-*.yaml")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("delay", "orders.shop", "1s"), "one place is needed"),
        (("kill-pod", "web-0.shop", "--yes"), "add --kubernetes"),
        (("kill-pod", "web-0.shop", "--kubernetes"), "add --yes"),
    ],
)
def test_a_place_and_a_yes_are_needed(arguments: tuple[str, ...], words: str) -> None:
    """Nothing is done by default."""
    result = proa(*arguments)

    assert (result.exit_code, words in result.output) == (2, True)


# -- a Pod -------------------------------------------------------------------------------------


class Api:
    """An apiserver that has a few objects and one answer to an eviction."""

    def __init__(self, *raws: dict[str, Any], status: int = 201) -> None:
        self.raws = {f"{raw['kind']}/{raw['metadata']['name']}": raw for raw in raws}
        self.status = status
        self.evictions: list[tuple[str, Any]] = []
        self.applied: list[tuple[str, dict[str, str], str, Any]] = []

    async def call(  # noqa: PLR0913 -- the protocol's
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = 10.0,
    ) -> bytes:
        """Answer a GET of an object, or an eviction."""
        del accept, timeout_s
        if method == "PATCH":
            self.applied.append((path, dict(query), content_type, body))
            return b"{}"
        if method == "POST":
            self.evictions.append((path, body))
            if self.status >= 400:
                raise ApiError(self.status, "TooManyRequests", "would violate the budget")
            return b"{}"
        kind = {"pods": "Pod", "services": "Service"}.get(path.split("/")[-2], "ConfigMap")
        raw = self.raws.get(f"{kind}/{path.rpartition('/')[2]}")
        if raw is None:
            raise ApiError(404, "NotFound", path)
        return json.dumps(raw).encode()

    def lines(
        self, path: str, *, query: Mapping[str, str], read_timeout_s: float, accept: str = "application/json"
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Nothing watches here."""
        raise NotImplementedError


def settings_(text: str) -> dict[str, Any]:
    """Return the mesh settings."""
    meta = {"name": "proa", "namespace": "proa-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"mesh": text}}


def running(*, meshed: bool = True) -> dict[str, Any]:
    """Return a Pod, with a sidecar or without."""
    sidecar = {"name": "proa-proxy", "image": "x", "restartPolicy": "Always"}
    spec = {"containers": [{"name": "app", "image": "x"}], "initContainers": [sidecar] if meshed else []}
    meta = {"name": "web-0", "namespace": "shop", "uid": "u-1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


async def test_a_fault_is_applied_to_a_cluster() -> None:
    """By server-side apply, so that a second word takes the place of the first; for a Service that exists alone."""
    meta = {"name": "orders", "namespace": "shop"}
    api = Api({"apiVersion": "v1", "kind": "Service", "metadata": meta})
    await apply(api, "shop", "orders", {"kind": "Fault"})
    with pytest.raises(click.ClickException, match="there is no Service shop/typo"):
        await apply(api, "shop", "typo", {"kind": "Fault"})

    ((path, query, content_type, body),) = api.applied
    assert path == "/apis/proa.dev/v1alpha1/namespaces/shop/faults/orders-fault"
    assert (query["force"], content_type, body["kind"]) == ("true", "application/apply-patch+yaml", "Fault")


async def test_a_pod_is_evicted_where_the_mesh_allows_it() -> None:
    """The Eviction API is asked, for exactly the Pod that was looked at."""
    api = Api(settings_("evictPods: true"), running())
    await evict(api, "shop", "web-0")

    ((path, body),) = api.evictions
    assert path == "/api/v1/namespaces/shop/pods/web-0/eviction"
    assert (body["kind"], body["deleteOptions"]["preconditions"]) == ("Eviction", {"uid": "u-1"})


@pytest.mark.parametrize(
    ("api", "words", "asked"),
    [
        (Api(running()), "the mesh does not allow it; set evictPods: true", 0),
        (Api(settings_("trustDomain: a"), running()), "the mesh does not allow it", 0),
        (Api(settings_("evictPods: 1"), running()), "the mesh does not allow it", 0),
        (Api(settings_("evictPods: true")), "there is no Pod shop/web-0", 0),
        (Api(settings_("evictPods: true"), running(meshed=False)), "is outside the mesh", 0),
        (Api(settings_("evictPods: true"), running(), status=429), "a disruption budget holds", 1),
    ],
)
async def test_a_pod_stays_where_anything_forbids_it(api: Api, words: str, asked: int) -> None:
    """Settings, mesh and budgets are asked before, and by, the Eviction API."""
    with pytest.raises(NotEvicted, match=words):
        await evict(api, "shop", "web-0")

    assert len(api.evictions) == asked
