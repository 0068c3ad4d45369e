"""A store that counts and times its calls, for /metrics, and tells how etcd took them."""

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from dragonfly.store.errors import Conflict, Denied, NoSpace, OtherEtcd, StoreError, Unavailable
from dragonfly.store.health import Health
from dragonfly.store.port import Store
from dragonfly.store.values import Condition, Grant, Item, MemberStatus, Put, Remaining, Snapshot, Write
from dragonfly.telemetry.metrics import StoreMetrics

T = TypeVar("T")

_ETCDS_FAULT = (Unavailable, NoSpace, Denied, OtherEtcd)
"""What is not the request's own fault."""


class MeasuredStore:
    """A `Store` around another one. A conflict is a result like any other; a failure is counted by its type."""

    def __init__(self, store: Store, metrics: StoreMetrics, health: Health) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health

    async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        puts = any(isinstance(write, Put) for write in writes)
        return await self._measured("commit", self._store.commit(*writes, given=given), puts=puts)

    async def read(self, key: str) -> tuple[Item | None, int]:
        return await self._measured("read", self._store.read(key))

    async def range(self, prefix: str, *, revision: int = 0) -> Snapshot:
        return await self._measured("range", self._store.range(prefix, revision=revision))

    async def grant(self, ttl: int) -> Grant:
        return await self._measured("grant", self._store.grant(ttl))

    async def revoke(self, lease: int) -> None:
        await self._measured("revoke", self._store.revoke(lease))

    async def keep_alive(self, lease: int) -> int:
        return await self._measured("keep_alive", self._store.keep_alive(lease))

    async def time_to_live(self, lease: int) -> Remaining:
        return await self._measured("time_to_live", self._store.time_to_live(lease))

    async def compact(self, revision: int) -> None:
        await self._measured("compact", self._store.compact(revision))

    async def status(self) -> tuple[MemberStatus, ...]:
        # What it found is told by whoever asked: that nobody answers is no error here.
        return await self._timed("status", self._store.status())

    async def _measured(self, call: str, answer: Awaitable[T], *, puts: bool = False) -> T:
        try:
            found = await self._timed(call, answer)
        except StoreError as error:
            self._note(error, puts=puts)
            raise
        self._health.answered(wrote=puts)
        return found

    async def _timed(self, call: str, answer: Awaitable[T]) -> T:
        began = time.perf_counter()
        result = "ok"
        try:
            return await answer
        except Conflict:
            result = "conflict"
            raise
        except StoreError as error:
            result = type(error).__name__
            raise
        finally:
            self._metrics.calls.labels(call, result).inc()
            self._metrics.duration.labels(call).observe(time.perf_counter() - began)

    def _note(self, error: StoreError, *, puts: bool) -> None:
        if isinstance(error, _ETCDS_FAULT):
            self._health.failed(error, wrote=puts)
        else:
            self._health.answered(wrote=False)
