"""The metrics that are states: set at each scrape from what the API tells, so that the two never differ."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dragonfly.api.context import Check, CheckResult, Context
from dragonfly.api.webhook_views import deliverer
from dragonfly.model.swarm import Member, drivers_of, reaches_of
from dragonfly.store.health import STATES as ETCD_STATES
from dragonfly.swarm.members import admission_policy, members, reach
from dragonfly.swarm.shards import ShardId
from dragonfly.swarm.standing import STATES
from dragonfly.swarm.vacancies import Vacancy
from dragonfly.webhooks.courier import has_work


def measure(context: Context) -> None:
    """Set every gauge that shows a state."""
    _measure_store(context)
    _measure_replica(context)
    live = members(context.mirror)
    _measure_members(context, live)
    context.metrics.webhooks.unowned.set(has_work(context.mirror) and not deliverer(context.mirror))
    _forget_clusters(context)
    vacant = _by_cluster(context.insight.vacancies.look())
    held = Counter(shard.cluster for shard in context.insight.owned())
    for cluster in context.clusters:
        _measure_cluster(context, cluster, vacant.get(cluster, []), held[cluster])
        _measure_sites(context, cluster, live)
    for name, check in context.checks.items():
        context.metrics.replica.checks.labels(name).set(run_check(check).ok)


def run_check(check: Check) -> CheckResult:
    try:
        return check()
    except Exception as error:
        return CheckResult(ok=False, detail=f"the check itself failed: {type(error).__name__}: {error}")


def _measure_store(context: Context) -> None:
    metrics, mirror, health = context.metrics.store, context.mirror, context.insight.etcd
    metrics.revision.set(mirror.revision)
    metrics.watch_age.set(0 if mirror.stale_since is None else context.clock() - mirror.stale_since)
    state = health.look().state
    for each in ETCD_STATES:
        metrics.state.labels(each).set(each == state)
    for member in health.members:
        metrics.endpoint_up.labels(member.endpoint).set(member.reachable)
        metrics.endpoint_size.labels(member.endpoint).set(member.db_size)


def _measure_replica(context: Context) -> None:
    metrics, insight = context.metrics.replica, context.insight
    state = insight.sentry.look().state
    for each in STATES:
        metrics.state.labels(each).set(each == state)
    silent = insight.lease.silent_for()
    metrics.keepalive_age.set(float("inf") if silent is None else silent)
    metrics.lease_held.set(insight.lease.held())
    fenced = insight.sentry.take_fenced()
    metrics.fenced_seconds.inc(fenced.seconds)
    metrics.fencings.inc(fenced.times)


def _measure_members(context: Context, live: Sequence[Member]) -> None:
    drivers = len(drivers_of(live))
    context.metrics.swarm.members.set(drivers)
    context.metrics.swarm.observers.set(len(live) - drivers)


def _forget_clusters(context: Context) -> None:
    """One that was removed must not raise alerts for ever."""
    metrics = context.metrics.swarm
    for gauge in (metrics.claims_held, metrics.unowned, metrics.unowned_seconds, metrics.unreached_seconds):
        gauge.clear()
    for gauge in (metrics.policy, metrics.reached_from, metrics.preferred):
        gauge.clear()


def _by_cluster(vacancies: Mapping[ShardId, Vacancy]) -> dict[str, list[float]]:
    """Since when shards of each cluster have no owner; only of those that lack one."""
    found: dict[str, list[float]] = {}
    for shard, vacancy in vacancies.items():
        found.setdefault(shard.cluster, []).append(vacancy.at)
    return found


def _measure_cluster(context: Context, cluster: str, vacant: list[float], held: int) -> None:
    """`vacant`: since when, by the clock, its shards without owner have none; `held`: how many this replica drives."""
    metrics = context.metrics.swarm
    metrics.claims_held.labels(cluster).set(held)
    metrics.unowned.labels(cluster).set(len(vacant))
    metrics.unowned_seconds.labels(cluster).set(context.clock() - min(vacant) if vacant else 0)
    reached = reach(context.mirror, cluster)
    since = reached.since or context.now()
    metrics.unreached_seconds.labels(cluster).set(
        0 if reached.reachable else max(0.0, (context.now() - since).total_seconds())
    )
    policy = admission_policy(context.mirror, cluster)
    metrics.policy.labels(cluster).set(policy is not None and policy.installed)


def _measure_sites(context: Context, cluster: str, live: Sequence[Member]) -> None:
    metrics = context.metrics.swarm
    reached: Counter[str] = Counter()
    for said in reaches_of(cluster, live):
        reached[said.site] += said.reachable
    for site, replicas in reached.items():
        metrics.reached_from.labels(cluster, site).set(replicas)
    sites = context.sites_of(cluster)
    metrics.preferred.labels(cluster).set(not sites or context.site in sites)
