"""Where processes of the sandbox run: on this computer's loopback, or in a network namespace of their own."""

from typing import NamedTuple

from dragonfly.sandbox.ports import LOOPBACK


class Host(NamedTuple):
    """A place for processes that serve."""

    address: str = LOOPBACK
    """What other hosts reach it at."""
    seen_at: str = LOOPBACK
    """What this process reaches it at."""
    enter: tuple[str, ...] = ()
    """What stands before a command to have it run there."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.address, self.seen_at)))
