"""The answers of a watch put together to whole revisions.

Pure. Invariant: `position` never falls, and each change above the first position comes out once, in order, in a batch
that holds all of its revision. etcd sends a revision in one answer, or in fragments of which the last is not marked.

A progress mark (an answer without events) moves nothing: etcd before 3.5.8 may send one ahead of events that are older
(https://github.com/etcd-io/etcd/issues/15220). It is a sign of life only; what moves the position is a change.
"""

from __future__ import annotations

from dragonfly.store.errors import Compacted
from dragonfly.store.faults import Fault, GatewayError, StaleFault, fault
from dragonfly.store.values import Batch
from dragonfly.store.wire import Event, Prefix, WatchLine, WatchResult


class Assembly:
    """One watch stream, from its first line to its end."""

    def __init__(self, prefix: Prefix, position: int) -> None:
        """Go on after revision `position`; what the stream brings of it, or of before, is known already."""
        self._prefix = prefix
        self._fragments: list[Event] = []
        self.position = position

    def take(self, line: WatchLine) -> Batch | None:
        """Take the next answer; returns what became whole by it.

        Raises:
            Compacted: what comes after the position is gone.
            Fault: the stream is of no more use; a `StaleFault` if its member is behind the position.
            TokenRefused, StoreError: as etcd's reason says.
        """
        if line.error is not None:
            raise fault(line.error)
        if line.result is None:
            raise Fault("neither a result nor an error in a watch's answer")
        if line.result.canceled:
            raise _end_of(line.result)
        if line.result.created:
            self._check_created(line.result)
        return self._whole(line.result)

    def _check_created(self, result: WatchResult) -> None:
        if result.header.revision < self.position:
            raise StaleFault(f"the member is at revision {result.header.revision}, {self.position} was seen already")

    def _whole(self, result: WatchResult) -> Batch | None:
        self._fragments += result.events
        if result.fragment or not self._fragments:
            return None
        events, self._fragments = self._fragments, []
        changes = tuple(self._prefix.change(event) for event in events if event.kv.mod_revision > self.position)
        if not changes:
            return None
        self.position = changes[-1].revision
        return Batch(self.position, changes)


def _end_of(result: WatchResult) -> Exception:
    if result.compact_revision:
        return Compacted(result.compact_revision)
    return fault(GatewayError(message=result.cancel_reason or "watch canceled"))
