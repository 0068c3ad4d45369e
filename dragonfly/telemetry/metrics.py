"""What a replica counts, for Prometheus. One registry per replica, so that several can live in one process.

Names and labels are part of the product: dashboards and alerts stand on them. Labels are bounded: a route is its
template, never its path.
"""

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# HTTP is answered from memory, so the buckets begin where it is quick.
_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STORE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_QUEUE_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class HttpMetrics:
    """Requests that this replica answered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "dragonfly_http_requests", "Requests answered.", ["method", "route", "code"], registry=registry
        )
        self.duration = Histogram(
            "dragonfly_http_request_duration_seconds",
            "From the request's head to the last byte of the answer.",
            ["route"],
            buckets=_HTTP_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("dragonfly_http_requests_in_flight", "Requests being answered.", registry=registry)


class FeedMetrics:
    """Who follows the changes, and how quickly they get them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge("dragonfly_feed_streams", "Open streams of events.", registry=registry)
        self.events = Counter("dragonfly_feed_events", "Changes sent, to each stream.", registry=registry)
        self.ended = Counter(
            "dragonfly_feed_streams_ended",
            "Streams that ended: left by the client, behind, stuck, refused, or draining.",
            ["reason"],
            registry=registry,
        )
        self.resets = Counter(
            "dragonfly_feed_resets", "Positions that could not be resumed.", ["reason"], registry=registry
        )
        self.lag = Histogram(
            "dragonfly_feed_lag_seconds",
            "From the arrival of a change in this replica until it is handed to a stream's connection.",
            buckets=_STORE_SECONDS,
            registry=registry,
        )


class StoreMetrics:
    """Calls to etcd, and how current the mirror is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "dragonfly_store_calls", "Calls to etcd by their result.", ["call", "result"], registry=registry
        )
        self.duration = Histogram(
            "dragonfly_store_call_duration_seconds",
            "Duration of calls to etcd.",
            ["call"],
            buckets=_STORE_SECONDS,
            registry=registry,
        )
        self.watch_age = Gauge(
            "dragonfly_store_watch_age_seconds",
            "Since when the mirror has not been known to be current; 0 while it is followed.",
            registry=registry,
        )
        self.state = Gauge(
            "dragonfly_store_state",
            "1 for the state in which etcd is to this replica, 0 for the others.",
            ["state"],
            registry=registry,
        )
        self.endpoint_up = Gauge(
            "dragonfly_store_endpoint_up", "1 if the member of etcd answered last.", ["endpoint"], registry=registry
        )
        self.endpoint_size = Gauge(
            "dragonfly_store_endpoint_db_bytes",
            "Size of the member's database on disk.",
            ["endpoint"],
            registry=registry,
        )
        self.revision = Gauge("dragonfly_store_revision", "Revision that the mirror shows.", registry=registry)
        self.undecodable = Counter(
            "dragonfly_store_undecodable_records", "Stored values that could not be read.", registry=registry
        )


class SwarmMetrics:
    """Who drives what."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.claims_held = Gauge(
            "dragonfly_swarm_claims_held", "Shards that this replica drives.", ["cluster"], registry=registry
        )
        self.unowned = Gauge(
            "dragonfly_swarm_unowned_shards", "Shards that nobody drives.", ["cluster"], registry=registry
        )
        self.unowned_seconds = Gauge(
            "dragonfly_swarm_unowned_seconds",
            "For how long a shard has had nobody who drives it, the longest; 0 if all are driven.",
            ["cluster"],
            registry=registry,
        )
        self.members = Gauge("dragonfly_swarm_members", "Live replicas that may drive shards.", registry=registry)
        self.observers = Gauge("dragonfly_swarm_observers", "Live replicas that only look on.", registry=registry)
        self.reachable = Gauge(
            "dragonfly_cluster_reachable", "1 while this replica reaches the cluster.", ["cluster"], registry=registry
        )
        self.unreached_seconds = Gauge(
            "dragonfly_cluster_unreachable_seconds",
            "For how long no live replica has reached the cluster; 0 while one does.",
            ["cluster"],
            registry=registry,
        )
        self.reached_from = Gauge(
            "dragonfly_cluster_reached_from",
            "How many live replicas of the site reach the cluster; 0 where some are and none does.",
            ["cluster", "site"],
            registry=registry,
        )
        self.preferred = Gauge(
            "dragonfly_cluster_preferred",
            "1 if this replica is of a site that the cluster prefers, or the cluster prefers none.",
            ["cluster"],
            registry=registry,
        )
        self.policy = Gauge(
            "dragonfly_cluster_admission_policy_installed",
            "1 while the API server refuses what a former owner writes.",
            ["cluster"],
            registry=registry,
        )
        self.refused = Counter(
            "dragonfly_cluster_refused_writes",
            "Writes that the admission policy refused to this replica.",
            ["cluster"],
            registry=registry,
        )
        self.replaced = Counter(
            "dragonfly_cluster_replaced_epochs",
            "Objects with an epoch of another history of etcd that this replica wrote.",
            ["cluster"],
            registry=registry,
        )


class ReplicaMetrics:
    """What this replica may do."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.state = Gauge(
            "dragonfly_replica_state",
            "1 for what this replica may do now (acting, following, observing, fenced, read-only), 0 for the others.",
            ["state"],
            registry=registry,
        )
        self.checks = Gauge(
            "dragonfly_replica_check", "1 while the check of /readyz is good.", ["check"], registry=registry
        )
        self.keepalive_age = Gauge(
            "dragonfly_lease_keepalive_age_seconds",
            "Since when etcd has not kept this replica's lease alive; +Inf before the first time.",
            registry=registry,
        )
        self.lease_held = Gauge(
            "dragonfly_lease_held", "1 while this replica may act on what it has claimed.", registry=registry
        )
        self.fenced_seconds = Counter(
            "dragonfly_replica_fenced_seconds",
            "Time without a lease that it could rely on, its start not counted.",
            registry=registry,
        )
        self.fencings = Counter(
            "dragonfly_replica_fencings", "How often it could not rely on its lease any more.", registry=registry
        )
        self.collecting = Gauge(
            "dragonfly_replica_gc_seconds",
            "Time for which full garbage collections held everything up, in all.",
            registry=registry,
        )


class WebhookMetrics:
    """Deliveries of the webhooks, while this replica makes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["webhook"]
        self.attempts = Counter(
            "dragonfly_webhook_attempts",
            "Deliveries tried: delivered, failed, or given up as a dead letter.",
            ["webhook", "result"],
            registry=registry,
        )
        self.duration = Histogram(
            "dragonfly_webhook_attempt_duration_seconds",
            "How long receivers take.",
            labels,
            buckets=_STORE_SECONDS,
            registry=registry,
        )
        self.pending = Gauge(
            "dragonfly_webhook_pending", "Changes in memory that are not delivered yet.", labels, registry=registry
        )
        self.failing = Gauge(
            "dragonfly_webhook_failing_seconds",
            "For how long a change has failed, the longest; 0 if none fails.",
            labels,
            registry=registry,
        )
        self.unowned = Gauge(
            "dragonfly_webhooks_unowned", "1 while there are webhooks and no replica delivers.", registry=registry
        )
        self.dead = Gauge("dragonfly_webhook_dead_letters", "Changes that were given up.", labels, registry=registry)

    def forget(self, webhook: str) -> None:
        """Tell nothing more of what another replica may know better."""
        for gauge in (self.pending, self.failing, self.dead):
            with suppress(KeyError):
                gauge.remove(webhook)


class RelayMetrics:
    """What replicas that do not reach etcd ask of it through this one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "dragonfly_relay_calls",
            "Calls of other replicas: ok, error (etcd's own), refused, unauthenticated or unavailable.",
            ["call", "result"],
            registry=registry,
        )
        self.watches = Gauge(
            "dragonfly_relay_watches", "Watches that are streamed to other replicas.", registry=registry
        )


class QueueMetrics:
    """The controllers' work queues."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["queue"]
        self.depth = Gauge("dragonfly_queue_depth", "Items that wait.", labels, registry=registry)
        self.adds = Counter("dragonfly_queue_adds", "Items that came in.", labels, registry=registry)
        self.retries = Counter(
            "dragonfly_queue_retries", "Items that came back after an error.", labels, registry=registry
        )
        self.latency = Histogram(
            "dragonfly_queue_latency_seconds",
            "How long items wait before somebody works on them.",
            labels,
            buckets=_QUEUE_SECONDS,
            registry=registry,
        )
        self.work = Histogram(
            "dragonfly_queue_work_duration_seconds",
            "How long the work on an item takes.",
            labels,
            buckets=_QUEUE_SECONDS,
            registry=registry,
        )


class Metrics:
    """Everything that one replica counts, in its own registry."""

    def __init__(self, registry: CollectorRegistry, *, version: str, replica: str, site: str = "") -> None:
        self.registry = registry
        self.http = HttpMetrics(registry)
        self.feed = FeedMetrics(registry)
        self.store = StoreMetrics(registry)
        self.swarm = SwarmMetrics(registry)
        self.replica = ReplicaMetrics(registry)
        self.relay = RelayMetrics(registry)
        self.queue = QueueMetrics(registry)
        self.webhooks = WebhookMetrics(registry)
        self.provisions = Counter(
            "dragonfly_provisions", "Provisions that this replica brought to an end.", ["result"], registry=registry
        )
        self.kube_calls = Counter(
            "dragonfly_kube_calls",
            "Calls to clusters by verb and result.",
            ["cluster", "verb", "result"],
            registry=registry,
        )
        build = Gauge("dragonfly_build_info", "Always 1.", ["version", "replica", "site"], registry=registry)
        build.labels(version, replica, site).set(1)
