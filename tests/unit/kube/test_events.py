import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from dragonfly.kube.errors import AlreadyExists, KubeError, NotFound, Unreachable
from dragonfly.kube.events import Note, Recorder, Subject
from dragonfly.kube.port import MAY_SEND, Kube
from dragonfly.kube.resources import EVENT, Object, Ref
from tests.contract.waiting import until

SUBJECT = Subject("tinkerbell.org/v1alpha1", "Workflow", "ns", "w", "uid-w")
ARMED = Note(SUBJECT, "Normal", "Armed", "armed")


class Board:
    """A cluster with nothing but Events, which can be made to fail."""

    def __init__(self) -> None:
        self.events: dict[str, Object] = {}
        self.writes = 0
        self.error: KubeError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.written = asyncio.Event()

    async def create(self, obj: Object) -> Object:
        await self._enter()
        if obj["metadata"]["name"] in self.events:
            raise AlreadyExists("there")
        self.events[obj["metadata"]["name"]] = obj
        self.written.set()
        return obj

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        await self._enter()
        assert (ref.resource, ref.namespace, subresource) == (EVENT, "ns", "")
        if ref.name not in self.events:
            raise NotFound("gone")
        self.written.set()
        self.events[ref.name] = {**self.events[ref.name], **body}
        return self.events[ref.name]

    async def _enter(self) -> None:
        self.writes += 1
        await self.open.wait()
        MAY_SEND.get()()  # in the step that sends, as a connection does
        if self.error:
            raise self.error


class Desk:
    """A recorder with a clock of its own; `settle` lets it write all it has."""

    def __init__(self, board: Board, replica: str = "r1") -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.held = True
        self.recorder = Recorder(cast("Kube", board), replica, may_write=lambda: self.held, wall_clock=lambda: self.now)

    async def settle(self) -> None:
        await self.recorder.flush()


async def test_what_is_noted_stands_beside_the_object() -> None:
    board = Board()
    desk = Desk(board)
    desk.recorder.note(ARMED)
    await desk.settle()

    (written,) = board.events.values()
    assert written["involvedObject"]["uid"] == "uid-w"
    assert (written["type"], written["reason"], written["message"]) == ("Normal", "Armed", "armed")
    assert (written["count"], written["firstTimestamp"]) == (1, "2026-01-01T00:00:00Z")
    assert written["source"] == {"component": "dragonfly", "host": "r1"}


async def test_repetitions_are_a_count_on_one_event() -> None:
    board = Board()
    desk = Desk(board)
    for _ in range(3):
        desk.recorder.note(ARMED)
    await desk.settle()
    desk.now += timedelta(minutes=5)
    desk.recorder.note(ARMED)
    await desk.settle()

    (written,) = board.events.values()
    assert (written["count"], written["firstTimestamp"], written["lastTimestamp"]) == (
        4,
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:05:00Z",
    )
    assert board.writes == 2


async def test_counts_go_on_after_a_restart_of_the_replica() -> None:
    board = Board()
    for _ in range(2):
        desk = Desk(board)
        desk.recorder.note(ARMED)
        await desk.settle()

    assert [written["count"] for written in board.events.values()] == [2]


async def test_replicas_keep_apart() -> None:
    board = Board()
    for replica in ("r1", "r2"):
        desk = Desk(board, replica)
        desk.recorder.note(ARMED)
        await desk.settle()

    assert [written["count"] for written in board.events.values()] == [1, 1]


async def test_an_event_that_the_server_forgot_is_written_anew() -> None:
    board = Board()
    desk = Desk(board)
    desk.recorder.note(ARMED)
    await desk.settle()
    board.events.clear()
    desk.recorder.note(ARMED)
    await desk.settle()

    assert [written["count"] for written in board.events.values()] == [1]


async def test_a_stuck_cluster_costs_a_bounded_amount_of_memory_and_no_time() -> None:
    board = Board()
    board.open.clear()
    desk = Desk(board)
    for index in range(1000):
        desk.recorder.note(ARMED._replace(reason=f"Reason{index}"))

    assert desk.recorder.dropped == 1000 - 256


async def test_an_event_that_fails_is_counted_and_the_next_is_written() -> None:
    board = Board()
    board.error = Unreachable("away", maybe_done=False)
    desk = Desk(board)
    desk.recorder.note(ARMED)
    await desk.settle()
    board.error = None
    desk.recorder.note(ARMED._replace(reason="Next"))
    await desk.settle()

    assert desk.recorder.dropped == 1
    assert [written["reason"] for written in board.events.values()] == ["Next"]


async def test_an_event_that_waits_for_its_turn_is_not_sent_once_the_lease_may_have_ended() -> None:
    """P10: the API server is busy; what was noted meanwhile is dropped, and its loop goes on."""
    board = Board()
    board.open.clear()
    desk = Desk(board)
    for reason in ("First", "Second"):
        desk.recorder.note(ARMED._replace(reason=reason))
    writing = asyncio.create_task(desk.settle())
    await until(lambda: board.writes == 1, "the first waits for its turn")
    desk.held = False
    board.open.set()
    await writing
    assert board.events == {}
    assert desk.recorder.dropped == 2

    desk.held = True
    desk.recorder.note(ARMED)
    await desk.settle()
    assert [written["reason"] for written in board.events.values()] == ["Armed"]
    MAY_SEND.get()()  # nobody else's writes are asked about


async def test_its_loop_writes_as_soon_as_something_is_noted() -> None:
    board = Board()
    desk = Desk(board)
    loop = asyncio.create_task(desk.recorder.run())
    async with asyncio.timeout(60):
        for count in (1, 2):
            board.written.clear()
            desk.recorder.note(ARMED)
            await board.written.wait()
            assert [written["count"] for written in board.events.values()] == [count]
    loop.cancel()
    await asyncio.wait([loop])


def test_the_subject_is_read_from_an_object() -> None:
    obj = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}}

    assert Subject.of(obj) == Subject("v1", "Node", "", "n", "u")
    with pytest.raises(KeyError):
        Subject.of({"apiVersion": "v1"})
