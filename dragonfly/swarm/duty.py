"""A piece of work that one replica does for the whole swarm: whoever claims it first has it while its lease lasts.

As with shards, the claim is a key on the lease, its create_revision is the epoch, and the replica acts on it only while
its own clock says that the lease cannot have ended. There is no ranking: any replica will do.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from dragonfly.model.swarm import Claim
from dragonfly.store import keys
from dragonfly.store.errors import Conflict, StoreError
from dragonfly.store.mirror import Held, Mirror, Update
from dragonfly.store.port import Store
from dragonfly.store.records import encode
from dragonfly.store.values import Absent, Claimed, Condition, Delete, Put
from dragonfly.swarm.ownership import Lease

_log = structlog.get_logger(__name__)

_RETRY: Final = 0.5
"""Seconds until the next try after etcd failed to answer."""


class Duty:
    """One claim of the swarm, as one replica sees and wants it."""

    def __init__(
        self,
        name: str,
        *,
        replica: str,
        store: Store,
        mirror: Mirror,
        lease: Lease,
        wanted: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        """Make it, not yet claimed.

        Args:
            name: of the work.
            replica: this one's id.
            store: where the claim is written.
            mirror: where it is read.
            lease: what it hangs on.
            wanted: whether there is anything to do; `look` when that may have changed.
            now: the time in UTC, which the claim says it was made at.
        """
        self.key = keys.duty(name)
        self._replica = replica
        self._store = store
        self._mirror = mirror
        self._lease = lease
        self._wanted = wanted
        self._now = now
        self._leaving = False
        self._wake = asyncio.Event()
        mirror.subscribe(self.key, self._changed)

    def epoch(self) -> int | None:
        """Return the epoch under which this replica may do the work now, or None if it may not."""
        held = self._mirror.get(self.key)
        # Asked in this order, a new lease can't vouch for a claim on the last one.
        if self._leaving or held is None or not self._lease.held() or held.lease != self._lease.id:
            return None
        return held.create_revision if self._is_mine(held) else None

    def condition(self, epoch: int) -> Condition:
        """What must hold of etcd in every write under an epoch (P4)."""
        return Claimed(self.key, epoch)

    def remaining(self) -> float:
        """Return the seconds for which this replica may go on, if its lease is not kept alive again."""
        return self._lease.remaining()

    def look(self) -> None:
        """Say that something changed that is not in the claim: the lease, or whether there is anything to do."""
        self._wake.set()

    async def run(self) -> None:
        """Claim it whenever nobody has it, until cancelled."""
        while True:
            self._wake.clear()
            pause = await self._try()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def hand_over(self) -> None:
        """Give the claim up; nothing may be under way any more. Also when it fails: then the lease's end does it."""
        epoch = self.epoch()
        self._leaving = True
        if epoch is None:
            return
        try:
            await self._store.commit(Delete(self.key), given=[self.condition(epoch)])
        except StoreError as error:
            _log.info("duty.leave_failed", claim=self.key, error=str(error))

    async def _try(self) -> float | None:
        """Claim it if it is free; return the seconds after which to look again without being woken."""
        if self._leaving or not self._mirror.synced or not self._lease.held():
            return _RETRY
        if not self._wanted() or self._mirror.get(self.key) is not None:
            return None
        record = encode(Claim(owner=self._replica, since=self._now()))
        try:
            await self._store.commit(Put(self.key, record, self._lease.id), given=[Absent(self.key)])
        except Conflict:
            return _RETRY  # somebody was first; the mirror will show it
        except StoreError as error:
            _log.info("duty.claim_failed", claim=self.key, error=str(error))
        return _RETRY

    def _is_mine(self, held: Held) -> bool:
        return isinstance(held.object, Claim) and held.object.owner == self._replica

    def _changed(self, update: Update) -> None:
        if update.held is not None and (update.previous is None or update.previous.lease != update.held.lease):
            owner = update.held.object.owner if isinstance(update.held.object, Claim) else ""
            _log.info("duty.claimed", claim=self.key, owner=owner, epoch=update.held.create_revision)
        self._wake.set()
