"""P6: since when a shard has had no owner, as one replica sees it."""

from datetime import UTC, datetime, timedelta

from dragonfly.model.swarm import Claim, Member
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.shards import ShardId, shards_of
from dragonfly.swarm.vacancies import Vacancies, why_unowned
from tests.unit.store_model import StoreModel, Watch

BORN = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, SECOND = shards_of("fra", 2)


def claim(shard: ShardId) -> Put:
    return Put(keys.claim(*shard), encode(Claim(owner="a")))


async def test_the_time_is_that_of_the_loss_whoever_asks_when() -> None:
    store = StoreModel()
    mirror = Mirror(decode, clock=lambda: store.now, on_undecodable=lambda *_: None)
    vacancies = Vacancies(
        mirror, lambda: (FIRST, SECOND), clock=lambda: store.now, now=lambda: BORN + timedelta(seconds=store.now)
    )
    assert vacancies.look() == {}, "nothing was read yet"
    await store.commit(claim(FIRST))
    store.now = 10
    Watch(store, mirror)
    store.now = 20
    await store.commit(Delete(keys.claim(*FIRST)))
    store.now = 30

    assert {shard: found.at for shard, found in vacancies.look().items()} == {FIRST: 20, SECOND: 10}
    assert vacancies.look()[FIRST].since == BORN + timedelta(seconds=20)
    await store.commit(claim(SECOND))
    assert set(vacancies.look()) == {FIRST}


async def test_claims_that_change_together_are_looked_at_once() -> None:
    store = StoreModel()
    mirror = Mirror(decode, clock=lambda: store.now, on_undecodable=lambda *_: None)
    looks: list[float] = []

    def now() -> datetime:
        looks.append(store.now)
        return BORN

    vacancies = Vacancies(mirror, lambda: (FIRST, SECOND), clock=lambda: store.now, now=now)
    Watch(store, mirror)
    looks.clear()
    await store.commit(claim(FIRST), claim(SECOND))
    assert len(looks) == 1
    assert vacancies.look() == {}
    await store.commit(Delete(keys.claim(*FIRST)), Delete(keys.claim(*SECOND)))

    assert len(looks) == 3
    assert set(vacancies.look()) == {FIRST, SECOND}


def test_what_a_shard_waits_for() -> None:
    driver = Member(id="a", version="1", address="x", started=BORN)
    observer = Member(id="o", version="1", address="x", started=BORN, observes=True)

    assert why_unowned(FIRST, (), []) == "no replica is registered"
    assert why_unowned(FIRST, (), [observer]) == "all registered replicas only observe"
    assert why_unowned(FIRST, (), [driver, observer]) == "no live replica reaches cluster fra"
    assert why_unowned(FIRST, ("b", "a"), [driver]) == "waits for replica b to claim it"
