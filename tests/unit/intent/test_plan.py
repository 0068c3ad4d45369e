"""Intents against facts that were out of date: decided anew, refused only for what etcd confirms."""

from collections.abc import Sequence

import pytest

from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Plan, carry_out
from dragonfly.intent.refusals import Contended, NotFound, Unreadable
from dragonfly.model.provision import Active
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.store.values import Condition, Delete, Put, Unchanged, Write
from tests.unit.store_model import StoreModel, Watch

KEY = "settings/x"


@pytest.fixture
def store() -> StoreModel:
    return StoreModel()


@pytest.fixture
def mirror() -> Mirror:
    return Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)


@pytest.fixture
def watch(store: StoreModel, mirror: Mirror) -> Watch:
    return Watch(store, mirror)


def count_up(facts: Facts) -> Plan[int]:
    value = (facts.get(KEY, int) or 0) + 1
    return Plan(value, (Put(KEY, str(value).encode()),), (Unchanged(KEY, facts.revision_of(KEY)),))


def read(facts: Facts) -> Plan[int]:
    value = facts.get(KEY, int)
    if value is None:
        raise NotFound("Setting", "x")
    return Plan(value, revision=facts.revision_of(KEY))


async def test_a_decision_on_old_facts_is_made_anew_on_those_that_etcd_told(
    store: StoreModel, mirror: Mirror, watch: Watch
) -> None:
    watch.hold()
    for expected in range(1, 6):
        done = await carry_out(store, mirror, count_up)
        assert (done.outcome, done.revision) == (expected, store.revision)


async def test_a_refusal_counts_only_when_etcd_confirms_it(store: StoreModel, mirror: Mirror, watch: Watch) -> None:
    watch.hold()
    revision = await store.commit(Put(KEY, b"7"))

    assert await carry_out(store, mirror, read) == (7, revision)


async def test_a_confirmed_refusal_is_one(store: StoreModel, mirror: Mirror, watch: Watch) -> None:
    await store.commit(Put(KEY, b"7"))
    watch.hold()
    await store.commit(Delete(KEY))
    assert mirror.get(KEY) is not None
    facts = Facts(mirror)
    facts.learn([KEY], [None], store.revision)

    with pytest.raises(NotFound):
        read(facts)


async def test_facts_never_grow_older(store: StoreModel, mirror: Mirror, watch: Watch) -> None:
    facts = Facts(mirror)
    watch.hold()
    await store.commit(Put(KEY, b"1"))
    item, revision = await store.read(KEY)
    facts.learn([KEY], [item], revision)
    assert facts.get(KEY, int) == 1

    await store.commit(Put(KEY, b"2"))
    watch.go_on()

    assert facts.get(KEY, int) == 2, "the mirror has overtaken what was read"


async def test_somebody_who_is_always_faster_is_told_of_in_the_end(
    store: StoreModel, mirror: Mirror, watch: Watch
) -> None:
    class Racing(StoreModel):
        async def commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
            await store.commit(Put(KEY, b"0"))
            return await store.commit(*writes, given=given)

    with pytest.raises(Contended):
        await carry_out(Racing(), mirror, count_up)
    assert store.items()[KEY].value == b"0"


async def test_a_value_of_another_kind_is_told(store: StoreModel, mirror: Mirror, watch: Watch) -> None:
    await store.commit(Put(KEY, b'"text"'), Put("active/m-1", b"{"))

    with pytest.raises(Unreadable, match="settings/x"):
        await carry_out(store, mirror, count_up)
    with pytest.raises(Unreadable, match="active/m-1"):
        Facts(mirror).get("active/m-1", Active)
