"""Waiting for what other processes do: a condition, a deadline, and the words for when it does not come true."""

import time
from collections.abc import Callable
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
