"""One replica in the simulation: the product's own parts, put together as in `dragonfly.replica`, on modelled ports."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import NamedTuple

from dragonfly.controllers.around import Around, Place
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.power_steps import PowerLimits
from dragonfly.controllers.steps import Limits
from dragonfly.intent.plan import Decide, T, carry_out
from dragonfly.model.swarm import Member
from dragonfly.model.values import LOCAL, utc
from dragonfly.store import schema
from dragonfly.store.errors import StoreError
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.shards import ShardId, shards_of
from dragonfly.swarm.vacancies import Vacancies
from tests.simulation.apiserver import ApiServer
from tests.simulation.etcd import EtcdClient, EtcdServer, Following, Keeper
from tests.simulation.kubeclient import KubeClient, Streams
from tests.simulation.loop import Process, SimLoop
from tests.simulation.wire import Wire

NAMESPACE = "tinkerbell"
SETTLE = 1.0
LIMITS = Limits(prepare=240, silence=60, grace=30, settle=0.25)
POWER_LIMITS = PowerLimits(prepare=120, carry_out=120, settle=1.0)
BORN = 1_900_000_000.0
"""Unix time at the beginning of every history."""

_STARTED = utc(BORN)


class Servers(NamedTuple):
    """What all replicas share."""

    loop: SimLoop
    wire: Wire
    etcd: EtcdServer
    kube: ApiServer
    streams: Streams
    shards: int
    sites: tuple[str, ...] = ()
    """That the cluster prefers."""


class Replica:
    """A process of a replica, from its start to its end; started again, it is another one of the same name."""

    def __init__(self, servers: Servers, name: str, random: Random, skew: Callable[[], float], site: str = "") -> None:
        """Make it, not yet running.

        Args:
            skew: seconds by which its wall clock is wrong.
            site: where it runs.
        """
        self.name = name
        self.site = site
        self.process = Process(name)
        self._loop = servers.loop
        self._skew = skew
        self._told = (BORN, utc(BORN))
        self._store = EtcdClient(servers.etcd, servers.wire, self.process, "swarm")
        self.api_store = EtcdClient(servers.etcd, servers.wire, self.process, "api")
        self.mirror = Mirror(decode, clock=self._loop.time, on_undecodable=_undecodable)
        self.following = Following(servers.etcd, servers.wire, self.process, self._store, self.mirror, random)
        self.keeper = Keeper(self._loop, self._store, self._look)
        self.kube = KubeClient(servers.kube, servers.streams, self.process)
        self._shards: dict[ShardId, tuple[str, ...]] = dict.fromkeys(shards_of(LOCAL, servers.shards), servers.sites)
        self.controller = ClusterController(
            Place(LOCAL, NAMESPACE, servers.shards, workers=2, limits=LIMITS, power=POWER_LIMITS),
            kube=self.kube,
            store=EtcdClient(servers.etcd, servers.wire, self.process, "controller"),
            mirror=self.mirror,
            dispatch=Dispatch(self.mirror),
            epoch=self._epoch,
            remaining=self._remaining,
            holds=self._holds,
            around=Around(self.now, self._loop.time, random.random, lambda _machine: ""),
        )
        self._reaches = False
        """Whether it reaches the cluster, as it was looked at last."""
        self.ownership = Ownership(
            member=self._member,
            store=self._store,
            mirror=self.mirror,
            lease=self.keeper,
            listener=self.controller,
            shards=lambda: self._shards,
            clock=self._loop.time,
            settle=SETTLE,
        )
        self.vacancies = Vacancies(self.mirror, lambda: self._shards, clock=self._loop.time, now=self.now)
        self.well_since = self._loop.time()
        """Since when it has been running, with its lease held and its mirror current."""
        self.main: asyncio.Task[None] | None = None
        self.is_leaving = False
        self._believed: dict[ShardId, int] = {}
        """Epochs that it goes on to believe in, as long as it is deluded."""
        self._leaving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.main = self.process.context.run(self._loop.create_task, self._run())

    def leave(self, gone: Callable[[], None]) -> None:
        """SIGTERM."""
        self.is_leaving = True
        self._leaving = self.process.context.run(self._loop.create_task, self._leave(gone))

    def delude(self, seconds: float) -> None:
        """Let its lease end and its mirror stand still, and have it go on as if nothing were, reading what is there.

        Neither its clock nor its mirror tells it any more; what stops it are etcd and the API server (P4).
        """
        self._believed = dict(self.ownership.owned) if self.keeper.held() else {}
        self.process.is_deluded = self.keeper.is_idle = True
        self.following.hold(seconds)
        self._loop.call_later(seconds, self._come_to, context=self.process.context)

    def _come_to(self) -> None:
        self.process.is_deluded = self.keeper.is_idle = False
        self._believed = {}

    def serve(self, decide: Decide[T]) -> asyncio.Task[T]:
        """Carry out an intent, as the API does."""

        async def work() -> T:
            return (await carry_out(self.api_store, self.mirror, decide)).outcome

        return self.process.context.run(self._loop.create_task, work())

    def now(self) -> datetime:
        at = BORN + self._loop.time() + self._skew()
        if at != self._told[0]:
            self._told = (at, utc(at))
        return self._told[1]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.following.run())
            await self.mirror.wait_for(1, float("inf"))
            await self._check_schema()
            group.create_task(self.keeper.run())
            group.create_task(self.controller.run())
            group.create_task(self.ownership.run())
            self._watch_reach(None)

    async def _check_schema(self) -> None:
        while True:
            try:
                await schema.ensure(self._store)
            except StoreError:
                await asyncio.sleep(1.0)
            else:
                return

    def _watch_reach(self, before: bool | None) -> None:
        self._reaches = reachable = self.controller.twins.reachable
        if reachable != before:
            self.ownership.look()
        self._loop.call_later(1.0 if reachable else 0.1, self._watch_reach, reachable)

    async def _leave(self, gone: Callable[[], None]) -> None:
        await self.ownership.hand_over()
        await self.keeper.close()
        gone()

    def _epoch(self, shard: ShardId) -> int | None:
        return self._believed.get(shard) or self.ownership.epoch(shard)

    def _holds(self, shard: ShardId) -> int | None:
        return self._believed.get(shard) or self.ownership.holds(shard)

    def _remaining(self) -> float:
        return 1.0 if self._believed else self.keeper.remaining()

    def _look(self) -> None:
        self.ownership.look()

    def _member(self) -> Member:
        return Member(
            id=self.name,
            site=self.site,
            version="0",
            address=f"{self.name}:3000",
            started=_STARTED,
            clusters=(LOCAL,) if self._reaches else (),
        )


def _undecodable(key: str, reason: str) -> None:
    raise AssertionError(f"{key}: {reason}")
