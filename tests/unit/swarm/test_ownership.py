"""Membership and claims of replicas against a model of etcd, with real mirrors and a clock that the test moves."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from dragonfly.model.swarm import Claim as ClaimRecord
from dragonfly.model.swarm import Member
from dragonfly.store import keys
from dragonfly.store.mirror import Held
from dragonfly.store.records import encode
from dragonfly.store.values import Delete, Put
from tests.unit.store_model import StoreModel
from tests.unit.swarm.one_replica import SHARDS, STARTED, Replica, in_time, replica, share, until


async def test_a_lone_replica_registers_and_claims_every_shard(store: StoreModel) -> None:
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))

    for shard in SHARDS:
        epoch = store.items()[keys.claim(*shard)].create_revision
        assert one.ownership.epoch(shard) == epoch
        assert one.works.of(shard) == ["gained"]
    assert store.items()[keys.member("a")].lease == one.lease.id
    assert not one.ownership._unowned_since


async def test_a_replica_that_joins_gets_its_share_and_no_more(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        async with second.running():
            await in_time(lambda: second.owned == share("b", "a", "b"), store, second)
            await until(lambda: first.owned == share("a", "a", "b"))

    for shard in share("b", "a", "b"):
        assert first.works.of(shard) == ["gained", "quiesce", "lost"]
    assert not [key for key in store.items() if key.startswith(keys.DRAINS)]


async def test_what_nobody_has_is_claimed_before_an_owner_is_asked_for_anything(store: StoreModel) -> None:
    """A machine without an owner waits; one whose owner is to change does not."""
    one, other = await replica("a", store), await store.grant(30)
    there = Member(id="z", version="1", address="", started=STARTED, clusters=("local",))
    wanted = share("a", "a", "z")
    claims = [Put(keys.claim(*shard), encode(ClaimRecord(owner="z")), other.id) for shard in wanted]
    await store.commit(Put(keys.member("z"), encode(there), other.id), *claims)

    async with one.running():
        await until(lambda: bool(one.ownership._unowned_since))
        store.pass_time(1.5)
        one.ownership.look()
        await until(lambda: all(keys.drain(*shard) in store.items() for shard in wanted))

    claimed = [store.items()[keys.claim(*shard)] for shard in SHARDS.keys() - wanted]
    asked = [store.items()[keys.drain(*shard)] for shard in wanted]
    assert max(item.create_revision for item in claimed) < min(item.create_revision for item in asked)


async def test_without_its_lease_it_acts_on_nothing(store: StoreModel) -> None:
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        shard = next(iter(SHARDS))

        one.lease.is_held = False
        assert one.ownership.epoch(shard) is None
        assert one.ownership.holds(shard) is None

        one.lease.is_held = True
        assert one.ownership.epoch(shard) is not None


async def test_a_lease_that_ended_takes_every_shard_and_a_new_one_brings_new_epochs(store: StoreModel) -> None:
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        before = dict(one.ownership.owned)

        one.lease.is_held = False
        store.end_lease(one.lease.id)
        assert not one.owned
        assert all(one.works.of(shard) == ["gained", "lost"] for shard in SHARDS)

        one.lease.id, one.lease.is_held = (await store.grant(30)).id, True
        one.ownership.look()
        await until(lambda: one.owned == set(SHARDS))

    assert all(epoch > before[shard] for shard, epoch in one.ownership.owned.items())


async def test_claims_of_a_former_life_are_not_its_own(store: StoreModel) -> None:
    """A replica that came back under its id before etcd ended its old lease."""
    old = (await store.grant(30)).id
    shard = next(iter(SHARDS))
    await store.commit(Put(keys.claim(*shard), encode(ClaimRecord(owner="a")), old))
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == set(SHARDS) - {shard})
        assert one.ownership.epoch(shard) is None

        store.end_lease(old)
        await until(lambda: one.owned == set(SHARDS))


async def test_a_replica_that_dies_is_followed_as_soon_as_etcd_says_so(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    async with first.running():
        async with second.running():
            await in_time(lambda: second.owned == share("b", "a", "b"), store, second)
            await until(lambda: first.owned == share("a", "a", "b"))
        store.end_lease(second.lease.id)
        await until(lambda: first.owned == set(SHARDS))


async def test_a_better_one_that_is_frozen_costs_its_settle(store: StoreModel) -> None:
    """It is a member, but claims nothing."""
    frozen = await replica("b", store)
    member = Member(id="b", version="1", address="", started=STARTED, clusters=("local",))
    await store.commit(Put(keys.member("b"), encode(member), frozen.lease.id))
    one = await replica("a", store)
    async with one.running():
        await until(lambda: one.owned == share("a", "a", "b"))
        assert set(one.ownership._unowned_since) == share("b", "a", "b")

        store.pass_time(1.0)
        one.ownership.look()
        await until(lambda: one.owned == set(SHARDS))


async def test_what_somebody_else_claimed_first_is_theirs(store: StoreModel) -> None:
    """The mirror lags: the transaction decides, not the view."""
    one, other = await replica("a", store), await store.grant(30)
    one.watch.hold()
    shard = next(iter(SHARDS))
    await store.commit(Put(keys.claim(*shard), encode(ClaimRecord(owner="z")), other.id))
    epoch = store.items()[keys.claim(*shard)].create_revision
    async with one.running():
        one.watch.go_on()
        await until(lambda: one.owned == set(SHARDS) - {shard})

    assert store.items()[keys.claim(*shard)].create_revision == epoch


async def test_a_claim_that_was_deleted_by_hand_is_lost_at_once_then_claimed_anew(store: StoreModel) -> None:
    one = await replica("a", store)
    shard = next(iter(SHARDS))
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))
        before = one.ownership.owned[shard]

        await store.commit(Delete(keys.claim(*shard)))
        assert shard not in one.owned
        await until(lambda: one.owned == set(SHARDS))

    assert one.ownership.owned[shard] > before
    assert one.works.of(shard) == ["gained", "lost", "gained"]


async def test_what_it_reaches_is_told_when_it_changes(store: StoreModel) -> None:
    first, second = await replica("a", store), await replica("b", store)
    async with first.running(), second.running():
        await in_time(lambda: second.owned == share("b", "a", "b"), store, second)
        await until(lambda: first.owned == share("a", "a", "b"))

        second.clusters = ()
        second.ownership.look()

        await until(lambda: first.owned == set(SHARDS))
        assert not second.owned


async def test_etcd_failures_are_survived(store: StoreModel) -> None:
    one = await replica("a", store)
    store.fail("unsent", "lost answer", "unsent")
    async with one.running():
        await until(lambda: one.owned == set(SHARDS))


async def test_of_two_replicas_of_one_name_the_one_that_came_later_works(store: StoreModel) -> None:
    """A copied configuration must not fill etcd: each would overwrite the other's member for ever."""
    first = await replica("a", store)
    async with first.running():
        await until(lambda: first.owned == set(SHARDS))
        second = Replica("a", store, (await store.grant(30)).id, started=STARTED + timedelta(hours=1))
        async with second.running():
            await until(lambda: second.owned == set(SHARDS))
            assert "runs at" in first.ownership.name_taken
            assert first.owned == set()
            assert second.ownership.name_taken == ""

            before = store.revision
            for _ in range(20):
                first.ownership.look()
                second.ownership.look()
                await asyncio.sleep(0)
            assert store.revision == before

        await store.commit(Delete(keys.member("a")))
        await until(lambda: first.ownership.name_taken == "")


async def test_a_replica_that_came_back_takes_over_from_its_own_predecessor(store: StoreModel) -> None:
    before = await replica("a", store)
    async with before.running():
        await until(lambda: before.owned == set(SHARDS))
    after = Replica("a", store, (await store.grant(30)).id, started=STARTED + timedelta(seconds=1))
    async with after.running():
        await until(lambda: store.items()[keys.member("a")].lease == after.lease.id)

    assert after.ownership.name_taken == ""


async def test_claims_that_change_together_are_read_once(store: StoreModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead replica's hundreds of claims end in one revision: to read all claims for each would hold up the others."""
    one, other = await replica("a", store), await store.grant(30)
    read: list[str] = []
    under = one.mirror.under

    def counted(prefix: str) -> Iterator[Held]:
        read.append(prefix)
        return under(prefix)

    monkeypatch.setattr(one.mirror, "under", counted)
    claims = [Put(keys.claim(*shard), encode(ClaimRecord(owner="z")), other.id) for shard in SHARDS]

    await store.commit(*claims)
    assert read == [keys.CLAIMS]

    await store.commit(*(Delete(keys.claim(*shard)) for shard in SHARDS))
    assert read == [keys.CLAIMS] * 2
