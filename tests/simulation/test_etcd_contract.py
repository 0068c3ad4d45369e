"""The simulator's etcd, behind its network, keeps the contract that real etcd keeps: the very same cases."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from dragonfly.store.port import Store
from tests.contract.test_store import *  # noqa: F403 - every case, also those to come
from tests.contract.waiting import until_async
from tests.contract.worlds import World
from tests.simulation.etcd import EtcdClient, EtcdServer
from tests.simulation.loop import Process
from tests.simulation.wire import Chances, Wire

pytestmark = pytest.mark.virtual_time


class SimulatedWorld:
    """On asyncio's own loop, in virtual time: nothing goes wrong, and everything takes some milliseconds."""

    def __init__(self) -> None:
        loop, random = asyncio.get_running_loop(), Random(0)
        self._wire = Wire(loop, random, Chances())
        self._server = EtcdServer(loop, random)

    def store(self) -> Store:
        return EtcdClient(self._server, self._wire, Process("one"), "test")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        await until_async(condition, what)

    async def close(self) -> None:
        return


@pytest.fixture
async def world() -> World:
    return SimulatedWorld()


@pytest.fixture
def store(world: World) -> Store:
    return world.store()
