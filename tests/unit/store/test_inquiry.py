"""What only etcd can tell is asked when somebody wants to know, and never too often."""

import asyncio
from datetime import UTC, datetime

import pytest

from dragonfly.store.errors import Unavailable
from dragonfly.store.health import Health
from dragonfly.store.inquiry import Inquiry
from dragonfly.store.values import MemberStatus
from tests.unit.store_model import StoreModel


class Slow(StoreModel):
    """Counts what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def status(self) -> tuple[MemberStatus, ...]:
        self.asked += 1
        await self.open.wait()
        return await super().status()


class World:
    def __init__(self) -> None:
        self.store = Slow()
        self.silence: Exception | None = None
        self.leases: list[int] = []
        self.health = Health(
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            silence=lambda: self.silence,
            watch=lambda: None,
        )
        self.inquiry = Inquiry(
            self.store, self.health, leases=lambda: self.leases, clock=lambda: self.store.now, patience=0.01
        )


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_lease_tells_when_its_holder_was_heard(world: World) -> None:
    kept, ended = await world.store.grant(30), await world.store.grant(30)
    world.leases = [kept.id, ended.id]
    world.store.end_lease(ended.id)
    world.store.pass_time(12)

    found = await world.inquiry.fresh()

    assert found.silent_for(kept.id, world.store.now) == 12
    assert found.silent_for(kept.id, world.store.now + 3) == 15
    assert found.silent_for(ended.id, world.store.now) is None
    assert [member.endpoint for member in world.health.members] == ["model"]


async def test_many_who_ask_at_once_share_one_inquiry(world: World) -> None:
    await asyncio.gather(*(world.inquiry.fresh() for _ in range(10)))
    await world.inquiry.fresh()
    assert world.store.asked == 1

    world.store.pass_time(2)
    await world.inquiry.fresh()
    assert world.store.asked == 2


async def test_nobody_waits_for_an_etcd_that_does_not_answer(world: World) -> None:
    world.leases = [(await world.store.grant(30)).id]
    assert (await world.inquiry.fresh()).leases
    world.store.pass_time(2)
    world.store.open.clear()

    found = await world.inquiry.fresh()
    again = await world.inquiry.fresh()

    assert found.at == again.at == 0
    assert found.leases == again.leases == {}, "what they told before does not say when their holders were heard"
    assert world.store.asked == 2, "the one under way is enough"
    await world.inquiry.stop()


async def test_checks_that_come_all_the_time_ask_seldom_never_wait_and_ask_for_no_lease(world: World) -> None:
    world.leases = [(await world.store.grant(30)).id]
    for _ in range(11):
        world.inquiry.refresh(after=5)
        await asyncio.sleep(0)
        world.store.pass_time(1)

    assert world.store.asked == 3, "at once, and every five seconds"
    assert world.inquiry.found.leases == {}
    assert list((await world.inquiry.fresh()).leases) == world.leases


async def test_a_silent_etcd_is_not_asked_for_leases(world: World) -> None:
    world.leases = [(await world.store.grant(30)).id]
    world.silence = Unavailable("no answer in time")

    found = await world.inquiry.fresh()
    assert world.store.asked == 0, "nobody waits"
    async with asyncio.timeout(10):
        while world.inquiry.members_ago is None:  # noqa: ASYNC110 - gives turns of the loop, not time
            await asyncio.sleep(0)

    assert found.leases == world.inquiry.found.leases == {}
    assert world.store.asked == 1
