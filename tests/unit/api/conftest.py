from collections.abc import AsyncIterator

import pytest

from tests.unit.api.replicas import Replica, World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for replica in world.replicas:
        await replica.inquiry.stop()
        await replica.http.aclose()


@pytest.fixture
def replica(world: World) -> Replica:
    return world.replica()
