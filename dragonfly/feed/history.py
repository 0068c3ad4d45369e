"""Recent changes in memory: a chain of revisions that all who follow share, each with a cursor of its own into it.

A client has no queue: what it has not got yet is the rest of the chain behind its cursor. So a change costs the same
memory for one client as for thousands, and a slow one costs what the chain has dropped and it still holds on to; who
streams cuts it as soon as the chain has dropped its place (`holds`).
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

_DROPPED_TOGETHER: Final = 256
_WIDE: Final = 32
"""Changes at one revision from which on they are not all looked at by each view."""


class Node:
    """One revision; `next` is the one after it, None until there is one."""

    __slots__ = ("_places", "arrived", "changes", "next", "number", "revision", "updates", "weight")

    def __init__(
        self, revision: int, updates: Sequence[Update], changes: Sequence[Change], number: int, arrived: float
    ) -> None:
        self.revision = revision
        self.updates = updates
        self.changes = changes
        self.number = number
        self.arrived = arrived
        self.next: Node | None = None
        self.weight = _weight(changes)
        self._places: dict[Dimension, dict[str, list[int]]] = {}

    def places(self, wants: Wanted) -> Sequence[int]:
        """Where, in order, the changes are that may concern who wants that; looked up once for all its dimension."""
        if len(self.changes) < _WIDE:
            return range(len(self.changes))
        if wants.dimension not in self._places:
            self._places[wants.dimension] = _by_value(wants.dimension, self.changes)
        places = self._places[wants.dimension]
        return sorted({place for value in wants.values for place in places.get(value, ())})


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
    """Invariant: the nodes after the first one hold all changes of the revisions after its own up to `revision`."""

    def __init__(self, revision: int, *, most_bytes: int = MOST_BYTES) -> None:
        """Begin at a revision, with nothing before it."""
        self.revision = revision
        self._nodes = [Node(revision, (), (), 0, 0.0)]
        self._dropped = 0
        self._most_bytes = most_bytes
        self._weight = 0

    @property
    def first(self) -> Node:
        """The oldest node; positions before its revision are not in the chain any more."""
        return self._nodes[self._dropped]

    @property
    def last(self) -> Node:
        return self._nodes[-1]

    @property
    def told_from(self) -> int:
        """The revision up to which `updates` does not tell what happened."""
        return self.first.revision - 1 if self.first.updates else self.first.revision

    def append(self, revision: int, updates: Sequence[Update], changes: Sequence[Change], arrived: float) -> Node:
        node = Node(revision, updates, changes, self.last.number + 1, arrived)
        self.last.next = node
        self._nodes.append(node)
        self._weight += node.weight
        self.revision = revision
        self._drop()
        return node

    def prepend(self, revision: int, earlier: Sequence[tuple[int, Sequence[Update], Sequence[Change]]]) -> None:
        """Put revisions before the first node, so that the chain begins at `revision`.

        Args:
            revision: the new beginning.
            earlier: revision, updates and changes of all between, in order, up to `told_from`.
        """
        first = self.first
        number = first.number - len(earlier) - 1
        nodes = [Node(revision, (), (), number, 0.0)]
        for at, updates, changes in earlier:
            number += 1
            nodes.append(Node(at, updates, changes, number, 0.0))
        for node, following in zip(nodes, [*nodes[1:], first], strict=True):
            node.next = following
        self._weight += sum(node.weight for node in nodes)
        self._nodes = [*nodes, *self._nodes[self._dropped :]]
        self._dropped = 0

    def at(self, revision: int) -> Cursor | None:
        """Return the place after `revision`, between it and what follows; None if that is not in the chain."""
        if not self.first.revision <= revision <= self.revision:
            return None
        found = bisect_right(self._nodes, revision, lo=self._dropped, key=lambda node: node.revision)
        return after(self._nodes[found - 1])

    def holds(self, cursor: Cursor) -> bool:
        """Whether the chain still has the place; no statement about a cursor of another history."""
        return cursor.node.number >= self.first.number

    def numbered(self, number: int) -> Node | None:
        """The node of that number, if the chain has it."""
        index = self._dropped + number - self.first.number
        return self._nodes[index] if self._dropped <= index < len(self._nodes) else None

    def updates(self) -> Iterator[Update]:
        """Yield what etcd told after `told_from`, in order."""
        for node in self._nodes[self._dropped :]:
            yield from node.updates

    def _drop(self) -> None:
        while self._weight > self._most_bytes and self._dropped < len(self._nodes) - 1:
            self._weight -= self.first.weight
            self._dropped += 1
        if self._dropped >= _DROPPED_TOGETHER:
            del self._nodes[: self._dropped]
            self._dropped = 0


def _by_value(dimension: Dimension, changes: Sequence[Change]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, change in enumerate(changes):
        for value in dimension.among(change):
            found.setdefault(value, []).append(place)
    return found


def _weight(changes: Sequence[Change]) -> int:
    return 500 + sum(shown.weight for change in changes for shown in (change.before, change.after) if shown is not None)
