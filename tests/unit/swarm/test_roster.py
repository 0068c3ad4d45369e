"""Which clusters there are, and how they are cut, always as the mirror has it."""

import pytest

from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.roster import Roster
from dragonfly.swarm.shards import ShardId
from tests.unit.store_model import StoreModel, Watch


class World:
    def __init__(self) -> None:
        self.store = StoreModel()
        self.mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)
        self.roster = Roster(self.mirror, 4)
        Watch(self.store, self.mirror)


@pytest.fixture
def world() -> World:
    return World()


def test_local_is_there_before_anybody_has_written_it(world: World) -> None:
    assert dict(world.roster) == {"local": 4}


async def test_clusters_come_change_and_go(world: World) -> None:
    key = keys.cluster("fra")
    await world.store.commit(Put(key, b'{"spec":{"shards":2,"sites":["fra1"]}}'))
    assert dict(world.roster) == {"fra": 2, "local": 4}
    assert world.roster.shards()[ShardId("fra", 1)] == ("fra1",)

    await world.store.commit(Put(key, b'{"spec":{"shards":2,"sites":["muc1"]}}'))
    assert world.roster.shards()[ShardId("fra", 1)] == ("muc1",)

    await world.store.commit(Delete(key))
    assert dict(world.roster) == {"local": 4}
    assert {shard.cluster for shard in world.roster.shards()} == {"local"}


async def test_one_that_cannot_be_read_is_left_out(world: World) -> None:
    await world.store.commit(Put(keys.cluster("fra"), b'{"spec":{"shards":"many"}}'))

    assert dict(world.roster) == {"local": 4}
