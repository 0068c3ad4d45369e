"""Members, claims and drain requests: what the swarm knows of itself."""

from collections.abc import Iterable
from datetime import datetime

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
    clusters: tuple[str, ...] = ()
    """The clusters that it reaches now."""
    unreachable: dict[str, datetime] = {}
    """The others, each with the time since when; its own start for one that it has never reached."""
    troubles: dict[str, str] = {}
    """Why it does not reach those, for people."""
    admission_policies: dict[str, AdmissionPolicy] = {}
    """Of the clusters whose policy this replica keeps."""


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
