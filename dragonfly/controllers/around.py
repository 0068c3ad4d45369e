"""What a cluster's controller is given: which cluster, and what it takes from outside of it."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, Protocol

from dragonfly.controllers.power_steps import PowerLimits
from dragonfly.controllers.steps import Limits
from dragonfly.kube.events import Note
from dragonfly.model.machine import Machine
from dragonfly.model.provision import Provision


class Place(NamedTuple):
    """Which cluster a controller drives, and how."""

    name: str
    namespace: str
    shards: int
    workers: int = 16
    limits: Limits = Limits()
    power: PowerLimits = PowerLimits()


class Gauges(Protocol):
    """Told what a controller does, for /metrics."""

    def looked(self, cluster: str, waited: float, worked: float) -> None:
        """A machine was looked at, after so many seconds in the queue and for so many."""

    def retried(self, cluster: str) -> None:
        """A look failed and will be repeated."""

    def ended(self, provision: Provision) -> None:
        """This replica wrote a provision's result."""

    def refused(self, cluster: str) -> None:
        """The cluster's admission policy refused a write of this replica's."""

    def replaced(self, cluster: str) -> None:
        """This replica replaced an epoch of another history of etcd."""


class Around(NamedTuple):
    """What a controller takes from outside: time, chance, secrets, and who wants to know."""

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    unseal: Callable[[Machine], str]
    gauges: Gauges | None = None
    note: Callable[[Note], None] = lambda _: None
    """Takes what a kubectl user should see beside the objects."""
