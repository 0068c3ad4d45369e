"""The swarm's edge with everything around it in the test's hands: store, lease, clock, and the work it is told of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from dragonfly.model.swarm import Member
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.shards import ShardId, rankings, shards_of
from tests.unit.store_model import StoreModel, Watch

SHARDS = dict.fromkeys(shards_of("local", 4), ())
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


class Lease:
    def __init__(self, number: int) -> None:
        self.id = number
        self.is_held = True

    def held(self) -> bool:
        return self.is_held

    def remaining(self) -> float:
        return 3.0 if self.is_held else 0.0


class Works:
    """Remembers what it was told; `open` lets a quiesce end."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ShardId]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.busy: frozenset[ShardId] = frozenset()
        self.failing = False

    def gained(self, shard: ShardId) -> None:
        self.told.append(("gained", shard))

    def lost(self, shard: ShardId) -> None:
        self.told.append(("lost", shard))

    async def quiesce(self, shard: ShardId) -> None:
        self.told.append(("quiesce", shard))
        if self.failing:
            raise RuntimeError("a bug")
        if shard not in self.busy:
            await self.open.wait()
        else:
            await asyncio.get_running_loop().create_future()

    def of(self, shard: ShardId) -> list[str]:
        return [event for event, about in self.told if about == shard]


class Replica:
    def __init__(self, name: str, store: StoreModel, lease: int, started: datetime = STARTED) -> None:
        self.store = store
        self.clusters: tuple[str, ...] = ("local",)
        self.name = name
        self.lease = Lease(lease)
        self.works = Works()
        self.mirror = Mirror(decode, clock=lambda: store.now, on_undecodable=lambda _key, _why: None)
        self.watch = Watch(store, self.mirror)
        self.ownership = Ownership(
            member=lambda: Member(id=name, version="1", address="", started=started, clusters=self.clusters),
            store=store,
            mirror=self.mirror,
            lease=self.lease,
            listener=self.works,
            shards=lambda: SHARDS,
            clock=lambda: store.now,
            settle=1.0,
        )

    @property
    def owned(self) -> set[ShardId]:
        return set(self.ownership.owned)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.ownership.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Let everything run until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - gives turns of the loop, not time
            await asyncio.sleep(0)


async def in_time(condition: Callable[[], bool], store: StoreModel, *replicas: Replica) -> None:
    """Let time pass until the condition holds: an owner is asked for a shard once its assignment has stood."""
    async with asyncio.timeout(10):
        while not condition():
            store.pass_time(0.01)
            for one in replicas:
                one.ownership.look()
            await asyncio.sleep(0)


async def replica(name: str, store: StoreModel) -> Replica:
    return Replica(name, store, (await store.grant(30)).id)


def share(name: str, *names: str) -> set[ShardId]:
    members = [Member(id=name, version="1", address="", started=STARTED, clusters=("local",)) for name in names]
    return {shard for shard, rank in rankings(SHARDS, members).items() if rank[0] == name}
