"""Which shard a machine is in, and who should drive it. Pure.

A shard is a fixed slice of a cluster's machines. Each is assigned to one replica by rendezvous hashing with room for an
equal share: the shares of a cluster differ by one shard at most, and a replica that comes or goes moves little beside
its own share. Nothing but the cluster, its shards and who reaches it decides, so every replica finds the same.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from dragonfly.model.swarm import Member, drivers_of


class ShardId(NamedTuple):
    """One slice of one cluster."""

    cluster: str
    shard: int


Sites: TypeAlias = tuple[str, ...]
Rank: TypeAlias = tuple[str, ...]
"""Ids of replicas, best first: the one that a shard is assigned to, then who takes it when that one does not."""


@lru_cache(maxsize=65536)
def shard_of(machine: str, shards: int) -> int:
    """Return the slice that a machine is in; the same on every replica and in every version."""
    return _hash(machine) % shards


def shards_of(cluster: str, count: int) -> list[ShardId]:
    return [ShardId(cluster, shard) for shard in range(count)]


def rankings(shards: Mapping[ShardId, Sites], members: Iterable[Member]) -> dict[ShardId, Rank]:
    """Rank for each shard the replicas that reach its cluster.

    Replicas of the sites that a cluster prefers come before all others, and share its shards among themselves. Those
    that only look on are not ranked.

    Args:
        shards: all shards of each cluster, with the sites that the cluster prefers.
        members: the swarm.
    """
    known = drivers_of(members)
    groups: dict[tuple[str, Sites], list[ShardId]] = {}
    for shard, sites in shards.items():
        groups.setdefault((shard.cluster, sites), []).append(shard)
    ranks: dict[ShardId, Rank] = {}
    for (cluster, sites), group in groups.items():
        able = [member for member in known if cluster in member.clusters]
        near = frozenset(member.id for member in able if member.site in sites)
        far = frozenset(member.id for member in able) - near
        ranks.update(_ranked(tuple(sorted(group)), near, far))
    return ranks


@lru_cache(maxsize=1024)
def _ranked(shards: tuple[ShardId, ...], near: frozenset[str], far: frozenset[str]) -> tuple[tuple[ShardId, Rank], ...]:
    scores = {(shard, replica): _score(replica, shard) for shard in shards for replica in near | far}
    assigned = _assigned(scores, len(shards), near or far)

    def rank(shard: ShardId) -> Rank:
        first = assigned.get(shard)
        return tuple(sorted(near | far, key=lambda r: (r != first, r not in near, -scores[shard, r], r)))

    return tuple((shard, rank(shard)) for shard in shards)


def _assigned(scores: Mapping[tuple[ShardId, str], int], count: int, able: frozenset[str]) -> dict[ShardId, str]:
    """Give each shard to one replica: of all pairs the best score first, while the replica has room.

    Room is the even share, and one more for as many replicas as there are shards left over.
    """
    if not able:
        return {}
    share, left_over = divmod(count, len(able))
    loads = dict.fromkeys(able, 0)
    assigned: dict[ShardId, str] = {}
    for (shard, replica), _ in sorted(scores.items(), key=lambda scored: (-scored[1], scored[0])):
        if shard in assigned or replica not in loads or loads[replica] > share:
            continue
        if loads[replica] == share:
            if not left_over:
                continue
            left_over -= 1
        loads[replica] += 1
        assigned[shard] = replica
    return assigned


def _score(replica: str, shard: ShardId) -> int:
    """The id is hashed first: ids that differ in their last letter alone would else get neighbouring hashes."""
    return _hash(f"{_hash(replica)}/{shard.cluster}/{shard.shard}")


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
