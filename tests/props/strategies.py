"""Hypothesis strategies that several property tests share: JSON of any shape, and specs that are almost right.

Arbitrary JSON alone rarely gets past the first field, so ``broken`` takes a rich, valid object
and changes a few places in it.
"""

from __future__ import annotations

import copy
from typing import cast

from hypothesis import strategies as st

from xds.api.metering import LABELS, METRICS, Change, Metering

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()  # NaN and infinities: YAML has them
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "",
            "*",
            "%",
            "%REQ(x)%",
            "a\x00",
            "\ud800",
            "0s",
            "1ms",
            "-1s",
            "1e9h",
            "(",
            "a" * 2000,
            -1,
            0,
            100,
            2**31,
            2**63,
            1e308,
            1e-9,
        ]
    )
)

JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""What a YAML or JSON parser can return, NaN, huge numbers and lone surrogates included."""

VIRTUAL_SERVICE: dict[str, object] = {
    "hosts": ["orders", "*.shop.example.com"],
    "gateways": ["mesh", "istio-system/edge"],
    "exportTo": [".", "web"],
    "http": [
        {
            "name": "qa",
            "match": [
                {
                    "uri": {"prefix": "/a"},
                    "ignoreUriCase": True,
                    "scheme": {"exact": "http"},
                    "method": {"regex": "GET|HEAD"},
                    "authority": {"prefix": "orders"},
                    "headers": {"x-user": {"exact": "qa"}, "x-any": {}, "x-old": {"regex": "*"}},
                    "withoutHeaders": {"x-no": {"prefix": "a"}, "x-none": {}},
                    "queryParams": {"q": {"regex": "[a-z]+"}, "p": {}},
                    "port": 80,
                    "sourceLabels": {"app": "web"},
                    "sourceNamespace": "web",
                    "gateways": ["mesh"],
                }
            ],
            "route": [
                {
                    "destination": {"host": "orders", "subset": "v1", "port": {"number": 80}},
                    "weight": 90,
                    "headers": {"response": {"add": {"x-v": "1"}, "remove": ["server"]}},
                },
                {"destination": {"host": "orders.shop.svc.cluster.local", "subset": "v2"}, "weight": 10},
            ],
            "headers": {
                "request": {"set": {"x-from": "%REQ(x-user)%", "Host": "a"}, "add": {"x-b": "100%%"}}
            },
            "rewrite": {"uriRegexRewrite": {"match": "^/a/(.*)$", "rewrite": "/\\1"}},
            "timeout": "2s",
            "retries": {
                "attempts": 3,
                "perTryTimeout": "500ms",
                "retryOn": "5xx,429,reset",
                "backoff": "10ms",
            },
            "fault": {
                "delay": {"fixedDelay": "1s", "percentage": {"value": 0.5}},
                "abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 10}},
            },
            "mirrors": [
                {"destination": {"host": "shadow", "port": {"number": 81}}, "percentage": {"value": 5}}
            ],
        },
        {
            "match": [{"uri": {"exact": "/old"}}],
            "redirect": {"uri": "/new", "scheme": "https", "redirectCode": 308},
        },
        {"match": [{"uri": {"regex": "/d.*"}}], "directResponse": {"status": 418, "body": {"string": "tea"}}},
        {"route": [{"destination": {"host": "orders"}}], "rewrite": {"uri": "/", "authority": "a.b"}},
        {
            "route": [{"destination": {"host": "orders"}}],
            "mirror": {"host": "shadow"},
            "mirrorPercentage": {"value": 1},
            "fault": {"abort": {"httpStatus": 503, "percentage": {"value": 1}}},
        },
    ],
}
"""A VirtualService that uses every field that is read."""

_POLICY: dict[str, object] = {
    "loadBalancer": {
        "consistentHash": {
            "httpCookie": {"name": "u", "path": "/", "ttl": "0s"},
            "maglev": {"tableSize": 101},
        }
    },
    "connectionPool": {
        "tcp": {
            "maxConnections": 10,
            "connectTimeout": "1s",
            "maxConnectionDuration": "1h",
            "tcpKeepalive": {"probes": 3, "time": "7200s", "interval": "75s"},
        },
        "http": {
            "http1MaxPendingRequests": 1,
            "http2MaxRequests": 2,
            "maxRequestsPerConnection": 3,
            "maxRetries": 4,
            "idleTimeout": "30s",
            "h2UpgradePolicy": "UPGRADE",
            "maxConcurrentStreams": 5,
        },
    },
    "retryBudget": {"percent": 12.5, "minRetryConcurrency": 2},
    "outlierDetection": {
        "consecutive5xxErrors": 7,
        "consecutiveGatewayErrors": 0,
        "splitExternalLocalOriginErrors": True,
        "consecutiveLocalOriginFailures": 3,
        "interval": "5s",
        "baseEjectionTime": "15m",
        "maxEjectionPercent": 100,
        "minHealthPercent": 10,
    },
    "tls": {"mode": "SIMPLE", "sni": "a", "subjectAltNames": ["a"], "caCertificates": "/etc/ca.pem"},
}

RATE_LIMIT: dict[str, object] = {
    "targetRef": {"kind": "Service", "name": "orders", "group": ""},
    "rules": [
        {
            "requests": 10,
            "interval": "1m",
            "burst": 20,
            "match": {
                "methods": ["GET", "POST"],
                "path": {"regex": "/a/[0-9]+"},
                "headers": {"x-user": {"prefix": "a"}, "x-any": {}},
            },
            "by": {"header": "x-tenant"},
        },
        {"requests": 1, "match": {"path": {"exact": "/b"}}, "by": {"caller": True}},
    ],
    "concurrency": 5,
    "global": {
        "provider": "counters",
        "failOpen": False,
        "descriptors": [
            {"entries": [{"key": "a", "value": "b"}, {"key": "c", "header": "x-c"}]},
            {"entries": [{"key": "d", "caller": True}]},
        ],
    },
}
"""A RateLimit that uses every field that is read."""

FAULT: dict[str, object] = {
    "targetRef": {"kind": "Service", "name": "orders", "group": ""},
    "expiresAt": "2100-01-01T00:00:00.5+02:00",
    "fault": {
        "delay": {"fixedDelay": "1s", "percentage": {"value": 0.5}},
        "abort": {"httpStatus": 503, "percentage": {"value": 10}},
    },
}
"""A Fault that uses every field that is read."""

DESTINATION_RULE: dict[str, object] = {
    "host": "orders",
    "trafficPolicy": {
        **_POLICY,
        "portLevelSettings": [
            {
                "port": {"number": 80},
                "loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "30s", "aggression": 2}},
            }
        ],
    },
    "subsets": [
        {"name": "v1", "labels": {"version": "v1"}},
        {
            "name": "v2",
            "labels": {"version": "v2"},
            "trafficPolicy": {
                "loadBalancer": {"consistentHash": {"httpHeaderName": "x-user", "minimumRingSize": 64}}
            },
        },
    ],
    "exportTo": ["*"],
}
"""A DestinationRule that uses every field that is read."""


@st.composite
def broken(draw: st.DrawFn, valid: dict[str, object]) -> object:
    """Return the object with up to three places changed, removed, or given a neighbour that does not belong."""
    spec: object = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        _break_one(draw, spec)
    return spec


def _break_one(draw: st.DrawFn, spec: object) -> None:
    here = spec
    while True:
        keys: list[object]
        if isinstance(here, dict) and here:
            fields = cast("dict[object, object]", here)
            keys = list(fields)
        elif isinstance(here, list) and here:
            fields = cast("dict[object, object]", here)  # indexed the same way
            keys = list(range(len(fields)))
        else:
            return
        key = draw(st.sampled_from(keys))
        inner = fields[key]
        if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
            here = cast("object", inner)
            continue
        _change(draw, fields, key)
        return


def _change(draw: st.DrawFn, fields: dict[object, object], key: object) -> None:
    match draw(st.sampled_from(["nudge", "nudge", "replace", "remove", "add"])):
        case "nudge":
            fields[key] = draw(_alike(fields[key]))
        case "replace":
            fields[key] = draw(JSON)
        case "remove":
            del fields[key]
        case _:
            if isinstance(cast("object", fields), dict):
                fields[draw(st.text(max_size=8))] = draw(JSON)


TELEMETRY: dict[str, object] = {
    "selector": {"matchLabels": {"app": "web"}},
    "tracing": [
        {
            "match": {"mode": "CLIENT"},
            "providers": [{"name": "zipkin"}],
            "randomSamplingPercentage": 12.5,
            "disableSpanReporting": False,
            "useRequestIdForTraceSampling": False,
            "customTags": {
                "a": {"literal": {"value": "b"}},
                "c": {"header": {"name": "x-a", "defaultValue": "d"}},
                "e": {"environment": {"name": "POD_NAME", "defaultValue": "f"}},
                "g": {"formatter": {"value": "%REQ(x-a)%"}},
            },
        }
    ],
    "accessLogging": [
        {
            "match": {"mode": "SERVER"},
            "providers": [{"name": "envoy"}, {"name": "otel"}],
            "disabled": False,
            "filter": {"expression": "response.code >= 400 && !has(request.user_agent)"},
        }
    ],
    "metrics": [
        {
            "providers": [{"name": "prometheus"}],
            "overrides": [
                {
                    "match": {"metric": "REQUEST_COUNT", "mode": "CLIENT_AND_SERVER"},
                    "disabled": False,
                    "tagOverrides": {"a": {"operation": "REMOVE"}, "b": {"value": "request.host"}},
                }
            ],
        }
    ],
}
"""A Telemetry that uses every field that is read."""

MESH: dict[str, object] = {
    "accessLogFile": "/dev/stdout",
    "accessLogEncoding": "TEXT",
    "accessLogFormat": "%START_TIME% %REQ(:PATH)%",
    "accessLogRedaction": {"queryParameters": ["token"], "paths": ["/a"]},
    "enableTracing": True,
    "evidence": {"sampling": 10},
    "defaultProviders": {"tracing": ["zipkin"], "accessLogging": ["otel"], "metrics": ["prometheus"]},
    "defaultConfig": {
        "tracing": {
            "sampling": 5,
            "zipkin": {"address": "zipkin.obs:9411"},
            "maxPathTagLength": 64,
            "customTags": {"a": {"literal": {"value": "b"}}},
        }
    },
    "extensionProviders": [
        {"name": "zipkin", "zipkin": {"service": "zipkin.obs.svc.cluster.local", "port": 9411, "path": "/b"}},
        {"name": "file", "envoyFileAccessLog": {"path": "/dev/stderr", "logFormat": {"text": "%PROTOCOL%"}}},
        {
            "name": "spans",
            "opentelemetry": {
                "service": "web.shop.svc.cluster.local",
                "port": 80,
                "http": {"path": "/v1/traces", "timeout": "1s", "headers": [{"name": "a", "value": "b"}]},
            },
        },
        {
            "name": "otel",
            "envoyOtelAls": {
                "service": "obs/otel.example.com",
                "port": 4317,
                "logName": "a",
                "logFormat": {"labels": {"code": "%RESPONSE_CODE%"}},
            },
        },
        {
            "name": "authz",
            "envoyExtAuthzHttp": {
                "service": "web.shop.svc.cluster.local",
                "port": 80,
                "timeout": "1s",
                "statusOnError": "503",
                "pathPrefix": "/check",
                "includeRequestHeadersInCheck": ["x-a"],
                "includeAdditionalHeadersInCheck": {"x-b": "c"},
                "includeRequestBodyInCheck": {"maxRequestBytes": 10, "packAsBytes": True},
            },
        },
        {
            "name": "limits",
            "ratelimit": {
                "service": "web.shop.svc.cluster.local",
                "port": 80,
                "domain": "d",
                "failOpen": False,
            },
        },
    ],
}
"""Mesh settings that use every field of telemetry, and a provider of most kinds."""

_TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "/",
        "/b",
        "*",
        "a.b",
        "mesh",
        "x-a",
        "1ms",
        "90s",
        "%REQ(a)%",
        "%%",
        "GET",
        "\\0",
        "OK",
        "UPGRADE",
        "503",
        "[a]",
        "RANDOM",
    ]
)


def _alike(value: object) -> st.SearchStrategy[object]:
    """Return values of the same JSON type, likely ones among them, so that many objects stay acceptable."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers(0, 600) | st.integers()
        case float():
            return st.floats(0, 100) | st.floats()
        case str():
            return _TEXTS
        case dict():
            return st.dictionaries(_TEXTS, _TEXTS, max_size=3)
        case _:
            return st.just([]) | st.lists(_TEXTS, max_size=3)


def meterings() -> st.SearchStrategy[Metering]:
    """Return what sidecars may be told to count."""
    metrics = st.sampled_from(tuple(METRICS.values()))
    labels = st.sampled_from((*LABELS, "team", "method"))
    changes = st.builds(Change, metrics, labels, st.sampled_from(("", "a", "%REQ(:METHOD)%")))
    return st.builds(
        Metering,
        st.booleans(),
        st.integers(100, 1_000_000),
        st.lists(metrics, max_size=3).map(tuple),
        st.lists(changes, max_size=4).map(tuple),
    )


AUTHORIZATION_POLICY: dict[str, object] = {
    "selector": {"matchLabels": {"app": "orders"}},
    "action": "DENY",
    "rules": [
        {
            "from": [
                {
                    "source": {
                        "principals": ["cluster.local/ns/shop/sa/a.b", "*/sa/web", "cluster.local/*", "*"],
                        "notNamespaces": ["shop", "team-*"],
                        "requestPrincipals": ["https://a.example.com/b/c", "*/d", "https://*"],
                        "ipBlocks": ["10.0.0.0/8", "fd00::/8"],
                        "notRemoteIpBlocks": ["10.1.2.3"],
                    }
                },
                {"source": {"serviceAccounts": ["web", "other/web"], "notServiceAccounts": ["admin"]}},
            ],
            "to": [
                {
                    "operation": {
                        "hosts": ["orders", "orders:*"],
                        "notPorts": ["80"],
                        "methods": ["GET", "P*"],
                        "paths": ["/a*", "*.html", "/v1/{*}/x/{**}"],
                    }
                }
            ],
            "when": [
                {"key": "request.headers[X-Team]", "values": ["*"], "notValues": ["a*"]},
                {"key": "request.auth.claims[a][b]", "values": ["x"]},
                {"key": "request.auth.audiences", "values": ["x"]},
                {"key": "connection.sni", "values": ["*.internal"]},
                {"key": "destination.ip", "notValues": ["10.0.0.1"]},
            ],
        },
        {},
    ],
}
"""Every field of an AuthorizationPolicy but those that exclude others."""

REQUEST_AUTHENTICATION: dict[str, object] = {
    "selector": {"matchLabels": {"app": "orders"}},
    "jwtRules": [
        {
            "issuer": "https://a.example.com",
            "audiences": ["orders"],
            "jwksUri": "https://a.example.com/keys",
            "fromHeaders": [{"name": "x-token", "prefix": "T "}],
            "fromParams": ["t"],
            "fromCookies": ["c"],
            "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
            "forwardOriginalToken": True,
            "timeout": "2s",
            "spaceDelimitedClaims": ["roles"],
        },
        {"issuer": "b", "jwks": '{"keys": [{"kty": "oct", "k": "AAAA"}]}'},
    ],
}
"""Every field of a RequestAuthentication."""
