"""The lease's thread outlives every failure, those that nobody thought of too; etcd is a stand-in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, cast

import pytest

from dragonfly.store import lease
from dragonfly.store.errors import Unavailable
from dragonfly.store.gateway import Gateway
from dragonfly.store.lease import LeaseKeeper, LoopStuck, boottime
from dragonfly.store.values import Grant

TTL = 3
MARGIN = 1
LEASE = 7


class Etcd:
    """Grants and keeps alive one lease; fails while it has failures left."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.kept = 0
        self.revoked: list[int] = []
        self.closed = False
        self.on_call: Callable[[], None] = lambda: None
        """What happens while the keeper waits for an answer."""

    def sibling(self, **_: Any) -> Self:
        return self

    def grant(self, ttl: int) -> Grant:
        self._fail()
        return Grant(LEASE, ttl)

    def keep_alive(self, lease: int) -> int:
        assert lease == LEASE
        self._fail()
        self.kept += 1
        return TTL

    def revoke(self, lease: int) -> None:
        self._fail()
        self.revoked.append(lease)

    def close(self) -> None:
        self.closed = True

    def _fail(self) -> None:
        self.on_call()
        if self.failures:
            raise self.failures.pop(0)


class Kept:
    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self.etcd = Etcd()
        self.leases: list[int] = []
        self.keeper = LeaseKeeper(
            cast("Gateway", self.etcd),
            asyncio.get_running_loop(),
            ttl=TTL,
            margin=MARGIN,
            clock=clock,
            on_new=self.leases.append,
        )


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    made = Kept()
    yield made
    await made.keeper.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "failure", [Unavailable("away"), RuntimeError("a bug"), KeyError("lease"), OSError("no descriptors")]
)
async def test_a_lease_is_granted_after_any_failure(kept: Kept, failure: Exception) -> None:
    kept.etcd.failures = [failure, failure]

    kept.keeper.start()
    await eventually(lambda: kept.leases == [LEASE])

    assert kept.keeper.held(boottime())
    assert kept.keeper.error is None


async def test_a_lease_is_kept_after_a_failure_that_nobody_thought_of_and_the_failure_is_told(kept: Kept) -> None:
    kept.keeper.start()
    await eventually(lambda: kept.leases == [LEASE])
    seen: list[Exception | None] = []

    kept.etcd.failures = [RuntimeError("a bug")] * 3

    def kept_alive() -> bool:
        seen.append(kept.keeper.error)
        return kept.etcd.kept > 0

    await eventually(kept_alive)
    assert {str(error) for error in seen if error is not None} == {"a bug"}
    assert kept.leases == [LEASE]


async def test_a_clock_that_fails_costs_no_more_than_time() -> None:
    failing = [OSError("no clock")] * 3

    def clock() -> float:
        if failing:
            raise failing.pop()
        return boottime()

    kept = Kept(clock)
    kept.keeper.start()

    await eventually(lambda: kept.leases == [LEASE])
    await kept.keeper.close()


async def test_a_lease_is_relied_on_from_when_it_was_asked_for_not_from_the_answer() -> None:
    """P10: etcd begins a lease's time somewhere between the two, and the answer may be long on its way."""
    now = 100.0
    kept = Kept(lambda: now)
    keeper = kept.keeper

    def answer_late() -> None:
        nonlocal now
        now += 0.5

    kept.etcd.on_call = answer_late
    keeper._try()
    assert (keeper.id, keeper.valid_until, keeper.heard_at) == (LEASE, 100.0 + TTL - MARGIN, 100.0)

    now = 101.0
    pause = keeper._try()
    assert (kept.etcd.kept, keeper.valid_until, keeper.heard_at) == (1, 101.0 + TTL - MARGIN, 101.0)
    assert pause == TTL / 3 - 0.5, "the next one is due by when this one was sent, too"

    now = 102.0
    kept.etcd.failures = [Unavailable("away")]
    keeper._try()
    assert (keeper.valid_until, keeper.heard_at) == (101.0 + TTL - MARGIN, 101.0), "one that failed proves nothing"
    assert keeper.held(102.99)
    assert not keeper.held(103.0)


async def test_given_up_it_lets_go_of_its_connections_even_if_it_cannot_be_revoked() -> None:
    kept = Kept()
    kept.keeper.start()
    await eventually(lambda: kept.leases == [LEASE])
    kept.etcd.failures = [Unavailable("away")]

    await kept.keeper.close()

    assert (kept.etcd.revoked, kept.etcd.closed) == ([], True)


async def test_a_replica_whose_loop_hangs_lets_go_of_what_it_holds(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: its shards would have an owner that does nothing, and nobody would take them."""
    kept.keeper.start()
    await eventually(lambda: kept.leases == [LEASE])
    monkeypatch.setattr(lease, "_STUCK", 0.01)

    hang(lambda: isinstance(kept.keeper.error, LoopStuck))
    kept_then = kept.etcd.kept
    hang(lambda: not kept.keeper.held(boottime()))
    assert kept.etcd.kept == kept_then

    await eventually(lambda: kept.keeper.error is None)
    assert kept.keeper.held(boottime())


async def test_the_loop_may_answer_at_any_moment() -> None:
    """In the middle of the look at how long it has not, too."""

    def answering() -> float:
        made.keeper._answered()
        return 0.0

    made = Kept(answering)
    made.keeper._call_loop()

    made.keeper._call_loop()

    assert made.keeper._called_at is None


def hang(until: Callable[[], bool]) -> None:
    """Keep the event loop, which this is called in, from turning."""
    deadline = boottime() + 10
    while not until():
        assert boottime() < deadline
        threading.Event().wait(0.005)
