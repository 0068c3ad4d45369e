"""Spreads replicas over the hosts: the surplus starts again, one after the other, as their disruption budget allows.

It is no failure if that can't be: they serve where they are, so what keeps them there is told and left. But each that
was sent away is waited for.
"""

import functools
from collections.abc import Callable
from typing import Protocol

from dragonfly.install.execution import StepFailed
from dragonfly.install.spread import Spread
from dragonfly.install.steps import SpreadReplicas


class Placer(Protocol):
    """What knows where replicas are, and sends them away."""

    def spread(self, namespace: str, name: str) -> Spread:
        """Return how they are spread.

        Raises:
            StepFailed: nobody answers.
        """

    def evict(self, namespace: str, name: str) -> str:
        """Have a pod go, and return why it may not yet; empty if it goes, or is gone.

        Raises:
            StepFailed: it can't be, or nobody answers.
        """


def spread(
    placer: Placer, action: SpreadReplicas, wait: Callable[[Callable[[], str]], None], say: Callable[[str], None]
) -> None:
    """Have one after the other start again, as long as that spreads them better.

    Args:
        wait: waits until there is no problem left, and raises StepFailed if that takes too long.

    Raises:
        StepFailed: a replica that was sent away does not come back, or nobody answers.
    """
    last: list[int] = []
    while (found := placer.spread(action.namespace, action.name)).surplus:
        counts = sorted(found.counts.values(), reverse=True)
        told = ", ".join(f"{host} {count}" for host, count in sorted(found.counts.items()))
        if last and counts >= last:
            say(f"left so, for Kubernetes puts them there again: {told}")
            return
        say(f"replicas are on {told}; {found.surplus} starts again elsewhere")
        try:
            wait(functools.partial(_unless_silent, functools.partial(placer.evict, action.namespace, found.surplus)))
        except StepFailed as error:
            say(f"left so, for {found.surplus} may not go: {error}")
            return
        wait(lambda: _unless_silent(lambda: placer.spread(action.namespace, action.name).problem))
        last = counts


def _unless_silent(look: Callable[[], str]) -> str:
    try:
        return look()
    except StepFailed as error:
        return str(error)
