"""The model of etcd keeps the contract that real etcd keeps: the very same cases."""

from collections.abc import Awaitable, Callable

import pytest

from dragonfly.store.errors import NoSpace, Unavailable
from dragonfly.store.port import Store
from dragonfly.store.values import Put
from tests.contract.test_store import *  # noqa: F403 - every case, also those to come
from tests.contract.worlds import World
from tests.unit.store_model import StoreModel


class ModelWorld:
    def __init__(self) -> None:
        self._model = StoreModel()

    def store(self) -> Store:
        return self._model

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        for _ in range(100):
            if await condition():
                return
            self._model.pass_time(0.5)
        raise AssertionError(f"never: {what}")

    async def close(self) -> None:
        return


@pytest.fixture
def world() -> World:
    return ModelWorld()


@pytest.fixture
def store(world: World) -> Store:
    return world.store()


async def test_a_fault_happens_once_and_a_lost_answer_has_written() -> None:
    model = StoreModel()
    model.fail("unsent", "full", "lost answer")

    with pytest.raises(Unavailable) as unsent:
        await model.commit(Put("k", b"1"))
    with pytest.raises(NoSpace):
        await model.commit(Put("k", b"2"))
    assert (await model.read("k"))[0] is None
    with pytest.raises(Unavailable) as lost:
        await model.commit(Put("k", b"3"))

    item, _ = await model.read("k")
    assert item is not None
    assert item.value == b"3"
    assert not unsent.value.maybe_written
    assert lost.value.maybe_written
