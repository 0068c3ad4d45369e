"""Simulated machines: any number of agents in one process, speaking tink-server's own protocol.

Each does what tink-agent does, but for the containers: ask for an action (a long poll: tink-server answers as soon as
there is one, or with an error after a minute), report RUNNING, work, report the end, ask again. What it works, and how
that ends, is its `fate`. A report is repeated until it is taken, for whoever asks for an action before is served the
same one again. Unlike tink-agent, which repeats that for ever too, a simulated machine whose Workflow is gone is
"rebooted": it asks for the next action.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

import grpc
import msgspec

from dragonfly.sandbox.fate import Behaviour, Fate, Outcome, fate, within
from dragonfly.sandbox.tinkproto import (
    GET_ACTION,
    REPORT,
    Action,
    ActionState,
    Report,
    decode_action,
    encode_report,
    encode_request,
)

# tink-server itself tries for 60 s before it says that there is nothing to do, or that a report can't be stored.
_CALL_SECONDS: Final = 90
_AGENTS_PER_CHANNEL: Final = 100
_SHORTEST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0

_STATES: Final = {
    Outcome.SUCCESS: ActionState.SUCCESS,
    Outcome.FAILED: ActionState.FAILED,
    Outcome.TIMEOUT: ActionState.TIMEOUT,
}
# What makes tink-agent give a report up (v0.25.0, tink/agent/internal/transport/grpc/grpc.go, doWrite).
_REFUSED: Final = frozenset(
    {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
)

Clock = Callable[[], float]


class Step(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a trace: an action started, or ended. `at`: seconds since 1970.

    `refused`: the end was reported, but tink-server did not take it, because the Workflow is gone.
    """

    agent: str
    workflow: str
    action: str
    action_id: str
    event: str  # started | ended
    at: float
    attempt: int
    outcome: Outcome | None = None
    refused: bool = False


class Trace:
    """Writes what happened as JSON lines; a line is whole or absent, even after kill -9."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, step: Step) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(step).decode() + "\n")
            self._file.flush()


def read_trace(path: Path) -> list[Step]:
    """The steps of a trace file, in the order in which they happened; one that is being written is left for later."""
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Step) for line in complete.splitlines()]


class Agent:
    """One simulated machine."""

    def __init__(
        self, identity: str, behaviour: Behaviour, channel: grpc.aio.Channel, trace: Trace, now: Clock
    ) -> None:
        self._id = identity
        self._behaviour = behaviour
        self._trace = trace
        self._now = now
        self._seen: dict[str, list[str]] = {}
        self._pauses = random.Random(f"{behaviour.seed}/{identity}")  # noqa: S311 - spreads retries, hides nothing
        self._get_action = channel.unary_unary(
            GET_ACTION, request_serializer=encode_request, response_deserializer=decode_action
        )
        self._report = channel.unary_unary(REPORT, request_serializer=encode_report, response_deserializer=bytes)

    async def run(self) -> None:
        """Ask and work until cancelled."""
        await asyncio.sleep(self._pauses.uniform(0, _SHORTEST_PAUSE))
        pause = _SHORTEST_PAUSE
        while True:
            asked = time.monotonic()
            try:
                action = await self._get_action(self._id, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError:
                # Nothing to do, or no server: the status tells apart what is the same for a machine. An answer that
                # took its time is tink-server's long poll; one that came at once is worth a pause.
                pause = _SHORTEST_PAUSE if time.monotonic() - asked > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
                await asyncio.sleep(self._pauses.uniform(0, pause))
                continue
            pause = _SHORTEST_PAUSE
            await self._carry_out(action)

    async def _carry_out(self, action: Action) -> None:
        attempt = self._attempt(action)
        given = within(action.timeout, fate(self._behaviour, self._id, action.name, attempt))
        if not await self._send(Report(action, ActionState.RUNNING)):
            return
        started = self._now()
        self._trace.write(_step(action, "started", started, attempt))
        await asyncio.sleep(given.seconds)
        if given.outcome is Outcome.SILENT:
            await self._be_silent(action, attempt)
            return
        await self._end(action, given, started, attempt)

    async def _end(self, action: Action, given: Fate, started: float, attempt: int) -> None:
        finished = self._now()
        taken = await self._send(Report(action, _STATES[given.outcome], started, finished))
        ended = _step(action, "ended", finished, attempt)
        self._trace.write(msgspec.structs.replace(ended, outcome=given.outcome, refused=not taken))

    async def _be_silent(self, action: Action, attempt: int) -> None:
        ended = _step(action, "ended", self._now(), attempt)
        self._trace.write(msgspec.structs.replace(ended, outcome=Outcome.SILENT))
        if self._behaviour.silence is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._behaviour.silence)

    async def _send(self, report: Report) -> bool:
        """Whether tink-server took the report; repeated until it is taken, or its Workflow is gone."""
        pause = _SHORTEST_PAUSE
        while True:
            try:
                await self._report(report, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if _is_refused(error):
                    return False
                await asyncio.sleep(self._pauses.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return True

    def _attempt(self, action: Action) -> int:
        """How many other Workflows brought an action of this name before; the same one served again counts once."""
        workflows = self._seen.setdefault(action.name, [])
        if action.workflow not in workflows:
            workflows.append(action.workflow)
        return workflows.index(action.workflow)


async def run_agents(
    server: str,
    agents: Sequence[str],
    behaviour: Behaviour,
    *,
    trace: Path | None = None,
    now: Clock = time.time,
) -> None:
    """Play all `agents` (lower-case MACs) against tink-server at `host:port`, until cancelled."""
    async with AsyncExitStack() as stack:
        file = stack.enter_context(trace.open("a", encoding="utf-8")) if trace else None
        written = Trace(file)
        channels = [await stack.enter_async_context(_channel(server)) for _ in agents[::_AGENTS_PER_CHANNEL]]
        async with asyncio.TaskGroup() as group:
            for number, identity in enumerate(agents):
                channel = channels[number // _AGENTS_PER_CHANNEL]
                group.create_task(Agent(identity, behaviour, channel, written, now).run())


@asynccontextmanager
async def _channel(server: str) -> AsyncIterator[grpc.aio.Channel]:
    # Without a pool of its own, a channel to the same address shares one connection with all others.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 2_000)]
    async with grpc.aio.insecure_channel(server, options=options) as channel:
        yield channel


def _is_refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether another try is no use. To tink-server a Workflow that is gone is an internal error, as any failure is."""
    if error.code() is grpc.StatusCode.INTERNAL:
        details = error.details() or ""
        return "error getting workflow" in details and "not found" in details
    return error.code() in _REFUSED


def _step(action: Action, event: str, at: float, attempt: int) -> Step:
    return Step(action.agent, action.workflow, action.name, action.id, event, at, attempt)
