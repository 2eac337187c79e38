"""What is told of a listener's traffic, put into its connection manager or proxy of bytes: logs and spans.

It owns which party each side can name, and from what; it must never take a caller's word for who it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.resources import access, asking, evidence, refusing
from xds.resources.accesslog import Fields, http_loggers, tcp_loggers
from xds.resources.asking import HTTP_RBAC, NETWORK_RBAC
from xds.resources.telemetry import MUTUAL_TLS, spiffe_id
from xds.resources.tracing import trace

if TYPE_CHECKING:
    from xds.ir import Inbound, Workload
    from xds.observed import Observed
    from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
    from xds.resources.filters import Hcm


def observe_requests(hcm: Hcm, observed: Observed, workload: Workload, sides: Fields) -> None:
    """Add the logs and the tracer of a connection manager."""
    hcm.access_log.extend(http_loggers(observed.logs, sides))
    if observed.evidence:
        is_outbound = dict(sides)["reporter"] == "source"
        hcm.access_log.append(evidence.log(observed.evidence, sides, is_outbound=is_outbound))
    trace(hcm, observed.tracing, workload)


def observe_connections(proxy: tcp_proxy_pb2.TcpProxy, observed: Observed, sides: Fields) -> None:
    """Add the logs of a proxy of bytes."""
    proxy.access_log.extend(tcp_loggers(observed.logs, sides))


def as_client(workload: Workload) -> Fields:
    """Return the two parties of a call that this workload makes: the other one is what the chosen endpoint says."""
    return (
        ("reporter", "source"),
        ("source_workload", f"{workload.name}.{workload.namespace}"),
        ("source_principal", spiffe_id(workload)),
        ("destination_workload", "%UPSTREAM_METADATA(proa:workload)%"),
        ("destination_namespace", "%UPSTREAM_METADATA(proa:namespace)%"),
        ("destination_service", "%CLUSTER_METADATA(proa:service)%"),
        ("destination_principal", "%UPSTREAM_PEER_URI_SAN%"),
    )


def as_server(node: Inbound, security: str) -> Fields:
    """Return the two parties of a call that this port takes, and what policies said of it.

    The caller is what its verified certificate says.
    """
    caller = (
        ("source_workload", "%DOWNSTREAM_PEER_DNS_SAN%"),
        ("source_principal", "%DOWNSTREAM_PEER_URI_SAN%"),
    )
    return (
        ("reporter", "destination"),
        *(caller if security == MUTUAL_TLS else ()),
        ("destination_workload", node.workload.name),
        ("destination_namespace", node.workload.namespace),
        *((("destination_service", node.service),) if node.service else ()),
        ("destination_principal", spiffe_id(node.workload)),
        *_verdicts(is_http=node.protocol.is_http),
    )


def _verdicts(*, is_http: bool) -> Fields:
    """Return which rules decided, and which would have: the words under which the filters of access tell it.

    Of several providers, the first one's question is told. The filter of connections tells the rule that denies in
    ``CONNECTION_TERMINATION_DETAILS`` alone.
    """
    told_by = HTTP_RBAC if is_http else NETWORK_RBAC
    words = (
        *((("policy", "enforced_effective_policy_id"),) if is_http else ()),
        ("asked_policy", f"{asking.prefix(0)}shadow_effective_policy_id"),
        ("audit_policy", f"{access.AUDITED}shadow_effective_policy_id"),
        ("dry_run_deny", f"{access.TRIED_DENY}shadow_effective_policy_id"),
        ("dry_run_allow", f"{access.TRIED_ALLOW}shadow_engine_result"),
    )
    verdicts = tuple((name, f"%DYNAMIC_METADATA({told_by}:{word})%") for name, word in words)
    return (*verdicts, ("refused_by", refusing.WORD)) if is_http else verdicts
