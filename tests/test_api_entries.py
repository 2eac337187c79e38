"""What of a ServiceEntry and a Sidecar is refused, and by which field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.objects import Raw, raw
from tests.fakes.taken import taken
from xds.api.istio_entry import EntryEndpoint, EntryPort, ServiceEntry
from xds.api.istio_sidecar import EgressHost, Sidecar
from xds.api.manifest import read
from xds.api.mesh import OutboundPolicy
from xds.fields import ConfigError

HTTP: Raw = {"number": 80, "name": "http", "protocol": "HTTP"}
STATIC: Raw = {"resolution": "STATIC", "endpoints": [{"address": "192.0.2.1"}]}


def entry(api: str = "v1", **spec: Any) -> Raw:
    """Return a ServiceEntry of one host and one port."""
    given: Raw = {"hosts": ["api.example.com"], "ports": [HTTP], **spec}
    return raw("ServiceEntry", "api", api=f"networking.istio.io/{api}", spec=given)


def sidecar(api: str = "v1", **spec: Any) -> Raw:
    """Return a Sidecar."""
    return raw("Sidecar", "default", api=f"networking.istio.io/{api}", spec=spec)


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_the_versions_are_one(version: str) -> None:
    """Most of what people have is v1alpha3."""
    assert taken(entry(version), ServiceEntry).hosts
    assert taken(sidecar(version), Sidecar).meta.name == "default"


def test_an_entry_is_read() -> None:
    """Hosts in lower case, addresses in canonical form, single ones and ranges apart, ports by endpoint."""
    endpoint = {"address": "192.0.2.1", "ports": {"http": 8080}, "locality": "eu/eu-1/a", "weight": 2}
    found = taken(
        entry(
            hosts=["API.example.com", "api.example.com"],
            addresses=["2001:DB8:0::1", "203.0.113.1/24", "203.0.113.9/32"],
            ports=[HTTP, {"number": 443, "name": "https", "protocol": "HTTPS", "targetPort": 8443}],
            resolution="STATIC",
            endpoints=[endpoint],
        ),
        ServiceEntry,
    )

    assert found.hosts == ("api.example.com",)
    assert (found.addresses, found.ranges) == (("2001:db8::1", "203.0.113.9"), ("203.0.113.0/24",))
    assert found.endpoints == (EntryEndpoint("192.0.2.1", (("http", 8080),), weight=2, zone="eu-1"),)
    assert [found.endpoints[0].port_of(port) for port in found.ports] == [8080, 8443]
    https = found.port(443)
    assert isinstance(https, EntryPort)
    assert (https.is_tls, https.protocol.is_http) == (True, False)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"hosts": []}, "spec.hosts: must name 1..256 hosts, got 0"),
        ({"hosts": ["*"]}, "spec.hosts[0]: must not be *"),
        ({"hosts": ["a b"]}, "spec.hosts[0]: must be a host name"),
        ({"ports": []}, "spec.ports: must name at least one port"),
        ({"ports": [HTTP, HTTP]}, "spec.ports[1].number: is there twice: 80"),
        ({"ports": [HTTP, {**HTTP, "number": 81}]}, 'spec.ports[1].name: is there twice: "http"'),
        ({"ports": [{**HTTP, "protocol": "UDP"}]}, "spec.ports[0].protocol: must be one of GRPC,"),
        ({"ports": [{**HTTP, "number": 0}]}, "spec.ports[0].number: must be 1..65535"),
        ({"addresses": ["here"]}, "spec.addresses[0]: must be an IPv4 or IPv6 address"),
        ({"addresses": ["10.0.0.0/8"], "resolution": "DNS"}, "spec.addresses[0]: must be one address with"),
        ({"resolution": "DYNAMIC_DNS"}, "spec.resolution: must be one of NONE, STATIC, DNS, DNS_ROUND_ROBIN"),
        ({"resolution": "STATIC"}, "spec.endpoints: must be given with resolution STATIC"),
        ({**STATIC, "resolution": "NONE"}, "spec.endpoints: must be absent with resolution NONE"),
        ({**STATIC, "endpoints": [{"address": "a.b"}]}, "spec.endpoints[0].address: must be an IP address"),
        ({**STATIC, "endpoints": [{"address": "unix:///s"}]}, "spec.endpoints[0].address: Unix sockets"),
        ({**STATIC, "endpoints": [{"address": "1.1.1.1", "ports": {"x": 1}}]}, "spec.endpoints[0].ports.x: names"),
        ({"hosts": ["*.a.b"], "resolution": "DNS"}, "spec.hosts: *.a.b cannot be resolved"),
        ({"workloadSelector": {"labels": {"a": "b"}}}, "spec.workloadSelector: is not supported yet"),
        ({"exportTo": ["*", "a"]}, "spec.exportTo: must hold * or ~ alone"),
        ({"endpoint": []}, "spec.endpoint: unknown field; did you mean endpoints?"),
    ],
)  # fmt: skip
def test_an_entry_is_refused_by_field(spec: Raw, error: str) -> None:
    """The reason says what would be right."""
    with pytest.raises(ConfigError) as caught:
        read(entry(**spec))

    assert str(caught.value).startswith(error)


def test_a_sidecar_is_read() -> None:
    """Hosts of all its listeners together; a policy without a mode is the API's first, as in Istio."""
    value = sidecar(egress=[{"hosts": ["./*"]}, {"hosts": ["*/API.example.com"]}], outboundTrafficPolicy={})
    found = taken(value, Sidecar)

    assert found.egress == (EgressHost("*", "api.example.com"), EgressHost(".", "*"))
    assert found.outbound is OutboundPolicy.REGISTRY_ONLY


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"egress": [Raw()]}, "spec.egress[0].hosts: must name at least one host"),
        ({"egress": [{"hosts": ["orders"]}]}, "spec.egress[0].hosts[0]: must be NAMESPACE/HOST"),
        ({"egress": [{"hosts": ["A/b"]}]}, "spec.egress[0].hosts[0]: must be letters a-z"),
        ({"egress": [{"hosts": ["a/b c"]}]}, "spec.egress[0].hosts[0]: must be a host name"),
        ({"egress": [{"hosts": ["./*"], "bind": "127.0.0.1"}]}, "spec.egress[0].bind: is not supported yet"),
        ({"workloadSelector": {}}, "spec.workloadSelector.labels: must not be empty"),
        ({"outboundTrafficPolicy": {"mode": "ANY"}}, "spec.outboundTrafficPolicy.mode: must be one of ALLOW_ANY"),
        ({"egres": []}, "spec.egres: unknown field; did you mean egress?"),
    ],
)  # fmt: skip
def test_a_sidecar_is_refused_by_field(spec: Raw, error: str) -> None:
    """The reason says what would be right."""
    with pytest.raises(ConfigError) as caught:
        read(sidecar(**spec))

    assert str(caught.value).startswith(error)
