"""The Kubernetes kinds that only a check reads, as Kubernetes spells them, reduced to what is asked of them.

Lenient, because the apiserver has validated them; this module must never judge one.
"""

from __future__ import annotations

import msgspec

from xds.api.core import Labels


class Meta(msgspec.Struct, frozen=True):
    """Name, namespace and labels."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = {}


class Condition(msgspec.Struct, frozen=True):
    """One condition of a status."""

    type: str
    status: str


class Requirement(msgspec.Struct, frozen=True):
    """One expression of a label selector (meta/v1 LabelSelectorRequirement)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Tell whether the labels meet it."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case _:
                return value is None


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """A label selector; the empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()

    def selects(self, labels: Labels) -> bool:
        """Tell whether the labels meet every requirement."""
        found = dict(labels)
        return all(found.get(key) == value for key, value in self.match_labels.items()) and all(
            one.holds(found) for one in self.match_expressions
        )


class IpBlock(msgspec.Struct, frozen=True):
    """A range of addresses, without some."""

    cidr: str
    exclude: tuple[str, ...] = msgspec.field(default=(), name="except")


class Peer(msgspec.Struct, frozen=True, rename="camel"):
    """Whom a rule of a NetworkPolicy means."""

    pod_selector: Selector | None = None
    namespace_selector: Selector | None = None
    ip_block: IpBlock | None = None


class PolicyPort(msgspec.Struct, frozen=True, rename="camel"):
    """Which port a rule of a NetworkPolicy means; None: every one."""

    port: int | str | None = None
    end_port: int | None = None
    protocol: str = "TCP"


class Egress(msgspec.Struct, frozen=True):
    """What is let out; no peer and no port: everything."""

    to: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


class Ingress(msgspec.Struct, frozen=True):
    """What is let in."""

    sources: tuple[Peer, ...] = msgspec.field(default=(), name="from")
    ports: tuple[PolicyPort, ...] = ()


class NetworkPolicySpec(msgspec.Struct, frozen=True, rename="camel"):
    """Whom it concerns and what it lets through."""

    pod_selector: Selector = Selector()
    policy_types: tuple[str, ...] = ()
    egress: tuple[Egress, ...] = ()
    ingress: tuple[Ingress, ...] = ()


class NetworkPolicy(msgspec.Struct, frozen=True):
    """networking.k8s.io/v1 NetworkPolicy."""

    metadata: Meta
    spec: NetworkPolicySpec


class CrdVersion(msgspec.Struct, frozen=True):
    """One version of a kind."""

    name: str
    served: bool


class CrdSpec(msgspec.Struct, frozen=True):
    """The versions of a kind."""

    versions: tuple[CrdVersion, ...] = ()


class Conditions(msgspec.Struct, frozen=True):
    """A status that consists of conditions."""

    conditions: tuple[Condition, ...] = ()

    def hold(self, name: str) -> bool:
        """Tell whether a condition is true."""
        return any(one.type == name and one.status == "True" for one in self.conditions)


class Crd(msgspec.Struct, frozen=True):
    """apiextensions.k8s.io/v1 CustomResourceDefinition."""

    metadata: Meta
    spec: CrdSpec
    status: Conditions = Conditions()


class DeploymentSpec(msgspec.Struct, frozen=True):
    """How many replicas are wanted."""

    replicas: int = 1


class DeploymentStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How many there are."""

    available_replicas: int = 0
    updated_replicas: int = 0


class Deployment(msgspec.Struct, frozen=True):
    """apps/v1 Deployment."""

    metadata: Meta
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    """How the apiserver reaches a webhook; the bundle is base64 of PEM."""

    ca_bundle: bytes = b""


class Webhook(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of a webhook configuration."""

    name: str
    client_config: ClientConfig = ClientConfig()


class WebhookConfiguration(msgspec.Struct, frozen=True):
    """admissionregistration.k8s.io/v1 MutatingWebhookConfiguration."""

    metadata: Meta
    webhooks: tuple[Webhook, ...] = ()


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Who holds it, and since when without a sign."""

    holder_identity: str | None = None
    renew_time: str | None = None


class Lease(msgspec.Struct, frozen=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: Meta
    spec: LeaseSpec = LeaseSpec()
