"""Whether this replica reaches a cluster: since when not, and why, as it tells the others in its member."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

_REST: Final = timedelta(seconds=30)
"""The reason is part of the member in etcd: one whose words change all the time must not be written all the time."""

_SOON: Final = timedelta(seconds=1)
"""The same while it is new: the first words are that it was not asked yet."""

_LOOK: Final = 0.5
"""Seconds between two looks at all clusters."""

_GLANCE: Final = 0.1
"""The same while one is new, or has just been lost."""

_NEWS: Final = timedelta(minutes=1)
"""For how long that is so: a cluster of another site is out of reach for ever, and nobody waits for it."""


def until_next_look(lost: Iterable[datetime], now: datetime) -> float:
    """Return the seconds after which to look again whether clusters are reached.

    Args:
        lost: since when each is not that is not reached.
        now: the time.
    """
    return _GLANCE if any(now - since < _NEWS for since in lost) else _LOOK


class Reach:
    """One cluster as this replica finds it."""

    def __init__(self, trouble: Callable[[], str], now: Callable[[], datetime], since: datetime | None = None) -> None:
        """Begin as one that was not reached yet.

        Args:
            trouble: why the cluster is not reached at this moment, for people; empty while it is.
            now: the time, in UTC.
            since: when this replica might have reached it first; now if None.
        """
        self._trouble = trouble
        self._now = now
        self._since: datetime | None = since or now()
        self._reason = trouble()
        self._told_at = self._since
        self._new_until = now() + _REST if since is not None else None

    @property
    def since(self) -> datetime | None:
        """Since when it is not reached, as `look` found it; None while it is."""
        return self._since

    @property
    def reason(self) -> str:
        """Why it is not reached; empty while it is."""
        return self._reason

    def look(self) -> bool:
        """Look, and return whether the cluster is reached now."""
        trouble = self._trouble()
        if not trouble:
            self._since, self._reason = None, ""
            return True
        if self._since is None:
            self._since = self._told_at = self._now()
            self._reason = trouble
        elif trouble != self._reason and self._is_rested():
            self._told_at = self._now()
            self._reason = trouble
        return False

    def _is_rested(self) -> bool:
        now = self._now()
        is_new = self._new_until is not None and now < self._new_until
        return not self._reason or now - self._told_at >= (_SOON if is_new else _REST)
