"""Waits for objects to become what a command asked for, as the feed tells it, from any replica.

What is waited for is the swarm's, not this process's: whatever happens here, it goes on. So a replica that dies, or a
network that is away for a while, is waited out.

A thread follows, so that whoever waits keeps its own time: a stream may say nothing for a quarter of a minute.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol, TypeAlias

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import Document, Kind
from dragonfly.cli.session import Session
from dragonfly.client.stream import Event, Follower

QUIET: Final = 3.0
"""Seconds without any change after which a wait looks for what is in the way."""

_SILENCE: Final = 300.0
"""Seconds without any answer after which waiting is of no use."""

_TOGETHER: Final = 200
"""Names that one stream is asked for: a load balancer takes no longer address."""


class Wait(Protocol):
    """What a command does while it waits."""

    def take(self, document: Document) -> bool:
        """Look at an object as it is now; whether it has become what is waited for."""
        ...

    def quiet(self, name: str) -> None:
        """Nothing has changed for a while; `name` is one of those that are waited for."""
        ...


def wait_for(
    session: Session,
    kind: Kind,
    names: Collection[str],
    wait: Wait,
    timeout: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait until each object has become what is waited for; False if `timeout` (seconds; None: no end) ends first.

    Raises:
        CliError: an object is gone, the swarm refuses, or nobody has answered for five minutes.
    """
    deadline = float("inf") if timeout is None else clock() + timeout
    following = _Following(session, kind, names)
    try:
        return _Waiting(session, kind, names, wait, clock).until(following, deadline)
    finally:
        following.stop()


class _Told(NamedTuple):
    """Something came on a stream, and so many changes have become certain; `asked` is what the stream was asked for."""

    asked: Collection[str]
    events: Sequence[Event]


class _Away(NamedTuple):
    """A connection broke or led to nothing."""

    error: Exception


_News: TypeAlias = _Told | _Away


class _Waiting:
    def __init__(
        self, session: Session, kind: Kind, names: Collection[str], wait: Wait, clock: Callable[[], float]
    ) -> None:
        self._session = session
        self._kind = kind
        self._left = dict.fromkeys(names)  # in the order that they were given
        self._wait = wait
        self._clock = clock
        self._heard = self._changed = clock()
        self._told = False
        self._seen: dict[str, int] = {}

    def until(self, following: _Following, deadline: float) -> bool:
        while self._left:
            now = self._clock()
            if now >= deadline:
                return False
            if now - self._changed >= QUIET:
                self._changed = now
                self._wait.quiet(next(iter(self._left)))
            news = following.next(min(deadline, self._changed + QUIET) - self._clock())
            if isinstance(news, _Away):
                self._away(news.error)
            elif news is not None:
                self._heard, self._told = self._clock(), False
                self._take(news)
        return True

    def _away(self, error: Exception) -> None:
        is_passing = isinstance(error, CliError) and error.exit_code == Exit.UNREACHABLE
        if not is_passing or self._clock() - self._heard > _SILENCE:
            raise error
        if not self._told:
            self._session.remark(f"{error}; still waiting")
        self._told = True

    def _take(self, news: _Told) -> None:
        if not news.events:
            return
        first = news.events[0]
        if first.type == "reset":
            if first.name == "other-etcd":
                self._seen.clear()  # its revisions are others
            self._check_none_is_missing(news, first.revision)
        for event in news.events:
            if event.name in self._left and event.revision >= self._seen.get(event.name, 0):
                self._see(event)

    def _see(self, event: Event) -> None:
        if event.type == "deleted":
            raise self._gone(event.name)
        self._seen[event.name] = event.revision
        self._changed = self._clock()
        if self._wait.take(event.object):
            del self._left[event.name]

    def _check_none_is_missing(self, state: _Told, revision: int) -> None:
        """After a reset comes all that there is."""
        there = {event.name for event in state.events}
        for name in state.asked:
            if name in self._left and name not in there and revision >= self._seen.get(name, 0):
                raise self._gone(name)

    def _gone(self, name: str) -> CliError:
        return CliError(f"there is no {self._kind.singular} {name} any more", Exit.NOT_FOUND)


class _Following:
    """The feed of some objects, one stream for some hundred of them, beside whoever waits for what it tells."""

    def __init__(self, session: Session, kind: Kind, names: Collection[str]) -> None:
        self._session = session
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._hang_up: dict[int, Callable[[], None]] = {}
        rest = iter(names)
        while group := tuple(islice(rest, _TOGETHER)):
            threading.Thread(target=self._follow, args=(kind, group), name="feed", daemon=True).start()

    def next(self, seconds: float) -> _News | None:
        """What comes next; None if nothing does for so long."""
        try:
            return self._news.get(timeout=max(seconds, 0))
        except queue.Empty:
            return None

    def stop(self) -> None:
        self._stopped.set()
        for hang_up in [*self._hang_up.values()]:
            hang_up()

    def _follow(self, kind: Kind, names: Sequence[str]) -> None:
        follower = Follower({"kind": kind.singular.capitalize(), "name": names}, snapshot=True)
        # What this command has written must be in the state that it is told first, whichever replica tells it.
        written = self._session.client.written
        while not self._stopped.is_set():
            try:
                for data in self._session.client.stream(follower.request(at_least=written), opened=self._opened):
                    self._news.put(_Told(names, follower.take(data)))
            except Exception as error:  # raised where it is waited for
                self._news.put(_Away(error))
            if not self._stopped.is_set():
                self._session.pause(follower.pause())

    def _opened(self, hang_up: Callable[[], None]) -> None:
        self._hang_up[threading.get_ident()] = hang_up
        if self._stopped.is_set():
            hang_up()
