from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.store.changes import Assembly
from dragonfly.store.errors import Compacted, Denied
from dragonfly.store.faults import Fault, StaleFault, TokenRefused
from dragonfly.store.values import Batch, Change, Item
from dragonfly.store.wire import Event, Header, KeyValue, Prefix, WatchLine, WatchResult, decode

PREFIX = Prefix("/p/")


def _event(revision: int, key: bytes = b"/p/k") -> Event:
    return Event(KeyValue(key=key, value=b"v", create_revision=1, mod_revision=revision, version=1))


def _line(*revisions: int, fragment: bool = False) -> WatchLine:
    return WatchLine(WatchResult(events=[_event(revision) for revision in revisions], fragment=fragment))


def test_fragments_come_out_together_with_their_last() -> None:
    assembly = Assembly(PREFIX, 4)

    assert assembly.take(_line(5, 5, fragment=True)) is None
    assert assembly.take(_line(5, fragment=True)) is None
    batch = assembly.take(_line(5, 6))

    assert batch is not None
    assert [change.revision for change in batch.changes] == [5, 5, 5, 5, 6]
    assert batch.revision == assembly.position == 6


def test_fragments_of_a_stream_that_broke_are_forgotten_with_it() -> None:
    broken = Assembly(PREFIX, 4)
    broken.take(_line(5, fragment=True))

    assert broken.position == 4


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12), st.integers(0, 20))
def test_no_change_is_lost_doubled_or_out_of_order(steps: list[tuple[int, bool]], position: int) -> None:
    """Whatever etcd sends again from before the position is left out, the rest comes once and in order."""
    assembly = Assembly(PREFIX, position)
    revision, sent, got = max(position - 5, 0), [], list[int]()
    for count, fragment in [*steps, (1, False)]:
        revisions = [revision := revision + 1 for _ in range(count)]
        sent += revisions
        batch = assembly.take(_line(*revisions, fragment=fragment))
        got += [change.revision for change in batch.changes] if batch else []

    assert got == [revision for revision in sent if revision > position]
    assert all(a < b for a, b in pairwise(got))


def test_progress_marks_and_the_creation_move_nothing() -> None:
    assembly = Assembly(PREFIX, 4)

    assert assembly.take(WatchLine(WatchResult(header=Header(revision=9), created=True))) is None
    assert assembly.take(WatchLine(WatchResult(header=Header(revision=9)))) is None
    assert assembly.position == 4


def test_a_delete_has_no_item_and_what_was_before() -> None:
    line = b'{"result":{"events":[{"type":"DELETE","kv":{"key":"L3Avaw==","mod_revision":"7"},"prev_kv":{"key":"L3Avaw==","value":"w7w=","create_revision":"3","mod_revision":"5","version":"2","lease":"9"}}]}}'  # noqa: E501 - as etcd sends it

    batch = Assembly(PREFIX, 6).take(decode(line, WatchLine))

    assert batch == Batch(7, (Change("k", None, 7, Item("k", "ü".encode(), 3, 5, 2, 9)),))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"result":{"canceled":true,"compact_revision":"12"}}', Compacted),
        (b'{"error":{"code":14,"message":"etcdserver: no leader"}}', Fault),
        (b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}', Fault),
        (b'{"result":{"canceled":true,"created":true,"cancel_reason":"etcdserver: permission denied"}}', Denied),
        (b'{"result":{"canceled":true,"cancel_reason":"etcdserver: invalid auth token"}}', TokenRefused),
        (b'{"result":{"canceled":true}}', Fault),
        (b"{}", Fault),
        (b'{"result":{"created":true,"header":{"revision":"3"}}}', StaleFault),
    ],
)
def test_an_end_says_why(line: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Assembly(PREFIX, 4).take(decode(line, WatchLine))
