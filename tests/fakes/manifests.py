"""Manifests written in a test, as the objects that a source would hand on."""

from __future__ import annotations

import yaml

from xds.api.core import Key
from xds.api.manifest import Object, Parsed, read


def objects(*texts: str) -> list[tuple[Key, Object | None]]:
    """Return the objects of YAML documents; raises ConfigError for one that is refused."""
    out: list[tuple[Key, Object | None]] = []
    for text in texts:
        for raw in yaml.safe_load_all(text):
            found = read(raw)
            assert isinstance(found, Parsed), found
            out.append((found.key, found.object))
    return out


def service(name: str, namespace: str = "shop", port: int = 80, protocol: str = "http") -> str:
    """Return a Service with one port; its Pods carry the label ``app``."""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: {protocol}, port: {port}, targetPort: 8080}}]
"""


def endpoints(service_name: str, *addresses: str, namespace: str = "shop", name: str = "") -> str:
    """Return an EndpointSlice; an address may name its Pod: ``10.0.0.1=web-0``."""
    listed = ", ".join(_endpoint(address) for address in addresses)
    return f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name or service_name + "-a"}
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {service_name}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{listed}]
"""


def _endpoint(address: str) -> str:
    ip, _, pod = address.partition("=")
    target = f", targetRef: {{kind: Pod, name: {pod}}}" if pod else ""
    return f"{{addresses: [{ip}], conditions: {{ready: true}}{target}}}"


def pod(  # noqa: PLR0913  # the fields that tests tell pods apart by
    name: str, app: str, ip: str, *, namespace: str = "shop", version: str = "v1", account: str = ""
) -> str:
    """Return a meshed Pod with a container port 8080."""
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {app}, version: {version}, proa.dev/inject: "true"}}
spec:
  serviceAccountName: {account or app}
  containers: [{{name: app, ports: [{{containerPort: 8080, name: http}}]}}]
status: {{podIP: {ip}}}
"""


def rule(host: str, *subsets: str, namespace: str = "shop", name: str = "") -> str:
    """Return a DestinationRule whose subsets are named after the label ``version``."""
    listed = ", ".join(f"{{name: {s}, labels: {{version: {s}}}}}" for s in subsets)
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name or host}, namespace: {namespace}}}
spec: {{host: '{host}', subsets: [{listed}]}}
"""


def split(host: str, *, namespace: str = "shop", name: str = "", created: str = "", **weights: int) -> str:
    """Return a VirtualService that splits a host over subsets by weight."""
    routes = ", ".join(
        f"{{destination: {{host: '{host}', subset: {s}}}, weight: {w}}}" for s, w in weights.items()
    )
    stamp = f", creationTimestamp: '{created}'" if created else ""
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name or host}, namespace: {namespace}{stamp}}}
spec:
  hosts: ['{host}']
  http: [{{route: [{routes}]}}]
"""
