"""Rufio 0.25 beside the model of an API server, a step at a time, so that a test decides what it does when."""

from typing import Any

from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, BMC_TASK, Object, Ref
from tests.unit.controllers.kube_model import KubeModel


class Rufio:
    """What it has done stands in `ran`: the name of each Task whose action a BMC got."""

    def __init__(self, kube: KubeModel, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self.ran: list[str] = []

    def reconcile(self) -> None:
        """Begin the first Task of every Job whose machine can be found, and that has none."""
        for name, job in self._kube.of(BMC_JOB).items():
            known = job["spec"]["machineRef"]["name"] in self._kube.of(BMC_MACHINE)
            if known and not self._tasks_of(name) and not job.get("status", {}).get("conditions"):
                task = f"{name}-task-0"
                self.ran.append(task)
                owner = {"kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
                metadata = {"labels": {"owner-name": name}, "ownerReferences": [owner]}
                ref = Ref(BMC_TASK, self._namespace, task)
                self._kube.put(ref, metadata={"name": task, "namespace": self._namespace, **metadata}, spec={})

    def completes(self, job: str) -> None:
        self.reconcile()
        self._end(job, {"type": "Completed", "status": "True"})

    def fails(self, job: str, words: str) -> None:
        self.reconcile()
        task = Ref(BMC_TASK, self._namespace, f"{job}-task-0")
        self._kube.put(task, status={"conditions": [{"type": "Failed", "status": "True", "message": words}]})
        self._end(job, {"type": "Failed", "status": "True", "message": f"task {task.namespace}/{task.name} failed"})

    def sees(self, machine: str, power: str, *, contactable: bool = True, message: str = "") -> None:
        condition = {"type": "Contactable", "status": str(contactable), "message": message}
        ref = Ref(BMC_MACHINE, self._namespace, machine)
        self._kube.put(ref, status={"powerState": power, "conditions": [condition]})

    def _tasks_of(self, job: str) -> list[str]:
        tasks = self._kube.of(BMC_TASK).items()
        return [name for name, task in tasks if task["metadata"]["labels"]["owner-name"] == job]

    def _end(self, job: str, condition: Object) -> None:
        conditions: list[Any] = [{"type": "Running", "status": "True"}, condition]
        self._kube.put(Ref(BMC_JOB, self._namespace, job), status={"conditions": conditions})
