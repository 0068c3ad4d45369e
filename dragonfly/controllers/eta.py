"""How long a template takes, from the provisions that succeeded with it. Pure.

The median of the last runs: one slow disk among them moves it little.
"""

from collections import deque
from datetime import datetime, timedelta
from statistics import median

from dragonfly.model.provision import Provision

_RUNS = 20


class Durations:
    """Seconds that the last successful runs of each template took on the machine."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}

    def learn(self, provision: Provision) -> None:
        """Take note of a provision, if it succeeded."""
        status = provision.status
        if status.phase != "Succeeded" or status.running_at is None or status.finished_at is None:
            return
        runs = self._seconds.setdefault(provision.spec.template, deque(maxlen=_RUNS))
        runs.append((status.finished_at - status.running_at).total_seconds())

    def eta(self, template: str, running_at: datetime) -> datetime | None:
        """Return when a run that began at `running_at` should be over; None where nothing is known."""
        runs = self._seconds.get(template)
        return running_at + timedelta(seconds=median(runs)) if runs else None
