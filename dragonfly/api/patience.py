"""How long a stream waits for its client to take what is ready. Pure: the clock is an argument.

Only the time that the server waits counts, not what it needs itself. A client that has taken everything starts anew.
"""

from typing import Final

PATIENCE: Final = 30.0
"""Seconds that any client has."""

LONGEST: Final = 300.0
"""Seconds after which a client must have caught up, however much it takes: what came after the beginning of a snapshot
may be forgotten by then (docs/feed.md), and what it keeps in memory has to be let go."""

_PACE: Final = 16 * 1024
"""Bytes for which a client that takes them gets a second more."""


class Patience:
    """With one client, since it last had everything."""

    def __init__(self, seconds: float, longest: float) -> None:
        """Begin with a client that has everything.

        Args:
            seconds: to wait for one that takes nothing.
            longest: seconds to wait altogether.
        """
        self._seconds = seconds
        self._longest = longest
        self._waited = 0.0
        self._taken = 0
        self._since: float | None = None

    @property
    def is_tried(self) -> bool:
        """Whether something is ready that the client has not taken yet."""
        return self._since is not None

    def wait(self, now: float) -> None:
        """From now on the client is waited for."""
        self._since = now

    def taken(self, now: float, size: int) -> None:
        """The client has taken so many bytes; there may be more for it."""
        if self._since is not None:
            self._waited += now - self._since
        self._since = None
        self._taken += size

    def renew(self) -> None:
        """The client has everything."""
        self._waited, self._taken = 0.0, 0

    def is_over(self, now: float) -> bool:
        """Whether the client, which is waited for, has had its time."""
        if self._since is None:
            return False
        allowed = min(self._seconds + self._taken / _PACE, self._longest)
        return self._waited + now - self._since > allowed
