"""Raw Kubernetes objects as short calls: what a manifest would say, with only the interesting fields.

Owns defaults that make an object valid; it must never read them with the code under test.
"""

from __future__ import annotations

from typing import Any

Raw = dict[str, Any]


def raw(kind: str, name: str, *, api: str = "v1", namespace: str | None = "shop", **top: Any) -> Raw:
    """Return an object with metadata; further fields are given as keyword arguments."""
    metadata: Raw = {"name": name, **({"namespace": namespace} if namespace is not None else {})}
    extra = top.pop("metadata", {})
    assert isinstance(extra, dict)
    return {"apiVersion": api, "kind": kind, "metadata": {**metadata, **extra}, **top}


def service(
    name: str = "orders", *, ports: list[Raw] | None = None, namespace: str = "shop", **spec: Any
) -> Raw:
    """Return a Service; by default of one HTTP port, selecting app=NAME."""
    listed = [{"name": "http", "port": 80, "targetPort": 8080}] if ports is None else ports
    return raw(
        "Service", name, namespace=namespace, spec={"selector": {"app": name}, "ports": listed, **spec}
    )


def pod(
    name: str = "orders-1",
    ip: str = "127.0.1.2",
    *,
    app: str = "orders",
    ports: list[Raw] | None = None,
    **top: Any,
) -> Raw:
    """Return a Pod with one container, which by default declares port 8080 as ``http``."""
    listed = [{"containerPort": 8080, "name": "http"}] if ports is None else ports
    given: Raw = {
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "app", "ports": listed}]},
        "status": {"podIP": ip},
        **top,
    }
    return raw("Pod", name, **given)


def endpoint_slice(name: str = "orders-x", *, service: str = "orders", **top: Any) -> Raw:
    """Return an EndpointSlice of a Service; by default with one address and one port."""
    given: Raw = {
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        **top,
    }
    return raw("EndpointSlice", name, api="discovery.k8s.io/v1", **given)


def peer_authentication(name: str = "default", *, namespace: str = "shop", **spec: Any) -> Raw:
    """Return a PeerAuthentication."""
    return raw("PeerAuthentication", name, api="security.istio.io/v1", namespace=namespace, spec=spec)


def authorization_policy(name: str = "policy", *, namespace: str = "shop", **spec: Any) -> Raw:
    """Return an AuthorizationPolicy."""
    return raw("AuthorizationPolicy", name, api="security.istio.io/v1", namespace=namespace, spec=spec)


def request_authentication(name: str = "tokens", *, namespace: str = "shop", **spec: Any) -> Raw:
    """Return a RequestAuthentication."""
    return raw("RequestAuthentication", name, api="security.istio.io/v1", namespace=namespace, spec=spec)
