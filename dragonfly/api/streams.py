"""Streams of events to clients: each is written as fast as its client reads, and none waits for another.

What is on its way to a client is bounded: the connection's buffer takes 64 kB and one piece more, then the stream
waits. A client that takes too long for what is ready, be it many changes, one large object or the whole state, is cut
off (`patience`); one that reads, but more slowly than changes come, is ended once the feed has dropped what comes next.
Either may resume at its last `id`; one that was told no `id` begins anew.

One look a second at all streams, instead of timers for each, keeps ten thousand of them cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dragonfly.api.connections import abort_of
from dragonfly.api.patience import LONGEST, PATIENCE, Patience
from dragonfly.feed.channel import CHUNK
from dragonfly.feed.feed import Feed, Lost, Snapshot, Subscription
from dragonfly.feed.frames import frame, notice
from dragonfly.feed.view import Seen, View
from dragonfly.telemetry.metrics import FeedMetrics

EVENT_STREAM: Final = "text/event-stream"

_LIMIT: Final = 12_000
_HEARTBEAT: Final = 15.0
_LOOK: Final = 1.0
_RETRY: Final = (200, 2_000)  # milliseconds; spread, so that not all come back at once

End: TypeAlias = Literal["left", "behind", "stuck", "refused", "draining"]


class Streams:
    """All streams of one replica."""

    def __init__(
        self,
        feed: Feed,
        metrics: FeedMetrics,
        *,
        clock: Callable[[], float],
        limit: int = _LIMIT,
        heartbeat: float = _HEARTBEAT,
        stuck: float = PATIENCE,
        longest: float = LONGEST,
    ) -> None:
        """Begin without any.

        Args:
            feed: what they follow.
            metrics: what they count.
            clock: monotonic seconds.
            limit: how many there may be at once.
            heartbeat: seconds after which a quiet stream says something.
            stuck: seconds after which a client that takes nothing is cut off.
            longest: seconds after which one that takes something, and has not caught up, is cut off.
        """
        self.feed = feed
        self.metrics = metrics
        self.clock = clock
        self.heartbeat = heartbeat
        self.limit = limit
        self.stuck = stuck
        self.longest = longest
        self._open: set[EventStream] = set()
        self._places = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return self._places >= self.limit

    def take_place(self) -> bool:
        """Count a stream that is to be opened, in the step that looks whether there is room; whether there was."""
        if self.full:
            return False
        self._places += 1
        return True

    def leave_place(self) -> None:
        """Give back what was taken for a stream that has ended, or was never opened."""
        self._places -= 1

    @contextlib.contextmanager
    def opened(self, stream: EventStream) -> Iterator[None]:
        """Look after a stream, for which a place was taken, as long as it lasts."""
        self._open.add(stream)
        self.metrics.streams.set(len(self._open))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="streams")
        try:
            yield
        finally:
            self._open.discard(stream)
            self.leave_place()
            self.metrics.streams.set(len(self._open))

    async def _keep(self) -> None:
        while self._open:
            await asyncio.sleep(min(_LOOK, self.heartbeat / 4, self.stuck / 4))
            now = self.clock()
            for stream in self._open:
                stream.look(now)
        self._keeper = None


class EventStream(Response):
    """One client's stream."""

    media_type = EVENT_STREAM

    def __init__(
        self,
        streams: Streams,
        view: View,
        begin: Subscription | Snapshot | Lost,
        *,
        greeting: Mapping[str, Any],
        snapshots: bool,
        coalesce: bool,
        welcome: Callable[[], bool],
    ) -> None:
        """Prepare a stream.

        Args:
            streams: which it is one of.
            view: what it shows.
            begin: where it begins; a position that is lost is told first.
            greeting: what the first event says beside the revision.
            snapshots: tell the whole state where a position is lost.
            coalesce: leave out what is superseded before it is sent.
            welcome: whether the client's token is still good; asked at each heartbeat.
        """
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._feed = streams.feed
        self._view = view
        self._begin = begin
        self._greeting = greeting
        self._snapshots = snapshots
        self._coalesce = coalesce
        self._subscription: Subscription | None = begin.subscription if isinstance(begin, Snapshot) else None
        self._subscription = begin if isinstance(begin, Subscription) else self._subscription
        self._welcome = welcome
        self._asked = streams.clock()
        self._told: int | None = None
        self._just_opened = True
        self._spoke = streams.clock()
        self._patience = Patience(streams.stuck, streams.longest)
        self._abort: Callable[[], None] = lambda: None
        self._ended: End | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the client leaves or has to leave."""
        self._abort = abort_of(scope)
        self._send_message = send
        gone = asyncio.create_task(self._until_gone(receive), name="stream's end")
        try:
            with self._streams.opened(self):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if scope["method"] != "HEAD":
                    await self._stream()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            if self._subscription is not None:
                self._subscription.close()
            self._streams.metrics.ended.labels(self._ended or "left").inc()

    def look(self, now: float) -> None:
        """See to it that a stream that waits does what is due."""
        if now - self._asked >= self._streams.heartbeat:
            self._asked = now
            if not self._welcome():
                self._end("refused")
        if self._subscription is not None and self._subscription.is_left_behind():
            # A long answer that is read slowly must not keep alive what changes meanwhile.
            self._subscription.let_go()
            if self._subscription.position is not None:
                self._end("behind")
        if self._patience.is_tried:
            if self._patience.is_over(now):
                self._end("stuck")
                self._abort()
        elif now - self._spoke >= self._streams.heartbeat and self._subscription is not None:
            self._subscription.woken.set()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end("left")

    def _end(self, reason: End) -> None:
        if self._ended in {
            None,
            "behind",
        }:  # who is behind is told the rest of the state, unless something else ends it
            self._ended = reason
        if self._subscription is not None:
            self._subscription.woken.set()

    async def _stream(self) -> None:
        await self._open()
        while self._ended is None:
            try:
                await self._go_on()
            except Lost as lost:
                self._begin = lost
                await self._open()
        if self._ended == "draining":
            position = self._subscription.position if self._subscription is not None else None
            await self._send(notice("ping", {"revision": position}, position=position, retry=_retry()))

    async def _open(self) -> None:
        """Say where the stream begins, and the state if that is wanted."""
        begin = self._begin
        if isinstance(begin, Lost):
            begin = await self._reset(begin)
        revision = begin.revision if isinstance(begin, Snapshot) else begin.position
        greeting = {"revision": revision, **self._greeting}
        if isinstance(begin, Snapshot):
            await self._send(notice("ping", greeting | {"snapshot": "begins"}, retry=_retry()))
            if not await self._send_snapshot(begin):
                return
            greeting["snapshot"] = "complete"
        await self._send(notice("ping", greeting, position=revision, retry=_retry()))
        self._told = revision
        self._just_opened = True

    async def _reset(self, lost: Lost) -> Subscription | Snapshot:
        """Tell that the position is lost, and go on from now."""
        self._streams.metrics.resets.labels(lost.reason).inc()
        if self._subscription is not None:
            self._subscription.close()
        begin: Subscription | Snapshot
        if self._snapshots:
            begin = self._feed.snapshot(self._view, coalesce=self._coalesce)
            self._subscription, revision, position = begin.subscription, begin.revision, None
        else:
            begin = self._subscription = self._feed.follow(self._view, coalesce=self._coalesce)
            revision = position = self._feed.revision
        await self._send(notice("reset", {"revision": revision, "reason": lost.reason}, position=position))
        return begin

    async def _send_snapshot(self, snapshot: Snapshot) -> bool:
        """Send the state; whether all of it was. One that is left behind meanwhile gets a place to resume at."""
        parts: list[bytes] = []
        size = 0
        left = snapshot.objects
        left.reverse()
        while left:
            shown = left.pop()  # what is sent is not kept alive any longer
            parts.append(frame(Seen("created", shown, snapshot.revision), None))
            size += len(parts[-1])
            if size >= CHUNK:
                await self._send(b"".join(parts))
                await asyncio.sleep(0)
                parts.clear()
                size = 0
            if self._ended not in {None, "behind"}:
                return False
        await self._send(b"".join(parts))
        return True

    async def _go_on(self) -> None:
        """Send what there is, or wait for it."""
        assert self._subscription is not None
        if self._feed.closed:
            self._end("draining")
            return
        taken = self._subscription.take()
        more = self._subscription.more
        if taken is None:
            await self._speak_if_due()
            await self._until_woken(self._subscription)
            return
        for chunk in taken.chunks:
            await self._send(chunk)
        self._streams.metrics.events.inc(taken.events)
        if taken.arrived:
            self._streams.metrics.lag.observe(self._streams.clock() - taken.arrived)
        if taken.position is not None:
            self._told = taken.position
        if self._subscription.is_left_behind() and self._subscription.position is not None:
            self._end("behind")
        elif more:
            await asyncio.sleep(0)
        else:
            await self._until_woken(self._subscription)

    async def _until_woken(self, subscription: Subscription) -> None:
        self._patience.renew()
        await subscription.woken.wait()

    async def _speak_if_due(self) -> None:
        """Keep a quiet stream alive, and tell how far it is, so that its client's position does not grow too old."""
        assert self._subscription is not None
        due = self._streams.clock() - self._spoke >= self._streams.heartbeat
        position, stale = self._subscription.position, self._feed.stale_for
        if position == self._told and stale is None:
            await self._send(b":\n\n" if due else b"")
            return
        if not due and (not self._just_opened or position == self._told):
            return
        self._just_opened = False
        age = {} if stale is None else {"stale": round(stale, 1)}
        await self._send(notice("ping", {"revision": position, **age}, position=position))
        self._told = position

    async def _send(self, data: bytes) -> None:
        """Send it in pieces, so that of one large object too it is seen how much the client takes."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self._patience.wait(self._streams.clock())
            await self._send_message({"type": "http.response.body", "body": piece, "more_body": True})
            self._spoke = self._streams.clock()
            self._patience.taken(self._spoke, len(piece))


def _retry() -> int:
    return random.randint(*_RETRY)  # noqa: S311 - spreads load, guards nothing
