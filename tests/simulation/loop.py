"""A deterministic event loop with virtual time, on which several processes live side by side.

Nothing happens by itself: the clock jumps to the next timer when nothing is ready. Between two processes there is
nothing but messages, whose delays the world draws from its seed; so the order of what is ready at one instant can stay
the order of arrival, as in a real process, and every interleaving of processes still comes up with some seed.

A handle belongs to the process that its context names. What belongs to a paused process is parked until it goes on, and
to a killed one for good: not even its `finally` blocks run while the history is told.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

import msgspec

MOST_HANDLES = 200_000
"""More than any history needs: two tasks that wake each other without end."""

TICK = 1e-6
"""Seconds that pass at least before a timer fires: a real clock goes on while code runs, so what waits for 1e-17 s more
does not wait again and again."""


class Process:
    """One operating system process, as far as the loop cares."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = True
        """False while it is paused, and for ever once it is killed."""
        self.is_dead = False
        self.is_deluded = False
        """True while it takes itself for an owner whatever its lease and its mirror would say."""
        self.parked: list[Handle] = []
        self.context = copy_context()
        self.context.run(CURRENT.set, self)


CURRENT: ContextVar[Process | None] = ContextVar("CURRENT", default=None)


class Handle(msgspec.Struct, eq=False):
    """A callback to come; as little of `asyncio.TimerHandle` as asyncio itself and the product use."""

    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: Context
    due: float
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.due


class SimLoop(asyncio.AbstractEventLoop):
    """Runs handles until a given virtual time. Of what it does not have, such as sockets, nothing is used."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._count = 0
        self.handled = 0
        self.fatal: BaseException | None = None
        """Set by whoever wants the run to end here, whatever task it happens in."""
        self.complaints: list[str] = []
        """What asyncio would have logged: exceptions that nobody retrieved."""

    def run(self, until: float) -> None:
        """Run all that is due up to `until`, and set the clock to it."""
        asyncio._set_running_loop(self)
        try:
            self._run(until)
        finally:
            asyncio._set_running_loop(None)
        self._now = max(self._now, until)

    def resume(self, process: Process) -> None:
        """Let a paused process go on with what has come meanwhile."""
        process.runs = True
        self._ready.extend(process.parked)
        process.parked.clear()

    def tear_down(self, processes: list[Process]) -> None:
        """End every task of a finished history, so that nothing of it outlives it."""
        self.fatal = None
        self._timers.clear()
        for process in processes:
            self.resume(process)
        while tasks := [task for task in self._tasks if not task.done()]:
            self._tasks = tasks
            for task in tasks:
                task.cancel()
            self.run(self._now)
            self._timers.clear()
        self._ready.clear()

    def _run(self, until: float) -> None:
        ready, timers = self._ready, self._timers
        current, next_of, pop = CURRENT, ready.popleft, heapq.heappop
        while True:
            while ready:
                handle = next_of()
                if handle.is_cancelled:
                    continue
                context = handle.context
                process = context.get(current)
                if process is not None and not process.runs:
                    process.parked.append(handle)
                    continue
                self.handled += 1
                context.run(handle.callback, *handle.args)
                if self.fatal is not None:
                    raise self.fatal
            if not timers or timers[0][0] > until:
                return
            if self.handled > MOST_HANDLES:
                raise RuntimeError("the history does not end: something wakes itself again and again")
            self._now, _, handle = pop(timers)
            ready.append(handle)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override] # typeshed's is generic in the arguments
        handle = Handle(callback, args, copy_context() if context is None else context, self._now)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override] # typeshed's is generic in the arguments
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        when = max(when, self._now + TICK)
        handle = Handle(callback, args, copy_context() if context is None else context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def call_later(  # type: ignore[override] # typeshed's is generic in the arguments
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override] # typeshed's is generic in the result
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")
