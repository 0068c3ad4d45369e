"""What this replica has seen of a cluster's objects: warm copies of every type that the controllers work with.

Every replica that reaches the cluster keeps them, owner or not, so that taking over needs no LIST.
"""

import asyncio
import random as randomness
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import structlog

from dragonfly.kube.errors import KubeError
from dragonfly.kube.pacing import Backoff
from dragonfly.kube.port import Kube
from dragonfly.kube.reflector import Reflector, without_managed_fields
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, HARDWARE, TEMPLATE, WORKFLOW, Object, Resource
from dragonfly.kube.tinkerbell import MACHINE, MANAGED_BY, MANAGER, WorkflowView, is_staged, workflow_view

_log = structlog.get_logger(__name__)

_PROBE = 2.0
"""Seconds between two calls that prove the API server alive: a quiet watch says nothing for two minutes."""

_LOST = Backoff(first=_PROBE, most=10.0)
"""The same once it counts as unreachable."""

_BEAT = 0.5
"""Seconds between two signs that this process itself runs."""

_LATE = 1.0
"""Seconds without one, beyond that, after which it counts as having been stopped. A cluster is put back in no less."""

_AWAY = 6.0
"""Seconds without an answer, or with a watch that keeps failing, after which the cluster counts as unreachable. With
the moments until somebody looks and tells, and an alert's, that stays within the 10 s of P6."""


class Copy(Protocol):
    """One resource type by name, as `Reflector` keeps it."""

    store: dict[str, Object]
    synced: asyncio.Event
    trouble: KubeError | None
    troubled_at: float | None

    @property
    def resource(self) -> Resource: ...
    def observe(self, obj: Object) -> None: ...
    def doubt(self) -> None: ...
    async def run(self) -> None: ...


class Twins:
    """The Tinkerbell side of one cluster's machines."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        on_change: Callable[[str], None],
        clock: Callable[[], float],
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """Make them, not yet followed.

        Args:
            kube: the cluster.
            namespace: Tinkerbell's.
            on_change: called with the name of a machine of which something changed, or with an agent's id where the
                changed Workflow names no machine.
            clock: monotonic seconds.
            random: chance for the pauses between tries.
        """
        self._kube = kube
        self._on_change = on_change
        self._clock = clock
        self._random = random
        self._answered_at = float("-inf")
        self._back_at = float("inf")
        self._silence = "the API server has not answered yet"
        self._by_machine: dict[str, set[str]] = {}
        self._jobs: dict[str, set[str]] = {}
        self._armed: set[str] = set()
        self._waiting: set[str] = set()
        self._beating: asyncio.TimerHandle | None = None
        ours = f"{MANAGED_BY}={MANAGER}"
        slim = without_managed_fields
        reflector = partial(Reflector, kube, namespace=namespace, slim=slim, clock=clock, random=random)
        self.hardware: Copy = reflector(HARDWARE, on_change=self._named)
        self.workflows: Copy = reflector(WORKFLOW, on_change=self._workflow)
        self.templates: Copy = reflector(TEMPLATE, label_selector=ours)
        self.bmcs: Copy = reflector(BMC_MACHINE, on_change=self._named)
        self.jobs: Copy = reflector(BMC_JOB, label_selector=ours, on_change=self._job)

    @property
    def copies(self) -> Iterable[Copy]:
        return (self.hardware, self.workflows, self.templates, self.bmcs, self.jobs)

    @property
    def reachable(self) -> bool:
        """Whether every copy has been made and is kept current, and the API server answered lately."""
        return not self.trouble

    @property
    def reached_for(self) -> float:
        """Seconds since the API server answered for the first time, or again after it had been away; 0 before."""
        return max(self._clock() - self._back_at, 0.0)

    @property
    def is_awaited(self) -> bool:
        """Whether a machine waits for the cluster to be reached."""
        return bool(self._waiting)

    def wake_once_reached(self, machine: str) -> None:
        """Tell the machine as changed as soon as the cluster is reachable."""
        self._waiting.add(machine)

    @property
    def trouble(self) -> str:
        """Why the cluster is not reachable, for people; empty while it is."""
        late = ""
        for copy in self.copies:
            is_late = not copy.synced.is_set()
            if copy.trouble is not None and (is_late or self._has_lasted(copy)):
                return f"{copy.resource.plural}: {copy.trouble.message}"
            if is_late:
                late = late or f"{copy.resource.plural}: not listed yet"
        return self._silence if self._clock() - self._answered_at >= _AWAY else late

    def _has_lasted(self, copy: Copy) -> bool:
        return copy.troubled_at is not None and self._clock() - copy.troubled_at >= _AWAY

    async def run(self) -> None:
        """Keep the copies current and ask the API server for signs of life, for ever.

        Whatever ends one part ends all: a copy that nobody keeps current any more would be believed.
        """
        self._beat(self._clock())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._probe(), name="probe")
                for copy in self.copies:
                    group.create_task(copy.run(), name=f"reflector {copy.resource.plural}")
        finally:
            if self._beating is not None:
                self._beating.cancel()

    def _beat(self, before: float) -> None:
        """Find out whether this process was stopped: what came meanwhile is taken in only now, as if it were new.

        A callback, not a task: it runs before whoever is woken by what has come.
        """
        now = self._clock()
        if now - before > _BEAT + _LATE:
            for copy in self.copies:
                copy.doubt()
        if self._waiting and self.reachable:
            waiting, self._waiting = sorted(self._waiting), set()
            for machine in waiting:
                self._on_change(machine)
        self._beating = asyncio.get_running_loop().call_later(_BEAT, self._beat, now)

    async def _probe(self) -> None:
        lost = _LOST
        while True:
            try:
                await self._kube.version()
            except KubeError as error:
                self._silence = error.message
                _log.debug("cluster.silent", error=error.message)
                if self._clock() - self._answered_at >= _AWAY:
                    await asyncio.sleep(lost.rest(self._random()))
                    lost = lost.worse()
                    continue
            else:
                lost = _LOST
                now = self._clock()
                if now - self._answered_at >= _AWAY:
                    self._back_at = now
                self._answered_at = now
                # The call that hangs next fails later than the cluster counts as unreachable.
                self._silence = "the API server does not answer"
            await asyncio.sleep(_PROBE)

    async def synced(self) -> None:
        """Return once every copy has had its first list."""
        for copy in self.copies:
            await copy.synced.wait()

    def workflow(self, name: str) -> WorkflowView | None:
        obj = self.workflows.store.get(name)
        return workflow_view(obj) if obj else None

    def workflows_of(self, machine: str, agent_id: str, *, but: str = "") -> list[WorkflowView]:
        """Return the Workflows of the machine: those labelled with it, and those that its agent would be served.

        Args:
            machine: by its name.
            agent_id: its agent's.
            but: the name of one that is not asked for.
        """
        names = (self._by_machine.get(machine, set()) | self._by_machine.get(agent_id, set())) - {but}
        return [workflow_view(obj) for name in sorted(names) if (obj := self.workflows.store.get(name))]

    def was_armed(self, uid: str) -> bool:
        """Whether a Workflow that is staged now was armed when last seen: a restored backup, or a foreign hand."""
        return uid in self._armed

    @property
    def mentioned(self) -> Iterable[str]:
        """The machines and agents of all Workflows."""
        return tuple(self._by_machine)

    def mentions(self, machine: str) -> bool:
        """Whether a Workflow is labelled with the machine, or is its agent's."""
        return machine in self._by_machine

    def knows(self, machine: str) -> bool:
        """Whether anything of Tinkerbell's is named after the machine, or labelled with it."""
        return machine in self.hardware.store or machine in self.bmcs.store or machine in self._by_machine

    def jobs_of(self, machine: str) -> list[Object]:
        """Return Dragonfly's Jobs for the machine's BMC."""
        return [obj for name in sorted(self._jobs.get(machine, ())) if (obj := self.jobs.store.get(name))]

    def _named(self, name: str, old: Object | None, new: Object | None) -> None:
        del old, new
        self._on_change(name)

    def _workflow(self, name: str, old: Object | None, new: Object | None) -> None:
        before = _machines_of(old) if old else set()
        after = _machines_of(new) if new else set()
        for key in before - after:
            self._by_machine[key].discard(name)
            if not self._by_machine[key]:
                del self._by_machine[key]
        for key in after - before:
            self._by_machine.setdefault(key, set()).add(name)
        if old and new and is_staged(new) and not is_staged(old):
            self._armed.add(new["metadata"]["uid"])
        for key in before | after:
            self._on_change(key)

    def _job(self, name: str, old: Object | None, new: Object | None) -> None:
        before, after = _machine_of(old), _machine_of(new)
        if before != after and before in self._jobs:
            self._jobs[before].discard(name)
            if not self._jobs[before]:
                del self._jobs[before]
        if after:
            self._jobs.setdefault(after, set()).add(name)
        for machine in {before, after} - {""}:
            self._on_change(machine)


def _machines_of(workflow: Object) -> set[str]:
    label = _machine_of(workflow)
    agent = workflow.get("status", {}).get("agentID")
    return {key for key in (label, agent) if key}


def _machine_of(obj: Object | None) -> str:
    """Return the machine that the object is labelled with; empty for none."""
    machine: str = obj["metadata"].get("labels", {}).get(MACHINE, "") if obj else ""
    return machine
