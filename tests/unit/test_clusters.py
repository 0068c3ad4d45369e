"""The clusters of one replica: taken up, kept apart, changed and dropped as they are registered."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dragonfly import tended
from dragonfly.clusters import Clusters
from dragonfly.controllers.checkup import Turns
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.intent.clusters import kubeconfig_place
from dragonfly.kube.channel import DEFAULT_LIMITS, Limits
from dragonfly.kube.credentials import Inline
from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.model.swarm import Member
from dragonfly.model.values import Metadata
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.seal import Seal
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.roster import Roster
from dragonfly.swarm.shards import ShardId
from dragonfly.telemetry.metrics import Metrics
from dragonfly.tended import Means, Parts, Setup
from tests.unit.store_model import StoreModel, Watch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEAL = Seal([b"k" * 32])


class NoLease:
    """Nothing is claimed, and nothing may be written unless a test gives it time."""

    id = 0
    seconds = 0.0

    def held(self) -> bool:
        return False

    def remaining(self) -> float:
        return self.seconds


class World:
    """A replica of which no cluster answers: connections are refused at once."""

    def __init__(self, port: int, *, in_pod: bool = False) -> None:
        self.server = f"https://{LOOPBACK}:{port}"
        self.store = StoreModel()
        self.registry = CollectorRegistry()
        self.mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)
        roster = Roster(self.mirror, 4)
        Watch(self.store, self.mirror)
        gauges: Any = None
        clock = asyncio.get_running_loop().time
        began = clock()
        means = Means(
            replica="a",
            store=self.store,
            mirror=self.mirror,
            dispatch=Dispatch(self.mirror),
            examinations=Turns(clock),
            metrics=Metrics(self.registry, version="0", replica="a"),
            gauges=gauges,
            unseal=lambda _: "",
            open=SEAL.open,
            started=NOW,
            in_pod=in_pod,
            now=lambda: NOW + timedelta(seconds=30 + clock() - began),
            monotonic=clock,
            random=lambda: 0.5,
        )
        self.clusters = Clusters(Setup(Inline(self.kubeconfig()), "tinkerbell", 4), roster, means)
        self.lease = NoLease()
        self.clusters.belong_to(
            Ownership(
                member=lambda: Member(id="a", version="0", address="a", started=NOW),
                store=self.store,
                mirror=self.mirror,
                lease=self.lease,
                listener=self.clusters,
                shards=roster.shards,
                clock=asyncio.get_running_loop().time,
                settle=1.0,
            )
        )

    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": self.server}}],
                "users": [{"name": "c", "user": {"token": "a-token"}}],
            }
        )

    async def register(self, name: str, *, sealed_for: str = "", created: datetime = NOW, **spec: Any) -> None:
        cluster = Cluster(
            metadata=Metadata(name=name, created_at=created, updated_at=created),
            spec=ClusterSpec(shards=2, namespace="tinkerbell", **spec),
            server=self.server,
            sealed_kubeconfig=SEAL.seal(kubeconfig_place(sealed_for or name), self.kubeconfig()),
        )
        await self.store.commit(Put(keys.cluster(name), encode(cluster)))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.02)

    def parts(self, name: str) -> Parts | None:
        one = self.clusters._tended.get(name)
        return one.parts if one is not None else None

    def limits(self, name: str) -> Limits | None:
        """What its connection keeps to; None while there is none."""
        parts = self.parts(name)
        return parts.connection._channel._limits if parts is not None else None

    def reason(self, name: str) -> str:
        reach = self.clusters.unreached.get(name)
        return reach.reason if reach is not None else ""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with PortLease() as ports:
        world = World(ports.take())
        running = asyncio.create_task(world.clusters.run())
        yield world
        running.cancel()
        await asyncio.wait({running})


async def test_they_come_and_go_and_each_says_why_it_is_not_reached(world: World) -> None:
    await world.register("fra")
    await world.register("muc", sealed_for="fra")

    await world.until(lambda: set(world.clusters.unreached) == {"fra", "local", "muc"})
    await world.until(lambda: "listed yet" not in world.reason("fra") and world.server[8:] in world.reason("fra"))
    assert "belongs to another place" in world.reason("muc")

    await world.store.commit(Delete(keys.cluster("fra")))
    await world.until(lambda: set(world.clusters.unreached) == {"local", "muc"})
    metric = world.registry.get_sample_value
    await world.until(lambda: metric("dragonfly_cluster_reachable", {"cluster": "muc"}) == 0)
    assert metric("dragonfly_cluster_reachable", {"cluster": "fra"}) is None


async def test_events_are_written_while_the_lease_lasts_and_no_longer(world: World) -> None:
    """P10: whatever they are about."""
    await world.until(lambda: world.clusters._tended["local"].parts is not None)
    parts = world.clusters._tended["local"].parts
    assert parts is not None

    assert not parts._recorder._may_write()
    world.lease.seconds = 1.0
    assert parts._recorder._may_write()


@pytest.mark.parametrize("name", ["local", "fra"])
@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        ({"qps": 50}, Limits(qps=50, burst=100)),
        ({"in_flight": 8}, Limits(in_flight=8)),
        ({"qps": 50, "in_flight": 8}, Limits(qps=50, burst=100, in_flight=8)),
    ],
)
async def test_what_a_cluster_allows_is_kept_to_as_soon_as_it_is_said(
    world: World, name: str, spec: dict[str, Any], limits: Limits
) -> None:
    """Of `local`, too, which stays the one that this replica was started with, whatever else its record says."""
    sealed_for = "muc" if name == "local" else name
    await world.register("fra")
    await world.until(lambda: world.limits(name) == DEFAULT_LIMITS)

    await world.register(name, sealed_for=sealed_for, **spec)
    await world.until(lambda: world.limits(name) == limits)

    await world.register(name, sealed_for=sealed_for)
    await world.until(lambda: world.limits(name) == DEFAULT_LIMITS)


async def test_one_that_does_not_open_is_connected_to_once_it_does(world: World) -> None:
    await world.register("fra", sealed_for="muc")
    await world.until(lambda: "belongs to another place" in world.reason("fra"))

    await world.register("fra")

    async with asyncio.timeout(20):
        while world.server[8:] not in (found := (await world.clusters.check("fra")).error):
            assert "another place" in found or "connected" in found
            await asyncio.sleep(0.02)


class Slow:
    """A cluster's parts whose write has been sent, and whose answer does not come before `answered`."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.began = asyncio.Event()
        self.ending = asyncio.Event()
        self.elsewhere = asyncio.Event()
        self.trouble = "it is being connected"
        self.twins = SimpleNamespace(trouble=self.trouble, reachable=False)
        self.examiner = SimpleNamespace(found=None)
        self.queue = SimpleNamespace(depth=0)
        self.controller = self.guard = self.connection = self
        self.state = None

    async def run(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ending.set()
            await self.answered.wait()

    async def left(self) -> str:
        await self.elsewhere.wait()
        return "elsewhere"

    def gained(self, shard: ShardId) -> None: ...

    async def quiesce(self, _shard: ShardId) -> None:
        await self.answered.wait()

    async def close(self) -> None: ...


async def test_a_shard_is_not_given_up_under_a_write_of_a_connection_that_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the cluster is set up otherwise, and somebody asks for the shard while the last write is still out."""
    made: list[Slow] = []

    def make(name: str, *args: Any) -> Slow | Parts:
        if name != "fra":
            return Parts(name, *args)
        made.append(Slow())
        return made[-1]

    monkeypatch.setattr(tended, "Parts", make)
    await world.register("fra")
    await world.until(lambda: bool(made) and made[0].began.is_set())
    world.server = world.server.replace("https", "http")
    await world.register("fra")
    async with asyncio.timeout(20):
        await made[0].ending.wait()

    quiet = asyncio.create_task(world.clusters.quiesce(ShardId("fra", 0)))
    done, _ = await asyncio.wait({quiet}, timeout=0.1)
    assert not done, "it was called quiet while a write was under way"

    made[0].answered.set()
    async with asyncio.timeout(20):
        await quiet
    await world.until(lambda: len(made) == 2)
    made[1].answered.set()


async def test_one_whose_kubeconfig_leads_elsewhere_is_connected_to_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Slow] = []

    def make(*_: Any) -> Slow:
        made.append(Slow())
        made[-1].answered.set()
        return made[-1]

    monkeypatch.setattr(tended, "Parts", make)
    await world.register("fra")
    await world.until(lambda: bool(made) and made[-1].began.is_set())
    await asyncio.sleep(0)
    before = len(made)

    made[-1].elsewhere.set()

    await world.until(lambda: len(made) == before + 1 and made[-1].began.is_set())
    assert made[before - 1].ending.is_set()


async def test_the_first_shard_is_given_up_once_its_policy_is_not_being_written(world: World) -> None:
    """P4: the guard's writes are under the first shard's claim, as are the controller's."""
    await world.register("fra")
    await world.until(lambda: world.parts("fra") is not None)
    parts = world.parts("fra")
    assert parts is not None
    waited: list[str] = []
    answered = asyncio.Event()

    async def quiesce() -> None:
        waited.append("guard")
        await answered.wait()

    parts.guard.quiesce = quiesce  # type: ignore[method-assign] # stands in for it here
    await asyncio.wait_for(world.clusters.quiesce(ShardId("fra", 1)), 20)
    assert waited == []

    first = asyncio.create_task(world.clusters.quiesce(ShardId("fra", 0)))
    await world.until(lambda: waited == ["guard"])
    assert not first.done()
    answered.set()
    await asyncio.wait_for(first, 20)


async def test_the_cluster_of_pods_is_out_of_reach_for_a_replica_in_none(world: World) -> None:
    cluster = Cluster(spec=ClusterSpec(shards=2, namespace="tinkerbell", in_cluster=True))
    await world.store.commit(Put(keys.cluster("pods"), encode(cluster)))

    await world.until(lambda: "this replica runs in none" in world.reason("pods"))
    assert world.parts("pods") is None
    assert "this replica runs in none" in (await world.clusters.check("pods")).error


async def test_a_pod_whose_service_account_cannot_be_used_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with PortLease() as ports:
        world = World(ports.take(), in_pod=True)
        running = asyncio.create_task(world.clusters.run())
        cluster = Cluster(spec=ClusterSpec(shards=2, namespace="tinkerbell", in_cluster=True))
        await world.store.commit(Put(keys.cluster("pods"), encode(cluster)))
        await world.until(lambda: "the pod's service account: " in world.reason("pods"))
        running.cancel()
        await asyncio.wait({running})


async def test_since_when_says_no_more_than_is_known(world: World) -> None:
    """One that was registered after this replica's start was not out of reach before that."""
    await world.register("old", created=NOW - timedelta(days=1))
    await world.register("new", created=NOW + timedelta(seconds=20))
    await world.until(lambda: set(world.clusters.unreached) == {"local", "new", "old"})

    since = {name: reach.since for name, reach in world.clusters.unreached.items()}

    assert since == {"local": NOW, "old": NOW, "new": NOW + timedelta(seconds=20)}
    assert world.clusters.since == NOW + timedelta(seconds=20)
