"""The checker can fail: with any one guard taken out, it finds a broken promise within a thousand histories."""

import pytest

from dragonfly.controllers.provisions import ProvisionRun
from tests.simulation.mutated_actions import compare_nothing
from tests.simulation.mutations import MUTATIONS, OVERTAKEN, Mutation
from tests.simulation.runs import outcomes
from tests.simulation.world import REFUSED

SEEDS = 1000


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(mutation, id=mutation.name, marks=[pytest.mark.slow] if mutation.is_rare else [])
        for mutation in MUTATIONS
    ],
)
def test_a_guard_that_is_taken_out_is_missed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.apply(monkeypatch)

    found = next((told for told in outcomes(range(SEEDS), mutation.profile) if told.violation), None)

    assert found is not None, f"{SEEDS} histories without a broken promise"
    assert found.violation is not None
    assert found.violation.promise in mutation.promises, found.violation


def test_an_exception_that_trying_again_heals_breaks_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is misspelt in a mutation would pass for a broken promise, and a bug that heals for none."""
    is_first = iter([True])
    real = ProvisionRun._is_vouched
    monkeypatch.setattr(ProvisionRun, "_is_vouched", lambda run: run.misspelt if next(is_first, False) else real(run))

    found = next(told for told in outcomes(range(SEEDS)) if told.violation)

    assert found.violation is not None
    assert found.violation.promise == "bug"
    assert "misspelt" in found.violation.words


def test_where_nothing_compares_the_policy_alone_stops_who_was_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: the same histories without it are found out by the mutation "nothing compares, and no policy"."""
    compare_nothing(monkeypatch)

    told = list(outcomes(range(100), OVERTAKEN))

    assert [outcome.violation for outcome in told if outcome.violation] == []
    assert sum(outcome.tried.get(REFUSED, 0) for outcome in told) > 0
