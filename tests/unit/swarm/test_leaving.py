"""How a replica gives up a shard, and the swarm."""

import asyncio

import pytest

from dragonfly.model.swarm import Claim as ClaimRecord
from dragonfly.store import keys
from dragonfly.store.records import encode
from dragonfly.store.values import Delete, Put
from tests.unit.store_model import Fault, StoreModel
from tests.unit.swarm.one_replica import SHARDS, in_time, replica, share, until


async def test_a_replica_that_comes_and_goes_at_once_moves_nothing(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        async with second.running():
            await until(lambda: keys.member("b") in store.items())
            store.pass_time(0.9)
            second.ownership.look()
            for _ in range(100):
                await asyncio.sleep(0)
        store.end_lease(second.lease.id)

        await until(lambda: keys.member("b") not in store.items())
        assert all(first.works.of(shard) == ["gained"] for shard in SHARDS)


async def test_a_shard_is_given_up_only_when_nothing_of_it_is_under_way(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    moving = share("b", "a", "b")
    async with first.running(), second.running():
        await until(lambda: first.owned | second.owned == set(SHARDS))
    await first.ownership.hand_over()
    await second.ownership.hand_over()

    first, second = await replica("a", store), await replica("b", store)
    first.works.open.clear()
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        async with second.running():
            await in_time(lambda: all(first.works.of(s) == ["gained", "quiesce"] for s in moving), store, second)
            for shard in moving:
                assert first.ownership.epoch(shard) is None
                assert first.ownership.holds(shard) is not None, "what was begun may end"
                assert shard in first.owned
                assert keys.claim(*shard) in store.items()
            assert not second.owned

            first.works.open.set()
            await until(lambda: second.owned == moving)


async def test_hand_over_quiesces_first_and_leaves_nothing_behind(store: StoreModel) -> None:
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        one.works.open.clear()
        leaving = asyncio.create_task(one.ownership.hand_over())
        await until(lambda: all(one.works.of(shard)[-1] == "quiesce" for shard in SHARDS))
        assert all(one.ownership.epoch(shard) is None for shard in SHARDS)
        assert all(keys.claim(*shard) in store.items() for shard in SHARDS)

        one.works.open.set()
        await leaving

    assert not store.items()


async def test_what_is_quiet_together_is_given_up_in_the_order_of_its_names(store: StoreModel) -> None:
    """Not in that of objects in memory: one seed of the simulator would tell several histories."""
    for number in range(20):
        one = await replica(f"r-{number}", store)
        async with one.running():
            await until(lambda one=one: one.owned == set(SHARDS))  # type: ignore[misc]  # mypy: lambdas with defaults
            began = store.revision
            await one.ownership.hand_over()

        deleted = [event.key for event in store._events if event.revision > began and event.key.startswith(keys.CLAIMS)]
        assert deleted == [keys.claim(*shard) for shard in sorted(SHARDS)]


async def test_what_is_slow_in_one_cluster_keeps_back_nothing_of_another(store: StoreModel) -> None:
    """P12: a write to an API server that hangs holds its own shard alone."""
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        slow = next(iter(SHARDS))
        one.works.busy = frozenset({slow})
        leaving = asyncio.create_task(one.ownership.hand_over())

        await until(lambda: set(store.items()) == {keys.claim(*slow)})

        leaving.cancel()
        await asyncio.wait({leaving})


async def test_a_shard_that_cannot_be_given_up_ends_the_replica(store: StoreModel) -> None:
    """Its lease ends with it; otherwise the shard would be claimed, and driven by nobody, for as long as it lives."""
    first, second = await replica("a", store), await replica("b", store)
    first.works.failing = True
    running = asyncio.create_task(first.ownership.run())
    await until(lambda: first.owned == set(SHARDS))
    async with second.running():
        await in_time(running.done, store, second)

    assert "a bug" in str(running.exception())


async def test_an_etcd_that_is_away_while_it_leaves_does_not_stop_it(store: StoreModel) -> None:
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        store.fail("unsent", "unsent")
        await one.ownership.hand_over()

    assert all(one.ownership.epoch(shard) is None for shard in SHARDS)


@pytest.mark.parametrize("fault", ["unsent", "lost answer"])
async def test_a_release_is_tried_until_the_claim_is_gone(store: StoreModel, fault: Fault) -> None:
    first, second = await replica("a", store), await replica("b", store)
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        first.works.open.clear()
        async with second.running():
            moving = share("b", "a", "b")
            await in_time(lambda: all(first.works.of(s)[-1] == "quiesce" for s in moving), store, second)
            store.fail(fault)
            first.works.open.set()
            await until(lambda: second.owned == moving)
            await until(lambda: first.owned == set(SHARDS) - moving)


async def test_a_release_that_comes_late_leaves_the_next_owners_claim_alone(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    moving = share("b", "a", "b")
    shard = next(iter(moving))
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        first.works.open.clear()
        async with second.running():
            await in_time(lambda: first.works.of(shard)[-1] == "quiesce", store, second)
        first.watch.hold()
        await store.commit(Delete(keys.claim(*shard)))
        await store.commit(Put(keys.claim(*shard), encode(ClaimRecord(owner="b")), second.lease.id))

        first.works.open.set()
        await until(lambda: not first.ownership._releases)

        assert store.items()[keys.claim(*shard)].lease == second.lease.id
        assert first.ownership.epoch(shard) is None
        first.watch.go_on()
        assert shard not in first.owned
