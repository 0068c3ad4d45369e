"""Keeps the pauses of Python's garbage collector short, however much a replica has in memory.

A full collection walks all objects while everything else stands still: half a second with 10,000 machines. Nearly all
that it finds is what is known of etcd and of clusters, which has no cycles and so never needs it. So what survives a
slow one is set aside, and the next ones walk only what came later. Once an hour one walks everything again, for the
cycles that were alive when they were set aside.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

_FULL: Final = 2
"""The generation that is all of them; https://docs.python.org/3/library/gc.html."""

_SLOW: Final = 0.02
"""Seconds from which on a pause is told apart from the work of a replica."""

_REST: Final = 3600.0
"""Seconds for which what was set aside is left alone."""


class Collector(Protocol):
    """Of the module `gc`, what it takes."""

    callbacks: list[Any]

    def freeze(self) -> None: ...
    def unfreeze(self) -> None: ...


class Survivors:
    """What outlives slow collections."""

    def __init__(self, collector: Collector, clock: Callable[[], float]) -> None:
        self._collector = collector
        self._clock = clock
        self._began = clock()
        self._rests_until = self._began + _REST
        self.paused = 0.0
        """Seconds that full collections took, in all."""

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Set them aside within."""
        self._collector.callbacks.append(self._tell)
        try:
            yield
        finally:
            self._collector.callbacks.remove(self._tell)

    def _tell(self, phase: str, info: Mapping[str, int]) -> None:
        """Take note of a collection. It may come while a metric is being changed, whose lock is not to be asked for."""
        if info["generation"] < _FULL:
            return
        if phase == "start":
            self._begin(self._clock())
        else:
            self._end(self._clock() - self._began)

    def _begin(self, now: float) -> None:
        self._began = now
        if now >= self._rests_until:
            self._rests_until = now + _REST
            self._collector.unfreeze()

    def _end(self, pause: float) -> None:
        self.paused += pause
        if pause >= _SLOW:
            self._collector.freeze()
