"""Rufio's Job for a power action, built and read; and what Rufio says of a BMC. Pure.

A Job has no switch that holds it back, but Rufio 0.25 does nothing about one whose machine it cannot find (doReconcile
looks for it before anything else, and writes no status then). So a Job is created for a machine that cannot exist, a
name with a dot, and armed by naming the right one; and it is halted in the same way.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from dragonfly.kube.resources import BMC_JOB, Object
from dragonfly.kube.tinkerbell import EPOCH, MACHINE, MANAGED_BY, MANAGER
from dragonfly.model.machine import Machine
from dragonfly.model.power import PowerAction, PowerRequest, job_name

POWER: Final = "dragonfly.io/power"
LOOKED: Final = "dragonfly.io/looked"
"""On Rufio's Machine: after which Job Rufio was asked to look again. Any change makes it look."""

TASKS_OF: Final = "owner-name"
"""Rufio's label on a Task: the name of its Job."""

PowerState = Literal["on", "off", "unknown"]
JobState = Literal["", "Completed", "Failed"]

_STAGED: Final = "staged"
_HALTED: Final = "halted"


class JobView(NamedTuple):
    """What a Job says, of what a decision needs."""

    name: str
    uid: str
    resource_version: str
    request: str
    """Name of the power action that it belongs to; empty if it is not Dragonfly's."""
    staged: bool
    """Rufio has never done anything about it."""
    halted: bool
    """Rufio begins no further Task of it."""
    state: JobState
    message: str

    @property
    def terminal(self) -> bool:
        return self.state != ""


class BmcView(NamedTuple):
    """What Rufio says of a BMC."""

    power: PowerState
    contactable: bool | None
    """None while Rufio has not said."""
    message: str


def staged_job(request: PowerRequest, machine: Machine, namespace: str, *, epoch: int) -> Object:
    """Return the Job that Rufio does nothing about until it is armed."""
    return {
        "apiVersion": BMC_JOB.api_version,
        "kind": BMC_JOB.kind,
        "metadata": {
            "name": job_name(request.name),
            "namespace": namespace,
            "labels": {MANAGED_BY: MANAGER, MACHINE: machine.name, POWER: request.name},
            "annotations": {EPOCH: str(epoch)},
        },
        "spec": {
            "machineRef": {"name": f"{machine.name}.{_STAGED}", "namespace": namespace},
            "tasks": list(_tasks(request.action, efi=machine.spec.firmware == "uefi")),
        },
    }


def arming(machine: str) -> Object:
    """Return the patch that lets a staged Job run."""
    return {"spec": {"machineRef": {"name": machine}}}


def halting(machine: str) -> Object:
    """Return the patch after which Rufio begins nothing more; the Task that it is at goes on until it is deleted."""
    return {"spec": {"machineRef": {"name": f"{machine}.{_HALTED}"}}}


def looking(mark: str, *, epoch: int) -> Object:
    """Return the patch of Rufio's Machine that makes it ask the BMC again; after a Job it does not by itself."""
    return {"metadata": {"annotations": {LOOKED: mark, EPOCH: str(epoch)}}}


def looked(bmc_machine: Object) -> str:
    """Return the mark that the last `looking` left."""
    mark: str = bmc_machine["metadata"].get("annotations", {}).get(LOOKED, "")
    return mark


def owners_of(obj: Object) -> frozenset[str]:
    """Return the uids of the objects that this one was made for; of a Task, that of its Job."""
    return frozenset(str(owner["uid"]) for owner in obj["metadata"].get("ownerReferences", ()))


def job_view(obj: Object) -> JobView:
    """Read a Job. Its condition Running stays True for ever, so only the other two count."""
    metadata = obj["metadata"]
    labels = metadata.get("labels", {})
    _, _, mark = obj["spec"]["machineRef"]["name"].partition(".")
    conditions = _conditions(obj)
    state: JobState = ""
    if "Failed" in conditions:
        state = "Failed"
    elif "Completed" in conditions:
        state = "Completed"
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        request=labels.get(POWER, "") if labels.get(MANAGED_BY) == MANAGER else "",
        staged=mark == _STAGED,
        halted=mark == _HALTED,
        state=state,
        message=conditions.get("Failed", ""),
    )


def failure_of(tasks: Iterable[Object]) -> str:
    """Return the BMC's words, which are on the Tasks: the Job only says which of them failed."""
    failed = (_conditions(task).get("Failed", "") for task in tasks)
    return "; ".join(words for words in failed if words)


def bmc_view(obj: Object | None) -> BmcView:
    status: Mapping[str, Any] = (obj or {}).get("status", {})
    for condition in status.get("conditions", ()):
        if condition.get("type") == "Contactable":
            contactable = condition.get("status") == "True"
            return BmcView(status.get("powerState") or "unknown", contactable, condition.get("message", ""))
    return BmcView(status.get("powerState") or "unknown", None, "")


def _tasks(action: PowerAction, *, efi: bool) -> Iterable[Object]:
    if action != "pxe":
        yield {"powerAction": action}
        return
    yield {"powerAction": "off"}
    yield {"bootDevice": {"device": "pxe", "efiBoot": efi}}
    yield {"powerAction": "on"}


def _conditions(obj: Object) -> dict[str, str]:
    """Return the messages of the conditions that are true, by type."""
    conditions = obj.get("status", {}).get("conditions", ())
    return {found["type"]: found.get("message", "") for found in conditions if found.get("status") == "True"}
