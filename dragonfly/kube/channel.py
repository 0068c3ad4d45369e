"""Calls to one cluster: logged in, at a bounded rate, within a deadline.

A call is sent again only where that can't do harm: reads, and writes that the server refused to look at (429, 401) or
that provably never left. What else to do about a failure is the caller's decision.
"""

import asyncio
import contextlib
import math
import random as randomness
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from typing import Final, NamedTuple

import msgspec
import structlog
import tenacity

from dragonfly.kube import errors
from dragonfly.kube.credentials import REREAD, Login, Source, log_in
from dragonfly.kube.errors import KubeError, ServerFailed, Throttled, Unreachable
from dragonfly.kube.pacing import Backoff, TokenBucket
from dragonfly.kube.port import MAY_SEND
from dragonfly.kube.transport import Answer, Progress, Request, Transport

_log = structlog.get_logger(__name__)

_USER_AGENT: Final = f"dragonfly/{version_of('dragonfly')}"

_LOGIN_PAUSE: Final = 5.0
"""Seconds between two logins after refusals, so that wrong credentials don't run an exec plugin for each call."""

_HOPELESS: Final = 6.0
"""Seconds of failed calls after which each is sent once: a repetition mends a hiccup, not a server that is away."""


class Limits(msgspec.Struct, frozen=True):
    """How much of a cluster Dragonfly may take, and how long it waits for it.

    Attributes:
        qps, burst: calls a second in the long run, and at once.
        in_flight: calls at the same time; watches don't count.
        deadline: seconds for a call with its waiting, its retries and its answer.
        attempts: how often a call that may be repeated is sent within its deadline.
        page: objects asked for at a time when listing.
    """

    qps: float = 400
    burst: float = 800
    in_flight: int = 32
    deadline: float = 10.0
    attempts: int = 4
    page: int = 500


DEFAULT_LIMITS: Final = Limits()


class Surroundings(NamedTuple):
    """Time and chance, so that tests can bring their own."""

    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = randomness.random


REAL: Final = Surroundings()


class Channel:
    """What a `Connection` sends its requests through."""

    def __init__(self, source: Source, limits: Limits, around: Surroundings) -> None:
        self._source = source
        self._limits = limits
        self._around = around
        self._bucket = TokenBucket(limits.qps, limits.burst, around.clock())
        self._places = asyncio.Semaphore(limits.in_flight)
        self._logging_in = asyncio.Lock()
        self._login: Login | None = None
        self._logged_in_at = 0.0
        self._login_until = 0.0
        self._transport: Transport | None = None
        self._lost_at: float | None = None
        """Since when no call was answered; None while the last one was."""
        self.left = asyncio.Event()
        """Set once its files lead to another API server than they did: nothing is sent any more, to neither."""

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()

    def renew(self, source: Source) -> None:
        """Log in with this from the next call on; if that cannot be, the former login goes on."""
        self._source = source
        self._login_until = self._around.clock()

    async def call(self, request: Request) -> bytes:
        """The body of the answer. Raises a `KubeError` for anything but success."""
        progress = Progress(MAY_SEND.get()) if request.write else Progress()
        deadline = self._limits.deadline
        try:
            async with asyncio.timeout(deadline), self._places:
                try:
                    return await self._attempt(request, progress)
                except KubeError as error:
                    if not self._may_repeat(error):
                        raise
                    return await self._repeat(request, progress, error)
        except TimeoutError as error:
            message = f"{request.method} {request.target.partition('?')[0]}: no answer within {deadline:g} s"
            raise Unreachable(message, maybe_done=request.write and progress.sent, reason="Deadline") from error

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, silence: float) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The pieces of an answer that goes on; `silence` seconds without one raise Unreachable.

        So does an answer that says it is no JSON: taken for a watch, the page of a proxy would be a sign of life.
        """
        await self._turn()
        opening = self._limits.deadline
        refused = False
        while True:
            transport, authorization = await self._ready()
            async with transport.stream(target, authorization, opening=opening, silence=silence) as (answer, pieces):
                self._take_note(answer)
                if answer.status < 300:
                    if "json" not in (kind := answer.headers.get("Content-Type", "json")):
                        message = f"{target.partition('?')[0]}: answered with {kind}; a proxy in between?"
                        raise Unreachable(message, maybe_done=False, reason="NotKubernetes")
                    yield pieces
                    return
            if refused or answer.status != 401:
                raise _error(answer, write=False)
            refused = True
            await self._renew(authorization)

    async def _repeat(self, request: Request, progress: Progress, first: KubeError) -> bytes:
        """The attempts after the first; apart from it, so that a call that succeeds at once pays nothing for them."""
        await self._around.sleep(self._patience(first, 1))
        attempts = tenacity.AsyncRetrying(
            sleep=self._around.sleep,
            stop=tenacity.stop_after_attempt(self._limits.attempts - 1),
            retry=tenacity.retry_if_exception(self._may_repeat),
            wait=self._wait,
            reraise=True,
        )
        return await attempts(self._attempt, request, progress)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return self._patience(error, state.attempt_number + 1)

    def _may_repeat(self, error: BaseException) -> bool:
        if isinstance(error, Throttled):
            return error.retry_after < self._limits.deadline / 2
        if self._lost_at is not None and self._around.clock() - self._lost_at >= _HOPELESS:
            return False
        return isinstance(error, Unreachable | ServerFailed) and not error.maybe_done

    def _patience(self, error: BaseException | None, attempt: int) -> float:
        """Seconds before the next attempt. After a 429 none: that holds the bucket for all."""
        if isinstance(error, Throttled):
            return 0.0
        return Backoff(most=1.0, level=attempt).delay(self._around.random())

    async def _attempt(self, request: Request, progress: Progress) -> bytes:
        await self._turn()
        progress.sent = False
        try:
            answer = await self._exchange(request, progress)
        except Unreachable:
            self._lost_at = self._around.clock() if self._lost_at is None else self._lost_at
            raise
        self._take_note(answer)
        if answer.status >= 300:
            raise _error(answer, write=request.write)
        return answer.body

    async def _exchange(self, request: Request, progress: Progress) -> Answer:
        transport, authorization = await self._ready()
        answer = await transport.exchange(request, authorization, progress)
        if answer.status != 401:
            return answer
        await self._renew(authorization)
        transport, authorization = await self._ready()
        return await transport.exchange(request, authorization, progress)

    async def _turn(self) -> None:
        now = self._around.clock()
        if (wait := self._bucket.ahead(now)) > self._limits.deadline:
            raise Throttled("too many calls to this cluster are waiting already", retry_after=wait, reason="OwnLimit")
        if (wait := self._bucket.take(now)) > 0:
            await self._around.sleep(wait)

    def _take_note(self, answer: Answer) -> None:
        self._lost_at = None
        error = _error(answer, write=False) if answer.status == 429 else None
        if isinstance(error, Throttled):
            # Spread, so that replicas that were told the same second don't come back in the same instant.
            self._bucket.hold(self._around.clock() + error.retry_after * (1 + self._around.random() / 4))

    async def _ready(self) -> tuple[Transport, str]:
        """The session to use, and the header that says who we are."""
        if self._is_login_due():
            async with self._logging_in:
                if self._is_login_due():
                    await self._log_in()
        self._check_not_left()
        assert self._login is not None
        assert self._transport is not None
        return self._transport, self._login.authorization

    def _is_login_due(self) -> bool:
        return self._login is None or self._around.clock() >= self._login_until

    async def _renew(self, refused: str) -> None:
        """After a 401: read the credentials again, unless another call has done so since."""
        async with self._logging_in:
            is_recent = self._around.clock() < self._logged_in_at + _LOGIN_PAUSE
            if self._login and self._login.authorization == refused and not is_recent:
                await self._log_in()

    async def _log_in(self) -> None:
        try:
            login = await log_in(self._source, self._around.wall_clock())
        except KubeError as error:
            if self._login is None:
                raise
            # A file caught in the middle of being replaced; the credentials in hand may well be good still.
            _log.warning("kube.credentials_unreadable", error=error.message)
            self._login_until = self._around.clock() + REREAD
            return
        if self._login is not None and login.server_side != self._login.server_side:
            self.left.set()
            self._login_until = math.inf
            self._check_not_left()
        self._login = login
        self._logged_in_at = self._around.clock()
        self._login_until = self._logged_in_at + login.valid_for
        if self._transport and self._transport.identity == login.identity:
            return
        former, self._transport = self._transport, Transport(login, _USER_AGENT)
        if former:
            await former.retire()

    def _check_not_left(self) -> None:
        if self.left.is_set():
            raise Unreachable(
                "the kubeconfig leads to another API server now", maybe_done=False, reason="ServerChanged"
            )


def _error(answer: Answer, *, write: bool) -> KubeError:
    retry_after = answer.headers.get("Retry-After", "")
    return errors.from_answer(answer.status, answer.body, write=write, retry_after=retry_after)
