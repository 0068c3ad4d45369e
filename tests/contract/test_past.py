"""What etcd still knows of earlier revisions, read back from real ones (P8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import Compacted, Unavailable
from dragonfly.store.past import EtcdPast, TooMuch
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Change, Delete, Put
from tests.contract.etcds import Etcds

pytestmark = pytest.mark.etcd

Stores = Callable[[EtcdSettings], EtcdStore]


def brief(change: Change) -> tuple[str, int, bytes | None, bytes | None]:
    item, previous = change.item, change.previous
    return change.key, change.revision, item.value if item else None, previous.value if previous else None


async def test_it_tells_every_change_of_a_range_and_what_was_there_before(
    settings: EtcdSettings, stores: Stores
) -> None:
    store = stores(settings)
    first = await store.commit(Put("machines/a", b"1"))
    second = await store.commit(Put("machines/a", b"2"), Put("machines/b", b"1"))
    third = await store.commit(Delete("machines/a"))
    fourth = await store.commit(Put("machines/a", b"3"))
    await store.commit(Put("machines/a", b"later"))

    found = await EtcdPast(store, store.gateway).between(first, fourth)

    assert sorted(map(brief, found), key=lambda change: (change[1], change[0])) == [
        ("machines/a", second, b"2", b"1"),
        ("machines/b", second, b"1", None),
        ("machines/a", third, None, b"2"),
        ("machines/a", fourth, b"3", None),
    ]
    assert [change.revision for change in found] == sorted(change.revision for change in found)


async def test_it_ends_where_nothing_has_changed(settings: EtcdSettings, stores: Stores) -> None:
    store = stores(settings)
    revision = await store.commit(Put("machines/a", b"1"))

    assert await EtcdPast(store, store.gateway).between(revision, revision) == []


async def test_the_oldest_revision_that_is_left_can_still_be_gone_on_from(
    etcds: Callable[..., Etcds], stores: Stores
) -> None:
    store = stores(etcds().settings())
    revisions = [await store.commit(Put("machines/a", b"%d" % number)) for number in range(6)]
    await store.compact(revisions[3])
    past = EtcdPast(store, store.gateway)

    found = await past.between(revisions[3], revisions[5])
    with pytest.raises(Compacted):
        await past.between(revisions[2], revisions[5])

    assert [brief(change) for change in found] == [
        ("machines/a", revisions[4], b"4", b"3"),
        ("machines/a", revisions[5], b"5", b"4"),
    ]


async def test_what_would_be_too_much_is_refused(settings: EtcdSettings, stores: Stores) -> None:
    store = stores(settings)
    revisions = [await store.commit(Put("machines/a", b"x" * 100)) for _ in range(5)]
    few = EtcdPast(store, store.gateway, most_changes=3)
    small = EtcdPast(store, store.gateway, most_bytes=300)

    for past in (few, small):
        with pytest.raises(TooMuch):
            await past.between(revisions[0], revisions[4])
        assert len(await past.between(revisions[2], revisions[4])) == 2


async def test_an_etcd_that_is_away_is_told_as_such(etcds: Callable[..., Etcds], stores: Stores) -> None:
    etcd = etcds()
    store = stores(etcd.settings(timeout=10.0))
    revision = await store.commit(Put("machines/a", b"1"))
    etcd.stop()

    with pytest.raises(Unavailable):
        await EtcdPast(store, store.gateway).between(revision, revision + 1)
