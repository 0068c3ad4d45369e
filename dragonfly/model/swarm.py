"""Members, claims and drain requests: what the swarm knows of itself."""

from collections.abc import Iterable
from datetime import datetime

from dragonfly.model.cluster import Checkup
from dragonfly.model.values import Value


class AdmissionPolicy(Value, frozen=True, kw_only=True):
    """Whether a cluster's API server itself refuses what a former owner writes, as the replica found that keeps it."""

    installed: bool
    reason: str
    """`Installed`, or one word for what is wrong."""
    message: str = ""
    """What is wrong and what to do about it, for people."""
    since: datetime


class Member(Value, frozen=True, kw_only=True):
    """One live replica; stored below `members/` on its lease."""

    id: str
    site: str = ""
    version: str
    address: str
    started: datetime
    observes: bool = False
    """It only looks on: it reaches no cluster, and drives nothing."""
    clusters: tuple[str, ...] = ()
    """The clusters that it reaches now."""
    unreachable: dict[str, datetime] = {}
    """The others, each with the time since when; its own start for one that it has never reached."""
    troubles: dict[str, str] = {}
    """Why it does not reach those, for people."""
    admission_policies: dict[str, AdmissionPolicy] = {}
    """Of the clusters whose policy this replica keeps."""
    checkups: dict[str, Checkup] = {}
    """What it found in the clusters that it examines: those of which it drives the first shard."""


class Claim(Value, frozen=True, kw_only=True):
    """Who drives a shard; stored below `claims/` on the owner's lease. Its create_revision is the epoch."""

    owner: str
    since: datetime | None = None
    """By the owner's clock; None in claims of versions before this field."""


class DrainRequest(Value, frozen=True, kw_only=True):
    """A better-ranked replica asks the owner at `epoch` to give a shard up; stored below `drains/` on its lease."""

    asked_by: str
    epoch: int


class ClusterReach(Value, frozen=True, kw_only=True):
    """Whether any replica reaches a cluster, or since when none does, and why."""

    reachable: bool
    since: datetime | None = None
    reason: str = ""
    """What the replica says that reached it last."""


class ReplicaReach(Value, frozen=True, kw_only=True):
    """Whether one replica reaches a cluster, or since when it does not, and why."""

    replica: str
    site: str = ""
    reachable: bool
    since: datetime | None = None
    """None while it does, and of a replica that has not looked yet."""
    reason: str = ""


def drivers_of(members: Iterable[Member]) -> list[Member]:
    """Return those that may drive shards: all but those that only look on."""
    return [member for member in members if not member.observes]


def reaches_of(cluster: str, members: Iterable[Member]) -> tuple[ReplicaReach, ...]:
    """Return what each replica that may drive shards says of a cluster, by site and name."""
    drivers = sorted(drivers_of(members), key=lambda member: (member.site, member.id))
    return tuple(_reach_from(member, cluster) for member in drivers)


def _reach_from(member: Member, cluster: str) -> ReplicaReach:
    reachable = cluster in member.clusters
    return ReplicaReach(
        replica=member.id,
        site=member.site,
        reachable=reachable,
        since=None if reachable else member.unreachable.get(cluster),
        reason="" if reachable else member.troubles.get(cluster, ""),
    )


def admission_policy_of(cluster: str, members: Iterable[Member]) -> AdmissionPolicy | None:
    """Return what the live replica says that keeps the cluster's policy; None if none does, or has not looked yet.

    While the task passes on, two may tell of it: then the one that looked later.
    """
    told = [policy for member in members if (policy := member.admission_policies.get(cluster))]
    return max(told, key=lambda policy: policy.since, default=None)


def reach_of(cluster: str, members: Iterable[Member]) -> ClusterReach:
    """Put together what the live replicas say.

    It is out of reach since the last of them lost it; who started into the outage knows only how long it is at least.
    """
    lost: list[tuple[datetime, str]] = []
    never: list[tuple[datetime, str]] = []
    for member in members:
        if cluster in member.clusters:
            return ClusterReach(reachable=True)
        if since := member.unreachable.get(cluster):
            (lost if since > member.started else never).append((since, member.troubles.get(cluster, "")))
    since, reason = max(lost) if lost else min(never, default=(None, ""))
    return ClusterReach(reachable=False, since=since, reason=reason)
