"""What was before a replica's history: read again while everything else goes on, and told as it was then."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dragonfly.feed.changes import Overlay
from dragonfly.feed.feed import Lost, Subscription
from dragonfly.feed.shown import Composer, Ref, Shown
from dragonfly.feed.view import View
from dragonfly.model.swarm import Claim
from dragonfly.store import keys
from dragonfly.store.errors import Unavailable
from dragonfly.store.mirror import Held
from dragonfly.store.records import encode
from dragonfly.store.values import Delete, Put
from tests.unit.feed.replica import Replica
from tests.unit.feed.swarm_history import Client, Etcd, cluster, machine, new_mirror


async def written(etcd: Etcd, times: int, *, machines: int = 1) -> None:
    for number in range(times):
        name = f"m-{number % machines}"
        await etcd.store.commit(Put(keys.machine(name), machine(name, label=f"site-{number}")))


def drain(subscription: Subscription, client: Client) -> None:
    while (taken := subscription.take()) is not None:
        for chunk in taken.chunks:
            client.feed(chunk)


async def test_a_full_history_is_extended_though_it_moves_meanwhile(etcd: Etcd) -> None:
    """Each change that arrives during the read would push the beginning on."""
    start = etcd.store.revision
    await written(etcd, 30)
    replica = Replica(etcd, most_bytes=20_000)
    await written(etcd, 30)
    replica.read_all()
    assert replica.feed.history.at(start) is None
    await written(etcd, 20)
    etcd.meanwhile = lambda: replica.read(3)
    client = Client(etcd, View(), start, coalesced=False)

    subscription = await replica.feed.resume(View(), start, patience=0)
    replica.read_all()
    drain(subscription, client)

    assert client.position == etcd.store.revision
    assert len(etcd.asked) == 1


async def test_what_was_read_again_stays_for_those_who_asked_for_it_and_then_goes(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = etcd.store.revision
    await written(etcd, 30)
    replica = Replica(etcd, most_bytes=20_000)
    subscription = await replica.feed.resume(View(), start, patience=0)
    await written(etcd, 5)
    replica.read_all()

    assert not subscription.is_left_behind()
    replica.feed._shrink()
    assert subscription.is_left_behind()

    monkeypatch.setattr("dragonfly.feed.feed._KEPT", 0.0)
    await replica.feed.resume(View(), start, patience=0)
    async with asyncio.timeout(60):
        while replica.feed.history.at(start) is not None:  # noqa: ASYNC110 - a timer of the loop tells nobody
            await asyncio.sleep(0)


async def test_who_asks_again_and_again_does_not_make_the_history_grow_without_end(etcd: Etcd) -> None:
    start = etcd.store.revision
    replica = Replica(etcd, most_bytes=20_000)
    await written(etcd, 10)
    replica.read_all()
    etcd.meanwhile = _away
    for _ in range(20):
        with pytest.raises(Unavailable):
            await replica.feed.resume(View(), start, patience=0)
        await written(etcd, 10)
        replica.read_all()

    assert replica.feed.history._weight <= 4 * 20_000


def _away() -> None:
    raise Unavailable("etcd does not say")


async def test_what_arrives_while_the_past_is_gone_through_does_not_change_it(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly.feed.earlier.AT_ONCE", 1)
    start = etcd.store.revision
    await written(etcd, 30, machines=3)
    await etcd.store.commit(Put(keys.claim("local", 0), encode(Claim(owner="a"))))
    replica = Replica(etcd)
    await written(etcd, 30, machines=5)
    await etcd.store.commit(Put(keys.claim("local", 1), encode(Claim(owner="b"))))
    await etcd.store.commit(Delete(keys.claim("local", 0)))
    await etcd.store.commit(Delete(keys.machine("m-1")))
    client = Client(etcd, View(), start, coalesced=False)

    resuming = asyncio.create_task(replica.feed.resume(View(), start, patience=0))
    while not resuming.done():
        await asyncio.sleep(0)
        replica.read(1)
    drain(await resuming, client)
    replica.read_all()
    subscription = await replica.feed.resume(View(), client.position, patience=0)
    drain(subscription, client)

    assert client.position == etcd.store.revision


async def test_others_have_their_turn_while_the_past_is_gone_through(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = etcd.store.revision
    await written(etcd, 900, machines=50)
    replica = Replica(etcd)
    put_together = 0
    shown = Composer.shown

    def counted(composer: Composer, ref: Ref) -> Shown | None:
        nonlocal put_together
        put_together += 1
        return shown(composer, ref)

    monkeypatch.setattr(Composer, "shown", counted)
    at_once = [0]
    resuming = asyncio.create_task(replica.feed.resume(View(), start, patience=0))
    while not resuming.done():
        before = put_together
        await asyncio.sleep(0)
        at_once.append(put_together - before)
    await resuming

    assert put_together >= 1_800, "each before and after"
    assert max(at_once) <= 200


class _Counting(str):
    """A key that counts how often it is looked at."""

    __slots__ = ()
    looked_at = 0

    def startswith(self, *args: Any) -> bool:
        _Counting.looked_at += 1
        return super().startswith(*args)


def test_finding_members_does_not_look_at_everything_that_was_changed() -> None:
    names = [_Counting(f"machines/m-{number}") for number in range(1_000)] + [_Counting("members/a")]
    overlay = Overlay(new_mirror(), {name: Held(name, None, 1, 1, 0) for name in names})

    assert [held.key for held in overlay.under("members/")] == ["members/a"]
    assert _Counting.looked_at <= 1


async def test_a_cluster_is_cut_as_it_was_then(etcd: Etcd) -> None:
    """It is gone by now, or was made anew with other shards: the machines were in it all the same, and had owners."""
    await etcd.store.commit(
        Put(keys.cluster("fra"), cluster(2)),
        Put(keys.machine("m-1"), machine("m-1", cluster="fra")),
        *(Put(keys.claim("fra", shard), encode(Claim(owner="a"))) for shard in range(2)),
    )
    start = etcd.store.revision
    await etcd.store.commit(*(Put(keys.claim("fra", shard), encode(Claim(owner="b"))) for shard in range(2)))
    await etcd.store.commit(Put(keys.machine("m-1"), machine("m-1", cluster="fra", label="ams")))
    await etcd.store.commit(Delete(keys.machine("m-1")))
    await etcd.store.commit(Delete(keys.cluster("fra")))
    assert list(_owners(etcd))[-2:] == ["b", "b"]
    replica = Replica(etcd)
    client = Client(etcd, View(), start, coalesced=False)

    drain(await replica.feed.resume(View(), start, patience=0), client)

    assert client.position == etcd.store.revision


async def test_a_cluster_that_is_cut_anew_moves_its_machines(etcd: Etcd) -> None:
    await etcd.store.commit(
        Put(keys.machine("m-1"), machine("m-1", cluster="fra")),
        *(Put(keys.claim("fra", shard), encode(Claim(owner="a"))) for shard in range(2)),
    )
    replica = Replica(etcd)
    client = Client(etcd, View(), etcd.store.revision, coalesced=False)
    subscription = replica.feed.follow(View())

    await etcd.store.commit(Put(keys.cluster("fra"), cluster(2)))
    replica.read_all()
    drain(subscription, client)

    assert client.state[Ref("Machine", "m-1")]["status"]["owner"] == "a"


async def test_too_much_is_told_as_that(etcd: Etcd) -> None:
    start = etcd.store.revision
    await written(etcd, 1_001)
    replica = Replica(etcd)

    with pytest.raises(Lost) as lost:
        await replica.feed.resume(View(), start, patience=0)

    assert lost.value.reason == "too-old"


def _owners(etcd: Etcd) -> Iterator[str]:
    """Who drove m-1 at each revision at which it was there."""
    for revision in sorted(etcd._shown):
        state = etcd.state(revision, View())
        if (found := state.get(Ref("Machine", "m-1"))) is not None:
            yield found["status"]["owner"]
