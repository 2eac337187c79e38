"""What annotations may ask of a sidecar, in our words and in Istio's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.pods import arriving, container, injected
from xds.fields import ConfigError
from xds.injection.wishes import LIST_MAX, READ, Exclusions, Resources, Wishes, read_wishes


def wishes(**said: str) -> Wishes:
    """Read annotations: ``cpu`` is our own name of it, ``proxyCPU`` Istio's."""
    return read_wishes({_NAMES.get(name, name): value for name, value in said.items()})


_NAMES = {
    "cpu": "proa.dev/proxy-cpu",
    "memory": "proa.dev/proxy-memory",
    "cpu_limit": "proa.dev/proxy-cpu-limit",
    "memory_limit": "proa.dev/proxy-memory-limit",
    "proxyCPU": "sidecar.istio.io/proxyCPU",
    "proxyMemory": "sidecar.istio.io/proxyMemory",
    "proxyCPULimit": "sidecar.istio.io/proxyCPULimit",
    "proxyMemoryLimit": "sidecar.istio.io/proxyMemoryLimit",
    "concurrency": "proa.dev/concurrency",
    "config": "proxy.istio.io/config",
    "inbound": "proa.dev/exclude-inbound-ports",
    "outbound": "proa.dev/exclude-outbound-ports",
    "cidrs": "proa.dev/exclude-outbound-cidrs",
    "include": "proa.dev/include-outbound-cidrs",
    "excludeInboundPorts": "traffic.sidecar.istio.io/excludeInboundPorts",
    "excludeOutboundPorts": "traffic.sidecar.istio.io/excludeOutboundPorts",
    "excludeOutboundIPRanges": "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "includeOutboundIPRanges": "traffic.sidecar.istio.io/includeOutboundIPRanges",
}


def test_defaults_have_a_request_for_both_and_no_limit_of_cpu() -> None:
    """A throttled proxy delays at random; one without requests is the first to be evicted."""
    pod = injected(arriving())

    for name in ("proa-init", "proa-proxy"):
        assert container(pod, name)["resources"] == {
            "requests": {"cpu": "50m", "memory": "96Mi"},
            "limits": {"memory": "1Gi"},
        }


def test_resources_are_taken_in_either_language() -> None:
    """Ours is asked first."""
    istio = wishes(proxyCPU="100m", proxyMemory="128Mi", proxyCPULimit="2", proxyMemoryLimit="0.5Gi")

    assert istio.resources == ("100m", "128Mi", "2", "0.5Gi")
    assert wishes(cpu="1", proxyCPU="2").resources.cpu == "1"


def test_a_default_gives_way_to_what_is_asked_for() -> None:
    """Kubernetes refuses a request above its limit: one annotation must not make a Pod invalid."""
    assert wishes(memory="2Gi").resources[1::2] == ("2Gi", "2Gi")
    assert wishes(cpu_limit="10m").resources[0::2] == ("10m", "10m")
    assert wishes(memory_limit="64Mi").resources[1::2] == ("64Mi", "64Mi")


@pytest.mark.parametrize(
    "said",
    [
        {"cpu": "lots"}, {"cpu": ""}, {"cpu": "-1"}, {"cpu": "0"}, {"cpu": "1Gi"}, {"cpu": "1e3"}, {"cpu": " 1"},
        {"memory": "100m"}, {"memory": "1GB"}, {"memory": "0x10"}, {"memory": "1" * 13}, {"memory": "\u0661Gi"},
        {"proxyMemory": "1Gi; rm"}, {"cpu": "2", "cpu_limit": "1"}, {"memory": "1Gi", "proxyMemoryLimit": "1G"},
    ],
)  # fmt: skip
def test_an_amount_that_is_none_is_refused(said: dict[str, str]) -> None:
    """By the annotation's name, with an example."""
    with pytest.raises(ConfigError, match=r"metadata\.annotations\[(proa\.dev|sidecar\.istio\.io)/"):
        wishes(**said)


def test_traffic_is_excluded_in_either_language() -> None:
    """Spaces are people's; order and repetition are not kept."""
    istio = wishes(
        excludeInboundPorts="9090, 15020,9090",
        excludeOutboundPorts=" 5432 ",
        excludeOutboundIPRanges="10.1.2.3/8,fd00::/8,1.2.3.4",
        includeOutboundIPRanges="*",
    )

    assert istio.exclusions == Exclusions(
        (9090, 15020), (5432,), ("1.2.3.4/32", "10.0.0.0/8", "fd00::/8"), ()
    )
    assert wishes(include="10.0.0.0/8").exclusions.included_cidrs == ("10.0.0.0/8",)
    assert wishes(inbound="", outbound="").exclusions == Exclusions()


def test_no_included_range_is_no_outbound_interception() -> None:
    """Istio's meaning of the empty text."""
    assert wishes(includeOutboundIPRanges="").exclusions.excluded_cidrs == ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    "said",
    [
        {"inbound": "0"}, {"inbound": "65536"}, {"inbound": "http"}, {"inbound": "80;90"}, {"inbound": "80,,90"},
        {"inbound": "*"}, {"inbound": "-1"}, {"inbound": "1-100"}, {"inbound": "15006"}, {"inbound": "80,15001"},
        {"outbound": "²"}, {"outbound": ",".join(map(str, range(1, LIST_MAX + 2)))},
        {"cidrs": "10.0.0.0/33"}, {"cidrs": "example.com"}, {"cidrs": "*"}, {"cidrs": "10.0.0.0/8 return"},
        {"include": "10.0.0.0/8,*"}, {"cidrs": "fe80::1%eth0/64"}, {"cidrs": "}; add table x"},
    ],
)  # fmt: skip
def test_an_exclusion_that_does_not_parse_is_refused(said: dict[str, str]) -> None:
    """Lost, it would break the application; widened, it would leave the mesh; ours are nobody's to exclude."""
    with pytest.raises(ConfigError, match=r"metadata\.annotations\[proa\.dev/"):
        wishes(**said)


def test_exclusions_reach_the_rules() -> None:
    """And nothing else of the Pod does."""
    pod = arriving(
        metadata={
            "annotations": {
                "proa.dev/exclude-inbound-ports": "9090",
                "proa.dev/exclude-outbound-cidrs": "10.9.0.0/16",
            }
        }
    )
    command = container(injected(pod), "proa-init")["command"]

    assert "9090" in command[-1]
    assert "10.9.0.0/16" in command[-1]


def test_threads_are_asked_for_in_either_language() -> None:
    """Istio's ProxyConfig is read for this field alone; 0 is a thread for each core."""
    assert wishes(concurrency="4").concurrency == 4
    assert wishes(config="holdApplicationUntilProxyStarts: true\nconcurrency: 2").concurrency == 2
    assert wishes(config="holdApplicationUntilProxyStarts: true").concurrency == 1
    assert wishes(config="").concurrency == 1
    assert wishes(config='{"concurrency": 0}').concurrency == 0
    sidecar = container(
        injected(arriving(metadata={"annotations": {"proa.dev/concurrency": "0"}})), "proa-proxy"
    )
    assert "--concurrency" not in sidecar["args"]


@pytest.mark.parametrize(
    "said",
    [
        {"concurrency": "65"}, {"concurrency": "two"}, {"concurrency": "-1"}, {"concurrency": "1 --admin"},
        {"config": "concurrency: 2.5"}, {"config": "concurrency: true"}, {"config": "- a"}, {"config": "{"},
        {"config": "a: " + "b" * 5000}, {"config": "concurrency: 99999999999999999999"},
    ],
)  # fmt: skip
def test_threads_that_are_no_number_are_refused(said: dict[str, str]) -> None:
    """They stand on a command line."""
    with pytest.raises(ConfigError, match="annotations"):
        wishes(**said)


def test_what_istio_takes_and_we_do_not_is_said() -> None:
    """As a warning to who applies it."""
    found = wishes(**{"sidecar.istio.io/proxyImage": "evil:1"}).warnings

    assert found == ("sidecar.istio.io/proxyImage is ignored: the image is the mesh's",)


def test_every_annotation_stands_in_the_documents() -> None:
    """With the default that it has."""
    text = (Path(__file__).parent.parent / "docs" / "injection.md").read_text("utf-8")

    assert [name for name in READ if f"`{name}`" not in text] == []
    assert [each for each in Resources() if each and f"`{each}`" not in text] == []
