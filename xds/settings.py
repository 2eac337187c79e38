"""Every tunable of Proa: unit in the name, the default, the reason and the source beside it.

Owns numbers and fixed names only; it must never read the environment, a file or a flag.
"""

from __future__ import annotations

from typing import Final

# --- Identity and trust -----------------------------------------------------------------------

TRUST_DOMAIN: Final = "cluster.local"
"""Default trust domain. Istio's default, so that principals in existing policies keep matching."""

SPIFFE_ID_MAX_BYTES: Final = 2048
"""Longest SPIFFE ID accepted or issued. SPIFFE-ID §2.3: support 2048 bytes, do not emit more."""

RESOURCE_NAME_MAX_CHARS: Final = 1024
"""Longest resource name looked at. Ours are a host (253), a subset (63) and a port; the rest is air."""

LEAF_TTL_S: Final = 24 * 3600
"""Life of a workload certificate. 24 h as Istio and Linkerd: with renewal at half life, a control plane
that is down leaves every proxy at least 10 h of valid certificate."""

LEAF_RENEW_JITTER: Final = 0.10
"""Renewal happens at half life ± this share of it. SPIRE (`rotationutil`): spreads the herd that a
restart lined up; Istio's ±1 % does not."""

CLOCK_SKEW_S: Final = 120
"""NotBefore is backdated by this, and a token may be this far in the future. Istio
(`ClockSkewGracePeriod`): two minutes between any two machines."""

ROOT_TTL_S: Final = 10 * 365 * 24 * 3600
"""Life of a root, of workloads and of the control channel. Ten years as Istio; rotation is an act of
will (`proa ca rotate`), never a surprise."""

CHANNEL_LEAF_TTL_S: Final = 30 * 24 * 3600
"""Life of the xDS server's certificate. It is made anew in memory at every start and at half life, so
the length only has to outlast a suspended laptop."""

CHANNEL_SERVER_NAME: Final = "proa.proa-system.svc"
"""DNS SAN of the xDS server and what every bootstrap pins: the Service's name in a cluster."""

CHANNEL_LOOPBACK_NAMES: Final = ("localhost",)
CHANNEL_LOOPBACK_ADDRESSES: Final = ("127.0.0.1", "::1")
"""Loopback SANs of the xDS server, for directory mode and port-forwarding."""

CHANNEL_ROOT_METADATA: Final = "proa.dev/channel-root"
"""Node metadata key under which a bootstrap reports the fingerprint of the newest channel root it holds."""

INTERCEPTION_METADATA: Final = "INTERCEPTION_MODE"
INTERCEPTION_REDIRECT: Final = "REDIRECT"
"""Node metadata by which a sidecar says that the Pod's traffic is redirected to it. Istio's key and value."""

ROTATION_DWELL_S: Final = 10
"""Shortest stay in each phase of a workload root rotation, counted from its start and from the start of
the process. A restarted control plane has no stream yet and "every connected proxy" would be vacuously
true; the bootstrap's reconnect backoff ends at 2 s, so 10 s see everybody back. It also covers the moment
between a proxy's ACK and its worker threads using the new bundle."""

CHANNEL_DWELL_S: Final = 3600
"""Shortest stay with two channel roots. A proxy that misses this retirement is locked out until its pod
restarts, and waiting costs nothing: an hour covers a rebooted node."""

LEAF_RETRY_S: Final = 30
"""Wait before a failed renewal is tried again; half a life is left, so there is no hurry."""

LEAF_RENEW_BATCH: Final = 32
"""Leaves issued before other work gets its turn: at 0.3 ms each, the event loop is held for 10 ms when a
rotation makes all of them due at once."""

JOIN_TOKEN_ISSUER: Final = "proa"  # noqa: S105  # a name, not a secret
"""`iss` of join tokens."""

JOIN_TOKEN_AUDIENCE: Final = "proa-xds"  # noqa: S105  # a name, not a secret
"""`aud` of join tokens: a token made for anything else opens nothing here."""

JOIN_TOKEN_TTL_S: Final = 24 * 3600
"""Default life of a join token, as long as a leaf: a stolen one is worth no more than a stolen key."""

JOIN_TOKEN_MAX_BYTES: Final = 4096
"""Longest token looked at before any parsing. Ours are under 600 bytes; Istio crashed on a hostile token
before authentication (CVE-2022-23635)."""

JOIN_TOKEN_RENEW_SHARE: Final = 0.5
"""`proa token --renew` writes a new token at this share of the life, as with leaves."""

ADMIN_TIMEOUT_S: Final = 5.0
"""Longest wait of a command for the admin API: it answers in milliseconds or it hangs."""

JOIN_TOKEN_CLOCK_CHECK_S: Final = 30.0
"""How often `proa token --renew` looks at the wall clock: how late it may be after a suspended hour."""

# --- Identity on Kubernetes -------------------------------------------------------------------

ACCOUNT_TOKEN_MAX_BYTES: Final = 4096
"""Longest ServiceAccount token looked at. With every name at its Kubernetes limit one has about 3,100 bytes."""

ACCOUNT_TOKEN_HEADER_MAX_BYTES: Final = 256
"""Longest header of one, still encoded. `alg` and a `kid` of 43 characters take 100; more is JSON of a stranger's."""

REVIEW_TIMEOUT_S: Final = 3.0
"""Longest wait for one TokenReview: the apiserver answers in milliseconds, and Envoy asks again by itself."""

REVIEW_RETRY_S: Final = 5.0
"""After an unanswered TokenReview, tokens are verified here for so long before the apiserver is asked again:
without the pause, 1,000 proxies that reconnect during an outage would wait for a timeout each."""

REVIEW_CONCURRENCY: Final = 16
"""TokenReviews under way for tokens whose signature holds: at 3 ms each, 5,000 proxies are back within a second."""

REVIEW_STRANGERS: Final = 2
"""TokenReviews under way for tokens that our copy of the apiserver's keys does not know: enough to notice a new
key, too few for a stranger to keep the apiserver, or anyone else, busy."""

REVIEW_STRANGERS_WAITING: Final = 64
"""Unknown tokens that may wait for their turn; one more is refused at once."""

REVIEW_KEPT_S: Final = 300.0
"""How long a yes about one token serves again, its expiry permitting. Whether the Pod still exists is asked of our own
cache every time; without this, 1,000 proxies that send metrics each 5 s would be 100 TokenReviews a second."""

REVIEW_REFUSED_S: Final = 10.0
"""How long a no serves again: as long as the apiserver itself keeps answers."""

REVIEW_KEPT: Final = 8192
"""Answers kept, by hash of the token: 200 bytes each, and more than one replica has proxies."""

ACCOUNT_KEYS_REFRESH_S: Final = 300.0
"""How often the keys that sign ServiceAccount tokens are fetched: the apiserver lets clients keep them an hour."""

POD_WAIT_S: Final = 2.0
"""Longest wait for a genuine token's Pod to appear in our own cache: a watch lags milliseconds, a start of this
replica is over before it takes calls."""

POD_WAIT_STEP_S: Final = 0.02
"""How often the cache is asked meanwhile."""

POD_WAITING: Final = 1000
"""Callers that may wait for their Pod at once; one more is refused, and comes back."""

STREAM_LIFE_S: Final = 1800.0
"""Life of an xDS stream on Kubernetes, ± STREAM_LIFE_JITTER: then the proxy shows its token again. Half the life of
a token, so that each is seen at least once; a deleted Pod's stream ends within seconds of the Pod."""

STREAM_LIFE_JITTER: Final = 0.10
"""Share by which lives of streams differ: those that a restart lined up come back over six minutes."""

STREAM_LIFE_MIN_S: Final = 30.0
"""Shortest life of a stream whose token is about to expire: kubelet renews at 80 % of it, so nobody lives from it."""

# --- Leases -----------------------------------------------------------------------------------

LEASE_S: Final = 15.0
"""How long a leader is believed without a sign of it (client-go's leaseDuration, as in kube-controller-manager)."""

LEASE_RENEW_DEADLINE_S: Final = 10.0
"""How long a leader believes in itself without a successful renewal (client-go's renewDeadline): less than LEASE_S,
so that it stops before another may start."""

LEASE_RETRY_S: Final = 2.0
"""Pause between attempts (client-go's retryPeriod)."""

LEASE_JITTER: Final = 1.2
"""Share of the pause that may be added while another leads (client-go's JitterFactor)."""

LEASE_CALL_S: Final = 5.0
"""Longest wait for one answer about a Lease: two fit into the renew deadline."""

REPLICA_LEASE_S: Final = 120.0
"""How long a replica is waited for without a sign of it. A rotation is never urgent, and a container that is
started again is back well before."""

REPLICA_RENEW_S: Final = 10.0
"""How often a replica renews the Lease in which it publishes what its proxies trust."""

REPLICA_FRESH_S: Final = 10.0
"""How old the list of replicas may be on which a barrier is decided: five looks."""

REPLICA_LOOK_S: Final = 2.0
"""How often a change of what it publishes is looked for, and during a rotation the others' Leases are read."""

# --- Events -----------------------------------------------------------------------------------

EVENT_QUEUE: Final = 256
"""Events that may wait to be written; one more is dropped and counted. Problems stay on the ledger in any case."""

EVENT_NOTES_KEPT: Final = 4096
"""Things that were said and are not said again (client-go's EventCorrelator keeps as many)."""

EVENT_SERIES_S: Final = 600.0
"""How long after it was last said a thing counts as the same series (client-go's aggregation interval)."""

EVENT_COUNT_S: Final = 60.0
"""Shortest time between two writes of one series' count: a proxy that rejects each push is one line a minute."""

EVENT_BURST: Final = 25
"""Events about one object at once (client-go's spam filter)."""

EVENT_REFILL_S: Final = 300.0
"""Time after which one object may have one Event more (client-go's spam filter: 1/300 s)."""

EVENT_PAUSE_S: Final = 0.1
"""Pause between two writes: 10 a second, so that a thousand broken objects are no load on the apiserver."""

EVENT_NOTE_MAX_BYTES: Final = 1024
"""Longest note (events.k8s.io/v1: 1 kB)."""

EVENT_REPEAT_S: Final = 1800.0
"""A problem that stays is said again after this: the apiserver forgets Events after an hour."""

EVENT_CALL_S: Final = 5.0
"""Longest wait for one write; a lost Event is lost, the ledger is not."""

# --- The certificate authority in a cluster ------------------------------------------------------

CA_SECRET: Final = "proa-ca"  # noqa: S105  # a name, not a secret
"""Name of the Secret in our namespace that holds what the state directory holds elsewhere."""

CA_POLL_S: Final = 10.0
"""How often the Secret is read although no watch event came: a lost watch costs one poll."""

CA_CALL_S: Final = 5.0
"""Longest wait for one answer about the Secret."""

CA_PAUSE_S: Final = 1.0
"""Pause after a watch or a write that failed, and between looks at start while the leader has not made the Secret."""

ISSUER_CERTIFICATES_MAX: Final = 10
"""Most certificates in one file of a user's own CA: a chain has two or three, a bundle under change a few more."""

CA_OPEN_S: Final = 60.0
"""Longest wait at start for the leader to make the Secret."""

# --- State directory --------------------------------------------------------------------------

STATE_DIRECTORY: Final = ".proa"
"""Default of `--state`, below the working directory: a project's mesh is the project's."""

STATE_FILE_MAX_BYTES: Final = 64 * 1024
"""Largest state file read. Two roots with keys are under 4 KiB; more is not ours."""

# --- Addresses --------------------------------------------------------------------------------

XDS_ADDRESS: Final = "127.0.0.1:18000"
"""Default of `--xds`. Loopback, because who listens further away says so; 18000 is go-control-plane's
example port, so that existing bootstraps fit."""

ADMIN_ADDRESS: Final = "127.0.0.1:18001"
"""Default of `--admin`. Loopback: the API names every service of the mesh and can rotate its root."""

ADMIN_STOP_S: Final = 2.0
"""How long an open admin request may hold up a shutdown: each answer is made in milliseconds."""

PUSHES_SHOWN: Final = 50
"""Pushes that the API shows unless asked for more: a screenful."""

SIGHTINGS_SHOWN: Final = 20_000
"""Sampled requests that the API answers unless asked for more or fewer: about 8 MB, and at 10 requests a second and
hop the last ten minutes of three hops."""

# --- Kubernetes API ---------------------------------------------------------------------------

KUBE_ANSWER_TIMEOUT_S: Final = 10.0
"""Longest wait for a connection and for the head of an answer. A healthy apiserver takes milliseconds; its own
limit for a request that is no watch is 60 s, which is longer than anybody who waits for us has."""

KUBE_BODY_MAX_BYTES: Final = 64 << 20
"""Largest body taken. A page of 250 objects of 8 KB is 2 MiB; pages of larger objects are asked for in smaller
numbers when they meet this."""

KUBE_LINE_MAX_BYTES: Final = 16 << 20
"""Longest line of a watch. etcd takes 1.5 MiB for an object, the apiserver 3 MiB for a request, and JSON writes a
control character in six bytes."""

KUBE_ERROR_MAX_BYTES: Final = 64 << 10
"""Most that is read of an answer that refuses."""

KUBE_MESSAGE_MAX_CHARS: Final = 500
"""Most that is repeated of an error's message: a validation error may list every field."""

KUBE_READ_BUFFER_BYTES: Final = 256 << 10
"""Bytes that wait for us on each connection before TCP slows the apiserver down; aiohttp doubles it. The
library's own 2 MiB is for a line splitter that we do not use."""

KUBE_CREDENTIALS_REFRESH_S: Final = 60.0
"""How often the library is asked whether token file, exec plugin or OIDC have something newer: its own period
(`refresh_token`, `InClusterConfigLoader`)."""

KUBE_CREDENTIALS_RETRY_S: Final = 5.0
"""Shortest time between two renewals after a 401: a user without rights must not start a plugin each time."""

KUBE_CREDENTIALS_TIMEOUT_S: Final = 20.0
"""Longest wait for an exec plugin or an identity provider; cloud plugins take 1 to 3 s."""

# --- Sidecar ----------------------------------------------------------------------------------

SIDECAR_UID: Final = 1337
"""User and group of the sidecar, by which its own connections are told from the application's. Istio's."""

SIDECAR_ADMIN_PORT: Final = 15000
OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006
DRAIN_S: Final = 45
"""How long a sidecar keeps connections whose listener was replaced; requests end at their next answer before that.
Istio's drainDuration."""

READY_PORT: Final = 15021
METRICS_PORT: Final = 15090
"""Ports of a sidecar. Istio's numbers, so that probes, scrape configurations and firewall rules that people already
have keep working."""

METRICS_PATH: Final = "/stats/prometheus"
"""The one page of the metrics port: Envoy's own path, which Istio's scrape configurations ask for."""

# --- Injection --------------------------------------------------------------------------------

SIDECAR_CPU: Final = "50m"
"""Default CPU request of a sidecar. A request costs 0.25 ms: 50m carry 200 requests a second without borrowing."""

SIDECAR_CPU_LIMIT: Final = ""
"""Default CPU limit: none. A throttled proxy adds up to 100 ms (one CFS period) to requests at random."""

SIDECAR_MEMORY: Final = "96Mi"
"""Default memory request. Envoy with 20 services in use holds 70 MiB, with 200 92 MiB."""

SIDECAR_MEMORY_LIMIT: Final = "1Gi"
"""Default memory limit, Istio's: far above what 1,000 services in use take (191 MiB), below what hurts a node."""

SIDECAR_CONCURRENCY: Final = 1
"""Default worker threads of a sidecar: each holds connection pools of its own, so two halve the reuse."""

SIDECAR_CONCURRENCY_MAX: Final = 64
"""Most worker threads that an annotation may ask for."""

SIDECAR_TOKEN_S: Final = 3600
"""Life of the sidecar's ServiceAccount token. The kubelet renews it at 80 %; 600 s is the least that it takes."""

SIDECAR_START_PERIOD_S: Final = 1
"""How often the startup probe asks: the application waits for the green one, so at most this is lost."""

SIDECAR_START_TRIES: Final = 600
"""Startup probes until the kubelet starts the sidecar anew. Without a control plane it must wait, not give up;
after ten minutes a fresh start costs nothing."""

SIDECAR_START_TIMEOUT_S: Final = 3
"""Longest answer of a startup probe: a node that starts 50 pods at once is slow."""

SIDECAR_ARGUMENT_MAX_BYTES: Final = 120 * 1024
"""Longest bootstrap on a command line. Linux takes 128 KiB for one argument (MAX_ARG_STRLEN)."""

REVIEW_MAX_BYTES: Final = 3 << 20
"""Largest AdmissionReview taken: the apiserver refuses larger requests itself, and etcd objects above half of it."""

REVIEW_BODY_S: Final = 2.0
"""Longest wait for the body of a review: the apiserver sends it at once and gives us 5 s for all of it."""

REVIEWS_BUFFERED_BYTES: Final = 64 << 20
"""Bodies that may be in memory at once; what goes beyond is refused. The apiserver has 200 writes in flight, of
10 KB each."""

REVIEW_STOP_S: Final = 5.0
"""How long open reviews may hold up a shutdown: as long as the apiserver waits for them."""

REGISTRATION_TIMEOUT_S: Final = 10.0
"""Longest wait for the apiserver when the webhook's registration is read or patched."""

REGISTRATION_READ_S: Final = 30.0
"""How often the leader looks whether the registration is as it should be: an upgrade by helm or kubectl resets it."""

REGISTRATION_RETRY_S: Final = 1.0
"""The same until it is as it should be, or when the channel's roots have changed: until then nothing is injected."""

TEMPLATE_S: Final = 60.0
"""Longest that the process which makes the sidecars' bootstrap may take: about 2 s, most of it imports."""

INJECTORS_READ_S: Final = 60.0
"""How often each replica looks for Istio's injectors: they come and go with an installation, once in months."""

INJECTORS_RETRY_S: Final = 1.0
"""The same until the first success, without which pods that use Istio's labels are not answered for."""

WHOLE_BOOTSTRAP: Final = (1, 37)
"""The first Envoy, major and minor number, that reads the whole of our bootstrap: before, its sink leaves no statistic
out, the injector of the token writes no "Bearer", and the admin endpoint has no list of paths (docs/envoys.md)."""

PROXY_IMAGE: Final = "localhost/proa/proxy:0.1.0"
"""Default of `--proxy-image`: what `deploy/images.py` builds from this version. A registry's name is the chart's
value `proxy.image`."""

REFUSALS_SAID: Final = 5
REFUSALS_SPAN_S: Final = 10.0
"""So many refused callers of one reason get a line of log in so many seconds: enough to see who it is. A fleet whose
tokens have expired comes back every second or so, and must not fill a disk; `/metrics` counts all."""

KUBE_PAGE_ITEMS: Final = 250
"""Objects asked for in one page of a list. client-go's pager takes 500; half of it keeps the event loop busy for
about 15 ms instead of 30 when a kind is listed again while proxies are served."""

KUBE_LIST_TIMEOUT_S: Final = 30.0
"""Longest wait for a page. It takes milliseconds; a dead connection must be noticed within 45 s."""

KUBE_WATCH_MIN_S: Final = 20
KUBE_WATCH_MAX_S: Final = 30
"""A watch is asked for this long, at random between the two. client-go takes 5 to 10 min and notices a dead
connection by HTTP/2 pings; we have HTTP/1.1, where only the end of a watch proves that it lives. The apiserver sends
a bookmark 2 s before the end, so that the next watch starts from there: one small request a kind every 25 s."""

KUBE_WATCH_MARGIN_S: Final = 10.0
"""A watch that is not over this long after its time is dead: noticed within 40 s of its start."""

KUBE_WATCH_SHORT_S: Final = 1.0
"""A watch that the server ends within this time is asked for again after a wait (client-go: "very short watch")."""

KUBE_BACKOFF_MIN_S: Final = 0.8
KUBE_BACKOFF_MAX_S: Final = 30.0
KUBE_BACKOFF_JITTER: Final = 1.0
KUBE_BACKOFF_RESET_S: Final = 120.0
"""Waits after failures: from, doubling to, each longer by up to this share of itself, forgotten after. client-go's
numbers (tools/cache/reflector.go): 0.22 requests a second of each kind."""

KUBE_RETRY_AFTER_MAX_S: Final = 60.0
"""Longest wait that an apiserver may ask for: it asks for 1 s when it sheds load, and a mesh must not stand still."""

KUBE_CLOSE_S: Final = 0.25
"""How long a closed session's TLS connections get. aiohttp waits for none of them, and its documentation ("Graceful
shutdown") gives this number: a loop that ends sooner leaves sockets to the garbage collector."""

KUBE_PROBE_S: Final = 1.0
"""How often an apiserver that does not answer is asked whether it is back: one small request for all kinds, so that
their waits of up to a minute end with its return."""

KUBE_PROBE_TIMEOUT_S: Final = 2.0
"""Longest wait for that answer."""

KUBE_PROBE_REFUSALS: Final = 10
"""So many refusals of that question in a row are an answer: an apiserver reads its roles within about 3 s."""

KUBE_RETURN_SPREAD_S: Final = 0.5
"""The kinds come back over this time, not at once; recovery has 5 s."""

# --- Outbound on demand -----------------------------------------------------------------------

ON_DEMAND_NAMES_MAX: Final = 1000
"""Destinations that one proxy may have clusters for. Envoy never gives one back, and each costs it about 0.13 MiB
(research: 1,000 used are 191 MiB): an application that scans a network must not end its own sidecar."""

SERVER_NAME_WAIT_S: Final = 5.0
"""How long a connection to a port of TLS entries may take to say its server name; then it goes on without. A client
speaks first in TLS, at once; only a server-first protocol on such a port pays this."""

LOG_FLUSH_MS: Final = 1_000
"""How long a line of an access log may wait in the sidecar for others: Istio's value. Envoy's own is ten seconds, too
long for who looks at the log while something happens."""

ON_DEMAND_TIMEOUT_S: Final = 2.0
"""How long a request waits for the cluster of a destination that is new to its proxy. An answer takes milliseconds;
without a control plane the application gets its error after this long."""

ON_DEMAND_MEMORY_S: Final = 24 * 3600
"""How long the destinations of a workload without any proxy are remembered: a job that runs once a day starts warm."""

PRIVATE_RANGES: Final = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""Where destinations are looked up that nobody told the ranges of: RFC 1918, RFC 6598 and RFC 4193, from which every
cluster takes its addresses. An address of theirs that is no Service's and no Pod's is passed through all the same."""

# --- Directory source -------------------------------------------------------------------------

DIRECTORY_FILE_MAX_BYTES: Final = 8 << 20
"""Largest file read. 8 MiB hold about 20,000 small objects, and parse in seconds; etcd takes 1.5 MiB for one."""

DIRECTORY_STEP_MS: Final = 15
"""An edit is settled when nothing happened for this long. Editors and `kubectl apply -o` write, sync and rename
within a few milliseconds; it is the whole delay between an edit and its compilation."""

DIRECTORY_DEBOUNCE_MS: Final = 200
"""Longest wait for an edit that does not settle (a directory being copied in): then what is there is read."""

DIRECTORY_RESCAN_S: Final = 30.0
"""How often every file is looked at although nothing was notified: inotify loses events when its queue
overflows, and sees nothing on network file systems. 10,000 files cost about 0.1 s of CPU each time."""

DIRECTORY_NOTICE_MAX_S: Final = 5.0
"""A file's own time counts as the time of the edit when it lies at most this long before the notice; older
ones were moved in, or come from another clock."""
