"""What was before the history begins: read again from etcd, and made into nodes beside all else that there is to do.

A replica that has been away for a minute, or one that is asked for a position of a minute ago, has thousands of
revisions to go through. It takes them a few objects at a time; whatever arrives in the mirror meanwhile, the past that
is looked at stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, Protocol

from dragonfly.feed.changes import Overlay, Population, Wide, by_revision, each_at, in_order, is_made_of
from dragonfly.feed.history import Node
from dragonfly.feed.shown import Shards
from dragonfly.store import keys, records
from dragonfly.store.mirror import Held, Undecodable, Update
from dragonfly.store.values import Change as Stored
from dragonfly.store.values import Item
from dragonfly.swarm.members import Records

AT_ONCE: Final = 100
"""Objects that are put together, before and after a revision, between two turns of the loop: some milliseconds."""


class Past(Protocol):
    """What etcd still knows of earlier revisions."""

    async def between(self, revision: int, until: int) -> Sequence[Stored]:
        """Return all changes after `revision` up to `until`, each with its `previous`.

        Raises:
            Compacted: etcd has forgotten some of them.
            TooMuch: they are too many.
            StoreError: etcd does not say.
        """
        ...


class Replay:
    """Goes through revisions of the past once more. It must be told what arrives meanwhile (`arrived`)."""

    def __init__(self, now: Records, unrecorded: Shards, living_in: Population) -> None:
        """Begin nowhere yet.

        Args:
            now: the records as they are, and go on to be.
            unrecorded: how clusters are cut that are there without a record.
            living_in: who is there now.
        """
        self._past = Overlay(now, {})
        self._unrecorded = unrecorded
        self._living_in = living_in
        self._left = AT_ONCE

    def arrived(self, updates: Iterable[Update]) -> None:
        """Take notice of what has just been done to the records."""
        self._past.keep(updates)

    async def nodes(self, updates: Sequence[Update], later: Iterable[Update]) -> list[Node]:
        """Return a node for each revision.

        Args:
            updates: of those revisions, in order.
            later: those that lead from there to the records as they were when this was made.
        """
        await self._go_back(chain(updates, tuple(later)))
        nodes = []
        for revision, group in by_revision(updates):
            found = []
            for change in each_at(revision, group, self._past, self._unrecorded, living_in=self._who_lived_in):
                found.append(change)
                await self._step()
            nodes.append(Node(revision, group, in_order(found), 0, 0.0))
            self._past.step(group)
            await self._step()
        return nodes

    async def _go_back(self, updates: Iterable[Update]) -> None:
        before: dict[str, Held | None] = {}
        for number, update in enumerate(updates):
            before.setdefault(update.key, update.previous)
            if number % AT_ONCE == 0:  # these are cheap
                await self._step()
        self._past = self._past.preceded_by(before)

    def _who_lived_in(self, wide: Wide) -> set[str]:
        """All of now, and all that were others: those of a cluster that is cut differently now may be in any shard."""
        recut = {cluster for cluster, _ in wide.places if self._past.puts(keys.CLUSTERS + cluster)}
        return {*self._living_in(wide._replace(clusters=wide.clusters | recut)), *self._past.machines()}

    async def _step(self) -> None:
        self._left -= 1
        if not self._left:
            self._left = AT_ONCE
            await asyncio.sleep(0)


def updates_of(stored: Iterable[Stored]) -> list[Update]:
    """What etcd told of the past, as the mirror would have made it, of keys that the feed is made of.

    The state before the first update of a key is etcd's `previous`; after that it is what the one before left.
    """
    known: dict[str, Held | None] = {}
    updates: list[Update] = []
    for change in stored:
        if not is_made_of(change.key):
            continue
        previous = known[change.key] if change.key in known else _held(change.previous)
        held = _held(change.item)
        known[change.key] = held
        updates.append(Update(change.key, held, previous, change.revision))
    return updates


def _held(item: Item | None) -> Held | None:
    if item is None:
        return None
    try:
        decoded = records.decode(item.key, item.value)
    except Exception as error:  # as the mirror: one bad record must not blind anybody
        decoded = Undecodable(f"{type(error).__name__}: {error}")
    return Held(item.key, decoded, item.create_revision, item.mod_revision, item.lease, len(item.value))
