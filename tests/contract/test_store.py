"""What every `Store` does, real etcd and the simulator's model alike."""

from __future__ import annotations

import asyncio

import pytest

from dragonfly.store import keys, schema
from dragonfly.store.errors import (
    Compacted,
    Conflict,
    FutureRevision,
    LeaseLost,
    Rejected,
    SchemaUnknown,
    TooLarge,
)
from dragonfly.store.port import Store
from dragonfly.store.values import Absent, Claimed, Condition, Delete, Put, Unchanged
from tests.contract.worlds import World


async def test_what_was_written_is_read_back_at_its_revision(store: Store) -> None:
    revision = await store.commit(Put("machines/m-1", b"{}"), Put("active/m-1", b"\x00\xff"))

    item, read_at = await store.read("machines/m-1")

    assert item is not None
    assert item == ("machines/m-1", b"{}", revision, revision, 1, 0)
    assert read_at == revision
    assert await store.read("machines/none") == (None, revision)


async def test_a_key_written_again_keeps_its_creation(store: Store) -> None:
    first = await store.commit(Put("k", b"1"))
    second = await store.commit(Put("k", b"2"))

    item, _ = await store.read("k")

    assert item is not None
    assert (item.create_revision, item.mod_revision, item.version) == (first, second, 2)


async def test_a_conflict_writes_nothing_and_tells_what_is_there(store: Store) -> None:
    first = await store.commit(Put("a", b"1"))

    with pytest.raises(Conflict) as caught:
        await store.commit(Put("b", b"x"), Delete("a"), given=[Unchanged("none", 0), Unchanged("a", first - 1)])

    assert [item and item.value for item in caught.value.current] == [None, b"1"]
    assert caught.value.revision >= first
    assert [item.key for item in (await store.range("")).items] == ["a"]


async def test_conditions_that_hold_let_all_writes_through_at_once(store: Store) -> None:
    created = await store.commit(Put("claim", b"a"))
    changed = await store.commit(Put("claim", b"b"))
    given: list[Condition] = [Claimed("claim", created), Unchanged("claim", changed), Absent("other")]

    revision = await store.commit(Put("x", b""), Put("y", b""), given=given)

    assert [item.mod_revision for item in (await store.range("")).items] == [changed, revision, revision]


async def test_a_key_deleted_and_made_anew_is_no_longer_the_claimed_one(store: Store) -> None:
    created = await store.commit(Put("claim", b"a"))
    await store.commit(Delete("claim"))
    await store.commit(Put("claim", b"a"))

    with pytest.raises(Conflict):
        await store.commit(Put("x", b""), given=[Claimed("claim", created)])


async def test_of_two_clients_racing_one_transaction_exactly_one_wins(world: World) -> None:
    racers = {name: world.store() for name in (b"a", b"b")}

    async def race(name: bytes) -> Conflict | int:
        try:
            return await racers[name].commit(Put("claims/c/0", name), given=[Absent("claims/c/0")])
        except Conflict as conflict:
            return conflict

    for _ in range(20):
        results = dict(zip(racers, await asyncio.gather(*map(race, racers)), strict=True))
        (winner,) = [name for name, result in results.items() if isinstance(result, int)]
        (conflict,) = [result for result in results.values() if isinstance(result, Conflict)]
        (current,) = conflict.current
        assert current is not None
        assert (current.value, current.mod_revision) == (winner, results[winner])
        await racers[winner].commit(Delete("claims/c/0"))


async def test_a_range_holds_only_its_prefix_in_key_order(store: Store) -> None:
    await store.commit(*(Put(key, b"") for key in ("m/b", "m/a", "m", "m0", "n/a", "m/ü", "m/a/x")))

    assert [item.key for item in (await store.range("m/")).items] == ["m/a", "m/a/x", "m/b", "m/ü"]
    assert [item.key for item in (await store.range("none/")).items] == []


async def test_a_range_of_the_past_is_as_it_was(store: Store) -> None:
    then = await store.commit(Put("k", b"old"))
    await store.commit(Put("k", b"new"), Put("l", b""))

    snapshot = await store.range("", revision=then)

    assert snapshot.revision == then
    assert [(item.key, item.value) for item in snapshot.items] == [("k", b"old")]


async def test_a_compacted_or_future_revision_is_told_apart(store: Store) -> None:
    then = await store.commit(Put("k", b"1"))
    now = await store.commit(Put("k", b"2"))
    await store.compact(now)
    await store.compact(now)  # again: no effect

    with pytest.raises(Compacted):
        await store.range("", revision=then)
    with pytest.raises(FutureRevision):
        await store.range("", revision=now + 1_000_000)
    with pytest.raises(FutureRevision):
        await store.compact(now + 1_000_000)


async def test_too_large_a_transaction_is_refused_as_such(store: Store) -> None:
    with pytest.raises(TooLarge):
        await store.commit(*(Put(f"k{number}", b"") for number in range(129)))
    with pytest.raises(TooLarge):
        await store.commit(Put("k", b"x" * (3 << 19)))
    with pytest.raises(TooLarge):
        await store.commit(Put("k", b""), given=[Absent(f"k{number}") for number in range(129)])

    await store.commit(*(Put(f"k{number}", b"x" * 10_000) for number in range(128)))
    assert len((await store.range("")).items) == 128


async def test_one_key_twice_in_a_transaction_is_rejected(store: Store) -> None:
    with pytest.raises(Rejected):
        await store.commit(Put("k", b"1"), Put("k", b"2"))


async def test_a_revoked_lease_takes_its_keys_along(store: Store) -> None:
    grant = await store.grant(60)
    await store.commit(Put("members/a", b"", lease=grant.id), Put("machines/m", b""))

    item, _ = await store.read("members/a")
    assert item is not None
    assert item.lease == grant.id
    await store.revoke(grant.id)
    await store.revoke(grant.id)  # again: no effect

    assert [item.key for item in (await store.range("")).items] == ["machines/m"]
    with pytest.raises(LeaseLost):
        await store.keep_alive(grant.id)
    with pytest.raises(LeaseLost):
        await store.commit(Put("members/a", b"", lease=grant.id))


async def test_a_lease_that_nobody_keeps_alive_expires(world: World) -> None:
    store = world.store()
    kept, left = await store.grant(2), await store.grant(2)
    await store.commit(Put("kept", b"", lease=kept.id), Put("left", b"", lease=left.id))

    async def gone() -> bool:
        assert await store.keep_alive(kept.id) == kept.ttl
        return (await store.read("left"))[0] is None

    await world.until(gone, "the lease that was left alone expires")

    assert (await store.read("kept"))[0] is not None


async def test_a_short_lease_is_raised_to_the_minimum_and_says_so(store: Store) -> None:
    assert (await store.grant(1)).ttl == 2


async def test_the_status_names_each_endpoint_and_one_leader(store: Store) -> None:
    revision = await store.commit(Put("k", b""))

    status = await store.status()

    assert all(member.reachable and not member.error for member in status)
    assert sum(member.leader for member in status) == 1
    assert max(member.revision for member in status) >= revision


async def test_the_first_writes_the_layout_version_and_a_stranger_stays_out(store: Store) -> None:
    await schema.ensure(store)
    await schema.ensure(store)

    await store.commit(Put(keys.SCHEMA, b'{"version": 2}'))
    with pytest.raises(SchemaUnknown) as caught:
        await schema.ensure(store)
    assert caught.value.found == "2"

    await store.commit(Put(keys.SCHEMA, b"\xff"))
    with pytest.raises(SchemaUnknown):
        await schema.ensure(store)
