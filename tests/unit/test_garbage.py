"""What survives a slow collection is set aside, for a while."""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from dragonfly.garbage import Survivors

FULL, YOUNG = 2, 0


class Collector:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[str, dict[str, int]], None]] = []
        self.done: list[str] = []
        self.now = 0.0

    def freeze(self) -> None:
        self.done.append("freeze")

    def unfreeze(self) -> None:
        self.done.append("unfreeze")

    def collect(self, generation: int, seconds: float) -> None:
        for phase, passes in (("start", seconds), ("stop", 0.0)):
            for callback in list(self.callbacks):
                callback(phase, {"generation": generation})
            self.now += passes


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def survivors(collector: Collector) -> Survivors:
    return Survivors(collector, lambda: collector.now)


@pytest.mark.parametrize(
    ("generation", "seconds", "done"), [(FULL, 0.5, ["freeze"]), (FULL, 0.001, []), (YOUNG, 0.5, [])]
)
def test_only_what_survives_a_slow_full_one_is_set_aside(
    collector: Collector, survivors: Survivors, generation: int, seconds: float, done: list[str]
) -> None:
    with survivors.set_aside():
        collector.collect(generation, seconds)

    assert collector.done == done


def test_once_an_hour_everything_is_looked_at_again(collector: Collector, survivors: Survivors) -> None:
    with survivors.set_aside():
        collector.collect(FULL, 0.5)
        collector.now = 3600.0
        collector.collect(FULL, 0.5)
        collector.now += 3599.0
        collector.collect(FULL, 0.001)

    assert collector.done == ["freeze", "unfreeze", "freeze"]


def test_it_tells_for_how_long_everything_stood_still(collector: Collector, survivors: Survivors) -> None:
    with survivors.set_aside():
        collector.collect(FULL, 0.5)
        collector.collect(YOUNG, 7.0)
        collector.collect(FULL, 0.25)

    assert survivors.paused == 0.75


def test_it_ends_with_whoever_asked_for_it(collector: Collector, survivors: Survivors) -> None:
    with suppress(RuntimeError), survivors.set_aside():
        raise RuntimeError
    collector.collect(FULL, 0.5)

    assert collector.done == []


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.step = 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_the_real_collector_walks_past_what_was_set_aside_until_it_is_looked_at_again() -> None:
    clock = Clock()
    survivors = Survivors(gc, clock)
    kept: list[Any] = [[]]

    try:
        with survivors.set_aside():
            gc.collect()
            assert gc.get_freeze_count() > 0
            assert not _is_walked(kept)
            clock.now, clock.step = 4000.0, 0.0
            gc.collect()
            assert gc.get_freeze_count() == 0
            assert _is_walked(kept)
    finally:
        gc.unfreeze()


def _is_walked(kept: list[Any]) -> bool:
    return any(one is kept for one in gc.get_objects())
