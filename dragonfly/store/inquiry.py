"""What only etcd can tell of the swarm, asked when somebody wants to know, and never more often than once a second.

Every endpoint's status, and when each replica was last heard: a lease tells what is left of it, so its holder's last
keepalive was as long ago as is missing. One inquiry at a time, shared by all who ask; nobody waits longer than
`patience`, and whoever does gets what was found before.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dragonfly.store.errors import LeaseLost, StoreError
from dragonfly.store.health import Health
from dragonfly.store.port import Store
from dragonfly.store.values import Remaining


class Found(NamedTuple):
    """What the last inquiry found."""

    at: float
    """The clock's time at which it began."""
    leases: Mapping[int, Remaining]
    """Those that etcd told of; a lease that is missing has ended, or etcd did not answer."""

    def silent_for(self, lease: int, now: float) -> float | None:
        """Seconds since the holder of a lease was heard, rounded up as etcd tells it; None if that is not known."""
        remaining = self.leases.get(lease)
        return None if remaining is None else max(0.0, remaining.granted - remaining.left + now - self.at)


class Inquiry:
    """Asks etcd on behalf of whoever asks this replica. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        health: Health,
        *,
        leases: Callable[[], Iterable[int]],
        clock: Callable[[], float],
        patience: float = 1.0,
        rest: float = 1.0,
    ) -> None:
        """Make it, with nothing asked.

        Args:
            store: etcd.
            health: told what each endpoint said.
            leases: those of the replicas that there are.
            clock: monotonic seconds.
            patience: seconds that `fresh` waits for an answer.
            rest: seconds for which an answer is good enough for `fresh`.
        """
        self._store = store
        self._health = health
        self._leases = leases
        self._clock = clock
        self._patience = patience
        self._rest = rest
        self._found = Found(float("-inf"), {})
        self._asked_at = float("-inf")
        self._members_at: float | None = None
        self._inquiring: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def found(self) -> Found:
        return self._found

    @property
    def members_ago(self) -> float | None:
        """Seconds since the members were asked how they are, as far as that was answered; None if it never was."""
        return None if self._members_at is None else self._clock() - self._members_at

    async def fresh(self) -> Found:
        """Return what is known, not older than `rest` seconds if etcd answers in time, and of no lease if it does not.

        What a lease told long ago is no news of its holder: an etcd that is silent would make all of them look silent.
        """
        if self._clock() - self._found.at >= self._rest and not _runs(self._inquiring):
            self._inquiring = asyncio.create_task(self._inquire(), name="etcd-inquiry")
        if self._inquiring is not None and _runs(self._inquiring) and self._health.silence is None:
            await asyncio.wait({self._inquiring}, timeout=self._patience)
        is_old = self._clock() - self._found.at > self._rest + self._patience
        return Found(self._found.at, {}) if is_old else self._found

    def refresh(self, *, after: float) -> None:
        """Ask the members how they are, without waiting, if that was `after` seconds ago or more.

        For checks that come all the time.
        """
        if self._clock() - self._asked_at >= after and not _runs(self._refreshing):
            self._refreshing = asyncio.create_task(self._ask_members(), name="etcd-members")

    async def stop(self) -> None:
        for task in (self._inquiring, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})

    async def _inquire(self) -> None:
        began = self._clock()
        # Nobody learns of leases from an etcd that is silent; each of those calls would hold a thread for seconds.
        leases = tuple(self._leases()) if self._health.silence is None else ()
        asked = asyncio.gather(*map(self._remaining, leases))
        await self._ask_members()
        told = await asked
        self._found = Found(began, {lease: remaining for lease, remaining in told if remaining is not None})

    async def _ask_members(self) -> None:
        self._asked_at = self._clock()
        try:
            members = await self._store.status()
        except StoreError:
            # The store is closed: this replica ends.
            return
        self._members_at = self._asked_at
        self._health.asked(members)

    async def _remaining(self, lease: int) -> tuple[int, Remaining | None]:
        try:
            return lease, await self._store.time_to_live(lease)
        except LeaseLost:
            return lease, None
        except StoreError:
            # Not known is an answer too: the health tells why.
            return lease, None


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
