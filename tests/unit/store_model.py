"""A model of etcd's transactions: the `Store` port in memory, strict where etcd is.

Small enough to be read against etcd's documentation, and held to the real one by the store's contract cases. Nothing
happens by itself: time passes with `pass_time`, watchers get their batches when a write is visible, and faults happen
when a test asks for them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from dragonfly.store.errors import (
    Compacted,
    Conflict,
    FutureRevision,
    LeaseLost,
    NoSpace,
    Rejected,
    TooLarge,
    Unavailable,
)
from dragonfly.store.mirror import Mirror
from dragonfly.store.values import (
    Absent,
    Batch,
    Change,
    Claimed,
    Condition,
    Delete,
    Grant,
    Item,
    MemberStatus,
    Put,
    Remaining,
    Snapshot,
    Unchanged,
    Write,
)

MOST_OPERATIONS = 128
MOST_BYTES = 1536 * 1024
SHORTEST_LEASE = 2

Fault = Literal["unsent", "lost answer", "full"]


class _Event(NamedTuple):
    revision: int
    key: str
    item: Item | None


class StoreModel:
    """Invariant: replaying `_events` up to any revision gives the keys as they were then."""

    def __init__(self) -> None:
        self.revision = 1
        self.now = 0.0
        self.was_read = asyncio.Event()
        self._items: dict[str, Item] = {}
        self._events: list[_Event] = []
        self._compacted = 0
        self._leases: dict[int, tuple[int, float]] = {}
        self._next_lease = 7
        self._watchers: list[Callable[[Batch], None]] = []
        self._faults: deque[Fault] = deque()

    # The port.

    async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        self._check_shape(writes, given)
        fault = self._faults.popleft() if self._faults else None
        if fault == "unsent":
            raise Unavailable("connection refused")
        if fault == "full":
            raise NoSpace("mvcc: database space exceeded")
        revision = self._transact(writes, given)
        if fault == "lost answer":
            raise Unavailable("connection reset", maybe_written=True)
        return revision

    async def read(self, key: str) -> tuple[Item | None, int]:
        self.was_read.set()
        if self._faults and self._faults[0] == "unsent":
            self._faults.popleft()
            raise Unavailable("connection refused")
        return self._items.get(key), self.revision

    async def range(self, prefix: str, *, revision: int = 0) -> Snapshot:
        if revision > self.revision:
            raise FutureRevision(f"{revision} is after {self.revision}")
        if revision and revision < self._compacted:
            raise Compacted(self._compacted)
        items = self._items if revision in {0, self.revision} else self._as_of(revision)
        found = tuple(items[key] for key in sorted(items) if key.startswith(prefix))
        return Snapshot(revision or self.revision, found)

    async def grant(self, ttl: int) -> Grant:
        granted = max(ttl, SHORTEST_LEASE)
        self._next_lease += 1
        self._leases[self._next_lease] = (granted, self.now + granted)
        return Grant(self._next_lease, granted)

    async def revoke(self, lease: int) -> None:
        self.end_lease(lease)

    async def keep_alive(self, lease: int) -> int:
        if lease not in self._leases:
            raise LeaseLost(f"lease {lease:x} is gone")
        ttl, _ = self._leases[lease]
        self._leases[lease] = (ttl, self.now + ttl)
        return ttl

    async def time_to_live(self, lease: int) -> Remaining:
        if lease not in self._leases:
            raise LeaseLost(f"lease {lease:x} is gone")
        granted, end = self._leases[lease]
        return Remaining(int(end - self.now), granted)

    async def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(f"{revision} is after {self.revision}")
        self._compacted = max(self._compacted, revision)

    async def status(self) -> tuple[MemberStatus, ...]:
        return (MemberStatus("model", reachable=True, member_id=1, revision=self.revision, leader=True, leader_id=1),)

    async def between(self, revision: int, until: int) -> Sequence[Change]:
        """As `EtcdPast`."""
        if revision < self._compacted:
            raise Compacted(self._compacted)
        found: list[Change] = []
        before: dict[str, Item | None] = {}
        for event in self._events:
            if revision < event.revision <= until:
                found.append(Change(event.key, event.item, event.revision, before.get(event.key)))
            before[event.key] = event.item
        return found

    # What a test does to it.

    def fail(self, *faults: Fault) -> None:
        """Make the next calls fail, one fault each. `lost answer` writes, and tells nobody."""
        self._faults.extend(faults)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; leases end."""
        self.now += seconds
        for lease in [lease for lease, (_, end) in self._leases.items() if end <= self.now]:
            self.end_lease(lease)

    def end_lease(self, lease: int) -> None:
        """End a lease with its keys, all in one revision."""
        if self._leases.pop(lease, None) is not None:
            self._apply([Delete(item.key) for item in self._items.values() if item.lease == lease])

    def watch(self, callback: Callable[[Batch], None]) -> None:
        """Tell `callback` each revision that changes something, at once."""
        self._watchers.append(callback)

    def items(self) -> dict[str, Item]:
        return dict(self._items)

    # How it works.

    def _transact(self, writes: Sequence[Write], given: Sequence[Condition]) -> int:
        if not all(self._holds(condition) for condition in given):
            raise Conflict(tuple(self._items.get(condition.key) for condition in given), self.revision)
        lost = [write for write in writes if isinstance(write, Put) and write.lease and write.lease not in self._leases]
        if lost:
            raise LeaseLost(f"lease {lost[0].lease:x} is gone")
        self._apply(writes)
        return self.revision

    def _holds(self, condition: Condition) -> bool:
        item = self._items.get(condition.key)
        match condition:
            case Absent():
                return item is None
            case Unchanged(mod_revision=revision):
                return (item.mod_revision if item else 0) == revision
            case Claimed(create_revision=revision):
                return (item.create_revision if item else 0) == revision

    def _apply(self, writes: Sequence[Write]) -> None:
        """Carry out what changes something, in one new revision; a delete of an absent key changes nothing."""
        effective = [write for write in writes if isinstance(write, Put) or write.key in self._items]
        if not effective:
            return
        self.revision += 1
        changes = tuple(self._changed(write) for write in effective)
        self._events += (_Event(change.revision, change.key, change.item) for change in changes)
        for callback in tuple(self._watchers):
            callback(Batch(self.revision, changes))

    def _changed(self, write: Write) -> Change:
        before = self._items.pop(write.key, None)
        if isinstance(write, Delete):
            return Change(write.key, None, self.revision, before)
        created = before.create_revision if before else self.revision
        version = before.version + 1 if before else 1
        item = Item(write.key, write.value, created, self.revision, version, write.lease)
        self._items[write.key] = item
        return Change(write.key, item, self.revision, before)

    def _as_of(self, revision: int) -> dict[str, Item]:
        items: dict[str, Item] = {}
        for event in self._events:
            if event.revision > revision:
                break
            if event.item is None:
                items.pop(event.key, None)
            else:
                items[event.key] = event.item
        return items

    def _check_shape(self, writes: Sequence[Write], given: Sequence[Condition]) -> None:
        keys = [write.key for write in writes]
        if len(set(keys)) != len(keys):
            raise Rejected("duplicate key given in txn request")
        if max(len(writes), len(given)) > MOST_OPERATIONS:
            raise TooLarge(f"{max(len(writes), len(given))} operations")
        if sum(len(write.key) + (len(write.value) if isinstance(write, Put) else 0) for write in writes) > MOST_BYTES:
            raise TooLarge("more than 1.5 MiB")


class Watch:
    """Keeps a mirror on a model; a test may hold it back, as a slow network would."""

    def __init__(self, store: StoreModel, mirror: Mirror) -> None:
        self._mirror = mirror
        self._held: list[Batch] | None = None
        mirror.replace(Snapshot(store.revision, tuple(store.items()[key] for key in sorted(store.items()))))
        mirror.mark_current()
        store.watch(self._deliver)

    def hold(self) -> None:
        """Deliver nothing until `go_on`."""
        self._held = []

    def go_on(self) -> None:
        """Deliver what was held back, and all that follows."""
        held, self._held = self._held or [], None
        for batch in held:
            self._mirror.apply(batch)

    def _deliver(self, batch: Batch) -> None:
        if self._held is None:
            self._mirror.apply(batch)
        else:
            self._held.append(batch)
