"""Which endpoint to ask: the one that answered last, until it fails.

Pure but for a lock: times are passed in. An endpoint that failed is put in quarantine for a while; when all are, the
one that has been there longest is asked, so a swarm never stops asking.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

E = TypeVar("E")


class Endpoints(Generic[E]):
    """Safe to use from several threads."""

    def __init__(self, endpoints: tuple[E, ...], *, quarantine: float) -> None:
        """Prefer the first.

        Raises:
            ValueError: there is none.
        """
        if not endpoints:
            raise ValueError("at least one etcd endpoint is needed")
        self.all = endpoints
        self._quarantine = quarantine
        self._failed_at: dict[int, float] = {}
        self._current = 0
        self._lock = threading.Lock()

    def pick(self, now: float) -> E:
        """The endpoint to ask now."""
        with self._lock:
            self._current = min(self._in_turn(), key=lambda index: self._held_until(index, now))
            return self.all[self._current]

    def failed(self, endpoint: E, now: float) -> None:
        """`endpoint` gave no good answer at `now`."""
        with self._lock:
            self._failed_at[self.all.index(endpoint)] = now

    def _in_turn(self) -> list[int]:
        count = len(self.all)
        return [(self._current + step) % count for step in range(count)]

    def _held_until(self, index: int, now: float) -> float:
        """When the quarantine ends; 0 for all that are not in it, so that the order of turns decides between those."""
        until = self._failed_at.get(index, float("-inf")) + self._quarantine
        return until if until > now else 0.0
