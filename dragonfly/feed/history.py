"""Recent changes in memory: a chain of revisions that all who follow share, each with a cursor of its own into it.

A client has no queue: what it has not got yet is the rest of the chain behind its cursor. So a change costs the same
memory for one client as for thousands, and a slow one costs what the chain has dropped and it still holds on to; who
streams cuts it as soon as the chain has dropped what follows (`holds`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dragonfly.feed.audience import Dimension, Wanted
from dragonfly.feed.changes import Change
from dragonfly.store.mirror import Update

MOST_BYTES: Final = 32 * 1024 * 1024
"""About how much the chain keeps alive, JSON aside."""

_CUT_TOGETHER: Final = 256
_WIDE: Final = 32
"""Changes at one revision from which on they are not all looked at by each view."""

_NODE: Final = 500
_SHOWN: Final = 1_000
_UPDATE: Final = 200
"""Bytes of each, beside the records."""


class Node:
    """One revision; `next` is the one after it, None until there is one."""

    __slots__ = ("_alone", "_places", "arrived", "changes", "next", "number", "revision", "updates", "weight")

    def __init__(
        self, revision: int, updates: Sequence[Update], changes: Sequence[Change], number: int, arrived: float
    ) -> None:
        self.revision = revision
        self.updates = updates
        self.changes = changes
        self.number = number
        self.arrived = arrived
        self.next: Node | None = None
        self.weight = _weight(updates, changes)
        self._places: dict[Dimension, dict[str, list[int]]] = {}
        self._alone: Node | None = None

    def places(self, wants: Wanted) -> Sequence[int]:
        """Where, in order, the changes are that may concern who wants that; looked up once for all its dimension."""
        if len(self.changes) < _WIDE:
            return range(len(self.changes))
        if wants.dimension not in self._places:
            self._places[wants.dimension] = _by_value(wants.dimension, self.changes)
        places = self._places[wants.dimension]
        return sorted({place for value in wants.values for place in places.get(value, ())})

    def bare(self) -> Node:
        """The place after it, without what happened there."""
        bare = Node(self.revision, (), (), self.number, self.arrived)
        bare.next = self.next
        return bare

    def alone(self) -> Node:
        """What happened there, without what follows; the same for all who ask."""
        if self._alone is None:
            self._alone = Node(self.revision, (), self.changes, self.number, self.arrived)
        return self._alone


class Cursor(NamedTuple):
    """A place in the chain: after the first `done` changes of a node."""

    node: Node
    done: int

    @property
    def between_revisions(self) -> bool:
        return self.done == len(self.node.changes)


def after(node: Node) -> Cursor:
    return Cursor(node, len(node.changes))


class History:
    """Invariant: the nodes after the first one hold all changes of the revisions after its own up to `revision`.

    A node's number is its place among all revisions that concern the feed, also if it was dropped and read again.
    """

    def __init__(self, revision: int, *, most_bytes: int = MOST_BYTES) -> None:
        """Begin at a revision, with nothing before it."""
        self.revision = revision
        self._nodes = [Node(revision, (), (), 0, 0.0)]
        self._dropped = 0
        self._most_bytes = most_bytes
        self._stretched = 0
        self._weight = 0

    @property
    def first(self) -> Node:
        """Where the chain begins; nothing is kept of what happened there and before."""
        return self._nodes[self._dropped]

    @property
    def last(self) -> Node:
        return self._nodes[-1]

    @property
    def is_heavy(self) -> bool:
        """Whether it is far larger than it has to be."""
        return self._weight > 2 * self._most_bytes

    def append(self, revision: int, updates: Sequence[Update], changes: Sequence[Change], arrived: float) -> Node:
        node = Node(revision, updates, changes, self.last.number + 1, arrived)
        self.last.next = node
        self._nodes.append(node)
        self._weight += node.weight
        self.revision = revision
        self._drop()
        return node

    def prepend(self, revision: int, earlier: Sequence[Node]) -> None:
        """Put revisions before the first node, so that the chain begins at `revision`.

        Args:
            revision: the new beginning.
            earlier: all between, in order, up to the first node's revision; they get their numbers here.
        """
        behind = self._nodes[self._dropped + 1 :]
        if not behind:  # who stands at the only node there is waits for what will be linked to it: it must stay
            behind = [self.first]
            self._weight += self.first.weight
        nodes = [Node(revision, (), (), 0, 0.0), *earlier]
        for number, node in enumerate(nodes, behind[0].number - len(nodes)):
            node.number = number
        for node, following in zip(nodes, [*earlier, behind[0]], strict=True):
            node.next = following
        self._weight += sum(node.weight for node in earlier)
        self._nodes = [*nodes, *behind]
        self._dropped = 0
        self.stretch()

    def stretch(self) -> None:
        """Drop nothing for a while: until it is as much larger than it is now as it may be at all."""
        self._stretched = self._weight + self._most_bytes

    def shrink(self) -> None:
        """Drop again whatever is too much."""
        self._stretched = 0
        self._drop()

    def at(self, revision: int) -> Cursor | None:
        """Return the place after `revision`, between it and what follows; None if that is not in the chain."""
        if not self.first.revision <= revision <= self.revision:
            return None
        found = bisect_right(self._nodes, revision, lo=self._dropped, key=lambda node: node.revision)
        return after(self._nodes[found - 1])

    def holds(self, cursor: Cursor) -> bool:
        """Whether the chain still has what follows a revision; no statement about a cursor of another history."""
        return cursor.node.number >= self.first.number

    def numbered(self, number: int) -> Node | None:
        """The node of that number, if the chain has it."""
        index = self._dropped + number - self.first.number
        return self._nodes[index] if self._dropped <= index < len(self._nodes) else None

    def updates(self) -> Iterator[Update]:
        """Yield what etcd told after the first node's revision, in order."""
        for node in self._nodes[self._dropped :]:
            yield from node.updates

    def _drop(self) -> None:
        """Drop what is too much, but never what came last: those who stand before it have missed nothing."""
        allowed = max(self._most_bytes, self._stretched)
        while self._weight > allowed and self._dropped < len(self._nodes) - 2:
            self._nodes[self._dropped] = _DROPPED
            self._dropped += 1
            first = self.first
            self._weight -= first.weight
            self._nodes[self._dropped] = first.bare()
        if self._dropped >= _CUT_TOGETHER:
            del self._nodes[: self._dropped]
            self._dropped = 0


def _by_value(dimension: Dimension, changes: Sequence[Change]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, change in enumerate(changes):
        for value in dimension.among(change):
            found.setdefault(value, []).append(place)
    return found


def _weight(updates: Sequence[Update], changes: Sequence[Change]) -> int:
    """About how many bytes that keeps alive.

    An object is made of records that live elsewhere as long as they are current: they count where they are superseded.
    There they count twice, before and after, for a decoded record takes about twice its bytes.
    """
    sides = sum((change.before is not None) + (change.after is not None) for change in changes)
    return _NODE + _SHOWN * sides + sum(_size(update) for update in updates)


def _size(update: Update) -> int:
    return _UPDATE + sum(held.size for held in (update.held, update.previous) if held is not None)


_DROPPED: Final = Node(0, (), (), 0, 0.0)
