"""Rows of histories, their faults counted; what a worker process does, and what tells a seed again."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from tests.simulation.faults import Profile
from tests.simulation.world import Outcome, run_seed


class Summary(NamedTuple):
    """What a row of seeds came to."""

    seeds: int
    broken: list[str]
    tried: Counter[str]
    seconds: float
    """Of virtual time."""


def replay(seed: int) -> str:
    """The command that tells a seed again."""
    return f"make simulate SEEDS=1 FIRST={seed}"


def told(seeds: Iterable[int]) -> str:
    """A fingerprint of the histories of `seeds`."""
    histories = "\n".join(run_seed(seed).history.told(1_000_000) for seed in seeds)
    return sha256(histories.encode()).hexdigest()


def outcomes(seeds: Iterable[int], profile: Profile | None = None) -> Iterator[Outcome]:
    """Tell the seeds one after the other.

    What a history leaves in cycles is collected after it and not in the middle: only what is new since the last one is
    looked at, however much else is in memory, and the next history gets the same memory while the caches have it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for seed in seeds:
            yield run_seed(seed, profile)
            gc.collect(0)
    finally:
        if was_enabled:
            gc.enable()


def run_row(seeds: Iterable[int]) -> Summary:
    count, seconds = 0, 0.0
    broken: list[str] = []
    tried: Counter[str] = Counter()
    for outcome in outcomes(seeds):
        count += 1
        seconds += outcome.seconds
        tried.update(outcome.tried)
        if outcome.violation:
            broken.append(f"{replay(outcome.seed)}  # {outcome.profile}: {outcome.violation}")
    return Summary(count, broken, tried, seconds)
