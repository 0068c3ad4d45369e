"""Rufio and its BMCs as one actor, of version 0.25: part of Tinkerbell's one binary, and away when that is.

Modelled from what was read and measured of it: a Job whose machine cannot be found is left alone, one Task is made
after the other, a Job finds its Tasks by its name, the first that fails ends it, nothing is repeated, and what a BMC
says of its power is read when its Machine changes, not when a Job ends.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from dragonfly.kube.errors import KubeError
from dragonfly.kube.power import TASKS_OF, job_view
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, BMC_TASK, Object, Ref, Resource
from tests.simulation.apiserver import ApiServer, Write
from tests.simulation.loop import SimLoop
from tests.simulation.tinkerbell import BY, Tinkerbell


class Ran(NamedTuple):
    """An action that a BMC was given."""

    at: float
    job: str
    uid: str
    task: str


class Rufio:
    """Reacts to Jobs and to bmc Machines; `broken` are the machines whose BMC refuses everything."""

    def __init__(
        self, loop: SimLoop, server: ApiServer, random: Random, tinkerbell: Tinkerbell, namespace: str
    ) -> None:
        self._loop = loop
        self._server = server
        self._random = random
        self._tinkerbell = tinkerbell
        self._namespace = namespace
        self._power: dict[str, str] = {}
        self.broken: set[str] = set()
        self.on_ran: Callable[[Ran], None] = lambda _ran: None
        server.observe(self._seen)
        tinkerbell.on_start.append(self._start_again)

    def _start_again(self) -> None:
        for obj in self._server.all(BMC_JOB):
            self._look_later(obj["metadata"]["name"])

    def pick_up(self) -> None:
        """After the cluster was put back: a Task that had begun and is not over is looked after, not begun again."""
        for task in self._server.all(BMC_TASK):
            job = task["metadata"]["labels"][TASKS_OF]
            machine = self._machine_of(job)
            if machine and not _end_of(task):
                self._loop.call_later(self._random.random(), self._finish, job, task["metadata"]["name"], machine)

    def _machine_of(self, job: str) -> str:
        found = self._find(BMC_JOB, job)
        return str(found["spec"]["machineRef"]["name"]) if found else ""

    def _seen(self, write: Write) -> None:
        resource, _, name = write.key
        if write.after is None:
            return
        if resource == BMC_JOB:
            self._look_later(name)
        elif resource == BMC_MACHINE and write.by != BY:
            self._loop.call_later(0.02 + 0.3 * self._random.random(), self._contact, name)

    def _look_later(self, job: str) -> None:
        self._loop.call_later(0.005 + 0.1 * self._random.random(), self._reconcile, job)

    def _contact(self, machine: str) -> None:
        """Ask the BMC; a Job that waits for its machine is tried again as well."""
        if self._tinkerbell.is_down or self._find(BMC_MACHINE, machine) is None:
            return
        contactable = {"type": "Contactable", "status": "True"}
        self._write_status(
            BMC_MACHINE, machine, {"powerState": self._power.get(machine, "on"), "conditions": [contactable]}
        )
        self._start_again()

    def _reconcile(self, name: str) -> None:
        job = self._find(BMC_JOB, name)
        if job is None or self._tinkerbell.is_down or job_view(job).terminal:
            return
        if self._find(BMC_MACHINE, job["spec"]["machineRef"]["name"]) is None:
            return
        tasks = [obj for obj in self._server.all(BMC_TASK) if obj["metadata"]["labels"][TASKS_OF] == name]
        ends = [_end_of(task) for task in tasks]
        if "Failed" in ends:
            self._end(BMC_JOB, name, "Failed", "a task failed")
        elif "" in ends:
            return
        elif len(tasks) == len(job["spec"]["tasks"]):
            self._end(BMC_JOB, name, "Completed")
        else:
            self._begin(job, len(tasks))

    def _begin(self, job: Object, number: int) -> None:
        metadata = job["metadata"]
        name, machine = metadata["name"], job["spec"]["machineRef"]["name"]
        task = f"{name}-task-{number}"
        labels = {TASKS_OF: name}
        owner = {"apiVersion": BMC_JOB.api_version, "kind": BMC_JOB.kind, "name": name, "uid": metadata["uid"]}
        about = {"name": task, "namespace": self._namespace, "labels": labels, "ownerReferences": [owner]}
        spec = {"task": job["spec"]["tasks"][number]}
        made = {"apiVersion": BMC_TASK.api_version, "kind": BMC_TASK.kind, "metadata": about, "spec": spec}
        self._server.create(made, by=BY)
        self.on_ran(Ran(self._loop.time(), name, metadata["uid"], task))
        wanted = job["spec"]["tasks"][number].get("powerAction")
        if wanted and machine not in self.broken:
            self._power[machine] = "off" if wanted == "off" else "on"
        if not job.get("status"):
            self._write_status(BMC_JOB, name, {"conditions": [{"type": "Running", "status": "True"}]})
        self._loop.call_later(0.1 + 2 * self._random.random() ** 2, self._finish, name, task, machine)

    def _finish(self, job: str, task: str, machine: str) -> None:
        if self._tinkerbell.is_down:
            self._loop.call_later(1.0, self._finish, job, task, machine)
            return
        found = self._find(BMC_TASK, task)
        if found is None or _end_of(found):
            return
        failed = machine in self.broken
        self._end(BMC_TASK, task, "Failed" if failed else "Completed", "the BMC said no" if failed else "")
        self._look_later(job)

    def _end(self, resource: Resource, name: str, kind: str, message: str = "") -> None:
        running: Object = {"type": "Running", "status": "True"}
        self._write_status(
            resource, name, {"conditions": [running, {"type": kind, "status": "True", "message": message}]}
        )

    def _write_status(self, resource: Resource, name: str, status: Object) -> None:
        self._server.patch(Ref(resource, self._namespace, name), {"status": status}, subresource="status", by=BY)

    def _find(self, resource: Resource, name: str) -> Object | None:
        try:
            return self._server.get(Ref(resource, self._namespace, name))
        except KubeError:
            return None


def _end_of(task: Object) -> str:
    conditions = task.get("status", {}).get("conditions", ())
    return next((str(found["type"]) for found in conditions if found["type"] != "Running"), "")
