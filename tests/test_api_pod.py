"""What injection and a kubelet leave in a Pod, and the kinds that tell where Pods run."""

from __future__ import annotations

import pytest

from tests.fakes.objects import Raw, pod, raw, service
from tests.fakes.taken import taken
from xds.api.core import ContainerPort, Key, Node, Pod, Probe, Service, ServiceCIDR
from xds.api.manifest import key_of, read
from xds.fields import ConfigError
from xds.redirect import init_command


def injected() -> Raw:
    """Return a Pod as injection leaves it: TCP probes ask the sidecar, which has ports and probes of its own."""
    return pod(
        metadata={"uid": "8d3f", "labels": {"app": "orders"}},
        spec={
            "nodeName": "node-1",
            "initContainers": [
                {"name": "proa-init"},
                {
                    "name": "proa-proxy",
                    "restartPolicy": "Always",
                    "ports": [{"containerPort": 15090, "name": "http-metrics"}],
                    "startupProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}},
                },
            ],
            "containers": [
                {
                    "name": "app",
                    "ports": [{"containerPort": 8080, "name": "http"}],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                    "livenessProbe": {"httpGet": {"path": "/tcp/8080", "port": 15021}},
                }
            ],
        },
        status={"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00:0::1"}], "phase": "Running"},
    )


def test_an_injected_pod_is_known_by_its_containers() -> None:
    """The sidecar says that it is meshed, the init container that its traffic is redirected."""
    found = taken(injected(), Pod)

    assert (found.has_sidecar, found.is_redirected) == (True, True)
    assert (taken(pod(), Pod).has_sidecar, taken(pod(), Pod).is_redirected) == (False, False)


def test_ports_past_the_sidecar_are_those_of_its_init_container() -> None:
    """What was loaded into the Pod's network counts, not an annotation that may have been edited since."""
    found = injected()
    found["spec"]["initContainers"][0]["command"] = init_command(excluded_inbound_ports=[9000])
    found["metadata"]["annotations"] = {"traffic.sidecar.istio.io/excludeInboundPorts": "8080"}

    assert taken(found, Pod).bypassed == (9000, 15021, 15090)
    assert taken(pod(), Pod).bypassed == ()


def test_ports_and_probes_are_the_applications() -> None:
    """Neither the sidecar's own port nor a probe that asks it may become a port of the workload."""
    found = taken(injected(), Pod)

    assert found.ports == (ContainerPort(8080, "http"),)
    assert found.probes == (Probe(8080, "/healthz"),)
    assert found.tcp_probes == ()


def test_a_pod_tells_itself_from_a_later_one_of_its_name() -> None:
    """Identity binds the uid; the node tells the zone."""
    found = taken(injected(), Pod)

    assert (found.uid, found.node) == ("8d3f", "node-1")


def test_every_address_of_a_pod_is_read() -> None:
    """Dual-stack Pods are called by either."""
    assert taken(injected(), Pod).ips == ("10.0.0.1", "fd00::1")
    assert taken(pod(ip="10.0.0.9"), Pod).ips == ("10.0.0.9",)


@pytest.mark.parametrize(
    ("phase", "finished"), [("Succeeded", True), ("Failed", True), ("Running", False), ("Pending", False)]
)
def test_a_finished_pod_has_given_its_addresses_back(phase: str, *, finished: bool) -> None:
    """Whoever gets the address next is somebody else."""
    found = taken(pod(status={"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "phase": phase}), Pod)

    assert found.finished is finished
    assert found.ips == (() if finished else ("10.0.0.1",))


@pytest.mark.parametrize(
    ("probe", "ports"),
    [
        ({"tcpSocket": {"port": "db"}}, (5432,)),
        ({"tcpSocket": {"port": 6379}}, (6379,)),
        ({"tcpSocket": {"port": 6379, "host": "10.0.0.9"}}, ()),
        ({"httpGet": {"port": 8443, "scheme": "HTTPS"}}, (8443,)),
        ({"httpGet": {"port": 8080}}, ()),
        ({"exec": {"command": ["true"]}}, ()),
    ],
)
def test_probes_that_only_connect(probe: Raw, ports: tuple[int, ...]) -> None:
    """Through interception a dead port looks alive, so whoever injects must know them."""
    containers = [{"ports": [{"containerPort": 5432, "name": "db"}], "livenessProbe": probe}]

    assert taken(pod(spec={"containers": containers}), Pod).tcp_probes == ports


@pytest.mark.parametrize(
    ("said", "export_to"),
    [(None, ("*",)), ("", ("*",)), ("shop, .", (".", "shop")), ("~", ("~",)), (" , ", ())],
)
def test_who_sees_a_service(said: str | None, export_to: tuple[str, ...]) -> None:
    """Istio's annotation; one that names nobody shows the Service to nobody."""
    annotations = {} if said is None else {"networking.istio.io/exportTo": said}
    value = service()
    value["metadata"]["annotations"] = annotations

    assert taken(value, Service).export_to == export_to


def test_a_node_is_read() -> None:
    """Its zone, and the ranges of its Pods' addresses in one canonical form; it lives in no namespace."""
    labels = {"topology.kubernetes.io/zone": "a"}
    spec = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "FD00:0::/64"]}
    found = taken(raw("Node", "n.example", namespace="x", metadata={"labels": labels}, spec=spec), Node)

    assert (found.meta.namespace, found.zone) == ("", "a")
    assert found.pod_cidrs == ("10.244.1.0/24", "fd00::/64")


def test_service_ranges_are_read() -> None:
    """Where cluster IPs come from."""
    value = raw("ServiceCIDR", "kubernetes", api="networking.k8s.io/v1", spec={"cidrs": ["10.96.0.1/12"]})

    assert taken(value, ServiceCIDR).cidrs == ("10.96.0.0/12",)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (raw("Node", "n", spec={"podCIDRs": ["10.0.0.0/33"]}), "spec.podCIDRs[0]"),
        (raw("Node", "n", spec={"podCIDR": "no"}), "spec.podCIDR"),
        (
            raw("ServiceCIDR", "k", api="networking.k8s.io/v1", spec={"cidrs": ["fe80::%a/64"]}),
            "spec.cidrs[0]",
        ),
    ],
)
def test_a_range_that_is_none_is_refused(value: Raw, path: str) -> None:
    """By its field."""
    with pytest.raises(ConfigError) as caught:
        read(value)

    assert caught.value.path == path


def test_cluster_scoped_kinds_have_no_namespace() -> None:
    """Also when they are broken."""
    assert key_of(raw("Node", "n", spec=1)) == Key("Node", "", "n")
    assert key_of(raw("ServiceCIDR", "k", spec=1)) == Key("ServiceCIDR", "", "k")
