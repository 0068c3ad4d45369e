"""What can go wrong between Dragonfly and etcd, told apart by what the caller can do about it.

`Conflict` means nothing was written and the caller may decide anew; `Unavailable.maybe_written` means that nobody
knows, so the caller reads back before it tries again. Confusing the two wipes somebody's disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly.store.values import Item


class StoreError(Exception):
    """Anything that the store raises on purpose."""


class Conflict(StoreError):
    """A condition did not hold; nothing was written. Look at `current`, decide anew."""

    def __init__(self, current: tuple[Item | None, ...], revision: int) -> None:
        """Keep what was found.

        Args:
            current: the keys of the conditions, in the order given, as they were in the same transaction.
            revision: the revision at which they were read.
        """
        super().__init__(f"a condition did not hold at revision {revision}")
        self.current = current
        self.revision = revision


class Unavailable(StoreError):
    """No endpoint gave an answer in time. Try later; with `maybe_written`, read back by revision first."""

    def __init__(self, reason: str, *, maybe_written: bool = False) -> None:
        super().__init__(f"{reason} (the write may have happened)" if maybe_written else reason)
        self.maybe_written = maybe_written


class Behind(Unavailable):
    """Every endpoint that answers is behind what was seen already; an older answer would travel back in time."""


class TooLarge(StoreError):
    """More than 128 operations or 1.5 MiB; nothing was written. Split the write."""


class Compacted(StoreError):
    """The revision asked for is gone. Take a fresh range and go on from its revision."""

    def __init__(self, compact_revision: int = 0) -> None:
        """Keep the oldest revision that is still there; 0 when etcd did not say."""
        super().__init__(f"revision is compacted; the oldest one left is {compact_revision or 'unknown'}")
        self.compact_revision = compact_revision


class FutureRevision(StoreError):
    """The revision asked for does not exist yet."""


class LeaseLost(StoreError):
    """The lease expired or was revoked, and its keys with it. Nothing was written. Grant a new one."""


class OtherEtcd(StoreError):
    """The endpoints lead to another etcd than before (its `cluster_id` changed). Stop: nothing seen so far holds there.

    Sticky: every later call raises it too, until the process is started again.
    """

    def __init__(self, endpoint: str, *, expected: int, found: int) -> None:
        super().__init__(
            f"{endpoint} is another etcd: its cluster id is {found:x}, this process has worked with {expected:x}. "
            "If that is meant (a restore), start the process again."
        )
        self.endpoint = endpoint
        self.expected = expected
        self.found = found


class NoSpace(StoreError):
    """etcd's quota is used up (alarm NOSPACE); nothing was written, reads still work. Compact, defragment, disarm."""


class Denied(StoreError):
    """etcd refuses this user, password or certificate, or the user may not touch the key; nothing was written."""


class Rejected(StoreError):
    """etcd says that the request itself is wrong (a duplicate key in one transaction, say); nothing was written."""


class SchemaUnknown(StoreError):
    """The data in etcd has a layout that this version does not know, so it must not write there."""

    def __init__(self, found: str, known: int) -> None:
        super().__init__(f"etcd holds layout version {found}, this Dragonfly knows {known}: upgrade this replica")
        self.found = found
        self.known = known
