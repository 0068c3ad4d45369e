"""What goes into the store and comes out of it.

Keys are relative to the prefix everywhere ("machines/m-1"); only the client knows the prefix. Revisions are etcd's:
one counter for the whole store, grown by one with each transaction that changes something.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec


class Item(NamedTuple):
    """One key as etcd holds it."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    """0 without a lease."""


# Structs, not tuples: `Unchanged("a", 1) == Claimed("a", 1)` would hold between NamedTuples.
class Unchanged(msgspec.Struct, frozen=True):
    """The key is as it was read: its `mod_revision` is this one; 0 means that it is absent."""

    key: str
    mod_revision: int


class Claimed(msgspec.Struct, frozen=True):
    """The key is the same one since it was created, whatever was written to it since (a claim's epoch, P4)."""

    key: str
    create_revision: int


class Absent(msgspec.Struct, frozen=True):
    """The key does not exist."""

    key: str


Condition: TypeAlias = Unchanged | Claimed | Absent


class Put(msgspec.Struct, frozen=True):
    """Set the key. `lease` 0 means none: a lease that the key had is taken off it."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Remove the key; no effect if it is absent."""

    key: str


Write: TypeAlias = Put | Delete


class Snapshot(NamedTuple):
    """All keys under a prefix at one revision, in key order."""

    revision: int
    items: tuple[Item, ...]


class Change(NamedTuple):
    """One key's new state; `item` is None when it was deleted, `previous` is None when it is new or not known."""

    key: str
    item: Item | None
    revision: int
    previous: Item | None = None


class Batch(NamedTuple):
    """All changes of one or more whole revisions, in order; `revision` is the last of them.

    Without changes it says that the store has reached `revision` and nothing under the prefix has changed until then.
    """

    revision: int
    changes: tuple[Change, ...]


class Grant(NamedTuple):
    """A lease; `ttl` (seconds) is what etcd gave, which may be more than was asked for."""

    id: int
    ttl: int


class Remaining(NamedTuple):
    """What is left of a lease, in whole seconds; its holder was last heard `granted - left` seconds ago."""

    left: int
    granted: int


class MemberStatus(NamedTuple):
    """One endpoint as it answered just now; the numbers are 0 when it did not."""

    endpoint: str
    reachable: bool
    member_id: int = 0
    version: str = ""
    revision: int = 0
    raft_term: int = 0
    db_size: int = 0
    """Bytes on disk."""
    leader: bool = False
    leader_id: int = 0
    """Who this member takes for the leader; 0 if it knows none."""
    error: str = ""
