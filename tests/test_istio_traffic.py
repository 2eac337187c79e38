"""VirtualService and DestinationRule: Istio's semantics, as far as reading decides them."""

from __future__ import annotations

import pytest
import yaml

from tests.fakes.reading import notes, reader, refusal
from xds.api.core import Meta
from xds.api.istio_traffic import (
    Destination,
    DestinationRule,
    HttpMatch,
    HttpRule,
    RouteDestination,
    VirtualService,
    read_destination_rule,
    read_virtual_service,
)
from xds.features.fault import Fault
from xds.features.headers import HeaderOps
from xds.features.load_balancer import ConsistentHash, LoadBalancer, Simple
from xds.features.mirror import Mirror
from xds.features.outlier import OutlierDetection
from xds.features.redirect import Redirect
from xds.features.retry import Retry
from xds.features.retry_budget import RetryBudget
from xds.features.rewrite import Rewrite
from xds.features.timeout import Timeout
from xds.features.tls import ClientTlsSettings, Mode
from xds.fields import Reader

META = Meta("shop", "orders")
TO_A = "route: [{destination: {host: a}}]"


def read_service(spec: Reader) -> VirtualService:
    """Read a VirtualService."""
    return read_virtual_service(spec, META)


def read_rule(spec: Reader) -> DestinationRule:
    """Read a DestinationRule."""
    return read_destination_rule(spec, META)


def service(text: str) -> VirtualService:
    """Read a VirtualService of YAML."""
    return read_service(reader(text))


def http(text: str) -> HttpRule:
    """Read one HTTP rule of a VirtualService."""
    return service(f"{{hosts: [a], http: [{{{text}}}]}}").http[0]


def rule(text: str) -> DestinationRule:
    """Read a DestinationRule of YAML."""
    return read_rule(reader(text))


# -- VirtualService --------------------------------------------------------------------------


def test_defaults() -> None:
    """Without gateways it is for sidecars; without exportTo for every namespace."""
    found = service(f"{{hosts: [a], http: [{{{TO_A}}}]}}")

    assert (found.meta, found.hosts, found.gateways, found.export_to) == (META, ("a",), ("mesh",), ("*",))


def test_hosts_stay_as_written() -> None:
    """What a short name means is decided later, by who asks."""
    assert service(f"{{hosts: [a, a.b, '*.c.d'], http: [{{{TO_A}}}]}}").hosts == ("a", "a.b", "*.c.d")


def test_one_destination_gets_all() -> None:
    """A single destination needs no weight."""
    assert http(TO_A).destinations == (RouteDestination(Destination("a"), 100, None),)


def test_one_destination_gets_all_even_with_weight_0() -> None:
    """Istio ignores the weight of a single destination; the user is told."""
    text = "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 0}]}]}"

    assert service(text).http[0].destinations[0].weight == 100
    assert notes(read_service, text) == [
        "warning: x.http[0].route[0].weight: has no effect: a destination alone gets every request"
    ]


def test_weights() -> None:
    """Several destinations share by weight; one with weight 0 is not a destination."""
    destinations = (
        "{destination: {host: a, subset: v1}, weight: 90}, {destination: {host: a, subset: v2}, weight: 10}"
    )
    found = http(f"route: [{destinations}, {{destination: {{host: b}}, weight: 0}}]")

    assert [(d.destination.subset, d.weight) for d in found.destinations] == [("v1", 90), ("v2", 10)]


def test_absent_weight_among_several_is_told() -> None:
    """Among several, no weight is weight 0, as in Istio, which surprises."""
    said = notes(
        read_service,
        "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}, weight: 1}]}]}",
    )

    assert said == [
        "warning: x.http[0].route[0].weight: is absent, which is 0 beside other destinations: it gets no requests"
    ]


def test_destination_port_and_headers() -> None:
    """A destination can name a port and edit headers."""
    found = http(
        "route: [{destination: {host: a, port: {number: 8080}}, headers: {request: {remove: [x-a]}}}]"
    )

    assert found.destinations[0].destination == Destination("a", "", 8080)
    assert isinstance(found.destinations[0].headers, HeaderOps)


def test_no_match_is_every_request() -> None:
    """A rule without matches has none."""
    assert http(TO_A).matches == ()


def test_empty_match_is_every_request() -> None:
    """A match without conditions holds always."""
    assert http(f"match: [{{}}], {TO_A}").matches == (HttpMatch(match=None),)


def test_match_of_the_source_is_kept_apart() -> None:
    """What the control plane decides is not part of what the proxy decides."""
    found = http(
        "match: [{port: 80, sourceLabels: {app: web}, sourceNamespace: shop, gateways: [mesh], name: m}], "
        + TO_A
    )

    assert found.matches == (HttpMatch(None, 80, (("app", "web"),), "shop", ("mesh",)),)


def test_features_of_a_rule() -> None:
    """Everything that shapes a forward is among its features, in a fixed order."""
    found = http(
        "headers: {request: {set: {a: b}}}, rewrite: {uri: /}, timeout: 1s, retries: {attempts: 1}, "
        "fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}}, " + TO_A
    )

    assert [type(f) for f in found.features] == [HeaderOps, Rewrite, Timeout, Retry, Fault]


def test_rule_without_retries_has_no_retry_feature() -> None:
    """The default is not written into the rule: the compiler chooses it, so that a mesh may set its own."""
    assert http(TO_A).features == ()


def test_subset_may_have_upper_case() -> None:
    """Istio takes it, and it is another name than in lower case."""
    assert [found.name for found in rule("{host: a, subsets: [{name: V1}, {name: v1}]}").subsets] == [
        "V1",
        "v1",
    ]
    assert http("route: [{destination: {host: a, subset: V1}}]").destinations[0].destination.subset == "V1"


def test_mirror_of_a_rule() -> None:
    """Mirrors are kept apart from features until their clusters are known."""
    assert http(f"mirror: {{host: b}}, {TO_A}").mirrors == (Mirror("b"),)


def test_redirect_rule() -> None:
    """A redirect takes the place of destinations."""
    found = http("redirect: {uri: /b}")

    assert (found.action, found.destinations) == (Redirect(uri="/b"), ())


def test_fault_goes_before_a_direct_response() -> None:
    """A rule that answers itself keeps its fault and drops what is about a destination, telling so."""
    text = (
        "{hosts: [a], http: [{directResponse: {status: 200}, timeout: 1s, retries: {attempts: 1}, "
        "fault: {abort: {httpStatus: 500, percentage: {value: 1}}}}]}"
    )

    assert [type(f) for f in service(text).http[0].features] == [Fault]
    assert [note.split(": ")[1] for note in notes(read_service, text)] == [
        "x.http[0].timeout",
        "x.http[0].retries",
    ]


def test_paths_and_names_of_rules() -> None:
    """A rule knows its place; its name is the user's, or empty."""
    found = service(f"{{hosts: [a], http: [{{name: first, {TO_A}}}, {{{TO_A}}}]}}")

    assert [(r.path, r.name) for r in found.http] == [("http[0]", "first"), ("http[1]", "")]


def test_gateway_only_service_is_skipped_and_told() -> None:
    """Sidecars have no use for it, so not even its unsupported fields are an error."""
    text = "{hosts: ['*'], gateways: [edge, ns/edge], http: [{delegate: {name: a}}], tls: [{}]}"

    assert service(text).http == ()
    assert notes(read_service, text)[0].startswith("info: x.gateways: are gateways only")


def test_service_of_both_keeps_its_rules() -> None:
    """One that is bound to a gateway and to the mesh is read for the mesh."""
    assert len(service(f"{{hosts: [a], gateways: [edge, mesh], http: [{{{TO_A}}}]}}").http) == 1


def test_match_for_another_gateway_is_told() -> None:
    """A match that can never hold is most likely a typing error."""
    said = notes(read_service, f"{{hosts: [a], http: [{{match: [{{gateways: [edge]}}], {TO_A}}}]}}")

    assert said[0].startswith("warning: x.http[0].match[0].gateways: names no gateway of this VirtualService")


def test_rule_for_gateways_alone_may_hold_anything() -> None:
    """In an object for both, what only a gateway does is no error of the sidecars' rules, whose places stay."""
    only = "match: [{gateways: [edge]}, {gateways: [ns/edge]}], delegate: {name: b}, rate_limit: {}"
    text = f"{{hosts: [a], gateways: [mesh, edge, ns/edge], http: [{{{only}}}, {{{TO_A}}}]}}"
    first, second = service(text).http

    assert (first.is_for_sidecars, first.destinations, first.features) == (False, (), ())
    assert [match.gateways for match in first.matches] == [("edge",), ("ns/edge",)]
    assert (second.is_for_sidecars, second.path) == (True, "http[1]")
    assert notes(read_service, text) == []


def test_rules_for_connections_beside_http_are_left_out_and_told() -> None:
    """The rules for requests hold all the same."""
    text = (
        f"{{hosts: [a], http: [{{{TO_A}}}], tcp: [{{route: [{{destination: {{host: b}}}}]}}], tls: [{{}}]}}"
    )

    assert len(service(text).http) == 1
    assert [note.split(": these")[0] for note in notes(read_service, text)] == [
        "warning: x.tcp: is not supported yet and was left out",
        "warning: x.tls: is not supported yet and was left out",
    ]


def test_rules_for_connections_of_gateways_are_no_matter_of_sidecars() -> None:
    """An egress gateway's own half of a rule is not even a remark."""
    elsewhere = "match: [{gateways: [edge], sniHosts: [b]}], route: [{destination: {host: b}}]"
    text = f"{{hosts: [a], gateways: [mesh, edge], http: [{{{TO_A}}}], tls: [{{{elsewhere}}}]}}"

    assert notes(read_service, text) == []


def test_service_without_hosts_is_a_delegate_that_nobody_goes_by() -> None:
    """Istio takes it for a part of others; one that names it is told of its own."""
    text = f"{{http: [{{{TO_A}, websocketUpgrade: true}}]}}"

    assert (service(text).hosts, service(text).gateways, service(text).http) == ((), (), ())
    assert notes(read_service, text)[0].startswith("warning: x.hosts: are absent: a delegate")


def test_cors_policy_is_left_out_and_told() -> None:
    """A field that Proa has not yet is left out where it cannot widen access or misroute."""
    said = notes(read_service, f"{{hosts: [a], http: [{{corsPolicy: {{allowOrigins: []}}, {TO_A}}}]}}")

    assert said[0].startswith("warning: x.http[0].corsPolicy: is not supported yet and was left out")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.hosts: must name at least one host"),
        ("{gateways: [mesh], http: [{TO}]}", "x.hosts: must name at least one host"),
        ("{hosts: [], gateways: [mesh], http: [{TO}]}", "x.hosts: must name at least one host"),
        ("{hosts: a, http: [{TO}]}", "x.hosts: must be a list"),
        ("{hosts: [a, A], http: [{TO}]}", "x.hosts[1]: is there twice: A"),
        ("{hosts: ['*'], http: [{TO}]}", "x.hosts[0]: must not be * for sidecars"),
        ("{hosts: ['a b'], http: [{TO}]}", "x.hosts[0]: must be a host name"),
        ("{hosts: [a], gateways: [''], http: [{TO}]}", "x.gateways[0]: must be a host name"),
        ("{hosts: [a], gateways: [N/a], http: [{TO}]}", "x.gateways[0]: must be letters a-z"),
        ("{hosts: [a], exportTo: ['*', b], http: [{TO}]}", "x.exportTo: must hold * or ~ alone"),
        ("{hosts: [a], exportTo: [A], http: [{TO}]}", "x.exportTo[0]: must be letters a-z"),
        ("{hosts: [a]}", "x.http: must have at least one rule"),
        ("{hosts: [a], tcp: [{}]}", "x.tcp: is not supported yet, and without it these connections"),
        ("{hosts: [a], tls: [{}]}", "x.tls: is not supported yet"),
        (
            "{hosts: [a], gateways: [mesh, e], tcp: [{}], http: [{match: [{gateways: [e]}], TO}]}",
            "x.tcp: is not supported yet",
        ),
        (
            "{hosts: [a], http: [{TO}], tcp: [{match: [{gateways: ['']}]}]}",
            "x.tcp[0].match[0].gateways[0]: must be",
        ),
        ("{hosts: [a], htp: []}", "x.htp: unknown field; did you mean http?"),
        ("{hosts: [a], http: [{}]}", "x.http[0].route: must stand alone, or redirect or directResponse"),
        ("{hosts: [a], http: [{route: []}]}", "x.http[0].route: must stand alone"),
        ("{hosts: [a], http: [{TO, redirect: {uri: /}}]}", "x.http[0].route: must stand alone"),
        (
            "{hosts: [a], http: [{redirect: {uri: /}, directResponse: {status: 200}}]}",
            "x.http[0].route: must stand alone",
        ),
        ("{hosts: [a], http: [{redirect: {uri: /}, rewrite: {uri: /}}]}", "x.http[0].rewrite: has no place"),
        (
            "{hosts: [a], http: [{redirect: {uri: /}, fault: {delay: {fixedDelay: 1s}}}]}",
            "x.http[0].fault: has no place",
        ),
        ("{hosts: [a], http: [{delegate: {name: b}}]}", "x.http[0].delegate: is not supported yet"),
        (
            "{hosts: [a], http: [{TO, rewrite: {authority: b}, headers: {request: {set: {Host: c}}}}]}",
            "x.http[0].rewrite.authority: is set in headers.request as well",
        ),
        ("{hosts: [a], http: [{route: [{}]}]}", "x.http[0].route[0].destination: is required"),
        (
            "{hosts: [a], http: [{route: [{destination: {}}]}]}",
            "x.http[0].route[0].destination.host: is required",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: '*'}}]}]}",
            "x.http[0].route[0].destination.host: must be",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}",
            "x.http[0].route[0].weight: must be 0..",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 1.5}]}]}",
            "x.http[0].route[0].weight: must be 0..",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
            "x.http[0].route: has several destinations, and their weights add up to 0",
        ),
        (
            "{hosts: [a], http: [{route: [{W}, {W}, {W}]}]}",
            "x.http[0].route: has weights that add up to 6442450941, at most 4294967295",
        ),
        ("{hosts: [a], http: [{match: [{port: 65536}], TO}]}", "x.http[0].match[0].port: must be 0..65535"),
        (
            "{hosts: [a], http: [{match: [{sourceLabels: {'a b': c}}], TO}]}",
            "x.http[0].match[0].sourceLabels",
        ),
        (
            "{hosts: [a], http: [{match: [{sourceNamespace: A}], TO}]}",
            "x.http[0].match[0].sourceNamespace: must be",
        ),
        (
            "{hosts: [a], http: [{match: [{urI: {exact: /}}], TO}]}",
            "x.http[0].match[0].urI: unknown field; did you mean uri?",
        ),
    ],
)
def test_refused_virtual_service(text: str, start: str) -> None:
    """What would misroute, or cannot be meant, is refused with its field."""
    weight = "destination: {host: a}, weight: 2147483647"

    assert refusal(read_service, text.replace("TO", TO_A).replace("{W}", f"{{{weight}}}")).startswith(start)


# -- DestinationRule -------------------------------------------------------------------------


def test_rule_of_a_host_alone() -> None:
    """A rule may only name its host."""
    found = rule("host: a")

    assert (found.host, found.policy.features, found.policy.tls, found.subsets) == ("a", (), None, ())
    assert found.export_to == ("*",)


def test_policy() -> None:
    """A policy is its TLS settings and its features."""
    found = rule(
        "{host: a, trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {simple: RANDOM}, outlierDetection: {}}}"
    )

    assert found.policy.tls == ClientTlsSettings(Mode.DISABLE)
    assert found.policy.features == (LoadBalancer(Simple.RANDOM), OutlierDetection())


def test_policy_of_a_port() -> None:
    """Port-level settings are policies of their own, sorted by port."""
    hashing = "loadBalancer: {consistentHash: {useSourceIp: true}}"
    ports = f"{{port: {{number: 81}}, tls: {{mode: DISABLE}}}}, {{port: {{number: 80}}, {hashing}}}"
    found = rule(f"{{host: a, trafficPolicy: {{portLevelSettings: [{ports}]}}}}")

    assert [number for number, _ in found.policy.ports] == [80, 81]
    assert isinstance(found.policy.ports[0][1].features[0], ConsistentHash)


def test_subsets() -> None:
    """A subset has labels and what differs in its policy."""
    found = rule(
        "{host: a, subsets: [{name: v1, labels: {version: v1}}, {name: all, trafficPolicy: {outlierDetection: {}}}]}"
    )

    assert [(s.name, s.labels) for s in found.subsets] == [("v1", (("version", "v1"),)), ("all", ())]
    assert found.subsets[1].policy.features == (OutlierDetection(),)


def test_rule_of_every_host() -> None:
    """``*`` is how a rule of the root namespace covers the whole mesh."""
    assert rule('host: "*"').host == "*"


def test_a_budget_holds_for_ports_with_settings_of_their_own() -> None:
    """Settings of a port replace the host's; of those without a budget, the host's stays."""
    found = rule("{host: a, trafficPolicy: {retryBudget: {}, portLevelSettings: [{port: {number: 80}}]}}")

    assert found.policy.features == (RetryBudget(20, 3),)
    assert dict(found.policy.ports)[80].features == (RetryBudget(20, 3),)


def test_the_interval_of_a_retry_budget_is_left_out_and_told() -> None:
    """A field that Envoy has not is left out where it cannot misroute."""
    said = notes(read_rule, "{host: a, trafficPolicy: {retryBudget: {percent: 20, budgetInterval: 10s}}}")

    assert said[0].startswith("warning: x.trafficPolicy.retryBudget.budgetInterval: is not supported yet")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.host: is required"),
        ("{host: '*a'}", "x.host: must be a host name"),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}}", "x.workloadSelector: is not supported yet"),
        ("{host: a, trafficPolicies: {}}", "x.trafficPolicies: unknown field; did you mean trafficPolicy?"),
        (
            "{host: a, trafficPolicy: {tunnel: {targetHost: a}}}",
            "x.trafficPolicy.tunnel: is not supported yet",
        ),
        (
            "{host: a, trafficPolicy: {proxyProtocol: {}}}",
            "x.trafficPolicy.proxyProtocol: is not supported yet",
        ),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{}]}}",
            "x.trafficPolicy.portLevelSettings[0].port: is required",
        ),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}]}}",
            "x.trafficPolicy.portLevelSettings[1].port: is there twice: 1",
        ),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 1}, portLevelSettings: []}]}}",
            "x.trafficPolicy.portLevelSettings[0].portLevelSettings: unknown field",
        ),
        ("{host: a, subsets: [{labels: {a: b}}]}", "x.subsets[0].name: is required"),
        ("{host: a, subsets: [{name: v_1}]}", "x.subsets[0].name: must be letters, digits and -"),
        ("{host: a, subsets: [{name: v1}, {name: v1}]}", "x.subsets[1].name: is there twice: v1"),
        ("{host: a, subsets: [{name: v1, labels: {'a b': c}}]}", "x.subsets[0].labels"),
        ("{host: a, exportTo: ['~', '.']}", "x.exportTo: must hold * or ~ alone"),
    ],
)
def test_refused_destination_rule(text: str, start: str) -> None:
    """What would reach other servers, or cannot be meant, is refused with its field."""
    assert refusal(read_rule, text).startswith(start)


def test_yaml_of_istios_documentation() -> None:
    """A canary as everybody has it is read without a word."""
    text = """
    hosts: [reviews]
    http:
    - match: [{headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - route:
      - {destination: {host: reviews, subset: v1}, weight: 75}
      - {destination: {host: reviews, subset: v3}, weight: 25}
    """

    assert notes(read_service, text) == []
    assert len(read_service(Reader(yaml.safe_load(text), "spec", [])).http) == 2
