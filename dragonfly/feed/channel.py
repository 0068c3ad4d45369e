"""What all who follow one view have in common: what they are told of a place in the history is made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from dragonfly.feed.audience import wanted
from dragonfly.feed.frames import frame
from dragonfly.feed.history import Cursor, History, Node, after
from dragonfly.feed.view import Seen, View, net

CHUNK: Final = 64 * 1024
"""Bytes from which on a chunk ends; the last object in it may make it larger."""

_REMEMBERED: Final = 8


class Waiting(Protocol):
    """A subscription, as its channel wakes it."""

    woken: asyncio.Event


class Taken(NamedTuple):
    """What a subscription gets next."""

    chunks: Iterable[bytes]
    events: int
    arrived: float
    """When the oldest change in it did, by the clock; 0 for one from before this replica followed."""
    position: int | None
    """The last `id` in it."""


class Channel:
    """What all who follow one view have in common.

    Invariant: of the history's nodes, by their numbers, none after `_settled` and before `_news`, and none after
    `_latest`, has a change that the view shows.
    """

    def __init__(self, view: View, *, coalesce: bool, since: int) -> None:
        """Make it for the changes to come.

        Args:
            view: what it shows.
            coalesce: leave out what is superseded.
            since: the number of the newest node there is.
        """
        self.view = view
        self.coalesce = coalesce
        self.wants = wanted(view.filter)
        self.subscriptions: set[Waiting] = set()
        self._taken: OrderedDict[Cursor, tuple[Taken | None, Cursor]] = OrderedDict()
        self.begin(since)

    def begin(self, since: int) -> None:
        """Know nothing of the nodes up to that number, and have missed nothing of those after it."""
        self._settled = self._news = self._latest = since
        self._taken.clear()

    def note(self, node: Node, *, first: bool) -> None:
        """Know of a node, the newest, that it may show something.

        Args:
            node: which.
            first: it is the first one since all who follow were woken.
        """
        if first:
            self._settled, self._news = self._latest, node.number
        self._latest = node.number

    def past(self, cursor: Cursor, history: History) -> Cursor:
        """The same place in the view: what happens outside of it is passed over."""
        if self._taken:
            self._forget(history.first.number)
        number = cursor.node.number
        if not cursor.between_revisions:
            return cursor
        if number >= self._latest:
            return after(history.last)
        before = history.numbered(self._news - 1) if self._settled <= number < self._news else None
        return after(before) if before is not None else cursor

    def seen(self, node: Node, index: int) -> Iterator[tuple[int, Seen]]:
        """What the view shows of a node from a place on, each with its place."""
        for place in node.places(self.wants):
            if place >= index and (seen := self.view.seen(node.changes[place])) is not None:
                yield place, seen

    def take(self, cursor: Cursor) -> tuple[Taken | None, Cursor]:
        if cursor.node.next is None and cursor.between_revisions:
            return None, cursor
        if self.coalesce:
            return self._net(cursor)
        if len(self.subscriptions) == 1:
            return self._chunk(cursor)
        if cursor not in self._taken:
            self._taken[cursor] = self._chunk(cursor)
            if len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
        return self._taken[cursor]

    def _forget(self, first: int) -> None:
        """Let go of places that the history does not have any more: each keeps all that came after it alive."""
        for cursor in [cursor for cursor in self._taken if cursor.node.number < first]:
            del self._taken[cursor]

    def _chunk(self, cursor: Cursor) -> tuple[Taken | None, Cursor]:
        """The events from a place on, until they are enough or there are no more."""
        parts: list[bytes] = []
        size, arrived, position = 0, 0.0, None
        for node, index in rest(cursor):
            pending: Seen | None = None
            for number, seen in self.seen(node, index):
                if pending is not None:
                    parts.append(frame(pending, None))
                    size += len(parts[-1])
                    if size >= CHUNK:
                        return _taken(parts, arrived or node.arrived, position), Cursor(node, number)
                pending = seen
            cursor = after(node)
            if pending is not None:
                parts.append(frame(pending, node.revision))
                size += len(parts[-1])
                arrived, position = arrived or node.arrived, node.revision
                if size >= CHUNK:
                    break
        return _taken(parts, arrived, position), cursor

    def _net(self, cursor: Cursor) -> tuple[Taken | None, Cursor]:
        """Everything from a place on to the end, superseded changes left out."""
        nodes = list(rest(cursor))
        left = net(seen for node, index in nodes for _, seen in self.seen(node, index))
        last = nodes[-1][0]
        arrived = next((node.arrived for node, index in nodes if len(node.changes) > index), 0.0)
        taken = Taken(_chunks(left, last.revision), len(left), arrived, last.revision) if left else None
        return taken, after(last)


def rest(cursor: Cursor) -> Iterator[tuple[Node, int]]:
    """Yield the nodes from a place on, each with the index at which to go on."""
    if not cursor.between_revisions:
        yield cursor
    node = cursor.node.next
    while node is not None:
        yield node, 0
        node = node.next


def _taken(parts: list[bytes], arrived: float, position: int | None) -> Taken | None:
    return Taken((b"".join(parts),), len(parts), arrived, position) if parts else None


def _chunks(changes: Sequence[Seen], position: int) -> Iterator[bytes]:
    parts: list[bytes] = []
    for number, seen in enumerate(changes, 1):
        parts.append(frame(seen, position if number == len(changes) else None))
        if sum(map(len, parts)) >= CHUNK:
            yield b"".join(parts)
            parts.clear()
    yield b"".join(parts)
