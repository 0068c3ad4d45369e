"""A replica's lease, kept alive by a thread that does nothing else, on connections that nothing else waits on.

What stands on the lease (the replica's claims) may be acted on only while `held`: until the moment when the last
keepalive that succeeded was *sent*, plus the TTL, less a margin. etcd started the lease's time anew after that moment,
so it can't have expired before. It is still no mutual exclusion (P4): the conditions of a commit are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from dragonfly.store.errors import Denied, LeaseLost, StoreError
from dragonfly.store.gateway import Gateway

_RETRY = 0.1  # seconds between tries while no endpoint answers

_STUCK = 3  # TTLs; long beside anything that the loop does at one go


class LoopStuck(Exception):
    """The event loop, in which all work is done, has not turned for long; what this replica holds is let go."""


class Lease(NamedTuple):
    """The lease and until when it is surely alive; id 0 is none."""

    id: int
    valid_until: float


_NONE = Lease(0, float("-inf"))


def boottime() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock.

    Linux's monotonic clock stands still in suspend, so a laptop that wakes up would think its lease alive.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class LeaseKeeper:
    """Holds a lease from `start` to `close`; when it is lost, a new one takes its place."""

    def __init__(
        self,
        gateway: Gateway,
        loop: asyncio.AbstractEventLoop,
        *,
        ttl: int,
        margin: float,
        clock: Callable[[], float],
        on_new: Callable[[int], None],
    ) -> None:
        """Make a keeper that is not started.

        Args:
            gateway: siblings of it are made, with deadlines of a quarter of the TTL.
            loop: where `on_new` is called.
            ttl: seconds; etcd may give more.
            margin: seconds by which the lease is given up before it can have expired.
            clock: `boottime`, or a test's.
            on_new: told the id of each new lease, the first one too; what was on the one before is gone.

        Raises:
            ValueError: with this margin the lease would not be held from one keepalive to the next.
        """
        if margin >= ttl * 2 / 3:
            raise ValueError(
                f"a margin of {margin} s leaves too little of a TTL of {ttl} s, kept alive each third of it"
            )
        self._gateway = gateway.sibling(timeout=ttl / 4, attempt_timeout=ttl / 4)
        self._loop = loop
        self._ttl = ttl
        self._margin = margin
        self._clock = clock
        self._on_new = on_new
        self._lease = _NONE
        self._heard_at = float("-inf")
        self._error: Exception | None = None
        self._called_at: float | None = None
        self._revoke = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcd-lease", daemon=True)

    @property
    def id(self) -> int:
        """The lease's id; 0 while there is none."""
        return self._lease.id

    @property
    def valid_until(self) -> float:
        """The clock's time until which the lease can be relied on."""
        return self._lease.valid_until

    @property
    def heard_at(self) -> float:
        """The clock's time at which the last grant or keepalive that etcd answered was sent."""
        return self._heard_at

    @property
    def error(self) -> Exception | None:
        """Why the last try failed; None after one that succeeded."""
        return self._error

    def held(self, now: float) -> bool:
        """Whether the lease can be relied on at `now` (the clock's time)."""
        return now < self._lease.valid_until and not self._closing.is_set()

    def start(self) -> None:
        self._thread.start()

    async def close(self, *, revoke: bool = True) -> None:
        """Give the lease up at once; with `revoke` its keys go too, otherwise when it expires."""
        self._revoke = revoke
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._closing.wait(self._try())
        self._give_up()

    def _try(self) -> float:
        """Take one step, whatever comes of it; returns the seconds until the next one.

        Who is denied is in no hurry: each login costs etcd some 50 ms of CPU, as passwords are meant to.
        """
        try:
            return self._step()
        except LeaseLost as error:
            self._error = error
            self._lease = _NONE
            return 0.0
        except Denied as error:
            self._error = error
            return self._ttl / 3
        except Exception as error:  # a bug must not leave the replica without a lease for ever; `error` tells of it
            self._error = error
            return _RETRY

    def _step(self) -> float:
        """Grant or keep alive once; returns the seconds until the next time."""
        self._call_loop()
        sent = self._clock()
        ttl = self._keep() if self._lease.id else self._grant()
        self._error = None
        self._heard_at = sent
        new = self._lease.valid_until == _NONE.valid_until
        self._lease = Lease(self._lease.id, sent + ttl - self._margin)
        if new:
            self._tell(self._lease.id)
        return max(sent + ttl / 3 - self._clock(), 0.0)

    def _call_loop(self) -> None:
        """See that the loop turns: a replica that does no work must not keep others from it.

        Only a call that was not answered counts, so a machine that slept is not taken for a loop that hangs.

        Raises:
            LoopStuck: it has not for `_STUCK` times the TTL.
        """
        called_at = self._called_at  # read once: the loop answers whenever it likes
        if called_at is None:
            self._called_at = self._clock()
            with contextlib.suppress(RuntimeError):  # the loop is closed: this replica ends
                self._loop.call_soon_threadsafe(self._answered)
        elif (seconds := self._clock() - called_at) > _STUCK * self._ttl:
            raise LoopStuck(f"the event loop has not turned for {seconds:.0f} s")

    def _answered(self) -> None:
        self._called_at = None

    def _keep(self) -> int:
        return self._gateway.keep_alive(self._lease.id)

    def _grant(self) -> int:
        grant = self._gateway.grant(self._ttl)
        self._lease = Lease(grant.id, _NONE.valid_until)
        return grant.ttl

    def _tell(self, lease: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._on_new, lease)

    def _give_up(self) -> None:
        with contextlib.closing(self._gateway), contextlib.suppress(StoreError):  # not revoked, it expires by itself
            if self._revoke and self._lease.id:
                self._gateway.revoke(self._lease.id)
