"""A simulated machine does with a failed report what tink-agent does: it never begins an action again because of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from dragonfly.sandbox.agents import Step, read_trace, run_agents
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.tinkproto import GET_ACTION, REPORT

MAC = "02:00:00:00:00:01"
GONE = (
    "error reading from backend\nrpc error: code = Internal desc = error getting workflow: failed to get workflow "
    'tinkerbell/w: Workflow.tinkerbell.org "w" not found'
)
AWAY = "error writing report status: failed to update workflow status w: dial tcp 127.0.0.1:6443: connection refused"


class Failure(NamedTuple):
    code: grpc.StatusCode
    details: str = ""


class TinkServer:
    """Serves one action until its end was reported, as tink-server does; reports fail as they are told to."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self._failures: Iterator[Failure] = iter(failures)
        self._reports = 0
        self.ended = asyncio.Event()
        self.asked_again = asyncio.Event()
        """The agent has turned to the next action, whether or not the end of this one was taken."""

    async def get_action(self, _: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        if self._reports > 1:
            self.asked_again.set()
        if self.ended.is_set():
            await context.abort(grpc.StatusCode.NOT_FOUND, "no Workflows found")
        return _action()

    async def report(self, _: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        """The first one says RUNNING and is taken; those that follow say that the action has ended."""
        self._reports += 1
        failure = next(self._failures, None) if self._reports > 1 else None
        if failure is not None:
            await context.abort(failure.code, failure.details)
        if self._reports > 1:
            self.ended.set()
        return b""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        service, methods = GET_ACTION.rpartition("/")[0].strip("/"), {GET_ACTION: self.get_action, REPORT: self.report}
        handlers = {path.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(do) for path, do in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


async def _play(server: TinkServer, trace: Path) -> list[Step]:
    """Play one machine until it asks for its next action; what it did."""
    async with server.running() as address, asyncio.timeout(20):
        behaviour = Behaviour(shortest=0.0, longest=0.01)
        playing = asyncio.create_task(run_agents(address, [MAC], behaviour, trace=trace))
        await server.asked_again.wait()
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing
    return read_trace(trace)


def _action() -> bytes:
    texts = ((1, b"tinkerbell/w"), (2, b"task"), (3, MAC.encode()), (4, b"01J"), (5, b"install"))
    return b"".join(bytes([number << 3 | 2, len(text)]) + text for number, text in texts) + bytes([7 << 3, 60])


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Failure(grpc.StatusCode.UNAVAILABLE), id="no server"),
        pytest.param(Failure(grpc.StatusCode.DEADLINE_EXCEEDED), id="too late"),
        pytest.param(Failure(grpc.StatusCode.CANCELLED, "context canceled"), id="server stopped"),
        pytest.param(Failure(grpc.StatusCode.INTERNAL, AWAY), id="API server away"),
        pytest.param(Failure(grpc.StatusCode.UNKNOWN), id="anything else"),
    ],
)
async def test_a_report_that_fails_is_repeated_and_the_action_is_not_begun_again(
    failure: Failure, tmp_path: Path
) -> None:
    steps = await _play(TinkServer([failure, failure]), tmp_path / "trace")

    assert [(step.event, step.refused) for step in steps] == [("started", False), ("ended", False)]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Failure(grpc.StatusCode.INTERNAL, GONE), id="Workflow deleted"),
        pytest.param(Failure(grpc.StatusCode.NOT_FOUND, "action not found"), id="action unknown"),
    ],
)
async def test_a_machine_whose_workflow_is_gone_asks_for_the_next_action(failure: Failure, tmp_path: Path) -> None:
    steps = await _play(TinkServer([failure]), tmp_path / "trace")

    assert [(step.event, step.refused) for step in steps[:2]] == [("started", False), ("ended", True)]
