import pytest

from dragonfly.store import keys
from dragonfly.store.values import Put, Write
from tests.unit.feed.swarm_history import Etcd, machine


@pytest.fixture
def etcd() -> Etcd:
    return Etcd()


@pytest.fixture
def story() -> list[list[Write]]:
    """Transactions that create a machine and change it."""
    return [[Put(keys.machine("m-1"), machine("m-1", label=f"site-{number}"))] for number in range(5)]
