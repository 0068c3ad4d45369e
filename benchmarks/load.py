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


class Answered(NamedTuple):
    """A request that is over, with what went wrong each time that it was sent; times are those of `perf_counter`."""

    began: float
    first_ended: float
    """When the first attempt was over."""
    ended: float
    failures: tuple[str, ...]
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
        failures: list[str] = []
        ends: list[float] = []
        while len(failures) < _PATIENCE:
            failure = await self._once(request, headers)
            ends.append(time.perf_counter())
            if failure is None:
                break
            failures.append(failure)
            await asyncio.sleep(_PAUSE)
        self.answered.append(Answered(began, ends[0], ends[-1], tuple(failures), len(failures) < len(ends)))

    async def _once(self, request: Request, headers: dict[str, str]) -> str | None:
        """Send it; why it failed, or None."""
        url = f"{self._url}/api/v1/{request.path}"
        try:
            async with self._session.request(
                request.method, url, json=request.body, headers=headers, timeout=_LIMIT
            ) as answer:
                text = await answer.text()
                is_good = answer.status < HTTPStatus.BAD_REQUEST
                return None if is_good else f"{request.method} {request.path}: {answer.status} {text[:200]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{request.method} {request.path}: {type(error).__name__} {error}"


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
