"""The power loop: carries out the steps of `power_steps` under the claim's fence, and shows what Rufio says of a BMC.

What a power action leaves in the cluster is removed some seconds after its end, Tasks first: Rufio finds them by the
Job's name, and where no garbage collector runs they would stay.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
import structlog

from dragonfly.controllers.conditions import with_condition
from dragonfly.controllers.fence import Fence, Precondition, precondition_of
from dragonfly.controllers.power_steps import (
    ArmJob,
    AskForJob,
    CreateJob,
    Finish,
    HaltJob,
    Pause,
    PowerLimits,
    PowerSeen,
    PowerStep,
    ReadFailure,
    RecordJobArmed,
    RecordJobArming,
    WithdrawJob,
    next_power_step,
)
from dragonfly.controllers.twins import Twins
from dragonfly.kube.errors import AlreadyExists, Conflict, Invalid, NotFound
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.power import (
    TASKS_OF,
    JobView,
    arming,
    bmc_view,
    failure_of,
    halting,
    job_view,
    looked,
    looking,
    owners_of,
    staged_job,
)
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, BMC_TASK, Object, Ref
from dragonfly.kube.tinkerbell import is_managed
from dragonfly.model.machine import Condition, Machine, Observed
from dragonfly.model.power import JobArming, PowerRequest, PowerResult, job_name, let_go
from dragonfly.model.provision import Active
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import encode
from dragonfly.store.values import Absent, Delete, Put, Unchanged
from dragonfly.store.values import Condition as Given

_log = structlog.get_logger(__name__)

BMC_REACHABLE: Final = "BmcReachable"
POWER_ACTION: Final = "PowerAction"

_STEPS: Final = 20
"""More than any power action needs in one look."""


class PowerStuck(Exception):
    """A power action made no progress in many steps: a bug."""


class PowerRecords(NamedTuple):
    """What the mirror holds of a machine and its power action."""

    machine: Machine
    machine_revision: int
    request: PowerRequest | None
    request_revision: int
    observed: Observed
    observed_revision: int
    provision: str
    """The machine's running provision; empty if there is none."""


def power_records(mirror: Mirror, machine: Machine, revision: int) -> PowerRecords:
    """Read what there is; `revision` is the machine's mod_revision."""
    request = mirror.get(keys.power(machine.name))
    observed = mirror.get(keys.observed(machine.name))
    active = mirror.get(keys.active(machine.name))
    return PowerRecords(
        machine=machine,
        machine_revision=revision,
        request=request.object if request and isinstance(request.object, PowerRequest) else None,
        request_revision=request.mod_revision if request else 0,
        observed=observed.object if observed and isinstance(observed.object, Observed) else Observed(),
        observed_revision=observed.mod_revision if observed else 0,
        provision=active.object.provision if active and isinstance(active.object, Active) else "",
    )


class PowerPlace(NamedTuple):
    """What a power action needs of the cluster that it runs in."""

    cluster: str
    namespace: str
    twins: Twins
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    note: Callable[[Note], None]
    limits: PowerLimits = PowerLimits()


class PowerRun:
    """One look at one machine's power action, and at what earlier ones have left."""

    def __init__(self, place: PowerPlace, fence: Fence, records: PowerRecords) -> None:
        self._place = place
        self._fence = fence
        self._records = records
        self._machine = records.machine
        found = map(job_view, place.twins.jobs_of(records.machine.name))
        self._jobs = {job.name: job for job in found if job.request and job.name == job_name(job.request)}
        self._asked = False
        self._vouched_at = -math.inf
        """When, by the monotonic clock, etcd was asked whether anything stands against arming."""
        self._withdrawn = False
        self._failure: str | None = None
        self._rejected = ""
        self.written = 0
        """The revision of this run's last write to etcd, 0 if it made none."""

    async def run(self) -> float | None:
        """Do what can be done now; return the seconds after which to look again, None for not before a change.

        Raises:
            NotOwner: the claim is gone.
            KubeError, StoreError: look again after a back-off.
        """
        request = self._records.request
        if request is None:
            return await self._clear()
        self._request, self._revision = request, self._records.request_revision
        self._job = self._jobs.pop(job_name(request.name), None)
        await self._stop_others()
        for _ in range(_STEPS):
            step = next_power_step(self._seen(), self._place.limits)
            if isinstance(step, Pause):
                return step.seconds
            await self._do(step)
            if isinstance(step, Finish):
                return 0.0
        raise PowerStuck(f"{request.name} on {self._machine.name}")

    async def remove_all(self) -> None:
        """Remove every Job of the machine's now: it is being deleted, and nobody will look after them later."""
        for job in self._jobs.values():
            await self._remove(job)

    def _seen(self) -> PowerSeen:
        live = self._place.twins.bmcs.store.get(self._machine.name)
        return PowerSeen(
            request=self._request,
            machine=self._machine,
            provision=self._records.provision,
            bmc_known=live is not None and is_managed(live),
            job=self._job,
            asked=self._asked,
            vouched=self._is_vouched(),
            withdrawn=self._withdrawn,
            failure=self._failure,
            rejected=self._rejected,
            now=self._place.now(),
        )

    def _is_vouched(self) -> bool:
        return self._place.monotonic() - self._vouched_at < self._place.limits.vouched

    async def _do(self, step: PowerStep) -> None:
        match step:
            case AskForJob():
                await self._ask()
            case CreateJob():
                await self._create()
            case RecordJobArming(job):
                await self._record_arming(job)
            case ArmJob(job):
                if await self._patch(job, arming(self._machine.name), still=self._is_vouched):
                    self._tell("power.armed")
            case RecordJobArmed():
                await self._record_armed()
            case HaltJob(job):
                await self._patch(job, halting(self._machine.name))
            case WithdrawJob(job):
                await self._withdraw(job)
            case ReadFailure(job):
                self._failure = failure_of(await self._tasks(job.name))
            case Finish():
                await self._finish(step)
            case Pause():
                return

    async def _ask(self) -> None:
        try:
            self._take(await self._fence.get(self._ref(job_name(self._request.name))))
        except NotFound:
            self._job = None
        self._asked = True

    async def _create(self) -> None:
        obj = staged_job(self._request, self._machine, self._place.namespace, epoch=self._fence.epoch)
        try:
            self._take(await self._fence.create(obj))
        except AlreadyExists:
            await self._ask()
        except Invalid as error:
            self._rejected = error.message

    async def _record_arming(self, job: JobView) -> None:
        now, asked_at = self._place.now(), self._place.monotonic()
        armed = JobArming(uid=job.uid, resource_version=job.resource_version, epoch=self._fence.epoch, at=now)
        request = msgspec.structs.replace(self._request, phase="Running", arming=armed)
        key = keys.power(self._machine.name)
        # A lock is written to the machine, not to the request: without this one could slip in between (P3).
        given: list[Given] = [
            Unchanged(key, self._revision),
            Unchanged(keys.machine(self._machine.name), self._records.machine_revision),
        ]
        if not self._records.provision:
            given.append(Absent(keys.active(self._machine.name)))
        self.written = await self._fence.commit(Put(key, encode(request)), given=given)
        self._request, self._revision = request, self.written
        self._vouched_at = asked_at

    async def _record_armed(self) -> None:
        request, key = let_go(self._request), keys.power(self._machine.name)
        self.written = await self._fence.commit(Put(key, encode(request)), given=[Unchanged(key, self._revision)])
        self._request, self._revision = request, self.written

    async def _patch(self, job: JobView, body: Object, *, still: Callable[[], bool] = lambda: True) -> bool:
        """Patch the very Job that the step was decided from; if it is another by now, look at it and say False."""
        try:
            obj = await self._fence.patch(self._ref(job.name), body, given=_as_seen(job), still=still)
        except (Conflict, NotFound):
            await self._ask()
            return False
        self._take(obj)
        return True

    async def _withdraw(self, job: JobView) -> None:
        try:
            await self._fence.delete(self._ref(job.name), given=_as_seen(job))
        except (Conflict, NotFound):
            await self._ask()
            return
        self._job, self._withdrawn = None, True

    async def _finish(self, step: Finish) -> None:
        """Write the result and free the machine, in one transaction."""
        now, name, request = self._place.now(), self._machine.name, self._request
        result = PowerResult(
            name=request.name,
            action=request.action,
            succeeded=step.succeeded,
            reason=step.reason,
            message=step.message,
            requested_by=request.requested_by,
            finished_at=now,
        )
        condition = Condition(
            type=POWER_ACTION,
            status="True" if step.succeeded else "False",
            reason=step.reason,
            message=f"{request.action}: {step.message}",
            since=now,
        )
        conditions = with_condition(self._records.observed.conditions, condition)
        observed = msgspec.structs.replace(
            self._records.observed, last_power_action=result, conditions=conditions, observed_at=now
        )
        self.written = await self._fence.commit(
            Delete(keys.power(name)),
            Put(keys.observed(name), encode(observed)),
            given=[
                Unchanged(keys.power(name), self._revision),
                Unchanged(keys.observed(name), self._records.observed_revision),
            ],
        )
        self._tell("power.ended", succeeded=step.succeeded, reason=step.reason)
        self._note(result)

    def _note(self, result: PowerResult) -> None:
        hardware = self._place.twins.hardware.store.get(self._machine.name)
        if hardware is None:
            return
        kind: Literal["Normal", "Warning"] = "Normal" if result.succeeded else "Warning"
        reason = "PowerActionCompleted" if result.succeeded else "PowerActionFailed"
        self._place.note(Note(Subject.of(hardware), kind, reason, f"{result.action}: {result.message}"))

    async def _stop_others(self) -> None:
        """Have Rufio begin nothing of earlier actions: they have ended, whatever a cluster that was put back says."""
        for job in self._jobs.values():
            if not job.staged and not _is_over(job):
                await self._halt(job)

    async def _halt(self, job: JobView) -> None:
        halted = await self._fence.patch(self._ref(job.name), halting(self._machine.name), given=_as_seen(job))
        self._place.twins.jobs.observe(halted)

    async def _clear(self) -> float | None:
        """Remove what no request needs any more; return when to look again."""
        waits = [wait for job in self._jobs.values() if (wait := await self._dispose(job)) is not None]
        return min(waits, default=None)

    async def _dispose(self, job: JobView) -> float | None:
        if job.staged:
            await self._remove(job)
            return None
        if not _is_over(job):
            await self._halt(job)
            return None
        left = self._place.limits.settle - self._seconds_since_end(job.request)
        await self._look_again(job.request if left > 0 else f"{job.request}.settled")
        if left > 0:
            return left
        await self._remove(job)
        return None

    def _seconds_since_end(self, request: str) -> float:
        last = self._records.observed.last_power_action
        if last is None or last.name != request:
            return float("inf")
        return (self._place.now() - last.finished_at).total_seconds()

    async def _look_again(self, mark: str) -> None:
        """Have Rufio ask the BMC: after a Job it would do so only at its next interval, half an hour by default."""
        name, bmcs = self._machine.name, self._place.twins.bmcs
        live = bmcs.store.get(name)
        if live is None or not is_managed(live) or looked(live) == mark:
            return
        ref = Ref(BMC_MACHINE, self._place.namespace, name)
        body = looking(mark, epoch=self._fence.epoch)
        try:
            bmcs.observe(await self._fence.patch(ref, body, given=precondition_of(live)))
        except Conflict:
            bmcs.observe(await self._fence.get(ref))
            raise

    async def _remove(self, job: JobView) -> None:
        """Delete the Tasks, then the Job, which is what tells that there may be some.

        A staged one the other way round: should it have been armed since, by an owner that this replica does not know
        of yet, then it is another Job than was seen, and Rufio would do again what a Task is missing for.
        """
        if job.staged:
            await self._delete(self._ref(job.name), _as_seen(job))
            await self._delete_tasks(job)
        else:
            await self._delete_tasks(job)
            await self._delete(self._ref(job.name), _as_seen(job))
        _log.info("power.job_removed", machine=self._machine.name, job=job.name, state=job.state or "staged")

    async def _delete_tasks(self, job: JobView) -> None:
        """Those that Rufio made for this very Job; another of its name may be running."""
        for task in await self._tasks(job.name):
            if job.uid in owners_of(task):
                ref = Ref(BMC_TASK, self._place.namespace, task["metadata"]["name"])
                await self._delete(ref, precondition_of(task))

    async def _delete(self, ref: Ref, given: Precondition) -> None:
        try:
            await self._fence.delete(ref, given=given)
        except NotFound:
            return

    async def _tasks(self, job: str) -> list[Object]:
        listed = await self._fence.list(BMC_TASK, self._place.namespace, label_selector=f"{TASKS_OF}={job}")
        return listed.items

    def _take(self, obj: Object) -> None:
        self._place.twins.jobs.observe(obj)
        self._job = job_view(obj)

    def _ref(self, job: str) -> Ref:
        return Ref(BMC_JOB, self._place.namespace, job)

    def _tell(self, event: str, **details: object) -> None:
        _log.info(
            event,
            machine=self._machine.name,
            request=self._request.name,
            action=self._request.action,
            cluster=self._place.cluster,
            epoch=self._fence.epoch,
            **details,
        )


def with_bmc(observed: Observed, live: Object | None, now: datetime) -> Observed:
    """Return what is observed with what Rufio says of the BMC now; the very same where it says nothing new."""
    view = bmc_view(live)
    conditions = tuple(found for found in observed.conditions if found.type != BMC_REACHABLE)
    if view.contactable is not None:
        reachable = Condition(
            type=BMC_REACHABLE,
            status="True" if view.contactable else "False",
            reason="Contactable" if view.contactable else "NotContactable",
            message=view.message,
            since=now,
        )
        conditions = with_condition(observed.conditions, reachable)
    return msgspec.structs.replace(observed, power=view.power, conditions=conditions)


def _as_seen(job: JobView) -> Precondition:
    return Precondition(job.uid, job.resource_version)


def _is_over(job: JobView) -> bool:
    return job.terminal or job.halted
