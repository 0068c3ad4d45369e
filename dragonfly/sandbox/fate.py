"""What becomes of a simulated machine's action: decided by a seed, so that a test knows beforehand which must fail.

Pure. A fate depends on nothing that is only known at run time (no Workflow's name, no action's id, no order of events):
the same seed, agent, action and attempt have the same fate in every process, on every computer.
"""

import enum
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class Outcome(enum.StrEnum):
    """How an action ends. `SILENT`: it starts and is never heard of again, as when a machine hangs."""

    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    SILENT = "silent"


class Behaviour(msgspec.Struct, frozen=True):
    """How simulated machines behave. Rates are shares of all actions, from 0 to 1, and add up to 1 at most."""

    seed: int = 0
    fail_rate: float = 0.0
    timeout_rate: float = 0.0
    silence_rate: float = 0.0
    shortest: float = 0.2  # seconds of work
    longest: float = 1.0
    silence: float | None = None  # seconds until a silent machine is rebooted; None: never

    def __post_init__(self) -> None:
        rates = (self.fail_rate, self.timeout_rate, self.silence_rate)
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(f"rates must be at least 0 and add up to 1 at most, not {rates}")
        if not 0 <= self.shortest <= self.longest:
            raise ValueError(f"durations must be 0 <= shortest <= longest, not {self.shortest} and {self.longest}")


class Fate(NamedTuple):
    """What an action does: work for `seconds`, then end with `outcome`."""

    outcome: Outcome
    seconds: float


def fate(behaviour: Behaviour, agent: str, action: str, attempt: int = 0) -> Fate:
    """The fate of the action of this name on this machine.

    Args:
        attempt: how many Workflows with an action of this name the machine was given before.
    """
    key = "\0".join((str(behaviour.seed), agent, action, str(attempt)))
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    luck, effort = (int.from_bytes(half, "big") / 2**64 for half in (digest[:8], digest[8:]))
    seconds = behaviour.shortest + effort * (behaviour.longest - behaviour.shortest)
    return Fate(_outcome(behaviour, luck), seconds)


def within(limit: int, given: Fate) -> Fate:
    """The fate of an action that has a timeout of `limit` seconds, as tink-agent keeps it: 0 has run out already."""
    if given.outcome is not Outcome.SILENT and given.seconds > limit:
        return Fate(Outcome.TIMEOUT, float(limit))
    return given


def first_trouble(
    behaviour: Behaviour, agent: str, actions: Sequence[str], attempt: int = 0
) -> tuple[str, Outcome] | None:
    """The first of `actions` that does not succeed, and how it ends; None if all succeed."""
    for action in actions:
        outcome = fate(behaviour, agent, action, attempt).outcome
        if outcome is not Outcome.SUCCESS:
            return action, outcome
    return None


def _outcome(behaviour: Behaviour, luck: float) -> Outcome:
    for rate, outcome in (
        (behaviour.fail_rate, Outcome.FAILED),
        (behaviour.timeout_rate, Outcome.TIMEOUT),
        (behaviour.silence_rate, Outcome.SILENT),
    ):
        if luck < rate:
            return outcome
        luck -= rate
    return Outcome.SUCCESS
