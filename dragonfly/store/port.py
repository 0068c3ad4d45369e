"""The store as the rest of Dragonfly sees it; `EtcdStore` and the simulator's model both are one.

Every error is one of `dragonfly.store.errors`; any call may raise `Unavailable`, `Denied` or `OtherEtcd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dragonfly.store.values import Condition, Grant, Item, MemberStatus, Remaining, Snapshot, Write


class Store(Protocol):
    async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        """Write all of `writes`, or none.

        Args:
            writes: at most one for each key.
            given: conditions that must hold at the moment of the write (P4).

        Returns:
            The revision at which the writes became visible.

        Raises:
            Conflict: a condition did not hold; carries the keys' current values, read in the same transaction.
            Unavailable: no answer; with `maybe_written` nobody knows whether it happened, and the caller reads back by
                revision before it tries again.
            TooLarge: more than 128 operations or 1.5 MiB; nothing was sent.
            LeaseLost: the lease of a `Put` is gone.
            NoSpace: etcd's quota is used up.
            Rejected: the transaction is malformed (one key written twice).
        """
        ...

    async def read(self, key: str) -> tuple[Item | None, int]:
        """Return the key as it is now (linearizable), and the revision at which it was read."""
        ...

    async def range(self, prefix: str, *, revision: int = 0) -> Snapshot:
        """Return all keys that start with `prefix` ("" for all) as they were at one revision, by default the newest.

        Raises:
            Compacted: `revision` is gone.
            FutureRevision: `revision` is not there yet.
        """
        ...

    async def grant(self, ttl: int) -> Grant:
        """Make a lease of `ttl` seconds; etcd raises a TTL below its minimum (2 s by default)."""
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys; no effect if it is gone already."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Start the lease's time anew and return its TTL (seconds).

        Raises:
            LeaseLost: it expired or was revoked.
        """
        ...

    async def time_to_live(self, lease: int) -> Remaining:
        """Return what is left of the lease, without keeping it alive.

        Raises:
            LeaseLost: it expired or was revoked.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`; no effect if that is forgotten already."""
        ...

    async def status(self) -> tuple[MemberStatus, ...]:
        """Ask every endpoint; an endpoint that does not answer is an entry that says so, never an error."""
        ...
