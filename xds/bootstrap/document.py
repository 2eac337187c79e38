"""The bootstrap document, assembled from typed envoy-data-plane classes so that a misspelt field cannot pass.

It owns node, admin, dynamic resources, runtime and overload limits; it must never be imported by the server.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import v3 as connections
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google import protobuf

from xds import settings
from xds.bootstrap import ADMIN_PORT, Spec, Tls
from xds.bootstrap.channel import address, collector_cluster, control_plane_service, token_secret, xds_cluster
from xds.bootstrap.listeners import admin_cluster, metrics_listener, ready_listener
from xds.bootstrap.stats import sinks, stats_config

# Envoy takes the first response for LDS and CDS before it calls itself ready. Zero means: wait for ever. With
# the default of 15 s a sidecar whose control plane is late turns ready without configuration.
_WAIT_FOR_EVER = timedelta(0)

# A runtime layer only overrides defaults, so its absence is safe: the sidecar's start must not wait for it.
_RUNTIME_WAIT = timedelta(milliseconds=250)

# Sockets of one sidecar. Below the usual limit of 65,536 file descriptors minus as many upstream connections;
# without the monitor Envoy warns at start that it is unbounded.
_MAX_DOWNSTREAM_CONNECTIONS = 25_000

# The telemetry push and the panel's refresh; Istio's scrape is 15 s, a live view needs less.
_STATS_FLUSH = timedelta(seconds=5)

# Envoy refuses regexes above 100 instructions by default, which ordinary path patterns exceed; Istio's value.
_RE2_MAX_PROGRAM_SIZE = 32_768

# What people debug with. Left out on purpose: /quitquitquit, /runtime_modify, /heap_dump, /cpuprofiler,
# /reset_counters, which change the process, on an address that every process of the machine can reach.
_ADMIN_PATHS = (
    "/ready",
    "/stats",
    "/clusters",
    "/config_dump",
    "/certs",
    "/listeners",
    "/server_info",
    "/runtime",
    "/memory",
    "/init_dump",
    "/drain_listeners",
    "/logging",
)


def build_document(spec: Spec) -> dict[str, Any]:
    """The whole bootstrap of `spec`, in snake_case field names."""
    document = bootstrap.Bootstrap(
        node=_node(spec),
        admin=_admin(spec),
        dynamic_resources=_dynamic_resources(),
        static_resources=_static_resources(spec),
        stats_config=stats_config(),
        stats_sinks=sinks(spec),
        stats_flush_interval=_STATS_FLUSH,
        # 27 KB of the 98 KB that a known service costs are counters nobody has incremented yet.
        deferred_stat_options=bootstrap.BootstrapDeferredStatOptions(enable_deferred_creation_stats=True),
        layered_runtime=_runtime(),
        overload_manager=_overload(),
    )
    return document.to_dict(casing=betterproto2.Casing.SNAKE)


def build_secret(channel: Tls) -> dict[str, Any]:
    """The file of secrets that `build_document` names, in snake_case field names."""
    return token_secret(channel).to_dict(casing=betterproto2.Casing.SNAKE)


def _static_resources(spec: Spec) -> bootstrap.BootstrapStaticResources:
    collector = [collector_cluster(spec.collector)] if spec.collector else []
    return bootstrap.BootstrapStaticResources(
        clusters=[xds_cluster(spec), admin_cluster(spec), *collector],
        listeners=[ready_listener(spec), metrics_listener(spec)],
    )


def _node(spec: Spec) -> core.Node:
    metadata = {
        "NAMESPACE": spec.namespace,
        "POD_NAME": spec.pod,
        "WORKLOAD_NAME": spec.workload,
        "SERVICE_ACCOUNT": spec.service_account,
    }
    if spec.is_transparent:
        metadata[settings.INTERCEPTION_METADATA] = settings.INTERCEPTION_REDIRECT
    else:
        metadata["INSTANCE_IPS"] = spec.pod_ip
    if isinstance(spec.channel, Tls):
        metadata[settings.CHANNEL_ROOT_METADATA] = spec.channel.newest_root
    return core.Node(
        id="" if spec.is_template else spec.node_id,
        cluster="" if spec.is_template else f"{spec.workload}.{spec.namespace}",
        locality=core.Locality(region=spec.region, zone=spec.zone),
        metadata=protobuf.Struct.from_dict(metadata),
    )


def _admin(spec: Spec) -> bootstrap.Admin:
    return bootstrap.Admin(
        address=address(spec.admin_address, ADMIN_PORT),
        # Debugging must work exactly when the connection limit is reached.
        ignore_global_conn_limit=True,
        allow_paths=[] if spec.is_older else [matcher.StringMatcher(prefix=path) for path in _ADMIN_PATHS],
    )


def _dynamic_resources() -> bootstrap.BootstrapDynamicResources:
    return bootstrap.BootstrapDynamicResources(
        ads_config=core.ApiConfigSource(
            api_type=core.ApiConfigSourceApiType.DELTA_GRPC,
            transport_api_version=core.ApiVersion.V3,
            # An ACK is 71 bytes instead of 61 KB: the node lists every extension that Envoy has.
            set_node_on_first_message_only=True,
            grpc_services=[control_plane_service()],
        ),
        lds_config=_from_ads(_WAIT_FOR_EVER),
        cds_config=_from_ads(_WAIT_FOR_EVER),
    )


def _from_ads(initial_fetch_timeout: timedelta) -> core.ConfigSource:
    return core.ConfigSource(
        ads=core.AggregatedConfigSource(),
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=initial_fetch_timeout,
    )


def _runtime() -> bootstrap.LayeredRuntime:
    """Limits below, what the control plane says above them, and the admin endpoint's word last."""
    limits = {"re2.max_program_size.error_level": _RE2_MAX_PROGRAM_SIZE}
    return bootstrap.LayeredRuntime(
        layers=[
            bootstrap.RuntimeLayer(name="limits", static_layer=protobuf.Struct.from_dict(limits)),
            bootstrap.RuntimeLayer(
                name="control-plane",
                rtds_layer=bootstrap.RuntimeLayerRtdsLayer(
                    name="runtime", rtds_config=_from_ads(_RUNTIME_WAIT)
                ),
            ),
            bootstrap.RuntimeLayer(name="admin", admin_layer=bootstrap.RuntimeLayerAdminLayer()),
        ]
    )


def _overload() -> overload.OverloadManager:
    limit = connections.DownstreamConnectionsConfig(
        max_active_downstream_connections=_MAX_DOWNSTREAM_CONNECTIONS
    )
    return overload.OverloadManager(
        resource_monitors=[
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=protobuf.Any.pack(limit),
            )
        ]
    )
