"""The work queue of one cluster: what to look at next, never twice at once.

Level-triggered: a key says *look at this machine*, never what happened to it, so a thousand changes of one are one
entry. A key that is being worked on and added again runs once more afterwards. What a user asked for goes before what a
resync found.
"""

import asyncio
import heapq
from collections.abc import Callable
from enum import IntEnum

_SHORTEST = 0.001
"""Seconds: a pause that rounding has brought to nothing would make a key look at itself without end."""


class Priority(IntEnum):
    """Lower goes first."""

    USER = 0
    EVENT = 1
    RESYNC = 2


class WorkQueue:
    """Keys in order of priority, then of arrival; a key has at most one worker.

    Args:
        clock: monotonic seconds.
        jitter: returns a number of 0.0 to 1.0, so that what failed together is not tried again together.
        first: seconds until the first retry; each further one doubles it.
        longest: seconds that a retry waits at most.
    """

    def __init__(
        self, clock: Callable[[], float], jitter: Callable[[], float], *, first: float = 0.1, longest: float = 30.0
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._first = first
        self._longest = longest
        self._ready: list[tuple[int, int, str]] = []
        self._waiting: dict[str, Priority] = {}
        self._running: set[str] = set()
        self._again: dict[str, Priority] = {}
        self._failures: dict[str, int] = {}
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._added_at: dict[str, float] = {}
        self._counter = 0
        self._wakers: list[asyncio.Future[None]] = []

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._running)

    def add(self, key: str, priority: Priority = Priority.EVENT) -> None:
        """Ask for a look at `key`; an earlier request for it that waits is merged with this one."""
        self._cancel_timer(key)
        if key in self._running:
            self._again[key] = min(priority, self._again.get(key, Priority.RESYNC))
            return
        if key in self._waiting and self._waiting[key] <= priority:
            return
        self._waiting[key] = priority
        self._added_at.setdefault(key, self._clock())
        self._counter += 1
        heapq.heappush(self._ready, (priority, self._counter, key))
        self._wake_one()

    def add_later(self, key: str, seconds: float, priority: Priority = Priority.EVENT) -> None:
        """Ask for a look at `key` after `seconds`, unless an earlier look is due anyway."""
        seconds = max(seconds, _SHORTEST)
        due = self._clock() + seconds
        if key in self._timers and self._timers[key][0] <= due:
            return
        self._cancel_timer(key)
        handle = asyncio.get_running_loop().call_later(seconds, self._fire, key, priority)
        self._timers[key] = (due, handle)

    async def get(self) -> tuple[str, float]:
        """Wait for a key and return it with the seconds that it waited; call `done` with it afterwards."""
        while True:
            if key := self._pop():
                self._running.add(key)
                return key, self._clock() - self._added_at.pop(key)
            waker = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            await waker

    def done(self, key: str) -> None:
        """Say that the look at `key` is over."""
        self._running.discard(key)
        if key in self._again:
            self.add(key, self._again.pop(key))

    def retry(self, key: str) -> float:
        """Ask for another look after a back-off, and return its seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(self._first * 2.0 ** min(failures - 1, 20), self._longest)
        seconds = pause * (0.5 + self._jitter() / 2)
        self.add_later(key, seconds)
        return seconds

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def forget(self, keys: Callable[[str], bool]) -> None:
        """Drop every request for which `keys` is true; a look that goes on is not ended."""
        for key in [key for key in self._waiting if keys(key)]:
            del self._waiting[key]
            self._added_at.pop(key, None)
        for key in [key for key in self._timers if keys(key)]:
            self._cancel_timer(key)
        for key in [key for key in self._again if keys(key)]:
            del self._again[key]

    def _pop(self) -> str | None:
        while self._ready:
            priority, _, key = heapq.heappop(self._ready)
            if self._waiting.get(key) == priority:
                del self._waiting[key]
                return key
        return None

    def _fire(self, key: str, priority: Priority) -> None:
        self._timers.pop(key, None)
        self.add(key, priority)

    def _cancel_timer(self, key: str) -> None:
        if timer := self._timers.pop(key, None):
            timer[1].cancel()

    def _wake_one(self) -> None:
        while self._wakers:
            waker = self._wakers.pop(0)
            if not waker.done():
                waker.set_result(None)
                return
