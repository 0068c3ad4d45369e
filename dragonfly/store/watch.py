"""A watch of everything under the prefix, in a thread and on a connection of its own, that never ends by itself.

It takes a snapshot, streams what comes after it, and resumes at the last revision on another endpoint whenever the
stream breaks: no gap, no duplicate, never back in time. If what it needs is compacted, it takes a fresh snapshot.

It asks for the last revision once more, though it knows that one, because etcd refuses only a start below the compacted
revision. Some versions, as 3.4, have by then forgotten what was deleted *at* it (https://github.com/etcd-io/etcd/issues/18089):
begun one revision later, a watch could miss a deletion without a word, and the mirror would keep the key for ever.

How a dead stream is noticed, from quick to slow: the connection ends; etcd ends it because its member lost the leader
(the header `hasleader`); the kernel's keepalive finds the peer gone; nothing arrives for `silence` seconds. The last
one needs a stream that is never silent while it works. etcd's own progress marks see to that where it is told to send
them every few seconds (`--watch-progress-notify-interval`). By default they come every 10 minutes, and they can't be
asked for through the gateway: that takes a second request on the open stream, which Go's HTTP/1 server does not read
once it answers. There, whoever follows and finds it quiet writes one small key under the prefix (`follow.py`): one
write serves all watches of the swarm.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from dragonfly.store import keys
from dragonfly.store.changes import Assembly
from dragonfly.store.errors import Compacted, OtherEtcd, StoreError
from dragonfly.store.faults import Fault, StaleFault, TokenRefused
from dragonfly.store.gateway import Endpoint, Gateway
from dragonfly.store.values import Batch, Snapshot
from dragonfly.store.wire import WatchLine, decode

T = TypeVar("T")

_UNDELIVERED = 256  # batches that wait for the event loop; then the thread waits, and etcd holds the rest
_LONGEST_PAUSE = 1.0


class WatchState(NamedTuple):
    """How the watch stands since `since` (the gateway's clock)."""

    connected: bool
    since: float
    revision: int = 0
    """The store's revision when it connected: with fewer the follower has yet to catch up."""
    error: Exception | None = None
    """Why it is not connected."""


class Watch:
    """Calls back in the event loop, in order: `on_reset` first, then `on_batch`; `on_state` when that changes."""

    def __init__(
        self,
        gateway: Gateway,
        loop: asyncio.AbstractEventLoop,
        *,
        on_reset: Callable[[Snapshot], None],
        on_batch: Callable[[Batch], None],
        on_state: Callable[[WatchState], None],
    ) -> None:
        """Make a watch that is not started; `gateway` is its own and closed with it."""
        self._gateway = gateway
        self._loop = loop
        self._on_reset = on_reset
        self._on_batch = on_batch
        self._on_state = on_state
        self._stopped = threading.Event()
        self._room = threading.Semaphore(_UNDELIVERED)
        self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)
        self._position: int | None = None
        self._failures = 0
        self._heard = gateway.clock()
        self._told: tuple[bool, type[object]] | None = None
        """Whether it was connected and what kind of error it had when that was told last."""

    @property
    def heard(self) -> float:
        """When anything came last (the gateway's clock), be it only etcd's own mark that the stream works."""
        return self._heard

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Break off the stream and wait for the thread; nothing is called back afterwards."""
        self._stopped.set()
        self._gateway.close()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._stopped.is_set():
            error = self._follow()
            if self._stopped.is_set():
                return
            if isinstance(error, Compacted):
                self._position = None
            self._state(WatchState(connected=False, since=self._heard, error=error))
            if isinstance(error, OtherEtcd):
                return
            self._stopped.wait(self._pause())

    def _follow(self) -> Exception:
        """Follow until that ends, and return why."""
        try:
            if self._position is None:
                self._position = self._take_snapshot()
            self._stream(self._position)
        except StaleFault as error:
            return self._confirmed(error)
        except (StoreError, Fault, TokenRefused) as error:
            return error
        except Exception as error:  # a bug must not leave the replica blind; the state tells of it
            return error
        return Fault("the stream ended")

    def _confirmed(self, stale: StaleFault) -> Exception:
        """Return why the member is behind: it lags, which passes, or all of etcd does, which is another history.

        Without the question nobody might ask, and the watch would be resumed once the revisions are what they were.
        """
        try:
            self._gateway.read(keys.PROGRESS)
        except StoreError as error:
            return error
        return stale

    def _take_snapshot(self) -> int:
        snapshot = self._gateway.range("", 0)
        self._heard = self._gateway.clock()
        self._deliver(self._on_reset, snapshot)
        return snapshot.revision

    def _stream(self, position: int) -> None:
        body = self._gateway.prefix.watch(position)
        assembly = Assembly(self._gateway.prefix, position)
        with self._gateway.stream("watch", body, self._gateway.settings.silence) as (endpoint, lines):
            for line in lines:
                self._take(endpoint, assembly, line)

    def _take(self, endpoint: Endpoint, assembly: Assembly, line: bytes) -> None:
        try:
            answer = decode(line, WatchLine)
        except msgspec.MsgspecError as error:
            raise Fault(f"unreadable line in a watch: {error}") from error
        if answer.result is not None:
            self._gateway.same_cluster(endpoint, answer.result)
        batch = assembly.take(answer)
        self._heard = self._gateway.clock()
        if answer.result is not None and answer.result.created:
            self._failures = 0
            self._state(WatchState(connected=True, since=self._heard, revision=answer.result.header.revision))
        if batch is not None:
            self._gateway.saw(batch.revision)
            self._position = batch.revision
            self._deliver(self._on_batch, batch)

    def _state(self, state: WatchState) -> None:
        told = (state.connected, type(state.error))
        if told != self._told:
            self._told = told
            self._deliver(self._on_state, state)

    def _pause(self) -> float:
        """None after the first failure, then 0.05 s, doubled each time."""
        self._failures += 1
        return min(0.05 * 2 ** min(self._failures - 2, 8), _LONGEST_PAUSE) if self._failures > 1 else 0.0

    def _deliver(self, callback: Callable[[T], None], value: T) -> None:
        while not self._room.acquire(timeout=0.2):
            if self._stopped.is_set():
                return
        try:
            self._loop.call_soon_threadsafe(self._call, callback, value)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._stopped.set()

    def _call(self, callback: Callable[[T], None], value: T) -> None:
        self._room.release()
        if not self._stopped.is_set():
            callback(value)
