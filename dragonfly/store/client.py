"""The store over a real etcd: the gateway's calls in a small pool of threads, so that the event loop never waits.

A call that is cancelled goes on in its thread: a commit that was sent can't be called back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

from dragonfly.store.errors import Unavailable
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Condition, Grant, Item, MemberStatus, Remaining, Snapshot, Write

P = ParamSpec("P")
T = TypeVar("T")

# The gateway keeps its deadlines itself; this one is for a pool that is full of calls to a frozen endpoint.
_GRACE = 1.0


class EtcdStore:
    """A `Store`. Use as `async with EtcdStore(...)`, or close it."""

    def __init__(self, settings: EtcdSettings, *, gateway: Gateway | None = None) -> None:
        """Connect to nothing yet.

        Raises:
            ValueError: no endpoints.
            OSError: a certificate file can't be read.
        """
        self._gateway = gateway or Gateway.open(settings)
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="etcd")
        self._closed = False
        self._limit = settings.timeout + _GRACE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def gateway(self) -> Gateway:
        """For the watch and the lease, which take siblings of it."""
        return self._gateway

    async def close(self) -> None:
        """Break off what is in flight."""
        self._closed = True
        self._gateway.close()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        return await self._answer(self._submit(self._gateway.commit, writes, given), self._limit, write=True)

    async def read(self, key: str) -> tuple[Item | None, int]:
        return await self._read(self._gateway.read, key)

    async def range(self, prefix: str, *, revision: int = 0) -> Snapshot:
        # Any number of pages, each with its own deadline.
        return await self._answer(self._submit(self._gateway.range, prefix, revision), None, write=False)

    async def grant(self, ttl: int) -> Grant:
        return await self._read(self._gateway.grant, ttl)

    async def revoke(self, lease: int) -> None:
        await self._read(self._gateway.revoke, lease)

    async def keep_alive(self, lease: int) -> int:
        return await self._read(self._gateway.keep_alive, lease)

    async def time_to_live(self, lease: int) -> Remaining:
        return await self._read(self._gateway.time_to_live, lease)

    async def compact(self, revision: int) -> None:
        await self._read(self._gateway.compact, revision)

    async def status(self) -> tuple[MemberStatus, ...]:
        answers = (self._read(self._gateway.status, endpoint) for endpoint in self._gateway.endpoints)
        return tuple(await asyncio.gather(*answers))

    async def _read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what changes nothing by being done twice."""
        return await self._answer(self._submit(call, *args, **kwargs), self._limit, write=False)

    def _submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._closed:
            raise Unavailable("the store is closed")
        return self._pool.submit(call, *args, **kwargs)

    async def _answer(self, job: Future[T], limit: float | None, *, write: bool) -> T:
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(_retrieve)
        done, _ = await asyncio.wait((answer,), timeout=limit)
        if answer.cancelled():
            # `close` took it out of the pool; to the caller a CancelledError would look like its own cancellation.
            raise Unavailable("the store is closed")
        if done:
            return answer.result()
        if job.cancel():
            raise Unavailable("no thread was free in time")
        raise Unavailable("no answer in time", maybe_written=write)


def _retrieve(answer: asyncio.Future[T]) -> None:
    """Look at the result of a call whose caller has gone, which asyncio would complain about otherwise."""
    if not answer.cancelled():
        answer.exception()
