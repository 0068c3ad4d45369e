"""Shards that nobody has claimed: since when this replica sees that, and what they wait for (P6)."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from dragonfly.model.swarm import Member, drivers_of
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror, Update
from dragonfly.swarm.shards import Rank, ShardId


class Vacancy(NamedTuple):
    """When a shard was seen without an owner first."""

    since: datetime
    at: float
    """The same by the monotonic clock."""


class Vacancies:
    """Watches the claims in a mirror; begins once the mirror has had its first snapshot."""

    def __init__(
        self,
        mirror: Mirror,
        shards: Callable[[], Iterable[ShardId]],
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        """Make it.

        Args:
            mirror: where claims are read.
            shards: every shard that there is.
            clock: monotonic seconds.
            now: the time, in UTC.
        """
        self._mirror = mirror
        self._shards = shards
        self._clock = clock
        self._now = now
        self._found: dict[ShardId, Vacancy] = {}
        self._looked_at = 0
        """The mirror's revision at the last look."""
        mirror.subscribe(keys.CLAIMS, self._changed, on_reset=self._reset)

    def look(self) -> Mapping[ShardId, Vacancy]:
        """Return the shards without owner; empty while the mirror has read nothing."""
        if not self._mirror.synced:
            return {}
        claimed = {ShardId(*place) for held in self._mirror.under(keys.CLAIMS) if (place := keys.claim_in(held.key))}
        self._looked_at = self._mirror.revision
        fresh = Vacancy(self._now(), self._clock())
        self._found = {shard: self._found.get(shard, fresh) for shard in self._shards() if shard not in claimed}
        return self._found

    def _changed(self, update: Update) -> None:
        del update
        # Everything that arrives together is in the mirror before the first of it is told.
        if self._looked_at != self._mirror.revision:
            self.look()

    def _reset(self, revision: int) -> None:
        del revision
        self.look()


def why_unowned(shard: ShardId, rank: Rank, live: Collection[Member]) -> str:
    """Say what a shard without owner waits for.

    Args:
        shard: the shard.
        rank: the replicas that reach its cluster, best first.
        live: the replicas that are registered.
    """
    if not drivers_of(live):
        return "all registered replicas only observe" if live else "no replica is registered"
    return f"waits for replica {rank[0]} to claim it" if rank else f"no live replica reaches cluster {shard.cluster}"
