"""The plan against itself: after any history it holds what a fresh plan over the same objects holds."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.manifests import endpoints, objects, pod, rule, service, split
from xds.api.core import Key
from xds.fields import Severity
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: NS}
spec: {mtls: {mode: MODE}}
"""
LABELLED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{sourceLabels: {version: v2}}]
    route: [{destination: {host: orders}}]
  - route: [{destination: {host: web}}]
"""
OUTSIDE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: shop}
spec: {hosts: [api.example.com], http: [{route: [{destination: {host: web}}]}]}
"""
WITH_ADDRESS = """
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: orders}
  ports: [{name: http, port: 80}, {name: tcp-lines, port: 7000}]
"""
INJECTED = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {proa.dev/inject: enabled}}
"""

ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: NS}
spec: {hosts: [HOSTS], exportTo: ["EXPORT"], ports: [PORTS], resolution: STATIC, endpoints: [{address: ADDRESS}]}
"""
HTTP, ALT = "{number: 80, name: http, protocol: HTTP}", "{number: 8080, name: alt, protocol: HTTP}"


def entry(  # noqa: PLR0913 -- what entries differ in
    name: str,
    hosts: str,
    ports: str = HTTP,
    *,
    namespace: str = "shop",
    export: str = "*",
    address: str = "192.0.2.1",
) -> str:
    """Return a ServiceEntry with one endpoint."""
    fields = {
        "NAME": name,
        "NS": namespace,
        "HOSTS": hosts,
        "EXPORT": export,
        "PORTS": ports,
        "ADDRESS": address,
    }
    text = ENTRY
    for field, value in fields.items():
        text = text.replace(field, value)
    return text


SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: NAME, namespace: NS}
spec: {SPEC}
"""


def sidecar(hosts: str, name: str = "default", namespace: str = "shop", selector: str = "") -> str:
    """Return a Sidecar that lets these hosts through; ``selector`` is a label of the Pods that it is for."""
    spec = f'egress: [{{hosts: ["{hosts}"]}}]' + (
        f", workloadSelector: {{labels: {{{selector}}}}}" if selector else ""
    )
    return SIDECAR.replace("NAME", name).replace("NS", namespace).replace("SPEC", spec)


SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - {name: spans, zipkin: {service: orders.shop.svc.cluster.local, port: PORT}}
    - {name: logs, envoyOtelAls: {service: api.example.com, port: 80}}
    defaultProviders: {tracing: [spans]}
"""

TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: NAME, namespace: NS}
spec: {SPEC}
"""


def telemetry(spec: str, name: str = "default", namespace: str = "shop") -> str:
    """Return a Telemetry."""
    return TELEMETRY.replace("NAME", name).replace("NS", namespace).replace("SPEC", spec)


LIMIT = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: NAME, namespace: shop}
spec: {TARGET, SPEC}
"""


def limit(name: str, target: str, spec: str) -> str:
    """Return a RateLimit."""
    return LIMIT.replace("NAME", name).replace("TARGET", target).replace("SPEC", spec)


FAULT = """
apiVersion: proa.dev/v1alpha1
kind: Fault
metadata: {name: NAME, namespace: shop}
spec: {targetRef: {kind: Service, name: SERVICE}, expiresAt: "2100-01-01T00:00:00Z", fault: {SPEC}}
"""


def fault(name: str, service: str, spec: str) -> str:
    """Return a Fault that lasts."""
    return FAULT.replace("NAME", name).replace("SERVICE", service).replace("SPEC", spec)


POOL = (
    fault("orders", "orders", "abort: {httpStatus: 503, percentage: {value: 100}}"),
    fault("orders", "web", "delay: {fixedDelay: 1s, percentage: {value: 5}}"),
    fault("both", "orders", "delay: {fixedDelay: 2s, percentage: {value: 9}}"),
    limit("all", "targetRef: {kind: Namespace}", "rules: [{requests: 9}], concurrency: 3"),
    limit("orders", "targetRef: {kind: Service, name: orders}", "rules: [{requests: 7, by: {caller: true}}]"),
    limit("orders", "selector: {matchLabels: {version: v2}}", "concurrency: 2"),
    service("orders").replace("name: orders,", "annotations: {proa.dev/rate-limit: 5/s}, name: orders,"),
    rule("orders", "v1").replace(
        ", subsets:", ", trafficPolicy: {connectionPool: {http: {http2MaxRequests: 4}}}, subsets:"
    ),
    SETTINGS.replace("PORT", "80"),
    SETTINGS.replace("PORT", "8080"),
    telemetry("accessLogging: [{providers: [{name: logs}]}]", namespace="proa-system"),
    telemetry("tracing: [{disableSpanReporting: true}]"),
    telemetry("selector: {matchLabels: {version: v2}}, accessLogging: [{providers: [{name: envoy}]}]", "v2"),
    telemetry("selector: {matchLabels: {app: orders}}, tracing: [{randomSamplingPercentage: 5}]", "orders"),
    service("alias").replace("selector: {app: alias}", "type: ExternalName\n  externalName: a.example.com"),
    service("alias"),
    entry("names", "alias, alias.shop, alias.shop.svc, other.example.com", f"{HTTP}, {ALT}"),
    sidecar("./orders.shop.svc.cluster.local"),
    sidecar("*/*.example.com"),
    sidecar("./*", selector="app: orders"),
    sidecar("shop/*", "orders", selector="version: v2"),
    sidecar("./*", namespace="proa-system"),
    service("web").replace("name: web,", "annotations: {networking.istio.io/exportTo: other}, name: web,"),
    service("far", namespace="other").replace(
        "name: far,", "annotations: {networking.istio.io/exportTo: .}, name: far,"
    ),
    entry("api", "api.example.com"),
    entry("api", "api.example.com, b.example.com", f"{HTTP}, {ALT}"),
    entry("wild", '"*.example.com"', ALT),
    entry("theirs", "api.example.com", namespace="other", address="192.0.2.2"),
    entry("theirs", "api.example.com", namespace="other", export=".", address="192.0.2.3"),
    entry("thief", "orders.shop.svc.cluster.local, orders.shop, orders", namespace="other"),
    rule("api.example.com", "v1", name="outside"),
    split("api.example.com", v1=100, name="out"),
    split("web", name="web", v1=100).replace("host: 'web'", "host: api.example.com"),
    service("orders"),
    service("orders", protocol="grpc"),
    service("orders", port=8080),
    service("web"),
    service("far", namespace="other"),
    pod("o1", "orders", "10.0.0.1", version="v1"),
    pod("o1", "orders", "10.0.0.1", version="v2"),
    pod("o1", "orders", "10.0.0.1", version="v1", account="else"),
    pod("o2", "orders", "10.0.0.2", version="v2"),
    pod("w1", "web", "10.0.0.3").replace('proa.dev/inject: "true"', "x: y"),
    endpoints("orders", "10.0.0.1=o1", "10.0.0.2=o2"),
    endpoints("orders", "10.0.0.1=o1"),
    endpoints("orders", "10.0.0.2=o2", name="orders-b"),
    endpoints("web", "10.0.0.3=w1", "10.0.0.4"),
    rule("orders", "v1", "v2"),
    rule("orders", "v1"),
    rule("*.shop.svc.cluster.local", "v1", "v2", name="wild"),
    rule("orders.shop.svc.cluster.local", "v2", namespace="other", name="theirs"),
    split("orders", v1=90, v2=10),
    split("orders", v1=100),
    split("orders.shop.svc.cluster.local", namespace="other", name="mine", v2=100),
    WITH_ADDRESS,
    LABELLED,
    OUTSIDE,
    INJECTED,
    STRICT.replace("NS", "shop").replace("MODE", "STRICT"),
    STRICT.replace("NS", "shop").replace("MODE", "DISABLE"),
    STRICT.replace("NS", "proa-system").replace("MODE", "STRICT"),
)
OBJECTS = [objects(text)[0] for text in POOL]
KEYS = sorted({key for key, _ in OBJECTS})
FORMS = ("addressed", "transparent", "declared", "older")
PROXIES = (("shop", "o1"), ("shop", "o2"), ("shop", "w1"), ("other", "x"))

Step = list[int]
STEPS = st.lists(st.lists(st.integers(0, len(OBJECTS) + len(KEYS) - 1), min_size=1, max_size=4), max_size=25)


def _content(plan: Plan) -> dict[object, object]:
    out: dict[object, object] = {}
    for proxy, form in itertools.product(PROXIES, FORMS):
        is_transparent = form not in {"addressed", "older"}
        view = plan.view(
            proxy, transparent=is_transparent, declared=form == "declared", older=form == "older"
        )[0]
        for kind in ResourceType:
            for name in plan.snapshot.names(view, kind):
                found = plan.snapshot.resolve(view, kind, name)
                out[proxy, form, kind, name] = found.version if found else None
    return out


def _errors(plan: Plan) -> list[str]:
    return [str(problem) for problem in plan.problems() if problem.severity is Severity.ERROR]


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 25))
def test_history_does_not_matter(steps: list[Step], connect_after: int) -> None:
    """Any order of the same objects gives byte-identical views, as long as the world they end in is valid."""
    store, plan = Store(), Plan(Snapshot())
    for index, step in enumerate(steps):
        batch = [OBJECTS[i] if i < len(OBJECTS) else (KEYS[i - len(OBJECTS)], None) for i in step]
        plan.apply(store.apply_all(batch))
        if index == connect_after:
            _content(plan)
    held = [(key, store.get(key)) for key in KEYS if key in store]
    fresh = Plan(Snapshot())
    fresh.apply(Store().apply_all(held))

    assert _errors(plan) == _errors(fresh)
    if not _errors(fresh):
        assert _content(plan) == _content(fresh)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_changes_are_told_exactly(steps: list[Step]) -> None:
    """Whoever follows only what each batch reports as changed ends with the snapshot."""
    store, plan = Store(), Plan(Snapshot())
    first = [OBJECTS[i] for i in steps[0] if i < len(OBJECTS)] if steps else []
    plan.apply(store.apply_all(first))
    views = [plan.view(proxy)[0] for proxy in PROXIES]
    seen: dict[tuple[str, ResourceType, str], object] = {}

    def look(place: tuple[str, ResourceType, str]) -> None:
        found = plan.snapshot.get(*place)
        seen[place] = found.version if found else None

    for kind in ResourceType:
        for view in views:
            for layer in view:
                for name in plan.snapshot.names((layer,), kind):
                    look((layer, kind, name))
    for step in steps:
        batch = [OBJECTS[i] if i < len(OBJECTS) else (KEYS[i - len(OBJECTS)], None) for i in step]
        for place in plan.apply(store.apply_all(batch)).changed:
            look(place)

    layers = {layer for view in views for layer in view}
    now = {
        (layer, kind, name): found.version
        for layer in layers
        for kind in ResourceType
        for name in plan.snapshot.names((layer,), kind)
        if (found := plan.snapshot.get(layer, kind, name))
    }
    assert {place: version for place, version in seen.items() if version and place[0] in layers} == now


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(OBJECTS) - 1), max_size=20))
def test_no_host_stands_twice_in_a_table(chosen: list[int]) -> None:
    """Envoy refuses a whole route table for one domain that is there twice, whoever claims it."""
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all(OBJECTS[i] for i in chosen))
    tables = [
        plan.snapshot.resolve(plan.view(proxy, transparent=form)[0], ResourceType.ROUTES, name)
        for proxy in PROXIES
        for form, name in ((False, "outbound"), (True, "entries"))
    ]
    for found in tables:
        assert found is not None
        table = route_pb2.RouteConfiguration.FromString(found.body)
        domains = [domain for host in table.virtual_hosts for domain in host.domains]
        assert len(domains) == len(set(domains)), sorted(domains)


def test_keys_of_the_pool_are_shared() -> None:
    """The pool holds several versions of one object, or the properties would test nothing."""
    assert len(KEYS) < len(OBJECTS)
    assert Key("Service", "shop", "orders") in KEYS
