"""The promises for power actions: at most once, never on a locked machine, never into an installation, always ended."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dragonfly.kube.power import job_view
from dragonfly.kube.resources import BMC_JOB, Object
from dragonfly.kube.tinkerbell import MACHINE
from dragonfly.model.machine import Machine
from dragonfly.model.power import HARMLESS, PowerRequest, PowerResult, job_name, let_go
from dragonfly.store import keys
from tests.simulation.etcd import EtcdServer
from tests.simulation.rufio import Ran


class PowerExcuses(NamedTuple):
    """What in the world may fail a power action, as it came about."""

    locked: set[str]
    """Machines that somebody tried to lock."""
    deleted_by_hand: set[str]
    """Objects."""
    clock_jumped: list[float]
    broken_bmcs: set[str]
    rewound: set[str]
    """Objects that a restored backup had in another state, or not at all."""


class PowerChecker:
    """Watches the power actions of one history."""

    def __init__(
        self,
        etcd: EtcdServer,
        machines: Mapping[str, Machine],
        excuses: PowerExcuses,
        broken: Callable[[str, str], None],
    ) -> None:
        self._etcd = etcd
        self._machines = machines
        self._excuses = excuses
        self._broken = broken
        self.keys: dict[str, str] = {}
        """The Idempotency-Key under which each power action was asked for, if it comes to that."""
        self.accepted: set[str] = set()
        """Keys that the API answered with 2xx."""
        self._requests: dict[str, PowerRequest] = {}
        self._results: dict[str, PowerResult] = {}
        self._ran: set[str] = set()

    def recorded(self, new: PowerRequest) -> None:
        old, machine = self._requests.get(new.name), self._machines[new.machine]
        if old is None and machine.spec.locked is not None:
            self._broken("P3", f"power action {new.name} was accepted while {machine.name} was locked")
        if new.name in self._results:
            self._broken("P1", f"power action {new.name} was changed after it had ended")
        again = [name for name in self._requests if name != new.name and self.keys[name] == self.keys[new.name]]
        if again:
            self._broken("P1", f"power action {new.name} is {again[0]} once more, under the same key")
        if new.arming is not None and (old is None or let_go(old).arming != let_go(new).arming):
            if machine.spec.locked is not None:
                self._broken("P3", f"arming of {new.name} was recorded after {machine.name} had been locked")
            if old is not None and old.arming is not None and old.arming.uid != new.arming.uid:
                self._broken("P1", f"power action {new.name} is to be armed a second time, as another Job")
        if _was_let_go(old) and not _was_let_go(new):
            self._broken("P1", f"power action {new.name} was let go, and is to be let go again")
        self._requests[new.name] = new

    def told(self, result: PowerResult | None) -> None:
        if result is None or self._results.get(result.name) == result:
            return
        if result.name in self._results:
            self._broken("P1", f"power action {result.name} ended twice: {self._results[result.name]}, {result}")
        self._results[result.name] = result
        if not result.succeeded:
            self._check_reason(result)

    def ran(self, ran: Ran) -> None:
        request = self.request_of(ran.job)
        if request is None:
            self._broken("P2", f"a BMC was given {ran.task}, and nobody has asked for it")
            return
        # Rufio goes on from what a backup has; nobody but Rufio looks at Tasks.
        if ran.task in self._ran and ran.task not in self._excuses.rewound:
            self._broken("P1", f"a BMC was given {ran.task} twice")
        self._ran.add(ran.task)
        if request.arming is None or request.arming.uid != ran.uid:
            self._broken("P1", f"a BMC was given {ran.task}, and its arming was not recorded")
        if request.name in self._results:
            self._broken("P1", f"a BMC was given {ran.task} after it had ended: {self._results[request.name].reason}")
        if request.action not in HARMLESS and self._etcd.item(keys.active(request.machine)) is not None:
            self._broken("P7", f"{request.action} was done to {request.machine} in the middle of an installation")

    def request_of(self, job: str) -> PowerRequest | None:
        return next((request for request in self._requests.values() if job_name(request.name) == job), None)

    def unfinished(self, kube_objects: Iterable[Object]) -> str:
        """What is not as it must be some time after the faults have ended, or nothing."""
        for name in self._requests:
            if name not in self._results:
                return f"P5: power action {name} has not ended"
        for obj in kube_objects:
            machine = obj["metadata"]["labels"].get(MACHINE, "") if obj["kind"] == BMC_JOB.kind else ""
            if machine and self._etcd.item(keys.machine(machine)) is not None:
                return f"P1: Job {obj['metadata']['name']} was not swept ({job_view(obj)})"
        return ""

    def lost(self) -> list[str]:
        """What was accepted and is not there."""
        return sorted(self.accepted - {self.keys[name] for name in self._requests})

    def _check_reason(self, result: PowerResult) -> None:
        """P7: what fails a power action is in the world, never in the swarm."""
        request, excuses = self._requests[result.name], self._excuses
        job = job_name(request.name)
        late, is_locked = bool(excuses.clock_jumped), request.machine in excuses.locked
        allowed = {
            "Failed": request.machine in excuses.broken_bmcs,
            # Withdrawn because of the lock, perhaps, and the answer lost.
            "JobGone": job in excuses.deleted_by_hand | excuses.rewound or is_locked or late,
            "JobRewound": job in excuses.rewound,
            "MachineLocked": is_locked,
            "Withdrawn": is_locked or late,
            "NotPrepared": late,
            "TimedOut": late,
        }
        if not allowed.get(result.reason, False):
            self._broken("P7", f"power action {result.name} has failed: {result.reason}: {result.message}")


def _was_let_go(request: PowerRequest | None) -> bool:
    return request is not None and request.arming is not None and request.arming.armed
