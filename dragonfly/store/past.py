"""What etcd still knows of earlier revisions: a watch that begins in the past and ends once it has caught up.

A watch that catches up does not say when it has. So the progress key is written first: what comes with or after that
write proves that everything before it has come.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from dragonfly.store import keys
from dragonfly.store.changes import Assembly
from dragonfly.store.errors import Denied, StoreError, Unavailable
from dragonfly.store.faults import Fault, TokenRefused
from dragonfly.store.gateway import Gateway
from dragonfly.store.port import Store
from dragonfly.store.values import Change, Put
from dragonfly.store.wire import WatchLine, decode

_TRIES: Final = 3
_MOST_CHANGES: Final = 20_000
_MOST_BYTES: Final = 64 * 1024 * 1024


class TooMuch(StoreError):
    """More has changed than is worth reading again."""


class EtcdPast:
    """Reads with connections of its own, one after the other."""

    def __init__(
        self, store: Store, gateway: Gateway, *, most_changes: int = _MOST_CHANGES, most_bytes: int = _MOST_BYTES
    ) -> None:
        """Connect to nothing yet.

        Args:
            store: for the progress key.
            gateway: each read gets a sibling of it.
            most_changes: of a revision range that is read.
            most_bytes: of the values in it.
        """
        self._store = store
        self._gateway = gateway
        self._most_changes = most_changes
        self._most_bytes = most_bytes
        self._reading: set[Gateway] = set()
        self._lock = threading.Lock()
        self._closed = False

    async def between(self, revision: int, until: int) -> Sequence[Change]:
        """Return all changes after `revision` up to `until`, in order, each with its `previous`.

        Args:
            revision: of which the state is known.
            until: a revision that etcd has reached.

        Raises:
            Compacted: etcd has forgotten some of them.
            TooMuch: they are too many.
            StoreError: etcd does not say.
        """
        await self._store.commit(Put(keys.PROGRESS, b"{}"))
        found = await asyncio.to_thread(self._patiently, revision, until)
        # A watch may begin at the very revision that was compacted, and then lacks what was before it; a range may not.
        await self._store.range(keys.PROGRESS, revision=revision)
        return found

    def close(self) -> None:
        """Break off what is being read."""
        with self._lock:
            self._closed = True
            for gateway in self._reading:
                gateway.close()

    def _patiently(self, revision: int, until: int) -> Sequence[Change]:
        gateway = self._gateway.sibling()
        with self._lock:
            if self._closed:
                raise Unavailable("the store is closed")
            self._reading.add(gateway)
        try:
            return self._read_somewhere(gateway, revision, until)
        finally:
            with self._lock:
                self._reading.discard(gateway)
            gateway.close()

    def _read_somewhere(self, gateway: Gateway, revision: int, until: int) -> Sequence[Change]:
        reason = ""
        for _ in range(_TRIES):
            try:
                return self._read(gateway, revision, until)
            except Fault as fault:
                reason = fault.reason
            except TokenRefused as refused:
                raise Denied(f"etcd refuses a fresh token: {refused}") from refused
        raise Unavailable(reason)

    def _read(self, gateway: Gateway, revision: int, until: int) -> Sequence[Change]:
        found: list[Change] = []
        size = 0
        assembly = Assembly(gateway.prefix, revision)
        body = gateway.prefix.watch(revision + 1)
        with gateway.stream("watch", body, gateway.settings.silence) as (endpoint, lines):
            for line in lines:
                answer = _decoded(line)
                if answer.result is not None:
                    gateway.same_cluster(endpoint, answer.result)
                batch = assembly.take(answer)
                if batch is None:
                    continue
                new = [c for c in batch.changes if c.revision <= until and c.key != keys.PROGRESS]
                found += new
                size += sum(len(change.item.value) for change in new if change.item is not None)
                if len(found) > self._most_changes or size > self._most_bytes:
                    raise TooMuch(f"more than {self._most_changes} changes or {self._most_bytes} bytes")
                if batch.revision > until:
                    return found
        raise Fault("the stream ended")


def _decoded(line: bytes) -> WatchLine:
    try:
        return decode(line, WatchLine)
    except msgspec.MsgspecError as error:
        raise Fault(f"unreadable line in a watch: {error}") from error
