"""Histories of one provision that a seed makes up: who does what next, with how much trouble."""

from random import Random
from typing import Final

from tests.unit.controllers.provision_parts import Mutation
from tests.unit.controllers.provision_world import World


def simulate(seed: int, mutation: Mutation = Mutation(), length: int = 120) -> World:  # noqa: B008 - a value
    """Run one random history and then to its end; raises `Broken`."""
    random = Random(seed)
    world = World(mutation)
    # Most histories have few kinds of trouble in them: what happens often must not hide what lies deep.
    weights = [weight * random.choice((1, 1, 2)) for weight in _WEIGHTS]
    weights[_TROUBLE:] = [weight * random.choice((0, 0, 0, 1, 2)) for weight in _WEIGHTS[_TROUBLE:]]
    for _ in range(length):
        (act,) = random.choices(_ACTS, weights)
        act(world, random)
    world.run_to_the_end()
    for _ in range(20):
        # The world goes on after the end.
        (act,) = random.choices(_ACTS, weights)
        act(world, random)
    return world


def _look(world: World, random: Random) -> bool:
    return world.look(random.choice("ab"), random.choice((0, 0, 1, 3)), random.choice((0, 0, 1, 4)))


_TABLE: Final = (
    (8, _look),
    (14, lambda world, random: world.decide(random.choice("ab"))),
    (14, lambda world, random: world.execute(random.choice("ab"))),
    (6, lambda world, _: world.tink_controller()),
    (6, lambda world, _: world.agent_asks()),
    (4, lambda world, _: world.agent_begins()),
    (4, lambda world, random: world.agent_ends(well=random.random() < 0.9)),
    (1, lambda world, random: world.move_claim(random.choice("ab"))),
    (2, lambda world, _: world.tink_times_out()),
    (1, lambda world, _: world.cancel()),
    (1, lambda world, random: world.lock(locked=random.random() < 0.5)),
    (1, lambda world, _: world.delete_by_hand()),
    (1, lambda world, random: world.replace_by_hand(disabled=random.random() < 0.5)),
    (1, lambda world, random: world.restore(random.choice((1, 2, 4, 8)))),
    (2, lambda world, random: world.pass_time(random.choice((0.1, 1, 50, 250)))),
)
_TROUBLE: Final = 7
"""The acts from here on are trouble: failovers, time-outs, people."""
_WEIGHTS: Final = [weight for weight, _ in _TABLE]
_ACTS: Final = [act for _, act in _TABLE]
