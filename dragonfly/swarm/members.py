"""What the members in a mirror say: who is there, what they reach, who keeps an admission policy."""

from collections.abc import Iterator
from typing import Protocol

from dragonfly.model.cluster import Checkup
from dragonfly.model.swarm import (
    AdmissionPolicy,
    ClusterReach,
    Member,
    ReplicaReach,
    admission_policy_of,
    reach_of,
    reaches_of,
)
from dragonfly.store import keys
from dragonfly.store.mirror import Held


class Records(Protocol):
    """The keys of the swarm at one revision; a mirror is one."""

    def get(self, key: str) -> Held | None: ...

    def under(self, prefix: str) -> Iterator[Held]: ...


def members(records: Records) -> list[Member]:
    """The live replicas, by name."""
    return [held.object for held in records.under(keys.MEMBERS) if isinstance(held.object, Member)]


def reach(records: Records, cluster: str) -> ClusterReach:
    """Whether any live replica reaches the cluster."""
    return reach_of(cluster, members(records))


def reaches(records: Records, cluster: str) -> tuple[ReplicaReach, ...]:
    """What each live replica that may drive shards says of the cluster, by site and name."""
    return reaches_of(cluster, members(records))


def admission_policy(records: Records, cluster: str) -> AdmissionPolicy | None:
    """What the live replica says that keeps the cluster's admission policy; None if nobody knows yet."""
    return admission_policy_of(cluster, members(records))


def checkup_of(records: Records, cluster: str) -> Checkup | None:
    """What the live replica found that examines the cluster; None if nobody has yet."""
    found = (member.checkups.get(cluster) for member in members(records))
    return next((checkup for checkup in found if checkup is not None), None)
