"""Whoever has a use for a change is found by it, and nobody else is asked."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly.feed.audience import Audience, wanted
from dragonfly.feed.changes import Change
from dragonfly.feed.feed import Subscription
from dragonfly.feed.view import Filter, View
from dragonfly.model.selectors import requirements
from dragonfly.model.swarm import Claim
from dragonfly.store import keys
from dragonfly.store.records import encode
from dragonfly.store.values import Put, Write
from tests.unit.feed.replica import Replica
from tests.unit.feed.swarm_history import OPENING, Etcd, commits, machine, views

MACHINES = [f"m-{number}" for number in range(10, 90)]


@settings(max_examples=200, deadline=None)
@given(st.lists(commits, max_size=10), st.lists(views, min_size=1, max_size=5))
def test_nobody_is_missed(story: list[list[Write]], all_views: list[View]) -> None:
    async def run() -> None:
        etcd = Etcd()
        audience: Audience[int] = Audience()
        for number, view in enumerate(all_views):
            audience.add(number, wanted(view.filter))
        replica = Replica(etcd)
        everything = replica.feed.follow(View())
        for writes in [*OPENING, *story]:
            await etcd.store.commit(*writes)
        replica.read_all()
        changes = [change for node in _nodes(everything) for change in node]
        for change in changes:
            found = set(audience.of(change))
            assert {number for number, view in enumerate(all_views) if view.seen(change) is not None} <= found
        for number, view in enumerate(all_views):
            audience.discard(number, wanted(view.filter))
        assert not any(list(audience.of(change)) for change in changes)

    asyncio.run(run())


def _nodes(subscription: Subscription) -> list[tuple[Change, ...]]:
    node, found = subscription._cursor.node, []
    while node.next is not None:
        node = node.next
        found.append(tuple(node.changes))
    return found


@pytest.mark.parametrize(
    ("asked", "finder"),
    [
        (Filter(names=frozenset({"m-1"}), kinds=frozenset({"Machine"})), "name"),
        (Filter(facets=(("phase", frozenset({"Failed"})), ("machine", frozenset({"m-1"})))), "facet machine"),
        (Filter(selector=requirements("a!=b,c,d=e"), tags=frozenset({"gpu"})), "label d"),
        (Filter(tags=frozenset({"gpu", "ssd"}), kinds=frozenset({"Machine"})), "tag"),
        (Filter(facets=(("cluster", frozenset({"far"})), ("phase", frozenset({"Failed"})))), "facet phase"),
        (Filter(kinds=frozenset({"Machine"}), words=("x",)), "kind"),
        (Filter(words=("x",), selector=requirements("a!=b")), "any"),
    ],
)
def test_what_the_fewest_objects_have_decides_where_a_view_is_filed(asked: Filter, finder: str) -> None:
    assert " ".join(wanted(asked).dimension).strip() == finder


@pytest.fixture
async def replica(etcd: Etcd) -> Replica:
    for start in range(0, len(MACHINES), 40):
        await etcd.store.commit(*(Put(keys.machine(name), machine(name)) for name in MACHINES[start : start + 40]))
    return Replica(etcd)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[View]:
    """How often each view has been asked about a change."""
    count: Counter[View] = Counter()
    seen = View.seen

    def counted(view: View, change: Change) -> object:
        count[view] += 1
        return seen(view, change)

    monkeypatch.setattr(View, "seen", counted)
    return count


WAYS = {
    "name": lambda name: Filter(names=frozenset({name})),
    "machine": lambda name: Filter(facets=(("machine", frozenset({name})),)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_change_meets_only_the_views_that_it_may_concern(
    etcd: Etcd, replica: Replica, asked: Counter[View], way: str
) -> None:
    clients = {name: replica.feed.follow(View(WAYS[way](name))) for name in MACHINES}
    for label in ("ams", "lon"):
        await etcd.store.commit(Put(keys.machine("m-11"), machine("m-11", label=label)))
        replica.read_all()
        replica.feed._wake()

    told = {name for name, client in clients.items() if client.take() is not None}

    assert told == {"m-11"}
    assert asked.keys() == {View(WAYS[way]("m-11"))}
    assert {client.position for client in clients.values()} == {etcd.store.revision}


@pytest.mark.parametrize("way", WAYS)
async def test_of_a_revision_that_changes_many_objects_each_view_meets_its_own(
    etcd: Etcd, replica: Replica, asked: Counter[View], way: str
) -> None:
    """A claim that passes on changes all machines of a shard at once."""
    clients = {name: replica.feed.follow(View(WAYS[way](name))) for name in MACHINES}
    await etcd.store.commit(Put(keys.claim("local", 0), encode(Claim(owner="b"))))
    replica.read_all()

    told = {name for name, client in clients.items() if client.take() is not None}

    assert 32 <= len(told) < len(MACHINES)
    assert asked == {View(WAYS[way](name)): 2 for name in told}, "once to find it, once to tell it"


async def test_who_is_quiet_for_long_is_not_left_behind(etcd: Etcd) -> None:
    replica = Replica(etcd, most_bytes=1_000)
    quiet, concerned = (replica.feed.follow(View(WAYS["name"](name))) for name in ("m-1", "m-2"))
    for number in range(20):
        await etcd.store.commit(Put(keys.machine("m-2"), machine("m-2", label=str(number))))
        replica.read_all()

    assert (quiet.is_left_behind(), concerned.is_left_behind()) == (False, True)
    assert quiet.position == etcd.store.revision
