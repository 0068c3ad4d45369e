"""The provision loop: carries out the steps of `steps`, one after the other, under the claim's fence.

What was written is used at once, not read back from the mirror or the cache, which may lag behind this replica itself.
"""

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import structlog

from dragonfly.controllers.conditions import synced, with_condition
from dragonfly.controllers.eta import Durations
from dragonfly.controllers.fence import Fence, Precondition, precondition_of, together
from dragonfly.controllers.hardware import Blocked, HardwareLoop
from dragonfly.controllers.rewound import is_rewound
from dragonfly.controllers.steps import (
    Arm,
    AskAbout,
    AskForWorkflow,
    CreateWorkflow,
    End,
    EnsureHardware,
    EnsureSecret,
    EnsureTemplate,
    HaltWorkflow,
    Limits,
    Record,
    RecordArming,
    RemoveWorkflow,
    Seen,
    StageAndOpen,
    Start,
    Step,
    Stop,
    Wait,
    next_step,
)
from dragonfly.controllers.twins import Twins
from dragonfly.kube.errors import AlreadyExists, Conflict, Invalid, NotFound
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.resources import TEMPLATE, WORKFLOW, Object, Ref
from dragonfly.kube.tinkerbell import (
    WorkflowView,
    halting,
    is_managed,
    staged_workflow,
    template_name,
    template_object,
    workflow_view,
)
from dragonfly.model.machine import InstalledOs, Machine, Observed
from dragonfly.model.provision import (
    Active,
    Arming,
    Problem,
    Provision,
    Stopping,
    WorkflowRef,
    advanced,
    ended,
    seen_armed,
    summary_of,
    workflow_name,
)
from dragonfly.store import keys
from dragonfly.store.records import encode
from dragonfly.store.values import Delete, Put, Unchanged

_log = structlog.get_logger(__name__)

_STEPS = 40
"""More than any provision needs in one look; a bug that goes round in circles ends here and backs off."""


class StuckError(Exception):
    """A provision made no progress in many steps: a bug."""


class Records(NamedTuple):
    """What the mirror holds of a machine's running provision."""

    machine: Machine
    machine_revision: int
    """Its mod_revision."""
    active: Active
    provision: Provision
    revision: int
    """The provision's mod_revision."""
    observed: Observed | None
    observed_revision: int


class Cluster(NamedTuple):
    """What a provision needs of the cluster that it runs in."""

    name: str
    namespace: str
    twins: Twins
    hardware: HardwareLoop
    limits: Limits
    durations: Durations
    staged: dict[str, float]
    """When, by the monotonic clock, this replica first saw a Workflow that is not armed yet, by name."""
    troubles: dict[str, str]
    """Why this replica's last look at a machine failed, by the machine's name."""
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    on_duty: Callable[[str], float]
    """For how many seconds this replica has had a machine's shard and reached the cluster."""
    known: Callable[[str, str], Provision | None]
    """What etcd has of a machine's provision of that name."""
    ended: Callable[[Provision], None]
    """Told of each result that this replica wrote."""
    note: Callable[[Note], None]
    """Takes what a kubectl user should see."""


class ProvisionRun:
    """One look at one provision: as many steps as can be done now."""

    def __init__(self, cluster: Cluster, fence: Fence, records: Records) -> None:
        self._cluster = cluster
        self._fence = fence
        self._machine = records.machine
        self._machine_revision = records.machine_revision
        self._template = records.active.template
        self._provision = records.provision
        self._revision = records.revision
        self._observed = records.observed or Observed()
        self._observed_revision = records.observed_revision
        self._name = workflow_name(records.provision.name)
        self._ref = Ref(WORKFLOW, cluster.namespace, self._name)
        self._workflow = cluster.twins.workflow(self._name)
        self._asked = False
        self._secret_ready = not cluster.hardware.has_secret(records.machine)
        self._removed: set[str] = set()
        self._unserved: set[str] = set()
        """Removed in this run, which proves that they never ran (`steps.removable`)."""
        self._confirmed: set[str] = set()
        self._vouched_at = -math.inf
        """When, by the monotonic clock, etcd was asked whether anything stands against arming."""
        self.written = 0
        """The revision of this run's last write to etcd, 0 if it made none."""

    async def run(self) -> float | None:
        """Do what can be done now; return the seconds after which to look again, None for not before a change.

        Raises:
            NotOwner: the claim is gone.
            KubeError, StoreError: look again after a back-off.
        """
        for _ in range(_STEPS):
            seen = self._seen()
            step = next_step(seen, self._cluster.limits)
            if isinstance(step, Wait):
                if not seen.reachable:
                    self._cluster.twins.wake_once_reached(self._machine.name)
                return step.seconds
            await self._do(step)
        raise StuckError(f"{self._provision.name} on {self._machine.name}")

    @property
    def over(self) -> bool:
        """Whether the provision has its result."""
        return self._provision.ended

    def _seen(self) -> Seen:
        provision, hardware = self._provision, self._cluster.hardware
        # What only the preparation asks for is not computed for each report of a machine that runs.
        is_armed = provision.arming is not None
        is_prepared = is_armed and not (self._workflow is not None and self._workflow.rendering_error)
        others = self._others()
        return Seen(
            reachable=self._cluster.twins.reachable,
            last_trouble=self._cluster.troubles.get(self._machine.name, ""),
            provision=provision,
            machine=self._machine,
            global_timeout=self._template.global_timeout,
            raw=bool(self._template.raw),
            workflow=self._workflow,
            asked=self._asked,
            seen_armed=self._seen_armed(),
            others=others,
            confirmed=frozenset(self._confirmed),
            past=self._past(others),
            hardware_ready=is_prepared or hardware.ready(self._machine, netboot_for=provision.name),
            hardware_known=is_armed or hardware.known(self._machine),
            secret_ready=self._secret_ready,
            template_ready=is_prepared or self._is_template_ready(),
            on_duty=self._cluster.on_duty(self._machine.name),
            vouched=self._is_vouched(),
            lost="" if is_armed else self._lost(others),
            staged_for=self._staged_for(),
            now=self._cluster.now(),
        )

    def _is_vouched(self) -> bool:
        return self._cluster.monotonic() - self._vouched_at < self._cluster.limits.vouched

    def _lost(self, others: Iterable[WorkflowView]) -> str:
        """Return what the cluster knows to have been asked for later, and etcd does not: etcd was put back (P2).

        Names are ULIDs, which tell when they were made. By them alone a clock that is wrong would stop what is right.
        """
        hardware, mine = self._cluster.hardware.last_opened_for(self._machine), self._provision.name
        named = {hardware, *(other.provision for other in others)}
        last = self._observed.last_provision
        known = {mine, last.name if last is not None else ""}
        later = (name for name in named - known if name > mine and not self._cluster.known(self._machine.name, name))
        return max(later, default="")

    def _past(self, others: Iterable[WorkflowView]) -> frozenset[str]:
        """The uids of the other Workflows whose provision has its result."""
        ours = (other for other in others if other.machine and other.provision)
        records = ((other.uid, self._cluster.known(other.machine, other.provision)) for other in ours)
        return frozenset(uid for uid, found in records if found is not None and found.ended)

    def _others(self) -> tuple[WorkflowView, ...]:
        found = self._cluster.twins.workflows_of(self._machine.name, self._machine.agent_id, but=self._name)
        return tuple(other for other in found if other.uid not in self._removed)

    def _seen_armed(self) -> bool:
        return self._workflow is not None and self._cluster.twins.was_armed(self._workflow.uid)

    def _staged_for(self) -> float:
        """Count a predecessor's staged Workflow from now: how long Tinkerbell has had it nobody tells."""
        if self._workflow is None or not self._workflow.staged:
            return float("inf")
        now = self._cluster.monotonic()
        return now - self._cluster.staged.setdefault(self._name, now)

    @property
    def _template_name(self) -> str:
        return template_name(self._provision.spec.template, self._provision.spec.template_revision)

    async def _do(self, step: Step) -> None:
        try:
            await self._dispatch(step)
        except Invalid as error:
            await self._reject(Problem("Rejected", f"The cluster refused it: {error.message}"))
        except Blocked as blocked:
            await self._reject(Problem(blocked.reason, blocked.message))

    async def _dispatch(self, step: Step) -> None:  # noqa: PLR0912 - one line for each step
        match step:
            case Start():
                await self._start()
            case EnsureTemplate():
                await self._ensure_template()
            case EnsureHardware():
                await self._open()
            case EnsureSecret():
                await self._cluster.hardware.ensure_secret(self._fence, self._machine)
                self._secret_ready = True
            case AskForWorkflow():
                await self._ask()
            case AskAbout(workflow):
                await self._ask_about(workflow)
            case RemoveWorkflow(workflow):
                await self._remove(workflow)
            case CreateWorkflow():
                await self._create()
            case StageAndOpen():
                await together(self._create(), self._open())
            case RecordArming(workflow):
                await self._record_arming(workflow)
            case Arm(workflow):
                await self._arm(workflow)
            case HaltWorkflow(workflow):
                await (self._halt if workflow.name == self._name else self._halt_other)(workflow)
            case Record(changes):
                await self._record(changes)
            case Stop(phase, error):
                await self._put(msgspec.structs.replace(self._provision, stopping=Stopping(phase=phase, error=error)))
                self._tell("provision.stopping", phase=phase, reason=error.reason)
            case End():
                await self._end(step)
            case Wait():
                return

    async def _start(self) -> None:
        cluster, now = self._cluster, self._cluster.now()
        ref = WorkflowRef(cluster=cluster.name, namespace=cluster.namespace, name=self._name)
        await self._put(advanced(self._provision, now, phase="Starting", started_at=now, workflow=ref))
        self._tell("provision.starting")

    @cached_property
    def _template_object(self) -> Object:
        return template_object(self._template_name, self._template, self._cluster.namespace, epoch=self._fence.epoch)

    def _is_template_ready(self) -> bool:
        live = self._cluster.twins.templates.store.get(self._template_name)
        return live is not None and bool(live["spec"] == self._template_object["spec"])

    async def _ensure_template(self) -> None:
        obj = self._template_object
        try:
            made = await self._fence.create(obj)
        except AlreadyExists:
            made = await self._fence.get(Ref(TEMPLATE, self._cluster.namespace, self._template_name))
            if made["spec"] != obj["spec"]:
                made = await self._set_right(made, obj)
        self._cluster.twins.templates.observe(made)

    async def _set_right(self, found: Object, obj: Object) -> Object:
        """Write a Template that another version of Dragonfly, or a foreign hand, made otherwise."""
        if not is_managed(found):
            message = f"There is a Template {self._template_name} that is not Dragonfly's. It was not touched."
            raise Blocked("ForeignObject", message)
        return await self._fence.apply(obj, given=precondition_of(found), force=True)

    async def _open(self) -> None:
        await self._cluster.hardware.ensure(self._fence, self._machine, netboot_for=self._provision.name)

    async def _create(self) -> None:
        epoch, namespace = self._fence.epoch, self._cluster.namespace
        obj = staged_workflow(self._provision, self._machine, self._template, namespace, epoch=epoch)
        try:
            self._take(await self._fence.create(obj))
        except AlreadyExists:
            await self._ask()
            return
        self._tell("provision.staged")

    async def _record_arming(self, workflow: WorkflowView) -> None:
        asked_at, now, former = self._cluster.monotonic(), self._cluster.now(), self._provision.arming
        arming = Arming(
            uid=workflow.uid,
            resource_version=workflow.resource_version,
            epoch=self._fence.epoch,
            # How long the machine has had to begin does not start anew.
            at=former.at if former is not None and former.uid == workflow.uid else now,
        )
        cluster = self._cluster
        ref = WorkflowRef(cluster=cluster.name, namespace=cluster.namespace, name=self._name, uid=workflow.uid)
        provision = advanced(self._provision, now, workflow=ref)
        # A lock is written to the machine, not to the provision: without this one could slip in between (P3).
        unlocked = Unchanged(keys.machine(self._machine.name), self._machine_revision)
        await self._put(msgspec.structs.replace(provision, arming=arming), unlocked)
        self._vouched_at = asked_at

    async def _arm(self, workflow: WorkflowView) -> None:
        if await self._patch(workflow, {"spec": {"disabled": False}}, still=self._is_vouched):
            self._cluster.staged.pop(self._name, None)
            self._tell("provision.armed")

    async def _halt(self, workflow: WorkflowView) -> None:
        if await self._patch(workflow, halting(workflow), subresource="status"):
            self._tell("provision.halted")

    async def _halt_other(self, other: WorkflowView) -> None:
        """Take a Workflow of an earlier provision from its agent; if it is another by now, look at it."""
        ref = Ref(WORKFLOW, self._cluster.namespace, other.name)
        try:
            obj = await self._fence.patch(ref, halting(other), given=_as_seen(other), subresource="status")
        except (Conflict, NotFound):
            await self._ask_about(other)
            return
        self._cluster.twins.workflows.observe(obj)
        _log.warning("workflow.of_the_past", machine=self._machine.name, workflow=other.name, state=other.state)

    async def _patch(
        self,
        workflow: WorkflowView,
        body: dict[str, Any],
        *,
        subresource: str = "",
        still: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Patch the very Workflow that the step was decided from; if it is another by now, look at it and say False."""
        given = _as_seen(workflow)
        try:
            obj = await self._fence.patch(self._ref, body, given=given, subresource=subresource, still=still)
        except (Conflict, NotFound):
            await self._ask()
            return False
        self._take(obj)
        return True

    async def _remove(self, workflow: WorkflowView) -> None:
        if workflow.provision:
            _log.debug("workflow.removed", machine=self._machine.name, workflow=workflow.name, state=workflow.state)
        else:
            self._tell_of_foreign(workflow)
        try:
            await self._fence.delete(Ref(WORKFLOW, self._cluster.namespace, workflow.name), given=_as_seen(workflow))
        except Conflict:
            # The cache is behind: look at what became of it, and decide again.
            if workflow.name == self._name:
                await self._ask()
            else:
                await self._ask_about(workflow)
            return
        except NotFound:
            _log.debug("workflow.gone_already", workflow=workflow.name)
        else:
            if not is_rewound(self._provision, workflow, seen_armed=self._seen_armed()):
                self._unserved.add(workflow.uid)
        if workflow.name == self._name:
            self._workflow, self._asked = None, True
        self._removed.add(workflow.uid)

    def _tell_of_foreign(self, workflow: WorkflowView) -> None:
        """Tell that a Workflow of somebody else's is about to go: what it says is kept nowhere else."""
        _log.warning(
            "workflow.foreign_removed", machine=self._machine.name, workflow=workflow.name, state=workflow.state
        )
        hardware = self._cluster.twins.hardware.store.get(self._machine.name)
        if hardware is None:
            return
        message = (
            f"Workflow {workflow.name} of this machine, which is not Dragonfly's, had ended with {workflow.state}. "
            f"It was removed, because Tinkerbell would serve it instead of {self._name}."
        )
        self._cluster.note(Note(Subject.of(hardware), "Warning", "ForeignWorkflowRemoved", message))

    async def _record(self, changes: dict[str, Any]) -> None:
        if running_at := changes.get("running_at"):
            changes = {**changes, "eta": self._cluster.durations.eta(self._provision.spec.template, running_at)}
        await self._put(seen_armed(advanced(self._provision, self._cluster.now(), **changes)))
        if "phase" in changes:
            self._tell("provision.running")

    async def _reject(self, problem: Problem) -> None:
        if self._provision.stopping is not None or self._provision.status.phase == "Pending":
            raise StuckError(f"{problem.reason}: {problem.message}")
        await self._put(msgspec.structs.replace(self._provision, stopping=Stopping(phase="Failed", error=problem)))
        self._tell("provision.rejected", reason=problem.reason)

    async def _end(self, end: End) -> None:
        """Write the result, free the machine, and set the latch of what is installed, in one transaction."""
        now, machine = self._cluster.now(), self._machine.name
        provision = ended(self._provision, now, end.phase, end.error, **end.changes)
        observed = msgspec.structs.replace(
            self._observed,
            os=_installed(provision, now, before=None if self._has_begun() else self._observed.os),
            last_provision=summary_of(provision),
            conditions=with_condition(self._observed.conditions, synced(now)),
            observed_at=now,
        )
        self.written = await self._fence.commit(
            Put(keys.provision(machine, provision.name), encode(provision)),
            Put(keys.observed(machine), encode(observed)),
            Delete(keys.active(machine)),
            given=[
                Unchanged(keys.provision(machine, provision.name), self._revision),
                Unchanged(keys.observed(machine), self._observed_revision),
            ],
        )
        self._provision, self._revision = provision, self.written
        self._cluster.staged.pop(self._name, None)
        self._cluster.ended(provision)
        self._tell("provision.ended", phase=end.phase, reason=end.error.reason if end.error else "")

    def _has_begun(self) -> bool:
        """Whether the machine has begun to replace what was on it, or may have; nobody need have seen it run."""
        provision, workflow = self._provision, self._workflow
        if provision.status.running_at is not None:
            return True
        if provision.arming is None or provision.arming.uid in self._unserved:
            return False
        return workflow is None or workflow.uid != provision.arming.uid or workflow.served

    async def _put(self, provision: Provision, *more: Unchanged) -> None:
        key = keys.provision(self._machine.name, provision.name)
        given = [Unchanged(key, self._revision), *more]
        self.written = await self._fence.commit(Put(key, encode(provision)), given=given)
        self._provision, self._revision = provision, self.written

    async def _ask(self) -> None:
        self._workflow = await self._ask_for(self._name)
        self._asked = True

    async def _ask_about(self, other: WorkflowView) -> None:
        found = await self._ask_for(other.name)
        if found is None or found.uid != other.uid:
            self._removed.add(other.uid)
        if found is not None:
            self._confirmed.add(found.uid)

    async def _ask_for(self, name: str) -> WorkflowView | None:
        try:
            obj = await self._fence.get(Ref(WORKFLOW, self._cluster.namespace, name))
        except NotFound:
            return None
        self._cluster.twins.workflows.observe(obj)
        return workflow_view(obj)

    def _take(self, obj: Object) -> None:
        self._cluster.twins.workflows.observe(obj)
        self._workflow = workflow_view(obj)

    def _tell(self, event: str, **details: object) -> None:
        _log.info(
            event,
            machine=self._machine.name,
            provision=self._provision.name,
            cluster=self._cluster.name,
            epoch=self._fence.epoch,
            **details,
        )


def _as_seen(workflow: WorkflowView) -> Precondition:
    return Precondition(workflow.uid, workflow.resource_version)


def _installed(provision: Provision, now: datetime, *, before: InstalledOs | None) -> InstalledOs | None:
    spec = provision.spec
    if provision.status.phase != "Succeeded":
        return before
    return InstalledOs(
        template=spec.template, revision=spec.template_revision, installed_at=now, provision=provision.name
    )
