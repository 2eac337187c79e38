"""Topics: the names of what can be asked of the world and can change.

It owns only the list below; it must never know who reads a topic.

What touches each::

    ("service", ns, name)    the Service itself          ("selecting", ns)  asked, never touched: see Plan
    ("endpoints", ns, name)  its slices, their pods      ("accounts", ns, name)  who runs behind it
    ("virtualservice", ns, name)  as last written        ("claims", host)  who writes routes for a host
    ("routes", host)         VirtualServices in force    ("routes*",)     those with wildcard hosts
    ("rules", host)          DestinationRules of a host  ("rules*",)      those with wildcard hosts
    ("entries", host)        ServiceEntries of a host    ("entries*",)    those with wildcard hosts
    ("pod", ns, name)        one Pod and its policies    ("mesh",)        the mesh settings
    ("policies", ns)         its PeerAuthentications     ("pod forms", ns)  labels and ports that its Pods have
    ("address", ip)          who has an address          ("ranges",)      ServiceEntries of whole ranges
    ("entry", ns, name)      one ServiceEntry            ("entries on", port)  those with a port and no address
    ("aliases",)             which Services are ExternalName  ("services",)  which Services there are
    ("every entry",)         any ServiceEntry            ("ports",)  numbers that are HTTP for somebody
    ("sidecar", ns, name)    one Sidecar                 ("sidecars", ns)  all of a namespace
    ("limit", ns, name)  one RateLimit               ("limits", ns)   all of a namespace
    ("telemetry", ns, name)  one Telemetry               ("telemetries", ns)  all of a namespace
    ("fault", ns, name)      one Fault                   ("faults", ns, service)  those of a Service
    ("guards", ns)           its AuthorizationPolicies and RequestAuthentications
    ("cidrs",)       where the cluster's addresses come from
"""

from __future__ import annotations

Topic = tuple[str, ...]
