"""Kubernetes' kinds: what is read of them, and how a mesh takes it."""

from __future__ import annotations

import pytest

from tests.fakes.objects import Raw, endpoint_slice, pod, raw, service
from tests.fakes.taken import parsed, refusal, taken
from xds.api.core import (
    ContainerPort,
    Endpoint,
    EndpointSlice,
    Key,
    Pod,
    Probe,
    ProbeKind,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
)
from xds.fields import Severity


def container(**fields: object) -> Raw:
    """Return a Pod whose only container has these fields."""
    return pod(spec={"containers": [{"name": "app", **fields}]})


# -- Service ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "protocol"),
    [
        ({"appProtocol": "http"}, Protocol.HTTP),
        ({"appProtocol": "HTTP2"}, Protocol.HTTP2),
        ({"appProtocol": "kubernetes.io/h2c"}, Protocol.HTTP2),
        ({"appProtocol": "kubernetes.io/ws"}, Protocol.HTTP),
        ({"appProtocol": "kubernetes.io/wss"}, Protocol.TCP),
        ({"appProtocol": "grpc"}, Protocol.GRPC),
        ({"appProtocol": "grpc-web"}, Protocol.HTTP),
        ({"appProtocol": "https"}, Protocol.TCP),
        ({"appProtocol": "tcp", "name": "http-web"}, Protocol.TCP),
        ({"appProtocol": "example.com/own", "name": "http-web"}, Protocol.TCP),
        ({"name": "http"}, Protocol.HTTP),
        ({"name": "http-admin"}, Protocol.HTTP),
        ({"name": "http2-web"}, Protocol.HTTP2),
        ({"name": "grpc-api"}, Protocol.GRPC),
        ({"name": "grpc-web"}, Protocol.HTTP),
        ({"name": "grpc-web-api"}, Protocol.HTTP),
        ({"name": "mysql"}, Protocol.TCP),
        ({"name": "tls-x"}, Protocol.TCP),
        ({"name": "httpfoo"}, Protocol.TCP),
        ({"name": "web"}, Protocol.TCP),
        ({}, Protocol.TCP),
    ],
)
def test_protocol_is_said_by_app_protocol_then_by_the_name(fields: Raw, protocol: Protocol) -> None:
    """Istio's order and words; what nobody said is TCP."""
    found = taken(service(ports=[{"port": 80, **fields}]), Service)

    assert found.ports[0].protocol is protocol


@pytest.mark.parametrize("fields", [{"name": "web"}, {"appProtocol": "example.com/own"}])
def test_a_port_taken_for_tcp_is_told(fields: Raw) -> None:
    """HTTP rules will not work there, so its owner must know why."""
    (note,) = parsed(service(ports=[{"port": 80, **fields}])).notes

    assert note.severity is Severity.INFO
    assert "treated as TCP" in note.reason


def test_udp_ports_are_left_out() -> None:
    """The mesh does not carry them, and the rest of the Service stays."""
    found = parsed(
        service(ports=[{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 80}])
    )

    assert isinstance(found.object, Service)
    assert found.object.ports == (ServicePort(80, "http", Protocol.HTTP, 80),)
    assert [note.path for note in found.notes] == ["spec.ports[0].protocol"]


@pytest.mark.parametrize(
    ("target", "read_as"), [(None, 80), (0, 80), (8080, 8080), ("web", "web"), ("web-2", "web-2")]
)
def test_target_port_is_a_number_or_a_name(target: object, read_as: int | str) -> None:
    """Absent and 0 mean the port's own number."""
    found = taken(service(ports=[{"name": "http", "port": 80, "targetPort": target}]), Service)

    assert found.ports[0].target == read_as


def test_external_name_has_no_selector() -> None:
    """Its endpoints come from DNS, whatever its selector says; the final dot is no part of the name."""
    found = taken(service(type="ExternalName", externalName="API.Example.com."), Service)

    assert (found.external_name, found.selector) == ("api.example.com", ())


def test_headless_service() -> None:
    """A clusterIP of None means that there is no address."""
    found = taken(service(clusterIP="None"), Service)

    assert found.headless
    assert found.cluster_ips == ()


def test_cluster_ips_are_canonical() -> None:
    """IPv6 is compared as text later, so it has one form."""
    assert taken(service(clusterIPs=["10.0.0.1", "FD00::0001"]), Service).cluster_ips == (
        "10.0.0.1",
        "fd00::1",
    )


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (service(ports=[{"port": 0}]), "spec.ports[0].port: must be 1..65535, got 0"),
        (service(ports=[{"port": 1e999}]), "spec.ports[0].port: must be 1..65535, got inf"),
        (service(ports=[{"port": True}]), "spec.ports[0].port: must be 1..65535, got True"),
        (
            service(ports=[{"port": 80}, {"port": 81}]),
            "spec.ports[0].name: is required where a Service has more",
        ),
        (
            service(ports=[{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
            'spec.ports[1].port: 80 ("b") appears twice in this Service',
        ),
        (
            service(ports=[{"port": 80, "targetPort": "8080"}]),
            "spec.ports[0].targetPort: must be 1..65535 or the",
        ),
        (
            service(ports=[{"port": 80, "targetPort": 70000}]),
            "spec.ports[0].targetPort: must be 0..65535, got 70000",
        ),
        (service(type="ExternalName"), "spec.externalName: is required"),
        (service(type="ExternalName", externalName="a b"), "spec.externalName: must be lower-case letters"),
        (service(clusterIPs=["10.0.0.256"]), "spec.clusterIPs[0]: must be an IPv4 or IPv6 address"),
        (service(clusterIPs=["fe80::1%eth0"]), "spec.clusterIPs[0]: must be an IPv4 or IPv6 address"),
        (service(selector={"app": 1}), "spec.selector.app: must be a string, got a number 1"),
        (service(name="a.b"), "metadata.name: must be at most 63 lower-case letters"),
        (raw("Service", "a"), "spec: is required"),
    ],
)
def test_a_service_is_refused_by_field(value: Raw, error: str) -> None:
    """What is read is checked."""
    assert refusal(value).startswith(error)


def test_fields_that_a_mesh_does_not_read_are_passed_over() -> None:
    """Kubernetes has validated its own kinds, and they grow without us."""
    assert taken(service(sessionAffinity="None", newField={"x": 1}), Service)


# -- EndpointSlice ---------------------------------------------------------------------------------


def test_a_slice_is_read() -> None:
    """Ports, the first address of each endpoint, and the Pod behind it."""
    found = taken(
        endpoint_slice(
            endpoints=[
                {
                    "addresses": ["10.0.0.1", "10.0.0.2"],
                    "zone": "a",
                    "targetRef": {"kind": "Pod", "name": "orders-1"},
                },
                {
                    "addresses": ["10.0.0.3"],
                    "conditions": {"ready": False, "serving": True, "terminating": True},
                },
                {"addresses": list[str]()},
            ]
        ),
        EndpointSlice,
    )

    assert (found.service, found.ports) == ("orders", (SlicePort("http", 8080),))
    assert found.endpoints == (
        Endpoint("10.0.0.1", pod="orders-1", zone="a"),
        Endpoint("10.0.0.3", ready=False, serving=True, terminating=True),
    )


def test_serving_means_what_ready_says() -> None:
    """discovery/v1: an absent serving follows ready, an absent ready is true."""
    found = taken(
        endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}]), EndpointSlice
    )

    assert not found.endpoints[0].serving


def test_host_names_are_no_endpoints() -> None:
    """A slice of FQDNs is told and left empty."""
    found = parsed(endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["a.example.com"]}]))

    assert isinstance(found.object, EndpointSlice)
    assert found.object.endpoints == ()
    assert [note.path for note in found.notes] == ["addressType"]


def test_a_slice_without_a_service_is_told() -> None:
    """Without the label nothing would ever use it."""
    (note,) = parsed(endpoint_slice(metadata={})).notes

    assert note.severity is Severity.WARNING


def test_slice_ports_that_are_not_tcp_are_left_out() -> None:
    """As those of Services."""
    found = taken(
        endpoint_slice(ports=[{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 80}]), EndpointSlice
    )

    assert found.ports == (SlicePort("", 80),)


# -- Pod -------------------------------------------------------------------------------------------


def test_a_pod_is_read() -> None:
    """Address, identity and ports; a Pod of a directory has no conditions, and is ready."""
    found = taken(
        pod(
            spec={
                "serviceAccountName": "orders",
                "containers": [{"ports": [{"containerPort": 80, "name": "http"}]}],
            }
        ),
        Pod,
    )

    assert (found.ip, found.service_account, found.ready) == ("127.0.1.2", "orders", True)
    assert found.ports == (ContainerPort(80, "http"),)


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False)])
def test_readiness_is_the_ready_condition(status: str, *, ready: bool) -> None:
    """Nothing but True is ready."""
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]

    assert taken(pod(status={"podIP": "10.0.0.1", "conditions": conditions}), Pod).ready is ready


def test_a_pod_that_is_being_deleted_is_not_ready() -> None:
    """It drains, whatever its condition says."""
    found = taken(pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), Pod)

    assert (found.ready, found.terminating) == (False, True)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_has_no_address(phase: str) -> None:
    """Kubernetes gives the address to the next Pod."""
    assert taken(pod(status={"podIP": "10.0.0.1", "phase": phase}), Pod).ip == ""


def test_restartable_init_containers_count() -> None:
    """A native sidecar runs for the Pod's life (KEP-753), other init containers do not."""
    found = taken(
        pod(
            spec={
                "containers": [],
                "initContainers": [
                    {"name": "a", "restartPolicy": "Always", "ports": [{"containerPort": 81}]},
                    {"name": "b", "ports": [{"containerPort": 82}]},
                ],
            }
        ),
        Pod,
    )

    assert found.ports == (ContainerPort(81),)


@pytest.mark.parametrize(
    ("probe", "read_as"),
    [
        ({"httpGet": {"path": "/healthz", "port": 8080}}, (Probe(8080, "/healthz"),)),
        ({"httpGet": {"path": "/healthz?full=1", "port": "http"}}, (Probe(8080, "/healthz"),)),
        ({"httpGet": {"path": "healthz", "port": 8080}}, (Probe(8080, "/healthz"),)),
        ({"httpGet": {"port": 8080}}, (Probe(8080, "/"),)),
        ({"grpc": {"port": 8080}}, (Probe(8080, "/grpc.health.v1.Health/Check", ProbeKind.GRPC),)),
        ({"httpGet": {"port": 8080, "scheme": "HTTPS"}}, ()),
        ({"httpGet": {"port": 8080, "host": "10.0.0.9"}}, ()),
        ({"tcpSocket": {"port": 8080}}, ()),
        ({"exec": {"command": ["true"]}}, ()),
    ],
)
def test_probes_that_must_work_under_strict(probe: Raw, read_as: tuple[Probe, ...]) -> None:
    """The exact path on the number of the port; named ports are the container's own."""
    found = taken(container(ports=[{"containerPort": 8080, "name": "http"}], readinessProbe=probe), Pod)

    assert found.probes == read_as


def test_equal_probes_are_one() -> None:
    """Liveness and readiness often ask the same."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}}

    assert taken(container(livenessProbe=probe, readinessProbe=probe), Pod).probes == (
        Probe(8080, "/healthz"),
    )


def test_a_probe_of_an_unknown_port_is_refused() -> None:
    """The reason names the ports that there are."""
    error = refusal(
        container(ports=[{"containerPort": 1, "name": "a"}], livenessProbe={"httpGet": {"port": "b"}})
    )

    assert error == (
        'spec.containers[0].livenessProbe.httpGet.port: names no port of this container: "b"; named ports: a'
    )


def owned(kind: str, name: str, labels: dict[str, str]) -> Raw:
    """Return a Pod with a controller."""
    owners = [
        {"kind": "Node", "name": "n", "controller": False},
        {"kind": kind, "name": name, "controller": True},
    ]
    return pod("orders-7d4b9c-x2x", metadata={"labels": labels, "ownerReferences": owners})


@pytest.mark.parametrize(
    ("value", "workload"),
    [
        (pod("orders-1"), "orders-1"),
        (owned("ReplicaSet", "orders-7d4b9c", {"pod-template-hash": "7d4b9c"}), "orders"),
        (owned("ReplicaSet", "orders-blue", {}), "orders-blue"),
        (owned("StatefulSet", "db", {}), "db"),
        (owned("StatefulSet", "db", {"proa.dev/workload": "ledger"}), "ledger"),
        (pod(metadata={"annotations": {"proa.dev/workload": "ledger"}}), "ledger"),
    ],
)
def test_workload_is_the_controller_without_its_hash(value: Raw, workload: str) -> None:
    """A rollout keeps its name; a label or an annotation says otherwise."""
    assert taken(value, Pod).workload == workload


def test_the_sidecar_is_known_by_its_container() -> None:
    """A Pod is meshed if it holds ours."""
    containers = [{"name": "proa-proxy", "restartPolicy": "Always"}]

    assert taken(pod(spec={"containers": [], "initContainers": containers}), Pod).has_sidecar
    assert not taken(pod(), Pod).has_sidecar


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (pod(ip="localhost"), 'status.podIP: must be an IPv4 or IPv6 address, got "localhost"'),
        (
            container(ports=[{"containerPort": 0}]),
            "spec.containers[0].ports[0].containerPort: must be 1..65535",
        ),
        (pod(spec={"serviceAccountName": "a/b"}), "spec.serviceAccountName: must be lower-case letters"),
        (pod(spec={"containers": {}}), "spec.containers: must be a list, got an object"),
        (
            pod(metadata={"labels": {"proa.dev/workload": "A"}}),
            "metadata.labels.proa.dev/workload: must be lower",
        ),
        (pod(spec={"hostNetwork": "yes"}), 'spec.hostNetwork: must be true or false, got "yes"'),
    ],
)
def test_a_pod_is_refused_by_field(value: Raw, error: str) -> None:
    """An identity is made of these, so nothing passes unchecked."""
    assert refusal(value).startswith(error)


# -- Metadata --------------------------------------------------------------------------------------


def test_namespace_defaults() -> None:
    """As kubectl has it; a Namespace itself lives in none."""
    assert parsed(raw("ServiceAccount", "a", namespace=None)).key == Key("ServiceAccount", "default", "a")
    assert parsed(raw("Namespace", "a", namespace="ignored")).key == Key("Namespace", "", "a")


def test_only_annotations_of_the_mesh_are_kept() -> None:
    """The copy that kubectl keeps of the object would make an edit look like two, and cost its size again."""
    found = taken(
        pod(
            metadata={
                "annotations": {"proa.dev/app-address": "127.0.0.9", "kubectl.kubernetes.io/x": "y" * 5000}
            }
        ),
        Pod,
    )

    assert found.meta.annotations == (("proa.dev/app-address", "127.0.0.9"),)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"name": None}, "metadata.name: is required"),
        ({"name": "A"}, "metadata.name: must be lower-case letters"),
        ({"name": "a/../b"}, "metadata.name: must be lower-case letters"),
        ({"name": "a" * 254}, "metadata.name: must be lower-case letters"),
        ({"namespace": "a.b"}, "metadata.namespace: must be at most 63"),
        ({"namespace": ""}, "metadata.namespace: must be at most 63"),
        ({"labels": {"a b": "c"}}, "metadata.labels.a b: is not a label key"),
        ({"labels": {"/a": "c"}}, "metadata.labels./a: must be lower-case"),
        ({"labels": {"a": "c d"}}, "metadata.labels.a: must be at most 63"),
        ({"labels": ["a"]}, "metadata.labels: must be an object of strings, got a list"),
        ({"generation": -1}, "metadata.generation: must be 0.."),
    ],
)
def test_metadata_is_refused_by_field(metadata: Raw, error: str) -> None:
    """Names end up in resource names, certificates and paths."""
    assert refusal(raw("ServiceAccount", "a", metadata=metadata)).startswith(error)
