from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.sandbox.fate import Behaviour, Fate, Outcome, fate, first_trouble, within

names = st.text(min_size=1, max_size=30)


@given(seed=st.integers(), agent=names, action=names, attempt=st.integers(0, 99))
def test_a_fate_depends_on_nothing_but_its_arguments(seed: int, agent: str, action: str, attempt: int) -> None:
    behaviour = Behaviour(seed, fail_rate=0.3, silence_rate=0.3, shortest=1, longest=3)

    first, second = (fate(behaviour, agent, action, attempt) for _ in range(2))

    assert first == second
    assert 1 <= first.seconds <= 3


def test_a_fate_is_the_same_on_every_computer_and_in_every_version() -> None:
    """Recorded runs name a seed: it must mean the same next year."""
    behaviour = Behaviour(seed=42, fail_rate=0.5)

    fates = [fate(behaviour, "02:df:00:00:00:01", action) for action in ("one", "two", "three")]

    assert [(given.outcome.value, round(given.seconds, 6)) for given in fates] == [
        ("success", 0.64916),
        ("success", 0.262066),
        ("success", 0.604815),
    ]


def test_rates_are_shares_of_all_actions() -> None:
    behaviour = Behaviour(seed=1, fail_rate=0.2, timeout_rate=0.1, silence_rate=0.05)

    counted = Counter(fate(behaviour, f"agent-{number}", "install").outcome for number in range(20_000))

    assert counted[Outcome.FAILED] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert counted[Outcome.TIMEOUT] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counted[Outcome.SILENT] / 20_000 == pytest.approx(0.05, abs=0.01)


def test_another_seed_agent_action_or_attempt_is_another_draw() -> None:
    base = Behaviour(seed=1, shortest=0, longest=1)
    draws = {
        fate(base, "a", "x").seconds,
        fate(Behaviour(seed=2, shortest=0, longest=1), "a", "x").seconds,
        fate(base, "b", "x").seconds,
        fate(base, "a", "y").seconds,
        fate(base, "a", "x", attempt=1).seconds,
        fate(base, "ax", "").seconds,
    }

    assert len(draws) == 6


def test_without_rates_everything_succeeds() -> None:
    assert all(first_trouble(Behaviour(seed), "a", ["x", "y"]) is None for seed in range(200))


def test_the_first_trouble_is_the_one_that_a_workflow_ends_with() -> None:
    behaviour = Behaviour(seed=3, fail_rate=0.4)
    actions = [f"action-{number}" for number in range(30)]

    trouble = first_trouble(behaviour, "a", actions)

    assert trouble is not None
    before = actions[: actions.index(trouble[0])]
    assert all(fate(behaviour, "a", action).outcome is Outcome.SUCCESS for action in before)
    assert fate(behaviour, "a", trouble[0]).outcome is trouble[1] is Outcome.FAILED


@pytest.mark.parametrize(
    ("limit", "given", "expected"),
    [
        (60, Fate(Outcome.SUCCESS, 2), Fate(Outcome.SUCCESS, 2)),
        (1, Fate(Outcome.SUCCESS, 2), Fate(Outcome.TIMEOUT, 1)),
        (1, Fate(Outcome.FAILED, 2), Fate(Outcome.TIMEOUT, 1)),
        (0, Fate(Outcome.SUCCESS, 2), Fate(Outcome.TIMEOUT, 0)),
        (1, Fate(Outcome.SILENT, 2), Fate(Outcome.SILENT, 2)),
    ],
)
def test_an_action_ends_at_its_timeout_at_the_latest(limit: int, given: Fate, expected: Fate) -> None:
    assert within(limit, given) == expected


@pytest.mark.parametrize(
    "wrong",
    [{"fail_rate": -0.1}, {"fail_rate": 0.6, "silence_rate": 0.6}, {"shortest": 2.0, "longest": 1.0}, {"shortest": -1}],
)
def test_impossible_behaviour_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Behaviour(**wrong)  # type: ignore[arg-type] # not all of its fields are numbers
