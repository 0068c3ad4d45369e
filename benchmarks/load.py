"""Clients that never stop: reads and idempotent writes through the load balancer at a steady rate.

The rate does not wait for answers, so a stall shows as many slow requests, not as few requests.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp

_PER_SECOND: Final = 75
_PATIENCE: Final = 5
"""How often a request is sent again at most."""
_PAUSE: Final = 0.3
_WARM: Final = 0.003
"""Seconds that requests of a burst get to reach the replicas, which need longer to answer so many at once."""
_LIMIT: Final = aiohttp.ClientTimeout(total=10)


class Request(NamedTuple):
    """What to ask for. A write carries a key, so that it can be sent again."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Failure(NamedTuple):
    """One time that a request was sent in vain; times are those of `perf_counter`."""

    began: float
    ended: float
    server: str
    """Who had it: HAProxy's name of the server, or the replica's own; empty if no answer came, so that nobody knows."""
    words: str


class Answered(NamedTuple):
    """A request that is over, with what went wrong each time that it was sent; times are those of `perf_counter`."""

    began: float
    ended: float
    failures: tuple[Failure, ...]
    succeeded: bool


class Load:
    """Runs for the length of the `async with` block; `answered` grows meanwhile."""

    def __init__(self, session: aiohttp.ClientSession, url: str, machines: Sequence[str]) -> None:
        self.answered: list[Answered] = []
        self._session = session
        self._url = url
        self._requests = requests(machines)
        self._under_way: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def burst(self, count: int) -> int:
        """Send so many at once; return how many of all wait for their answer a moment later."""
        for request in itertools.islice(self._requests, count):
            self._start(request)
        await asyncio.sleep(_WARM)
        return len(self._under_way)

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        await asyncio.gather(*self._under_way)

    async def _tick(self) -> None:
        began = time.perf_counter()
        for number in itertools.count():
            await asyncio.sleep(began + number / _PER_SECOND - time.perf_counter())
            self._start(next(self._requests))

    def _start(self, request: Request) -> None:
        task = asyncio.create_task(self._answer(request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, request: Request) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())} if request.body is not None else {}
        began = time.perf_counter()
        failures: list[Failure] = []
        succeeded = False
        while not succeeded and len(failures) < _PATIENCE:
            failure = await self._once(request, headers)
            if failure is None:
                succeeded = True
            else:
                failures.append(failure)
                await asyncio.sleep(_PAUSE)
        ended = time.perf_counter() if succeeded else failures[-1].ended
        self.answered.append(Answered(began, ended, tuple(failures), succeeded))

    async def _once(self, request: Request, headers: dict[str, str]) -> Failure | None:
        """Send it; how it failed, or None."""
        url, what = f"{self._url}/api/v1/{request.path}", f"{request.method} {request.path}"
        began, server = time.perf_counter(), ""
        try:
            async with self._session.request(
                request.method, url, json=request.body, headers=headers, timeout=_LIMIT
            ) as answer:
                server = answer.headers.get("Dragonfly-Replica", answer.headers.get("Dragonfly-Server", ""))
                text = await answer.text()
                if answer.status < HTTPStatus.BAD_REQUEST:
                    return None
                words = f"{what}: {answer.status} {text[:200]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            words = f"{what}: {type(error).__name__} {error}"
        return Failure(began, time.perf_counter(), server, words)


def requests(machines: Sequence[str]) -> Iterator[Request]:
    """Two reads, then a write, for ever; each machine is locked in one round and unlocked in the next."""
    for number in itertools.count():
        machine = machines[number % len(machines)]
        yield Request("GET", "machines?limit=20")
        yield Request("GET", f"machines/{machine}")
        if number // len(machines) % 2:
            yield Request("POST", f"machines/{machine}/unlock", {})
        else:
            yield Request("POST", f"machines/{machine}/lock", {"reason": "load"})
