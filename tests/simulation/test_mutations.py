"""The checker can fail: with any one guard taken out, it finds a broken promise within a thousand histories."""

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runs import outcomes

SEEDS = 1000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_guard_that_is_taken_out_is_missed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.apply(monkeypatch)

    found = next((told for told in outcomes(range(SEEDS), mutation.profile) if told.violation), None)

    assert found is not None, f"{SEEDS} histories without a broken promise"
    assert found.violation is not None
    assert found.violation.promise in mutation.promises, found.violation
