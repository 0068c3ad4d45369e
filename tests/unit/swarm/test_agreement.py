"""Replicas that are set up otherwise than the swarm must not work."""

import pytest

from dragonfly.store import keys
from dragonfly.swarm.agreement import Disagreement, agree_on_shards
from tests.unit.store_model import StoreModel


async def test_the_first_replica_says_how_many_shards_there_are() -> None:
    store = StoreModel()

    await agree_on_shards(store, "local", 8)
    revision = store.revision
    await agree_on_shards(store, "local", 8)

    assert keys.cluster("local") in store.items()
    assert store.revision == revision


async def test_a_replica_with_another_number_is_told_which_one_to_set() -> None:
    """m-17 is in shard 4 of 8 and in shard 12 of 16: two claims would drive it."""
    store = StoreModel()
    await agree_on_shards(store, "local", 8)

    with pytest.raises(Disagreement, match="set DRAGONFLY_SHARDS=8"):
        await agree_on_shards(store, "local", 16)
