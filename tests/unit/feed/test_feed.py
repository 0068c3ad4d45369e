"""P8: whatever happens, what a client has put together is what the API shows at each revision that it is told."""

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly.feed.feed import Lost, Subscription
from dragonfly.feed.view import Filter, View
from dragonfly.store.values import Write
from tests.unit.feed.replica import Replica
from tests.unit.feed.swarm_history import OPENING, Client, Etcd, commits, views


def drain(subscription: Subscription, client: Client) -> None:
    while (taken := subscription.take()) is not None:
        for chunk in taken.chunks:
            client.feed(chunk)


def named(name: str) -> View:
    return View(Filter(names=frozenset({name})))


@settings(max_examples=300, deadline=None)
@given(st.lists(commits, max_size=25), views, st.booleans(), st.data())
def test_a_client_that_moves_from_replica_to_replica_has_the_state_of_each_revision_it_is_told(
    story: list[list[Write]], view: View, coalesced: bool, data: st.DataObject
) -> None:
    async def run() -> None:
        etcd = Etcd()
        client = Client(etcd, view, etcd.store.revision, coalesced=coalesced)
        replicas = [Replica(etcd, most_bytes=data.draw(st.sampled_from((0, 8_000, 1 << 20))))]
        subscription = replicas[0].feed.follow(view, coalesce=coalesced)
        replica = replicas[0]
        for writes in [*OPENING, *story]:
            await etcd.store.commit(*writes)
            step = data.draw(st.sampled_from(("nothing", "read", "wake", "take", "look", "cut", "late replica")))
            if step == "read":
                replica.read(data.draw(st.integers(1, 4)))
            elif step == "wake":
                replica.feed._wake()
            elif step == "take":
                taken = subscription.take()
                for chunk in taken.chunks if taken else ():
                    client.feed(chunk)
            elif step == "look" and subscription.is_left_behind():
                subscription.let_go()
                step = "cut" if subscription.position is not None else step
            if step in {"cut", "late replica"}:
                subscription.close()
                if step == "late replica":
                    replicas.append(Replica(etcd))
                replica = data.draw(st.sampled_from(replicas))
                replica.read_all()
                client.cut()
                subscription = await replica.feed.resume(view, client.position, patience=0, coalesce=coalesced)
        replica.read_all()
        drain(subscription, client)
        if subscription.is_left_behind():
            client.cut()
            subscription = await replica.feed.resume(view, client.position, patience=0, coalesce=coalesced)
            drain(subscription, client)
        assert client.state == etcd.state(etcd.store.revision, view)
        assert subscription.position == replica.mirror.revision

    wide, chunk = data.draw(st.sampled_from((0, 32))), data.draw(st.sampled_from((0, 64 * 1024)))
    with patch("dragonfly.feed.history._WIDE", wide), patch("dragonfly.feed.channel.CHUNK", chunk):
        asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(st.lists(commits, max_size=10), st.lists(commits, max_size=10), views)
def test_between_a_snapshot_and_what_follows_is_no_hole(
    before: list[list[Write]], later: list[list[Write]], view: View
) -> None:
    async def run() -> None:
        etcd = Etcd()
        replica = Replica(etcd)
        for writes in [*OPENING, *before]:
            await etcd.store.commit(*writes)
        replica.read_all()
        snapshot = replica.feed.snapshot(view)
        assert {s.ref for s in snapshot.objects} == etcd.state(snapshot.revision, view).keys()
        client = Client(etcd, view, snapshot.revision, coalesced=False)
        for writes in later:
            await etcd.store.commit(*writes)
        replica.read_all()
        drain(snapshot.subscription, client)
        assert client.state == etcd.state(etcd.store.revision, view)

    asyncio.run(run())


async def test_a_position_that_etcd_has_forgotten_is_said_to_be_lost(etcd: Etcd, story: list[list[Write]]) -> None:
    for writes in story:
        await etcd.store.commit(*writes)
    replica = Replica(etcd)
    etcd.compacted = etcd.store.revision

    with pytest.raises(Lost) as lost:
        await replica.feed.resume(View(), etcd.store.revision - 2, patience=0)

    assert (lost.value.reason, lost.value.revision) == ("compacted", etcd.store.revision)


async def test_etcd_is_asked_once_for_all_who_come_back_together(etcd: Etcd, story: list[list[Write]]) -> None:
    start = etcd.store.revision
    for writes in story:
        await etcd.store.commit(*writes)
    etcd.compacted = start + 1
    replica = Replica(etcd)
    positions = [start + 3, start, start + 1, start + 2, start]

    found = await asyncio.gather(
        *(replica.feed.resume(View(), since, patience=0) for since in positions), return_exceptions=True
    )

    assert [f.position if isinstance(f, Subscription) else type(f) for f in found] == [
        start + 3,
        Lost,
        start + 1,
        start + 2,
        Lost,
    ]
    assert len(etcd.asked) <= 3, "not once for each"


async def test_a_revision_that_no_replica_has_seen_is_waited_for_and_then_said_to_be_lost(etcd: Etcd) -> None:
    replica = Replica(etcd)

    with pytest.raises(Lost) as lost:
        await replica.feed.resume(View(), etcd.store.revision + 1, patience=0.01)

    assert lost.value.reason == "future"


async def test_a_replica_that_had_to_read_everything_anew_says_so_to_all(etcd: Etcd, story: list[list[Write]]) -> None:
    replica = Replica(etcd)
    subscription = replica.feed.follow(View())
    for writes in story:
        await etcd.store.commit(*writes)
    replica.mirror.replace(etcd.snapshot())

    await asyncio.wait_for(subscription.woken.wait(), 60)
    with pytest.raises(Lost) as lost:
        subscription.take()
    assert (lost.value.reason, lost.value.revision) == ("skipped", etcd.store.revision)


async def test_a_bug_resets_everybody_and_is_told(
    etcd: Etcd, story: list[list[Write]], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(etcd)
    subscription = replica.feed.follow(View())
    for writes in story:
        await etcd.store.commit(*writes)
    monkeypatch.setattr("dragonfly.feed.feed.changes_at", None)

    with pytest.raises(ExceptionGroup):
        replica.read_all()

    with pytest.raises(Lost):
        subscription.take()
    assert {shown.ref.name for shown in replica.feed.snapshot(View()).objects} == {"m-1"}


async def test_who_stands_still_is_left_behind_and_others_are_not(etcd: Etcd, story: list[list[Write]]) -> None:
    replica = Replica(etcd, most_bytes=1_000)
    still, quick = replica.feed.follow(View()), replica.feed.follow(View())
    for writes in story:
        await etcd.store.commit(*writes)
        replica.read_all()
        quick.take()

    assert (still.is_left_behind(), quick.is_left_behind()) == (True, False)


async def test_followers_of_the_same_view_get_the_same_bytes(etcd: Etcd, story: list[list[Write]]) -> None:
    replica = Replica(etcd)
    first, second = replica.feed.follow(View()), replica.feed.follow(View())
    for writes in story:
        await etcd.store.commit(*writes)
    replica.read_all()

    one, two = first.take(), second.take()

    assert one is not None
    assert one is two


async def test_who_takes_late_what_another_took_is_not_done_with_it(etcd: Etcd, story: list[list[Write]]) -> None:
    """Two wakes had become one before the second got its turn."""
    replica = Replica(etcd)
    first, second = replica.feed.follow(View()), replica.feed.follow(View())
    first_client = Client(etcd, View(), etcd.store.revision, coalesced=False)
    second_client = Client(etcd, View(), etcd.store.revision, coalesced=False)
    for writes in story:
        await etcd.store.commit(*writes)
        replica.read_all()
        drain(first, first_client)

    taken = second.take()
    while taken is not None:
        for chunk in taken.chunks:
            second_client.feed(chunk)
        taken = second.take() if second.more else None

    assert second_client.position == etcd.store.revision


async def test_only_those_whose_view_changes_are_woken(etcd: Etcd, story: list[list[Write]]) -> None:
    replica = Replica(etcd)
    concerned = replica.feed.follow(named("m-1"))
    other = replica.feed.follow(named("m-2"))
    for writes in story:
        await etcd.store.commit(*writes)
    replica.read_all()

    await asyncio.wait_for(concerned.woken.wait(), 60)

    assert not other.woken.is_set()
    assert other.take() is None
    assert other.position == etcd.store.revision


async def test_a_subscription_that_is_closed_leaves_nothing(etcd: Etcd) -> None:
    replica = Replica(etcd)
    subscriptions = [replica.feed.follow(view) for view in (View(), named("m-1"), named("m-1"))]
    assert replica.feed.subscriptions == 3

    for subscription in (*subscriptions, *subscriptions):
        subscription.close()

    assert replica.feed.subscriptions == 0
    assert not replica.feed._channels
    assert not replica.feed._audience._filed
