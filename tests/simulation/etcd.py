"""etcd as a replica meets it: the model of its transactions behind a network, leases, watches, members that lag.

What a transaction does is `tests.unit.store_model`, which passes the contract of real etcd. Here are the things around
it: time that ends leases (looked at twice a second, as etcd does), a quorum that is away for a while, compaction, and a
watch that comes late, ends, brings something twice, and is taken up again where it ended.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dragonfly.store import records
from dragonfly.store.errors import Compacted, LeaseLost, StoreError, Unavailable
from dragonfly.store.mirror import Mirror
from dragonfly.store.values import (
    Batch,
    Change,
    Condition,
    Grant,
    Item,
    MemberStatus,
    Put,
    Remaining,
    Snapshot,
    Write,
)
from tests.simulation.loop import Process
from tests.simulation.wire import Lost, Wire
from tests.unit.store_model import StoreModel

MEMBERS = 3
PATIENCE = 5.0
"""Seconds that a client waits for an answer; `EtcdSettings.timeout`."""

TTL = 3
MARGIN = 0.5

Watcher = Callable[[str, Process, int, Sequence[Write]], None]
"""Told of each transaction that was carried out: part, process, revision, writes."""


class EtcdServer:
    """The cluster of three members, one of which a client talks to at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        self._loop = loop
        self._random = random
        self.state = StoreModel()
        self.has_quorum = True
        self.lag = [0.0] * MEMBERS
        """Seconds by which a member is behind."""
        self.streams: list[Following] = []
        self._compacts_at_deletion = False
        self.on_commit: Watcher = lambda _part, _process, _revision, _writes: None
        self.on_batch: Callable[[Batch], None] = lambda _batch: None
        self.state.watch(self._publish)
        self._tick()

    @property
    def revision(self) -> int:
        return self.state.revision

    def item(self, key: str) -> Item | None:
        return self.state._items.get(key)

    def transact(self, part: str, process: Process, writes: Sequence[Write], given: Sequence[Condition]) -> int:
        self._check_quorum()
        self.state._check_shape(writes, given)
        revision = self.state._transact(writes, given)
        self.on_commit(part, process, revision, writes)
        return revision

    def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Run one of the model's calls, none of which waits for anything."""
        self._check_quorum()
        coroutine = method(*args)
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the model waits for nothing")

    def events_from(self, start: int) -> list[Change]:
        """Return what changed at `start` and after it, as etcd 3.4 tells it: without what was deleted at the revision
        that was compacted (https://github.com/etcd-io/etcd/issues/18089).

        Raises:
            Compacted: some of what came before that is forgotten.
        """
        compacted = self.state._compacted
        if start < compacted:
            raise Compacted(compacted)
        events = self.state._events[self.first_event_after(start - 1) :]
        kept = (event for event in events if event.item is not None or event.revision != compacted)
        return [Change(event.key, event.item, event.revision) for event in kept]

    def first_event_after(self, position: int) -> int:
        return bisect_right(self.state._events, position, key=lambda event: event.revision)

    def lose_quorum(self) -> None:
        self.has_quorum = False

    def regain_quorum(self) -> None:
        """A new leader gives every lease its whole time anew (`lessor.Promote` in etcd)."""
        self.has_quorum = True
        self.state.now = self._loop.time()
        leases = self.state._leases
        for lease, (ttl, _) in list(leases.items()):
            leases[lease] = (ttl, self.state.now + ttl)

    def let_lag(self, size: float) -> None:
        """Let one member fall behind by up to three seconds."""
        self.lag[int(size * 1000) % MEMBERS] = 3 * size

    def compact_all(self) -> None:
        """Forget everything but the present, while every watch is broken."""
        self.state._compacted = self.revision
        self.break_streams()

    def compact_at_deletion(self) -> None:
        """Do so when something is deleted next, before any watch brings that."""
        self._compacts_at_deletion = True

    def break_streams(self) -> None:
        for stream in tuple(self.streams):
            stream.broken()

    def _check_quorum(self) -> None:
        if not self.has_quorum:
            raise Unavailable("etcdserver: request timed out", maybe_written=True)
        self.state.now = self._loop.time()

    def _tick(self) -> None:
        if self.has_quorum:
            self.state.pass_time(self._loop.time() - self.state.now)
        self._loop.call_later(0.5, self._tick)

    def _publish(self, batch: Batch) -> None:
        self.on_batch(batch)
        if self._compacts_at_deletion and any(change.item is None for change in batch.changes):
            self._compacts_at_deletion = False
            self.compact_all()
        for stream in tuple(self.streams):
            stream.push(batch)


class EtcdClient:
    """`Store` for one part (`api`, `controller`, `swarm`) of one process."""

    def __init__(self, server: EtcdServer, wire: Wire, process: Process, part: str) -> None:
        self._server = server
        self._wire = wire
        self._process = process
        self._part = part

    async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        server, part, process = self._server, self._part, self._process
        revision: int = await self._ask(lambda: server.transact(part, process, writes, given), write=True)
        return revision

    async def read(self, key: str) -> tuple[Item | None, int]:
        found: tuple[Item | None, int] = await self._call(self._server.state.read, key)
        return found

    async def range(self, prefix: str, *, revision: int = 0) -> Snapshot:
        server = self._server
        snapshot: Snapshot = await self._ask(
            lambda: server.call(lambda: server.state.range(prefix, revision=revision)), write=False
        )
        return snapshot

    async def grant(self, ttl: int) -> Grant:
        granted: Grant = await self._call(self._server.state.grant, ttl)
        return granted

    async def revoke(self, lease: int) -> None:
        await self._call(self._server.state.revoke, lease)

    async def keep_alive(self, lease: int) -> int:
        ttl: int = await self._call(self._server.state.keep_alive, lease)
        return ttl

    async def time_to_live(self, lease: int) -> Remaining:
        remaining: Remaining = await self._call(self._server.state.time_to_live, lease)
        return remaining

    async def compact(self, revision: int) -> None:
        await self._call(self._server.state.compact, revision)

    async def status(self) -> tuple[MemberStatus, ...]:
        status: tuple[MemberStatus, ...] = await self._call(self._server.state.status)
        return status

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        return await self._ask(lambda: self._server.call(method, *args), write=False)

    async def _ask(self, execute: Callable[[], Any], *, write: bool) -> Any:
        return await self._wire.request(
            self._process, "etcd", execute, write=write, patience=PATIENCE, lost=_unavailable
        )


class Keeper:
    """A lease with the rule of `store.lease.LeaseKeeper`: held until the last keepalive that succeeded was sent + TTL
    less a margin. It acts in its process, so a paused one keeps nothing alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: EtcdClient, on_new: Callable[[], None]) -> None:
        self._loop = loop
        self._client = client
        self._on_new = on_new
        self._valid_until = float("-inf")
        self.id = 0
        self.is_closing = False
        self.is_idle = False
        """Set, it keeps nothing alive for a while."""

    def held(self) -> bool:
        return self._loop.time() < self._valid_until and not self.is_closing

    def remaining(self) -> float:
        return self._valid_until - self._loop.time()

    async def run(self) -> None:
        while not self.is_closing:  # noqa: ASYNC110 - a keepalive is due at set times
            await asyncio.sleep(await self._step())

    async def close(self) -> None:
        self.is_closing = True
        if self.id:
            try:
                await self._client.revoke(self.id)
            except StoreError:
                return

    async def _step(self) -> float:
        if self.is_idle:
            return 0.1
        sent = self._loop.time()
        is_new = not self.id
        try:
            if is_new:
                grant = await self._client.grant(TTL)
                self.id, ttl = grant.id, grant.ttl
            else:
                ttl = await self._client.keep_alive(self.id)
        except LeaseLost:
            self.id, self._valid_until = 0, float("-inf")
            return 0.0
        except StoreError:
            return 0.1
        self._valid_until = sent + ttl - MARGIN
        if is_new:
            self._on_new()
        return max(sent + ttl / 3 - self._loop.time(), 0.0)


class Following:
    """Feeds one mirror, as `store.watch.Watch` and `store.follow.Follower` do, in its process."""

    def __init__(
        self, server: EtcdServer, wire: Wire, process: Process, client: EtcdClient, mirror: Mirror, random: Random
    ) -> None:
        self._server = server
        self._wire = wire
        self._process = process
        self._client = client
        self._mirror = mirror
        self._random = random
        self._loop = server._loop
        self._member = random.randrange(MEMBERS)
        self._position: int | None = None
        self._stream = 0
        self._delivered_at = 0.0
        self._ended = self._loop.create_future()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                if self._position is None:
                    snapshot = await self._client.range("")
                    self._mirror.replace(snapshot)
                    self._position = snapshot.revision
                await self._client._ask(self._open, write=False)
                await self._ended
            except Compacted:
                self._position = None
            except StoreError:
                self._member = self._random.randrange(MEMBERS)
            self._mirror.mark_stale(self._loop.time())
            await asyncio.sleep(0.05 + 0.5 * self._random.random())

    def push(self, batch: Batch) -> None:
        """Send a batch to the process; batches never overtake each other."""
        if self._wire.is_cut(self._process, "etcd"):
            self.stall()
            return
        lag = self._server.lag[self._member]
        self._delivered_at = max(
            self._delivered_at, self._loop.time() + self._wire.latency() + (lag * self._random.random() if lag else 0.0)
        )
        self._loop.call_at(self._delivered_at, self._take, self._stream, batch, context=self._process.context)
        if self._random.random() < 0.01:
            again = self._delivered_at + self._random.random()
            self._loop.call_at(again, self._take, self._stream, batch, context=self._process.context)

    def broken(self) -> None:
        """The connection ends; the process notices at once."""
        self._forget()
        self._loop.call_soon(self._notice, self._stream, context=self._process.context)

    def lose(self) -> None:
        """The server forgets the stream, and nobody tells the process."""
        self._forget()

    def known(self) -> int:
        """The revision after which the stream goes on."""
        assert self._position is not None
        return self._position

    def hold(self, seconds: float) -> None:
        """Show nothing new for so long."""
        self._forget()
        self._loop.call_later(seconds, self._notice, self._stream, context=self._process.context)

    def resume_at(self) -> int:
        """The revision that the stream is asked to begin at: the one that is known already."""
        return self.known()

    def _open(self) -> None:
        """At the server: begin a stream after the position, or refuse."""
        if self._server.lag[self._member] and self._random.random() < 0.5:
            raise Unavailable("the member is behind what was seen already")
        changes = [change for change in self._server.events_from(self.resume_at()) if change.revision > self.known()]
        self._forget()
        self._end()
        self._ended = self._loop.create_future()
        self._server.streams.append(self)
        self._mirror.mark_current()
        if changes:
            self.push(Batch(changes[-1].revision, tuple(changes)))

    def _take(self, stream: int, batch: Batch) -> None:
        if stream != self._stream:
            return
        self._mirror.apply(batch)
        self._position = max(self.known(), batch.revision)

    def stall(self) -> None:
        """What crosses the cut is lost with the stream; the process notices by silence, or when it is told."""
        self.hold(0.5 + 7.5 * self._random.random())

    def _notice(self, stream: int) -> None:
        if stream == self._stream:
            self._end()

    def _end(self) -> None:
        """What is under way on the stream so far comes to nothing."""
        self._stream += 1
        if not self._ended.done():
            self._ended.set_result(None)

    def _forget(self) -> None:
        if self in self._server.streams:
            self._server.streams.remove(self)


def record(key: str, value: object) -> Put:
    """A key of the swarm as it is stored."""
    return Put(key, records.encode(value))


def _unavailable(lost: Lost) -> StoreError:
    return Unavailable(lost.words, maybe_written=lost.maybe_done)
