"""What the API is made with: everything it needs comes in here, nothing is looked up elsewhere."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias

from dragonfly.api.access import Access
from dragonfly.api.streams import Streams
from dragonfly.feed.feed import Feed
from dragonfly.install.detection import Detection, EtcdFound
from dragonfly.intent.plan import Sealer
from dragonfly.model.cluster import Checkup
from dragonfly.model.webhook import Webhook
from dragonfly.relay.relay import Relay
from dragonfly.store.health import Health
from dragonfly.store.inquiry import Inquiry
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.swarm.shards import ShardId
from dragonfly.swarm.standing import Sentry
from dragonfly.swarm.vacancies import Vacancies
from dragonfly.telemetry.metrics import Metrics
from dragonfly.webhooks.sender import Verdict


class CheckResult(NamedTuple):
    """What one of the checks of /readyz found."""

    ok: bool
    detail: str = ""
    state: str = ""
    """One of a few words that programs may act on; empty where `ok` says all."""
    since: datetime | None = None


Check: TypeAlias = Callable[[], CheckResult]


class Lease(Protocol):
    """The replica's lease."""

    def held(self) -> bool:
        """Whether it cannot have ended, by this replica's clock."""
        ...

    def remaining(self) -> float:
        """Seconds for which it cannot have ended; 0 or less once it may have."""
        ...

    def silent_for(self) -> float | None:
        """Seconds since etcd last kept it alive; None if it never did."""
        ...


class Insight(NamedTuple):
    """What a replica knows of itself, of etcd, and of what nobody drives."""

    sentry: Sentry
    etcd: Health
    inquiry: Inquiry
    vacancies: Vacancies
    lease: Lease
    owned: Callable[[], Mapping[ShardId, int]]
    """The shards that this replica drives, each with its epoch."""
    refusal: Callable[[], Exception | None]
    """Why no write may be tried, so that nobody waits for what cannot be; None if one may."""


class Webhooks(NamedTuple):
    """What the API needs for webhooks beside etcd."""

    test: Callable[[Webhook, str], Awaitable[Verdict]]
    """Sends a test delivery of this id."""
    plain_http: bool = False
    """Whether URLs without TLS are allowed."""


async def _nothing_is_sent(_webhook: Webhook, _delivery: str) -> Verdict:
    return Verdict(0.0, error="this replica sends nothing")


async def connects_to_nothing(_cluster: str) -> Checkup:
    """The check of a cluster by a replica that only looks on."""
    return Checkup(error="this replica only observes, and connects to no cluster")


async def _nobody_says(_cluster: str, _kubeconfig: str, _namespace: str) -> str:
    return ""


async def _nothing_was_looked_at() -> Detection:
    return Detection(mode="not-installed", why=(), etcd=EtcdFound(source="none", reachable=False))


class Context(NamedTuple):
    """One replica's parts, as the API uses them."""

    replica: str
    version: str
    store: Store
    mirror: Mirror
    access: Access
    metrics: Metrics
    now: Callable[[], datetime]
    """The time, in UTC."""
    clock: Callable[[], float]
    """Monotonic seconds, the same clock as the mirror's."""
    new_ulid: Callable[[], str]
    clusters: Mapping[str, int]
    """The clusters of this swarm, and into how many shards each is cut."""
    owner_of: Callable[[str, str], str]
    """Which replica drives a machine now, by cluster and machine name; "" for nobody. Pure of the mirror's claims."""
    insight: Insight
    feed: Feed
    streams: Streams
    etcd_id: Callable[[], str] = lambda: ""
    """Tells this etcd from another one; "" while it is not known."""
    checks: Mapping[str, Check] = {}
    sealer: Sealer | None = None
    webhooks: Webhooks = Webhooks(_nothing_is_sent)
    relay: Relay | None = None
    """etcd for other replicas; None serves nothing of the kind."""
    site: str = ""
    sites_of: Callable[[str], tuple[str, ...]] = lambda _: ()
    """The sites that a cluster prefers."""
    leaving: Callable[[], bool] = lambda: False
    """Whether this replica is about to end, so that its clients had better connect to another one."""
    check_cluster: Callable[[str], Awaitable[Checkup]] = connects_to_nothing
    """Asks a cluster itself what it lacks."""
    identify: Callable[[str, str, str], Awaitable[str]] = _nobody_says
    """Tells the uid of a namespace in the cluster of a name, reached by a kubeconfig or as it is; empty for unknown."""
    mode: Callable[[], Awaitable[Detection]] = _nothing_was_looked_at
    """In which mode this replica runs, and why."""
