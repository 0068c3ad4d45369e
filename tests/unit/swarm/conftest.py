"""What the tests of the swarm's edge share."""

import pytest

from dragonfly.swarm import ownership
from tests.unit.store_model import StoreModel


@pytest.fixture
def store() -> StoreModel:
    return StoreModel()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_RETRY", 0.001)
