"""The network between processes and servers: requests that are delayed, lost, or carried out without an answer.

A request costs a few timers and no task. What goes wrong with it is drawn when it is sent, from the world's seed and
the profile of the history; a cut link loses whatever crosses it.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from tests.simulation.loop import Process

Server = Literal["etcd", "kube"]

_NOBODY = Context()
"""What happens at a server belongs to no process that could be paused."""


class Chances(NamedTuple):
    """How likely it is that something happens to one request; a profile of the history."""

    lost: float = 0.0
    """It never arrives, and the sender can't know that."""
    unanswered: float = 0.0
    """It is carried out, and the answer is lost."""
    refused: float = 0.0
    """It provably never left."""
    late: float = 0.0
    """The sender has long given up when it arrives."""
    slow: float = 0.0
    """Request or answer takes up to two seconds."""
    busy: float = 0.0
    """The API server says 429."""
    failing: float = 0.0
    """The API server says 500 or 504, half of the time after it has written."""
    waits: float = 0.0
    """The sender's own pacing holds a write to Kubernetes back for up to eight seconds."""
    killed: float = 0.0
    """The sender is killed just before or just after it has sent a write."""
    paused: float = 0.0
    """The sender is stopped just before or just after it has sent a write."""


Fault = Literal["", "lost", "unanswered", "refused", "late", "slow", "busy", "failing", "waits", "killed", "paused"]


class Lost(NamedTuple):
    """Made into an error by the client."""

    words: str
    maybe_done: bool
    status: int = 0


class Wire:
    """Carries the requests of all processes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, chances: Chances) -> None:
        self._loop = loop
        self._random = random
        self.chances = chances
        self._any = sum(chances)
        self.is_calm = False
        self.cut: set[tuple[str, Server]] = set()
        self.slow_servers: set[Server] = set()
        self.down: set[Server] = set()
        """Servers that are not running."""
        self.tried: dict[str, int] = {}
        self.on_victim: Callable[[Process, Fault], None] = lambda _process, _fault: None
        """Called when a fault kills or pauses the sender."""

    def count(self, fault: str) -> None:
        self.tried[fault] = self.tried.get(fault, 0) + 1

    def is_cut(self, process: Process, server: Server) -> bool:
        return (process.name, server) in self.cut

    def latency(self) -> float:
        """Seconds for one way: a few milliseconds, and now and then many."""
        drawn = self._random.random()
        return 0.001 + 0.004 * drawn if drawn < 0.97 else 0.01 + 8 * (drawn - 0.97)

    async def request(
        self,
        process: Process,
        server: Server,
        execute: Callable[[], Any],
        *,
        write: bool,
        patience: float,
        lost: Callable[[Lost], Exception],
    ) -> Any:
        """Have `execute` run at the server, and return what it returned or raise what it raised.

        Args:
            process: the sender.
            patience: seconds until the sender gives up.
            lost: makes the sender's error of what the network did.
        """
        loop = self._loop
        answer = loop.create_future()
        deadline = loop.time() + patience

        def settle(value: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def reply(at: float, value: Any, error: Exception | None) -> None:
            loop.call_at(at, settle, value, error, context=process.context)

        fault = self._draw(server, write=write)
        if fault:
            self.count(f"{server}: {fault}")
        if fault in {"killed", "paused"} and self._random.random() < 0.5:
            # Between the decision to send and the sending: nothing leaves before the process goes on, if ever.
            self.on_victim(process, fault)
            loop.call_soon(self._depart, process, server, execute, reply, lost, "", deadline, context=process.context)
            return await answer
        self._depart(process, server, execute, reply, lost, fault, deadline)
        if fault in {"killed", "paused"}:
            self.on_victim(process, fault)
        return await answer

    async def turn(self) -> None:
        """What a client does before it sends a write: wait for its turn."""
        if not self.is_calm and self._random.random() < self.chances.waits:
            self.count("kube: waits")
            await asyncio.sleep(8 * self._random.random())

    def _draw(self, server: Server, *, write: bool) -> Fault:
        if self.is_calm:
            return ""
        drawn = self._random.random()
        if drawn >= self._any:
            return ""
        for fault, chance in zip(Chances._fields, self.chances, strict=True):
            if drawn < chance:
                if fault == "waits" or (fault in {"killed", "paused"} and not write):
                    return ""
                if fault in {"busy", "failing"} and server == "etcd":
                    return "lost"
                return fault  # type: ignore[return-value] # the fields are named as the faults
            drawn -= chance
        return ""

    def _depart(
        self,
        process: Process,
        server: Server,
        execute: Callable[[], Any],
        reply: Callable[[float, Any, Exception | None], None],
        lost: Callable[[Lost], Exception],
        fault: Fault,
        deadline: float,
    ) -> None:
        loop, random = self._loop, self._random
        now = loop.time()
        if fault == "refused":
            reply(now, None, lost(Lost("connection refused", maybe_done=False)))
            return
        if server in self.down:
            reply(now + self.latency(), None, lost(Lost("connection refused", maybe_done=False)))
            return
        if self.is_cut(process, server):
            given_up = deadline if random.random() < 0.5 else min(now + 0.5, deadline)
            reply(max(given_up, now), None, lost(Lost("no route", maybe_done=random.random() < 0.5)))
            return
        if fault == "busy":
            reply(now + self.latency(), None, lost(Lost("busy", maybe_done=False, status=429)))
            return
        if fault == "lost" or (fault == "failing" and random.random() < 0.5):
            status = random.choice((500, 504)) if fault == "failing" else 0
            at = now + self.latency() if status else now + (deadline - now) * random.random()
            reply(max(at, now), None, lost(Lost("request lost", maybe_done=True, status=status)))
            return
        delay = self.latency()
        if fault == "slow" or server in self.slow_servers:
            delay += 2 * random.random()
        if fault == "late":
            delay += 12 * random.random()
            reply(max(now + 0.2, min(deadline, now + delay)), None, lost(Lost("timed out", maybe_done=True)))
        arrive = _Arrival(self, process, server, execute, reply, lost, fault, deadline)
        loop.call_at(now + delay, arrive, context=_NOBODY)


class _Arrival(msgspec.Struct, eq=False):
    """A request as the server gets it."""

    wire: Wire
    process: Process
    server: Server
    execute: Callable[[], Any]
    reply: Callable[[float, Any, Exception | None], None]
    lost: Callable[[Lost], Exception]
    fault: Fault
    deadline: float

    def __call__(self) -> None:
        wire, now = self.wire, self.wire._loop.time()
        if self.server in wire.down:
            self.reply(now + wire.latency(), None, self.lost(Lost("connection reset", maybe_done=True)))
            return
        try:
            value, error = self.execute(), None
        except Exception as raised:
            value, error = None, raised
        is_unanswered = self.fault in {"unanswered", "failing"} or wire.is_cut(self.process, self.server)
        if is_unanswered:
            status = 504 if self.fault == "failing" else 0
            at = max(now, self.deadline) if self.fault == "unanswered" else now + wire.latency()
            self.reply(at, None, self.lost(Lost("answer lost", maybe_done=True, status=status)))
            return
        delay = wire.latency() + (wire._random.random() if self.fault == "slow" else 0.0)
        self.reply(now + delay, value, error)
        if now + delay > self.deadline:
            self.reply(self.deadline, None, self.lost(Lost("timed out", maybe_done=True)))
