"""Services as clients see them: one cluster for each port, and for each subset of each port.

It must never look at who asks beyond the namespace: clusters are shared by all its proxies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from xds import ir
from xds.api.core import Service, ServicePort
from xds.api.istio_traffic import DestinationRule, Subset, TrafficPolicy
from xds.compile.lens import Lens
from xds.features import ClusterFeature, load_balancer, tls
from xds.hosts import Name, host_of, visible
from xds.resources import names


@dataclass(frozen=True, slots=True)
class Shape:
    """How one namespace sees a service: its policy, its subsets, and the rules they come from."""

    policy: TrafficPolicy
    subsets: tuple[Subset, ...]
    rules: tuple[str, ...]


NO_POLICY = TrafficPolicy()

SCOPES = frozenset({"*", ".", "~"})
"""What ``exportTo`` can hold besides names of namespaces."""


def shapes(lens: Lens, service: Name, held: Mapping[str, Subset]) -> dict[str, Shape]:
    """Return how each namespace sees a service; the key "" is everybody whom nothing else is said for.

    ``held`` are subsets that routes in force still use although no rule names them any more:
    they stay until the routes have moved.
    """
    order = (service[0], lens.root_namespace)
    host = host_of(*service)
    rules = _rules_of(lens, host)
    everybody = _choose(rules, order, "")
    shaped = {"": _shape(everybody, held)}
    for namespace in sorted(apart(lens, host, order)):
        chosen = _choose(rules, order, namespace)
        if chosen != everybody:
            shaped[namespace] = _shape(chosen, held)
    return shaped


def exported(service: Service, shaped: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return how those see a service to whom it is shown, without the others."""
    if "*" in service.export_to:
        return dict(shaped)
    shown = {service.meta.namespace if name == "." else name for name in service.export_to if name != "~"}
    return {namespace: shaped.get(namespace, shaped[""]) for namespace in sorted(shown)}


def shape_of(lens: Lens, host: str, owner: str, namespace: str) -> Shape:
    """Return how one namespace ("": any other) sees a host that belongs to another."""
    return _shape(_choose(_rules_of(lens, host), (owner, lens.root_namespace), namespace), {})


def apart(lens: Lens, host: str, order: Iterable[str]) -> set[str]:
    """Return the namespaces that may see a host differently: those with rules for it, and those that rules name."""
    rules = _rules_of(lens, host)
    exported = (rule.export_to for namespace in order for rule in rules.get(namespace, ()))
    return {*rules, *(name for scopes in exported for name in scopes if name not in SCOPES)}


def _rules_of(lens: Lens, host: str) -> dict[str, list[DestinationRule]]:
    rules: dict[str, list[DestinationRule]] = {}
    for rule in lens.rules(host):
        rules.setdefault(rule.meta.namespace, []).append(rule)
    return rules


def _choose(
    rules: Mapping[str, list[DestinationRule]], order: tuple[str, str], client: str
) -> list[DestinationRule]:
    """Return what a namespace goes by: its own rules, else the owner's, else the mesh's, where it sees them."""
    for namespace in (client, *order):
        found = [
            rule
            for rule in rules.get(namespace, ())
            if namespace == client or visible(rule.export_to, namespace, client)
        ]
        if found:
            return found
    return []


def _shape(rules: list[DestinationRule], held: Mapping[str, Subset]) -> Shape:
    """Merge the rules of one namespace, oldest first: subsets add up, the first policy that is set holds."""
    policy = next((rule.policy for rule in rules if rule.policy != NO_POLICY), NO_POLICY)
    subsets: dict[str, Subset] = {}
    for subset in (subset for rule in rules for subset in rule.subsets):
        subsets.setdefault(subset.name, subset)
    subjects = tuple(f"DestinationRule {rule.meta.namespace}/{rule.meta.name}" for rule in rules)
    return Shape(
        policy, tuple({**subsets, **{k: v for k, v in held.items() if k not in subsets}}.values()), subjects
    )


def clusters(lens: Lens, service: Name, shape: Shape) -> list[ir.Cluster]:
    """Return the clusters of a service: each port, and each subset of each port."""
    found = lens.service(service)
    if found is None:
        return []
    host = host_of(*service)
    trust_domain = lens.trust_domain
    sans = tuple(
        f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
        for namespace, _, account in (a.partition("/") for a in lens.accounts(service))
    )
    out: list[ir.Cluster] = []
    for port in found.ports:
        out.append(_cluster(found, port, "", policy_of(shape, None, port.port), sans, host))
        out.extend(
            _cluster(found, port, subset.name, policy_of(shape, subset, port.port), sans, host)
            for subset in shape.subsets
        )
    return out if lens.has_keys else [_without_keys(cluster) for cluster in out]


def _without_keys(cluster: ir.Cluster) -> ir.Cluster:
    """Return the cluster as it is where nobody has a certificate of the mesh; TLS with the user's own files stays."""
    return replace(cluster, tls=ir.Plaintext()) if isinstance(cluster.tls, ir.AutoMtls | ir.Mtls) else cluster


def _cluster(  # noqa: PLR0913, PLR0917 -- one node needs all of them, and they come from three places
    service: Service, port: ServicePort, subset: str, policy: TrafficPolicy, sans: tuple[str, ...], host: str
) -> ir.Cluster:
    return ir.Cluster(
        name=names.cluster(port.port, subset, host),
        host=host,
        namespace=service.meta.namespace,
        service=service.meta.name,
        port=port.port,
        subset=subset,
        protocol=port.protocol,
        tls=client_tls(
            policy.tls, sans, names.sni(port.port, subset, host), is_external=bool(service.external_name)
        ),
        features=policy.features,
        discovery=ir.Discovery.STRICT_DNS if service.external_name else ir.Discovery.EDS,
        endpoints=_outside(service, port.port),
    )


def _outside(service: Service, port: int) -> tuple[ir.Endpoint, ...]:
    """Return where an ExternalName points to, nothing for other Services: their endpoints come apart from them."""
    name = service.external_name
    return (ir.Endpoint(name, port, "", service.meta.namespace, mtls=False),) if name else ()


def client_tls(
    settings: tls.ClientTlsSettings | None, sans: tuple[str, ...], sni: str, *, is_external: bool
) -> ir.ClientTls:
    """Return how to reach the endpoints: automatic unless a rule says otherwise (Istio's auto mTLS)."""
    if settings is None:
        return ir.Plaintext() if is_external else ir.AutoMtls(sans, sni)
    match settings.mode:
        case tls.Mode.DISABLE:
            return ir.Plaintext()
        case tls.Mode.ISTIO_MUTUAL:
            return ir.Mtls(settings.sans or sans, settings.sni or sni)
        case tls.Mode.SIMPLE | tls.Mode.MUTUAL:
            return ir.OriginateTls(
                sni=settings.sni,
                sans=settings.sans,
                ca_file=settings.ca_file,
                certificate_file=settings.certificate_file,
                key_file=settings.key_file,
                insecure_skip_verify=settings.insecure_skip_verify,
            )


def policy_of(shape: Shape, subset: Subset | None, port: int) -> TrafficPolicy:
    """Return the policy of one port of a service or subset, in Istio's order.

    The port's settings replace all of the host's; what the subset sets replaces what it inherits,
    kind by kind; the subset's settings for the port replace everything.
    """
    policy = dict(shape.policy.ports).get(port, shape.policy)
    if subset is None:
        return policy
    for_port = dict(subset.policy.ports).get(port)
    return for_port if for_port is not None else _merge(policy, subset.policy)


def _merge(base: TrafficPolicy, over: TrafficPolicy) -> TrafficPolicy:
    features = {_kind(f): f for f in (*base.features, *over.features)}
    return TrafficPolicy(over.tls or base.tls, tuple(features.values()))


def _kind(feature: ClusterFeature) -> type[ClusterFeature]:
    """Return what a feature replaces: both forms of load balancing are one field."""
    return load_balancer.LoadBalancer if isinstance(feature, load_balancer.ConsistentHash) else type(feature)
