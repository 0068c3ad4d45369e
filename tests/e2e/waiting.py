"""Waiting for what other processes do: a condition, a deadline, and the words for when it does not come true."""

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def eventually(what: str, look: Callable[[], T], *, within: float, every: float = 0.1) -> T:
    """Return the first true value that `look` returns; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        Event().wait(every)
    return found


def eventually_equal(look: Callable[[], object], expected: object, *, within: float, every: float = 0.2) -> None:
    """Wait until `look` returns what is expected; fail with the difference after `within` seconds."""
    deadline = time.monotonic() + within
    while (found := look()) != expected and time.monotonic() < deadline:
        Event().wait(every)
    assert found == expected, f"not within {within:g} s: {found!r} instead of {expected!r}"


def in_time(happens: Callable[[], timedelta], undo: Callable[[], None], *, within: timedelta, tries: int = 3) -> None:
    """See that what happens takes no longer than it may.

    What is too slow is so each time. A computer that keeps everybody waiting for seconds does so now and then: what
    came late is undone, and happens again.

    Args:
        happens: how long it took, by the swarm's own word.
        undo: make it ready to happen again.
        within: how long it may take.
        tries: how often it may be late before it counts as too slow.
    """
    took = []
    for _ in range(tries):
        took.append(happens())
        if took[-1] <= within:
            return
        undo()
    raise AssertionError(f"not within {within}: it took {', '.join(map(str, took))}")
