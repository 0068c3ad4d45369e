"""What the feed keeps alive, however its clients read: a bounded history, and nothing for somebody who is slow."""

import gc
import json
from collections.abc import Iterator

import pytest

from dragonfly.feed.feed import Subscription
from dragonfly.feed.history import MOST_BYTES, History, Node
from dragonfly.feed.view import Filter, View
from dragonfly.model.swarm import Claim
from dragonfly.store import keys
from dragonfly.store.mirror import Held, Update
from dragonfly.store.records import encode
from dragonfly.store.values import Put, Write
from tests.unit.feed.replica import Replica
from tests.unit.feed.swarm_history import Client, Etcd, Told, events, machine, template

TEMPLATES = View(Filter(kinds=frozenset({"Template"})))
MANY = 300
"""Machines: what is told of all of them is several chunks."""


def nodes() -> int:
    gc.collect()
    return sum(isinstance(found, Node) for found in gc.get_objects())


def midway(subscription: Subscription) -> bool:
    return subscription.position is None


def told(subscription: Subscription) -> Iterator[list[Told]]:
    """Take what there is, as a stream does: until it is left behind between two revisions."""
    while (taken := subscription.take()) is not None:
        yield [event for chunk in taken.chunks for event in events(chunk)]
        if subscription.is_left_behind() and subscription.position is not None:
            return


async def changed(etcd: Etcd, replica: Replica, name: str, times: int) -> None:
    """Change a machine so often that a small history forgets what was before."""
    for number in range(times):
        await etcd.store.commit(Put(keys.machine(name), machine(name, label=f"site-{number}")))
        replica.read_all()


@pytest.mark.parametrize("followers", [1, 2])
async def test_what_followers_had_in_common_keeps_nothing_alive(etcd: Etcd, followers: int) -> None:
    replica = Replica(etcd, most_bytes=20_000)
    before = nodes()
    quiet = [replica.feed.follow(TEMPLATES) for _ in range(followers)]
    await etcd.store.commit(Put(keys.template("ubuntu"), template("ubuntu")))
    replica.read_all()
    for subscription in quiet:
        assert subscription.take() is not None
    for _ in range(30):
        await changed(etcd, replica, "m-1", 10)
        assert not any(subscription.is_left_behind() for subscription in quiet)

    assert nodes() - before < 20


async def test_a_replica_that_begins_anew_forgets_what_followers_had_in_common(etcd: Etcd) -> None:
    replica = Replica(etcd)
    first, second = replica.feed.follow(View()), replica.feed.follow(View())
    await changed(etcd, replica, "m-1", 3)
    first.take()
    second.take()
    replica.mirror.replace(etcd.snapshot())

    assert not first._channel._taken


async def test_what_is_dropped_is_not_kept(etcd: Etcd) -> None:
    replica = Replica(etcd, most_bytes=20_000)
    before = nodes()
    await changed(etcd, replica, "m-1", 200)

    assert nodes() - before < 20


async def test_what_the_feed_is_not_made_of_is_not_kept(etcd: Etcd) -> None:
    replica = Replica(etcd)
    subscription = replica.feed.follow(View())
    before = nodes()
    for number in range(50):
        await etcd.store.commit(Put(keys.webhook_state("w"), b'{"webhook":1,"cursor":%d}' % number))
    replica.read_all()

    assert nodes() == before
    assert subscription.position == replica.feed.revision == etcd.store.revision


def test_what_a_revision_weighs_is_what_its_records_weigh() -> None:
    """One that shows nothing too: a member's, say."""
    held = Held("members/a", None, 1, 1, 0, 20_000)
    history = History(1, most_bytes=200_000)
    for revision in range(2, 50):
        history.append(revision, [Update("members/a", held, held, revision)], (), 0.0)

    assert history.last.number - history.first.number <= 5


async def test_who_stands_before_what_came_last_has_missed_nothing(etcd: Etcd) -> None:
    """However large it is."""
    await many_machines(etcd)
    replica = Replica(etcd, most_bytes=1_000)
    subscription = replica.feed.follow(View())
    await passed_on(etcd, replica, "a")

    assert not subscription.is_left_behind()
    assert sum(map(len, told(subscription))) > MANY / 3


async def test_who_is_left_behind_in_the_middle_of_a_revision_gets_the_rest_of_it_and_its_id(etcd: Etcd) -> None:
    await many_machines(etcd)
    replica = Replica(etcd, most_bytes=1_000)
    client = Client(etcd, View(), etcd.store.revision, coalesced=False)
    subscription = replica.feed.follow(View())
    await passed_on(etcd, replica, "a")
    revision = etcd.store.revision
    taken = subscription.take()
    assert taken is not None
    assert midway(subscription), "this is about a revision that is told in several chunks"
    for chunk in taken.chunks:
        client.feed(chunk)
    await changed(etcd, replica, "m-1", 5)
    before = nodes()
    assert subscription.is_left_behind()
    subscription.let_go()
    await changed(etcd, replica, "m-1", 20)

    while midway(subscription):
        taken = subscription.take()
        for chunk in taken.chunks if taken is not None else ():
            client.feed(chunk)

    assert client.position == subscription.position == revision
    assert subscription.is_left_behind()
    assert subscription.take() is None, "it is for the client to come back"
    assert nodes() - before < 5, "what came meanwhile was not kept for it"


async def test_who_has_got_the_rest_of_a_revision_goes_on_if_it_can(etcd: Etcd) -> None:
    """Somebody else had asked for what this one needs."""
    await many_machines(etcd)
    replica = Replica(etcd, most_bytes=1_000)
    client = Client(etcd, View(), etcd.store.revision, coalesced=False)
    subscription = replica.feed.follow(View())
    await passed_on(etcd, replica, "a")
    revision = etcd.store.revision
    client.feed(b"".join(taken.chunks) if (taken := subscription.take()) is not None else b"")
    await changed(etcd, replica, "m-1", 5)
    assert subscription.is_left_behind()
    subscription.let_go()
    await replica.feed.resume(View(), revision, patience=0)

    while (taken := subscription.take()) is not None:
        for chunk in taken.chunks:
            client.feed(chunk)

    assert client.position == etcd.store.revision


async def test_every_resume_gets_further_though_one_revision_is_larger_than_the_history(etcd: Etcd) -> None:
    await many_machines(etcd)
    position = etcd.store.revision
    replica = Replica(etcd, most_bytes=1_000)
    await passed_on(etcd, replica, "a")
    await changed(etcd, replica, "m-1", 3)
    resumes = writes = 0
    while position < etcd.store.revision:
        resumes += 1
        subscription = await replica.feed.resume(View(), position, patience=0)
        revisions = []
        for chunk in told(subscription):
            revisions += [event.id for event in chunk if event.id is not None]
            if writes < 12:
                writes += 1
                await changed(etcd, replica, "m-1", 2)
        subscription.close()
        assert revisions, "not cut before anything was said"
        position = revisions[-1]

    assert resumes <= 5


async def test_machines_that_only_pass_on_do_not_weigh_as_if_they_were_new(etcd: Etcd) -> None:
    for number in range(20):
        document = json.loads(machine(f"m-{number}"))
        document["spec"]["userData"] = "x" * 50_000
        await etcd.store.commit(Put(keys.machine(f"m-{number}"), json.dumps(document).encode()))
    replica = Replica(etcd)
    await passed_on(etcd, replica, "a")

    assert replica.feed.history.last.changes
    assert replica.feed.history.last.weight < 100_000


async def many_machines(etcd: Etcd) -> None:
    names = [f"m-{number}" for number in range(MANY)]
    for start in range(0, MANY, 100):
        await etcd.store.commit(*(Put(keys.machine(name), machine(name)) for name in names[start : start + 100]))


async def passed_on(etcd: Etcd, replica: Replica, owner: str) -> None:
    """Give both shards to somebody: all machines change at one revision."""
    writes: list[Write] = [Put(keys.claim("local", shard), encode(Claim(owner=owner))) for shard in range(2)]
    await etcd.store.commit(*writes)
    replica.read_all()


def test_the_history_is_bounded_by_default() -> None:
    assert History(1)._most_bytes == MOST_BYTES
