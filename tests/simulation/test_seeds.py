"""Histories of many seeds: in each, whatever goes wrong, the promises P1 to P10 hold.

`SEEDS` and `FIRST` in the environment choose the seeds; a million are run by `make simulate SEEDS=1000000`. Of these
here `make check` tells every fifth row, and `make test` all.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.runs import outcomes, replay

SEEDS = int(os.environ.get("SEEDS", "5000"))
FIRST = int(os.environ.get("FIRST", "0"))
ROW = 50
SAMPLE = 5
"""Of so many rows one is quick: a seed says nothing about its history, so any of them are a fair sample."""

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=[pytest.mark.slow] if number % SAMPLE else [])
        for number, first in enumerate(range(FIRST, FIRST + SEEDS, ROW))
    ],
)
def test_the_promises_hold(first: int) -> None:
    for outcome in outcomes(range(first, min(first + ROW, FIRST + SEEDS))):
        if outcome.violation is not None:
            pytest.fail(f"{outcome.violation}\n{replay(outcome.seed)}\n{outcome.history.told()}", pytrace=False)


def test_a_seed_tells_the_same_history_in_every_process() -> None:
    """Even where sets of texts have another order."""
    script = (
        "from tests.simulation.bugs import be_quiet; from tests.simulation.runs import told; be_quiet();"
        "print(told(range(30)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(told) == 1
