from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.store.mirror import Mirror, Undecodable, Update
from dragonfly.store.values import Batch, Change, Item, Snapshot

KEYS = st.sampled_from(
    ["a", "b", "m", "m/", "m/1", "m/10", "m/2", "m/ü", "m/\U0001f702", "mm/1", "n/a/x", "n/a/y", "n/b/x"]
)
STEPS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=30)
PREFIXES = ["", "m", "m/", "m/1", "n/", "n/a/", "x/", "mm", "a"]


def _mirror(
    decode: Callable[[str, bytes], object] = lambda _, value: value,
    on_undecodable: Callable[[str, str], None] = lambda *_: None,
) -> Mirror:
    return Mirror(decode, clock=lambda: 100.0, on_undecodable=on_undecodable)


def _item(key: str, revision: int, value: bytes = b"") -> Item:
    return Item(key, value, revision, revision, 1, 0)


def _put(key: str, revision: int, value: bytes = b"") -> Change:
    return Change(key, _item(key, revision, value), revision)


@given(STEPS, STEPS, st.integers(0, 30))
def test_a_mirror_is_the_store_whether_by_changes_or_by_snapshots(
    before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]], cut: int
) -> None:
    """Against a dict: contents, order, counts under each prefix; subscribers can rebuild it from what they are told."""
    mirror = _mirror()
    model: dict[str, Item] = {}
    told: dict[str, object] = {}

    def tell(update: Update) -> None:
        if update.held is None:
            assert told.pop(update.key) == (update.previous and update.previous.object)
        else:
            told[update.key] = update.held.object

    mirror.subscribe("", tell)
    for revision, (key, value) in enumerate([*before, *after], start=1):
        item = None if value is None else _item(key, revision, value)
        model.pop(key, None)
        if item is not None:
            model[key] = item
        if revision <= len(before):
            mirror.apply(Batch(revision, (Change(key, item, revision),)))
        elif revision == len(before) + cut % (len(after) or 1) + 1:
            mirror.replace(Snapshot(revision, tuple(sorted(model.values()))))
        elif mirror.revision == revision - 1:
            mirror.apply(Batch(revision, (Change(key, item, revision),)))
        if mirror.revision == revision:
            for prefix in PREFIXES:
                expected = sorted(name for name in model if name.startswith(prefix))
                assert [held.key for held in mirror.under(prefix)] == expected
                assert mirror.count(prefix) == len(expected)
            assert told == {name: found.value for name, found in model.items()}


def test_what_is_shown_already_is_left_out() -> None:
    mirror = _mirror()
    mirror.replace(Snapshot(5, (_item("k", 5, b"new"),)))
    told: list[Update] = []
    mirror.subscribe("", told.append)

    mirror.apply(Batch(5, (_put("k", 4, b"old"), Change("k", None, 5))))

    assert told == []
    held = mirror.get("k")
    assert held is not None
    assert held.object == b"new"


def test_an_older_snapshot_is_refused() -> None:
    mirror = _mirror()
    mirror.replace(Snapshot(5, ()))

    with pytest.raises(ValueError, match="older"):
        mirror.replace(Snapshot(4, ()))


def test_a_value_that_can_not_be_decoded_blinds_nobody() -> None:
    reported: list[tuple[str, str]] = []
    mirror = _mirror(lambda _, value: int(value), lambda key, reason: reported.append((key, reason)))

    mirror.apply(Batch(1, (_put("a", 1, b"x"), _put("b", 1, b"2"))))

    broken, good = mirror.under("")
    assert isinstance(broken.object, Undecodable)
    assert good.object == 2
    assert [key for key, _ in reported] == ["a"]
    mirror.apply(Batch(2, (_put("a", 2, b"1"),)))
    assert [held.object for held in mirror.under("")] == [1, 2]


def test_values_are_decoded_once() -> None:
    decoded: list[str] = []
    mirror = _mirror(lambda key, _: decoded.append(key))
    mirror.apply(Batch(1, (_put("a", 1), _put("b", 1))))
    mirror.replace(Snapshot(3, (_item("a", 1), _item("b", 3))))

    assert decoded == ["a", "b", "b"]


def test_subscribers_hear_of_their_prefix_after_all_of_it_is_there() -> None:
    mirror = _mirror()
    seen: list[tuple[str, int]] = []
    mirror.subscribe("m/", lambda update: seen.append((update.key, mirror.count(""))))

    mirror.apply(Batch(3, (_put("m/1", 2), _put("n/1", 3), _put("m/2", 3))))

    assert seen == [("m/1", 3), ("m/2", 3)]


def test_a_fresh_snapshot_is_announced_before_its_difference() -> None:
    mirror = _mirror()
    mirror.replace(Snapshot(1, (_item("gone", 1),)))
    told: list[object] = []
    mirror.subscribe("", lambda update: told.append(update.key), on_reset=told.append)

    mirror.replace(Snapshot(9, (_item("new", 8),)))

    assert told == [9, "gone", "new"]


def test_a_failing_subscriber_harms_neither_the_mirror_nor_the_others() -> None:
    mirror = _mirror()
    told: list[Update] = []

    def fail(_: Update) -> None:
        raise RuntimeError("broken")

    mirror.subscribe("", fail)
    mirror.subscribe("", told.append)

    with pytest.raises(ExceptionGroup):
        mirror.apply(Batch(1, (_put("a", 1),)))

    assert [update.key for update in told] == ["a"]
    assert mirror.revision == 1


def test_unsubscribed_means_silence() -> None:
    mirror = _mirror()
    told: list[Update] = []
    unsubscribe = mirror.subscribe("", told.append)
    unsubscribe()
    unsubscribe()

    mirror.apply(Batch(1, (_put("a", 1),)))

    assert told == []


def test_iterating_while_the_mirror_changes_skips_what_is_gone() -> None:
    mirror = _mirror()
    mirror.apply(Batch(1, (_put("m/1", 1), _put("m/2", 1), _put("m/3", 1))))

    found = mirror.under("m/")
    first = next(found).key
    mirror.apply(Batch(2, (Change("m/2", None, 2), _put("m/4", 2))))

    assert [first, *(held.key for held in found)] == ["m/1", "m/3"]


async def test_a_reader_waits_for_its_revision_and_no_longer() -> None:
    """P9."""
    mirror = _mirror()
    waiting = asyncio.create_task(mirror.wait_for(2, 10))
    await asyncio.sleep(0)
    mirror.apply(Batch(1, (_put("a", 1),)))
    await asyncio.sleep(0)
    assert not waiting.done()

    mirror.apply(Batch(2, ()))
    await waiting
    await mirror.wait_for(1, 0)
    with pytest.raises(TimeoutError):
        await mirror.wait_for(3, 0.01)
    assert mirror._waiters == []


def test_a_mirror_is_stale_until_somebody_vouches_for_it() -> None:
    mirror = _mirror()
    states = [(mirror.synced, mirror.stale_since)]

    mirror.replace(Snapshot(1, ()))
    states.append((mirror.synced, mirror.stale_since))
    mirror.mark_current()
    states.append((mirror.synced, mirror.stale_since))
    mirror.mark_stale(200.0)
    mirror.mark_stale(300.0)
    states.append((mirror.synced, mirror.stale_since))

    assert states == [(False, 100.0), (True, 100.0), (True, None), (True, 200.0)]
