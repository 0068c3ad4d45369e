"""A cluster that is put back from a backup of any earlier moment, by people who do it as docs/clusters.md says.

Tinkerbell is stopped first, then the API server; its etcd is put back, it is started again, and Tinkerbell only when
the replicas that own the machines have seen the cluster as it is now and have nothing to do any more. All that may
happen to replicas meanwhile does, and a cluster may be put back again and again, to before it was put back, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final

from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from dragonfly.swarm.shards import ShardId, shards_of
from tests.simulation.replica import Replica

if TYPE_CHECKING:
    from tests.simulation.world import World

RESTORED: Final = "kube: restored"
"""How an outcome counts clusters that have come back from a backup."""

_STOPPED: Final = 0.6
"""Seconds from Tinkerbell's end to the API server's, at least: what was armed is written down meanwhile."""

_LOOKS: Final = 0.4
"""Seconds between two looks of the people who wait for something."""

_AWAY: Final = 4.0
"""Seconds for which the API server is away, at least: to stop it and etcd, put that back, and start both."""


class Restores:
    """Carries them out, one at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_under_way = False
        """From Tinkerbell's end to its start."""

    def begin(self, size: float) -> None:
        if self.is_under_way:
            return
        self.is_under_way = self._world.tinkerbell.is_down = True
        self._later(_STOPPED, self._stop, size)

    def _stop(self, size: float) -> None:
        world = self._world
        if world.is_quiet:
            self._end()
        elif not world.checker.is_told():
            self._later(_LOOKS, self._stop, size)
        else:
            world.history.note(world.loop.time(), "kube", "is stopped")
            world.wire.down.add("kube")
            world.streams.end()
            self._later(_AWAY + 8 * world.random.random() ** 2, self._put_back, size)

    def _put_back(self, size: float) -> None:
        world, server = self._world, self._world.kube
        moments = server.moments
        if moments:
            lately = world.random.random() < 0.5
            moment = world.random.choice(moments[-30:] if lately else moments)
            before = server.objects()
            server.restore(moment, bump=1000 if size > 0.8 else 0)
            world.checker.restored(before, server.objects())
            world.wire.count(RESTORED)
            world.history.note(world.loop.time(), "kube", "comes back", f"as it was at {moment}")
        world.wire.down.discard("kube")
        self._wait()

    def _wait(self) -> None:
        if self._is_settled():
            self._end()
        else:
            self._later(_LOOKS, self._wait)

    def _end(self) -> None:
        self.is_under_way = False
        self._world.rufio.pick_up()
        self._world.tinkerbell.start_again()

    def _is_settled(self) -> bool:
        """Whether each machine's owner reaches the cluster, has all of it, and has nothing left to do about it."""
        owners = {shard: self._owner(shard) for shard in shards_of(LOCAL, self._world.shards)}
        return all(
            # People wait for a minute, in which one whose watch is dead finds that out.
            owner is not None and shard in owner.ownership.owned and self._is_up_to_date(owner)
            for shard, owner in owners.items()
        )

    def _owner(self, shard: ShardId) -> Replica | None:
        item = self._world.etcd.item(keys.claim(*shard))
        process = self._world.checker.claimed_by(item.create_revision) if item else None
        return next((found for found in self._world.replicas.values() if found.process is process), None)

    def _is_up_to_date(self, owner: Replica) -> bool:
        twins, queue = owner.controller.twins, owner.controller.queue
        if not (owner.process.runs and owner.keeper.held() and twins.reachable) or owner.process.is_deluded:
            return False
        if twins.is_awaited:
            return False  # a provision is shown as Pending
        held = [obj for copy in twins.copies for obj in copy.store.values()]
        there = [obj for copy in twins.copies for obj in self._world.kube.all(copy.resource)]
        if len(held) != len(there) or any(obj not in there for obj in held):
            return False
        return not (queue.depth or queue.running or queue._failures.keys() & queue._timers.keys())

    def _later(self, seconds: float, action: Callable[..., None], *args: object) -> None:
        self._world.loop.call_later(seconds, action, *args, context=Context())
