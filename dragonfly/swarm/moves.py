"""Which shards a replica should claim, ask for, or give up. Pure.

A view of the swarm goes in, moves come out; `ownership` carries them out as etcd transactions. Invariant: carrying out
any of the moves, in any interleaving with other replicas that computed theirs from other views, never gives a shard two
owners: a claim is created only where there is none, and a release or a request to drain names the epoch that it means.

What works is not moved lightly. Only the replica that a shard is assigned to asks for it, once that has stood for a
while, and the owner gives it up only if it finds as well that it is not the one: so neither a swarm whose members come
and go, nor replicas that rank differently (of two versions), hand a shard back and forth.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from dragonfly.model.swarm import Member
from dragonfly.swarm.shards import Rank, ShardId


class Held(NamedTuple):
    """A claim as it stands in etcd."""

    owner: str
    epoch: int
    lease: int


class Asked(NamedTuple):
    """A request to drain as it stands in etcd."""

    by: str
    epoch: int


# Structs, not tuples: `Drain(s, 1) == Release(s, 1)` would hold.
class Claim(msgspec.Struct, frozen=True):
    """Take a shard that nobody has."""

    shard: ShardId


class Drain(msgspec.Struct, frozen=True):
    """Ask the owner to give up `shard`; no effect if `epoch` is no longer current."""

    shard: ShardId
    epoch: int


class Release(msgspec.Struct, frozen=True):
    """Stop work on `shard`, then delete the claim."""

    shard: ShardId
    epoch: int


Move = Claim | Drain | Release


class SwarmView(NamedTuple):
    """What a replica knows of the swarm at one moment."""

    members: Mapping[str, Member]
    ranks: Mapping[ShardId, Rank]
    """Every shard there is, with who may have it."""
    claims: Mapping[ShardId, Held]
    drains: Mapping[ShardId, Asked]
    unowned_for: Mapping[ShardId, float]
    """Seconds that this replica has seen a shard without owner."""
    first_for: Mapping[ShardId, float]
    """Seconds that this replica has ranked first for a shard, where it does."""


def moves(me: str, lease: int, view: SwarmView, *, settle: float) -> Iterator[Move]:
    """Yield this replica's next moves: first what others wait for, then what nobody has, then what it should have.

    Args:
        me: this replica's id.
        lease: the lease that it holds now. A claim of its id on another lease is its predecessor's: not its own.
        view: the swarm as it is in the mirror.
        settle: seconds that each replica waits for every better-ranked one to claim a shard without owner, so that a
            frozen best candidate costs seconds, not the shard; and that it ranks first before it asks an owner.
    """
    if me not in view.members or view.members[me].observes:
        return
    yield from _releases(me, lease, view)
    yield from _claims(me, view, settle)
    yield from _drains(me, view, settle)


def _releases(me: str, lease: int, view: SwarmView) -> Iterator[Release]:
    for shard, claim in view.claims.items():
        if claim.owner != me or claim.lease != lease:
            continue
        rank = view.ranks.get(shard, ())
        out_of_reach = me not in rank and (bool(rank) or shard not in view.ranks)
        if out_of_reach or (rank[:1] != (me,) and _is_asked_for(shard, claim, view)):
            yield Release(shard, claim.epoch)


def _claims(me: str, view: SwarmView, settle: float) -> Iterator[Claim]:
    for shard, rank in view.ranks.items():
        if shard in view.claims or me not in rank:
            continue
        if view.unowned_for.get(shard, 0.0) >= settle * rank.index(me):
            yield Claim(shard)


def _drains(me: str, view: SwarmView, settle: float) -> Iterator[Drain]:
    for shard, seconds in view.first_for.items():
        claim = view.claims.get(shard)
        if claim is None or claim.owner == me or claim.owner not in view.members or seconds < settle:
            continue
        if not _is_asked_for(shard, claim, view):
            yield Drain(shard, claim.epoch)


def _is_asked_for(shard: ShardId, claim: Held, view: SwarmView) -> bool:
    """Whether another replica that is there has asked the owner for the shard, as it is claimed now."""
    asked = view.drains.get(shard)
    return asked is not None and asked.epoch == claim.epoch and asked.by in view.members and asked.by != claim.owner
