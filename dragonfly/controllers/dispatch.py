"""Tells each cluster's controller of the changes in etcd that concern its machines, and of no others.

A replica has one for all its clusters: were each of a hundred controllers told of everything, every change would be
looked at a hundred times, and whatever is learnt from provisions kept as often.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from dragonfly.controllers.eta import Durations
from dragonfly.controllers.queue import Priority
from dragonfly.model.machine import Machine
from dragonfly.model.provision import Provision
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror, Update

Wake: TypeAlias = Callable[[str, Priority], None]
"""Takes the name of a machine to look at."""


class Dispatch:
    """What there is of machines and provisions, by what controllers ask for."""

    def __init__(self, mirror: Mirror) -> None:
        """Follow `mirror` for as long as it is there."""
        self.durations = Durations()
        self._mirror = mirror
        self._by_agent: dict[str, str] = {}
        self._by_cluster: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """Names in the order of their coming: that of a set would be another one in each process."""
        self._wakes: dict[str, Wake] = {}
        for held in mirror.under(keys.MACHINES):
            if isinstance(held.object, Machine):
                self._add(held.object)
        for held in mirror.under(keys.PROVISIONS):
            if isinstance(held.object, Provision):
                self.durations.learn(held.object)
        mirror.subscribe(keys.MACHINES, self._machine_changed)
        mirror.subscribe(keys.PROVISIONS, self._provision_changed)
        mirror.subscribe(keys.ACTIVE, self._active_changed)
        mirror.subscribe(keys.POWER, self._power_changed)

    def follow(self, cluster: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` with the machines of a cluster as they change; returns the way to stop that."""
        self._wakes[cluster] = wake

        def stop() -> None:
            if self._wakes.get(cluster) is wake:
                del self._wakes[cluster]

        return stop

    def machines_of(self, cluster: str) -> Sequence[str]:
        """Return the names of the machines that are in a cluster, or were and may have left something behind."""
        return tuple(self._by_cluster.get(cluster, ()))

    def machine_of(self, agent: str) -> str | None:
        """Return the name of the machine whose agent has this id."""
        return self._by_agent.get(agent)

    def is_awaited(self, machine: str) -> bool:
        """Whether somebody waits for what becomes of the machine."""
        return self._mirror.get(keys.active(machine)) is not None or self._mirror.get(keys.power(machine)) is not None

    def priority(self, machine: str) -> Priority:
        """What somebody waits for goes first, in the order in which it comes up: what was begun is not overtaken."""
        return Priority.USER if self.is_awaited(machine) else Priority.EVENT

    def _machine_changed(self, update: Update) -> None:
        if update.previous is not None and isinstance(update.previous.object, Machine):
            self._remove(update.previous.object)
        if update.held is None:
            return
        if isinstance(update.held.object, Machine):
            self._add(update.held.object)
        self._wake(keys.name_in(update.key, keys.MACHINES), Priority.USER)

    def _provision_changed(self, update: Update) -> None:
        if update.held is not None and isinstance(update.held.object, Provision):
            self.durations.learn(update.held.object)
            name = update.held.object.spec.machine
            self._wake(name, self.priority(name))

    def _active_changed(self, update: Update) -> None:
        self._wake(keys.name_in(update.key, keys.ACTIVE), Priority.USER)

    def _power_changed(self, update: Update) -> None:
        self._wake(keys.name_in(update.key, keys.POWER), Priority.USER)

    def _wake(self, machine: str | None, priority: Priority) -> None:
        if not machine:
            return
        for wake in self._concerned(machine):
            wake(machine, priority)

    def _concerned(self, machine: str) -> list[Wake]:
        """Who may have something of the machine: anybody, if its record is gone or cannot be read."""
        held = self._mirror.get(keys.machine(machine))
        if held is None or not isinstance(held.object, Machine):
            return list(self._wakes.values())
        return [self._wakes[cluster] for cluster in _clusters_of(held.object) if cluster in self._wakes]

    def _add(self, machine: Machine) -> None:
        self._by_agent[machine.agent_id] = machine.name
        for cluster in _clusters_of(machine):
            self._by_cluster[cluster][machine.name] = None

    def _remove(self, machine: Machine) -> None:
        self._by_agent.pop(machine.agent_id, None)
        for cluster in _clusters_of(machine):
            self._by_cluster[cluster].pop(machine.name, None)


def _clusters_of(machine: Machine) -> Iterator[str]:
    yield machine.spec.cluster
    yield from (cluster for cluster in machine.formerly if cluster != machine.spec.cluster)
