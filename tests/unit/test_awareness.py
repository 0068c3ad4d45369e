"""What a replica knows of itself, put together from its parts."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import structlog
from prometheus_client import CollectorRegistry

from dragonfly import awareness
from dragonfly.awareness import Awareness, LeaseView
from dragonfly.model.swarm import Member
from dragonfly.store import keys, records
from dragonfly.store.errors import Denied, LeaseLost, NoSpace, OtherEtcd, SchemaUnknown, Unavailable
from dragonfly.store.health import Health
from dragonfly.store.lease import LeaseKeeper, LoopStuck
from dragonfly.store.measured import MeasuredStore
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.store.values import Put
from dragonfly.store.watch import WatchState
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.reach import Reach
from dragonfly.swarm.shards import ShardId
from dragonfly.telemetry.metrics import Metrics, StoreMetrics
from tests.unit.store_model import StoreModel, Watch

BORN = datetime(2026, 1, 1, tzinfo=UTC)


class Keeper:
    """A lease's keeper that says what it is told."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.id = 7
        self.error: Exception | None = None
        self.heard_at = now()
        self.valid_until = now() + 2.5

    def held(self, now: float) -> bool:
        return now < self.valid_until


class Follower:
    def __init__(self) -> None:
        self.state = WatchState(connected=True, since=0.0)
        self.doubts = 0

    def doubt(self) -> None:
        self.doubts += 1


class Owner:
    def __init__(self) -> None:
        self.owned: dict[ShardId, int] = {}
        self.name_taken = ""


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = StoreModel()
        monkeypatch.setattr(awareness, "boottime", lambda: self.store.now)
        self.mirror = Mirror(decode, clock=lambda: self.store.now, on_undecodable=lambda *_: None)
        Watch(self.store, self.mirror)
        self.lease = LeaseView(3)
        self.keeper = Keeper(lambda: self.store.now)
        self.lease.keeper = cast("LeaseKeeper", self.keeper)
        self.follower = Follower()
        self.owner = Owner()
        self.trouble = ""
        self.health = Health(now=self.now, silence=self.lease.silence, watch=lambda: None)
        metrics: StoreMetrics = Metrics(CollectorRegistry(), version="1", replica="a").store
        self.measured = MeasuredStore(self.store, metrics, self.health)
        self.health.answered(wrote=False)
        self.awareness = Awareness(
            "a",
            store=self.measured,
            health=self.health,
            mirror=self.mirror,
            follower=self.follower,
            lease=self.lease,
            ownership=cast("Ownership", self.owner),
            reach=Reach(lambda: self.trouble, self.now),
            shards=dict,
            clock=lambda: self.store.now,
            now=self.now,
        )
        self.awareness.unfit = None

    def now(self) -> datetime:
        return BORN + timedelta(seconds=self.store.now)

    def look(self) -> tuple[str, str]:
        self.awareness.look()
        return self.awareness.insight().sentry.look()

    def checks(self) -> dict[str, tuple[bool, str]]:
        found = {name: check() for name, check in self.awareness.checks().items()}
        return {name: (result.ok, result.state) for name, result in found.items()}


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_all_is_well(world: World) -> None:
    member = Member(id="a", version="1", address="x", started=BORN)
    await world.store.grant(30)
    world.keeper.id = (await world.store.grant(30)).id
    await world.store.commit(Put(keys.member("a"), records.encode(member), world.keeper.id))
    world.owner.owned = {ShardId("local", 0): 5}

    assert world.look() == ("acting", "it drives 1 shard")
    assert world.checks() == {
        "accepting": (True, ""),
        "etcd": (True, "ok"),
        "mirror": (True, "current"),
        "lease": (True, "held"),
        "schema": (True, ""),
        "member": (True, ""),
    }
    assert world.awareness.refusal() is None
    assert world.follower.doubts == 0


@pytest.mark.parametrize(
    ("error", "after", "silent"),
    [
        (Unavailable("no answer in time"), 1.0, False),
        (Unavailable("no answer in time"), 1.6, True),
        (Denied("wrong password"), 0.1, True),
        (OtherEtcd("http://a", expected=1, found=2), 0.1, True),
        (LeaseLost("lease 7 is gone"), 1.6, False),
        (LoopStuck("the event loop has not turned for 10 s"), 1.6, False),
        (None, 60.0, False),
    ],
)
async def test_a_keepalive_that_failed_may_be_followed_by_a_good_one(
    world: World, error: Exception | None, after: float, silent: bool
) -> None:
    world.keeper.error = error
    world.store.now += after

    assert world.lease.silence() is (error if silent else None)


async def test_the_log_tells_how_etcd_is_whenever_that_changes(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        world.look()
        world.keeper.error = Unavailable("connection refused")
        for _ in range(3):
            world.store.now += 5
            world.look()
        world.keeper.error = None
        world.look()

    told = [(entry["log_level"], entry["state"], entry["reason"]) for entry in logs if entry["event"] == "etcd.state"]
    assert told == [("info", "ok", ""), ("warning", "unreachable", "connection refused"), ("info", "ok", "")]


async def test_a_silent_etcd_is_doubted_and_spares_people_the_wait(world: World) -> None:
    """P10."""
    world.keeper.error = Unavailable("no answer in time")
    world.store.now += 1.6

    state, reason = world.look()

    assert (state, reason) == ("read-only", "etcd is unreachable: no answer in time")
    assert world.follower.doubts == 1
    assert isinstance(world.awareness.refusal(), Unavailable)
    world.store.now += 1
    world.look()
    assert world.checks()["lease"] == (False, "fenced")


async def test_reads_are_doubted_as_soon_as_a_write_finds_no_quorum(world: World) -> None:
    """P10. Keepalives may be silent only seconds later."""
    world.health.failed(Unavailable("etcdserver: no leader"), wrote=True)

    world.look()

    assert world.lease.silence() is None
    assert world.checks()["etcd"] == (False, "no-quorum")
    assert world.follower.doubts == 1


async def test_an_error_that_nobody_foresaw_is_told_as_unavailable(world: World) -> None:
    world.keeper.error = ZeroDivisionError("oops")
    world.store.now += 2

    assert str(world.awareness.refusal()) == "oops"
    assert isinstance(world.awareness.refusal(), Unavailable)


async def test_a_replica_without_any_lease_is_not_ready(world: World) -> None:
    world.lease.keeper = None

    assert world.look()[0] == "fenced"
    assert world.checks()["lease"] == (False, "none")
    assert world.lease.silent_for() is None


async def test_a_layout_that_changes_under_a_running_replica_stops_its_writes(world: World) -> None:
    await world.store.commit(Put(keys.SCHEMA, b'{"version":1}'))
    assert world.awareness.refusal() is None

    await world.store.commit(Put(keys.SCHEMA, b'{"version":2}'))

    assert isinstance(world.awareness.refusal(), SchemaUnknown)
    assert world.look()[0] == "read-only"
    assert world.checks()["schema"] == (False, "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"draining": True}, "it is shutting down"),
        ({"unfit": ValueError("8 shards, not 4")}, "8 shards, not 4"),
    ],
)
async def test_why_a_replica_drives_nothing(world: World, change: dict[str, Any], reason: str) -> None:
    for name, value in change.items():
        setattr(world.awareness, name, value)

    assert world.look() == ("following", reason)


async def test_a_cluster_out_of_reach_is_a_reason_too(world: World) -> None:
    world.trouble = "hardware: timed out"
    world.keeper.valid_until = 100.0
    world.look()
    world.store.now += 60
    assert world.look() == ("following", "it reaches no cluster: hardware: timed out")

    world.owner.name_taken = "replica a runs at 10.0.0.2 too"
    assert world.look() == ("following", "replica a runs at 10.0.0.2 too")
    assert world.checks()["member"] == (False, "")


async def test_writes_are_tried_again_until_etcd_takes_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awareness, "_TRY_AGAIN", 0.0)
    world.store.fail("full", "full", "full")
    with pytest.raises(NoSpace):
        await world.measured.commit(Put("k", b""))
    assert world.look()[0] == "read-only"

    recovery = asyncio.create_task(world.awareness.recover())
    async with asyncio.timeout(10):
        while world.look()[0] == "read-only":  # noqa: ASYNC110 - gives turns of the loop, not time
            await asyncio.sleep(0)
    recovery.cancel()

    assert world.look()[0] == "following"
    written = world.store.revision
    await asyncio.wait([recovery])
    assert world.store.revision == written, "one write was enough"
