"""Who reads a relayed watch is never left waiting."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from dragonfly.relay.watches import RelayedWatch
from dragonfly.store.faults import Fault
from dragonfly.store.gateway import Gateway
from tests.contract.waiting import until


class Lines:
    """A gateway whose stream has these lines, and then fails."""

    def __init__(self, lines: list[bytes], end: Exception) -> None:
        self._lines = lines
        self._end = end

    @contextmanager
    def stream(self, *_: Any) -> Iterator[tuple[None, Iterator[bytes]]]:
        yield None, self._read()

    def close(self) -> None: ...

    def _read(self) -> Iterator[bytes]:
        yield from self._lines
        raise self._end


def watch_of(lines: list[bytes], end: Exception, ended: list[RelayedWatch]) -> RelayedWatch:
    return RelayedWatch(cast("Gateway", Lines(lines, end)), {}, 1.0, ended=ended.append)


@pytest.mark.parametrize("end", [Fault("the stream ended"), ZeroDivisionError("a bug")])
async def test_lines_come_in_order_and_then_why_there_are_no_more(end: Exception) -> None:
    ended: list[RelayedWatch] = []
    watch = watch_of([b"%d" % number for number in range(50)], end, ended)
    watch.start()

    assert [await watch.line() for _ in range(50)] == [b"%d" % number for number in range(50)]
    with pytest.raises(Fault):
        await watch.line()
    await watch.join()
    await until(lambda: ended == [watch], "its end is told")


async def test_closed_it_gives_nothing_more_and_its_thread_ends_although_nobody_reads() -> None:
    watch = watch_of([b"x"] * 1_000, Fault("the stream ended"), [])
    watch.start()
    assert await watch.line() == b"x"

    watch.close()

    assert await watch.line() is None
    await watch.join()
