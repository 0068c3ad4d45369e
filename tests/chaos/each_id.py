"""The client's follower, strict: each `id` is looked at by itself, whatever else came with it, and so is what it ends.

The client gives what has become certain in one read at once, and nothing for a `ping` that only moves the position. A
checker must know more: a change that is missing shows only when the position has moved past it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from dragonfly.client import Event
from dragonfly.client.calls import Value
from dragonfly.client.stream import Follower
from dragonfly.feed.shown import KINDS

_ORDER: Final = {kind: number for number, kind in enumerate(KINDS)}


class EachId(Follower):
    """Follows with a snapshot, and tells what each `id` ends; `position` is that `id` then."""

    def __init__(self, query: Mapping[str, Value], *, said: Callable[[Sequence[Event]], None]) -> None:
        super().__init__(query, snapshot=True)
        self._tell = said

    def take(self, data: bytes) -> list[Event]:
        """As the client's, but what has become certain was told already."""
        for frame in self._parser.take(data):
            events = self._said(frame)
            if frame.id is not None:
                self._tell(events)
        return []


def misplaced(events: Sequence[Event], position: int, *, coalesced: bool) -> Iterator[str]:
    """Yield what is wrong with the events that one `id` ends, whatever they change.

    Args:
        events: in the order in which they came.
        position: the `id`.
        coalesced: superseded ones were left out, so that several revisions may have one `id`.
    """
    begins = max((number for number, event in enumerate(events, 1) if event.type == "reset"), default=0)
    changes = events[begins:]
    refs = [(event.kind, event.name) for event in changes]
    yield from (f"{ref} twice before {position}" for ref in sorted({ref for ref in refs if refs.count(ref) > 1}))
    if begins:  # a state, in no order
        return
    revisions = [event.revision for event in changes]
    if revisions != sorted(revisions):
        yield f"revisions out of order before {position}: {revisions}"
    if not coalesced:
        yield from (f"{event.revision} has no id of its own before {position}" for event in _strange(changes, position))
        if refs != sorted(refs, key=lambda ref: (_ORDER[ref[0]], ref[1])):
            yield f"objects out of order at {position}: {refs}"


def _strange(changes: Sequence[Event], position: int) -> list[Event]:
    return [event for event in changes if event.revision != position]
