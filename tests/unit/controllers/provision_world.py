"""One provision in a small world: etcd's record, one Workflow's name, tink-controller, an agent, replicas, people.

Each replica runs `next_step` on views that lag, and may be paused for any time between deciding and carrying out. What
it carries out in etcd compares the claim and the records that it read; in Kubernetes it compares uid and
resourceVersion, and nothing else. Tinkerbell behaves as 0.25 does: a report is written over any state.

Every method returns whether it could do anything. What must never happen raises `Broken`.
"""

from datetime import timedelta
from typing import Final

import msgspec

from dragonfly.controllers import steps
from dragonfly.controllers.steps import Seen, Step, next_step
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.machine import Interface, Locked, Machine, MachineSpec
from dragonfly.model.provision import (
    ActionState,
    Arming,
    CancelRequest,
    Provision,
    ProvisionSpec,
    Stopping,
    advanced,
    ended,
    seen_armed,
)
from dragonfly.model.values import Metadata
from tests.unit.controllers.provision_judge import judge_armed, judge_arming, judge_result, judge_serving
from tests.unit.controllers.provision_parts import (
    ACTIONS,
    AGENT,
    GLOBAL_TIMEOUT,
    LIMITS,
    PROVISION,
    START,
    Broken,
    Mutation,
    Record,
    Replica,
    Workflow,
)

_MOST_STEPS: Final = 400


class World:
    def __init__(self, mutation: Mutation = Mutation()) -> None:  # noqa: B008 - a value
        self.mutation = mutation
        self.now = START
        metadata = Metadata(name=PROVISION, created_at=START, updated_at=START)
        spec = ProvisionSpec(machine="m-1", template="t", template_revision=1)
        machine = Machine(
            metadata=Metadata(name="m-1", created_at=START, updated_at=START),
            spec=MachineSpec(interfaces=(Interface(mac=AGENT),)),
        )
        self.records = [Record(1, Provision(metadata=metadata, spec=spec), 1, machine, 1)]
        self.owner, self.epoch, self.claimed_at = "a", 1, 0
        self.workflows: list[Workflow | None] = [None]
        """Every state that the API server's one name has had; a cache is an index into it."""
        self.versions, self.uids = 0, 0
        self.replicas = {name: Replica(name) for name in ("a", "b")}
        self.replicas["a"].epoch = 1
        self.handed: tuple[int, int] | None = None
        """uid and number of the action that the agent has."""
        self.running = False
        self.armed: list[int] = []
        self.succeeded: set[int] = set()
        self.log: list[str] = []

    # What is true now.

    @property
    def record(self) -> Record:
        return self.records[-1]

    @property
    def provision(self) -> Provision:
        return self.record.provision

    @property
    def workflow(self) -> Workflow | None:
        return self.workflows[-1]

    # Replicas.

    def look(self, name: str, mirror_lag: int = 0, cache_lag: int = 0) -> bool:
        """Begin a look, with views that lag by so many changes but never behind what this replica has seen."""
        replica = self.replicas[name]
        if replica.record is not None or replica.epoch == 0:
            return False
        replica.mirror = max(replica.mirror, len(self.records) - 1 - mirror_lag)
        replica.cache = max(replica.cache, len(self.workflows) - 1 - cache_lag)
        replica.record = self.records[replica.mirror]
        replica.workflow = self.workflows[replica.cache]
        replica.asked, replica.decided, replica.staged_at, replica.hardware = False, None, None, False
        replica.vouched_at = None
        return True

    def decide(self, name: str) -> bool:
        replica = self.replicas[name]
        if replica.record is None or replica.decided is not None:
            return False
        step = next_step(self._seen(replica), LIMITS)
        if self.mutation.arm_unrecorded and isinstance(step, steps.RecordArming):
            step = steps.Arm(step.workflow)
        if self.mutation.create_after_arming and isinstance(step, steps.AskForWorkflow) and replica.workflow is None:
            step = steps.CreateWorkflow()
        stopping = replica.record.provision.stopping
        if isinstance(step, steps.HaltWorkflow) and stopping is not None and self._ends_too_soon(step.workflow):
            step = steps.End(stopping.phase, stopping.error, {})
        if self.mutation.arm_the_rewound and isinstance(step, steps.Stop) and step.error.reason == "WorkflowRewound":
            step = _arming_again(replica)
        if self.mutation.delete_what_runs and isinstance(step, steps.HaltWorkflow):
            step = steps.RemoveWorkflow(step.workflow)
        if isinstance(step, steps.CreateWorkflow | steps.StageAndOpen) and replica.record.provision.arming is not None:
            raise Broken("P1: decides to create a Workflow although it knows that one was armed")
        if isinstance(step, steps.Wait):
            replica.record = None
            return True
        replica.decided = step
        return True

    def execute(self, name: str) -> bool:
        """Carry out what was decided, however long ago; the world may be another by now."""
        replica = self.replicas[name]
        step, replica.decided = replica.decided, None
        if step is None or replica.record is None:
            return False
        self.log.append(f"{name}: {type(step).__name__}")
        if not self._carry_out(replica, step):
            replica.record = None  # backs off, and looks again with fresh eyes
        return True

    def move_claim(self, name: str) -> bool:
        """The lease of the owner ended, and another replica claimed; the former one does not know it yet."""
        if self.owner == name:
            return False
        self.owner, self.epoch = name, self.epoch + 1
        replica = self.replicas[name]
        replica.epoch, replica.record, replica.decided = self.epoch, None, None
        replica.on_duty_since = self.now
        # Its own claim comes to it by the mirror, and so does all that was written before.
        replica.mirror = len(self.records) - 1
        self.log.append(f"{name} claims")
        return True

    # Tinkerbell and the machine.

    def tink_controller(self) -> bool:
        workflow = self.workflow
        if workflow is None:
            return False
        if workflow.state == "" and workflow.disabled:
            return not workflow.agent_id and self._write(workflow, agent_id=AGENT)
        if workflow.state == "":
            pending: tuple[ActionState, ...] = ("Pending",) * ACTIONS
            return self._write(workflow, agent_id=AGENT, state="PENDING", actions=pending)
        if workflow.state == "POST":
            self.succeeded.add(workflow.uid)
            return self._write(workflow, state="SUCCESS")
        return False

    def tink_times_out(self) -> bool:
        workflow = self.workflow
        return workflow is not None and workflow.state == "RUNNING" and self._write(workflow, state="TIMEOUT")

    def agent_asks(self) -> bool:
        """GetAction."""
        workflow = self.workflow
        if self.handed or workflow is None or workflow.agent_id != AGENT or not workflow.actions:
            return False
        if workflow.state not in {"PENDING", "RUNNING"}:
            return False
        number = next((i for i, state in enumerate(workflow.actions) if state != "Succeeded"), None)
        if number is None:
            return False
        judge_serving(workflow, self.provision, self.armed)
        self.handed, self.running = (workflow.uid, number), False
        return self._write(workflow, served=True)

    def agent_begins(self) -> bool:
        """Report of RUNNING: tink-server writes it over any state."""
        if self.running or (workflow := self._of_the_agent()) is None:
            return False
        self.running = True
        return self._report(workflow, "Running", "RUNNING")

    def agent_ends(self, *, well: bool = True) -> bool:
        if not self.running or (workflow := self._of_the_agent()) is None or self.handed is None:
            return False
        last = self.handed[1] == ACTIONS - 1
        state = ("POST" if last else workflow.state) if well else "FAILED"
        done = self._report(workflow, "Succeeded" if well else "Failed", state)
        self.handed, self.running = None, False
        return done

    # People.

    def cancel(self) -> bool:
        provision = self.provision
        if provision.ended or provision.status.cancel is not None:
            return False
        request = CancelRequest(by="ann", at=self.now)
        if provision.status.phase == "Pending":
            self._record(provision=ended(provision, self.now, "Cancelled", cancel=request))
        else:
            self._record(provision=advanced(provision, self.now, cancel=request))
        return True

    def lock(self, *, locked: bool = True) -> bool:
        machine = self.record.machine
        if (machine.spec.locked is not None) == locked:
            return False
        lock = Locked(reason="hands off", by="ann", at=self.now) if locked else None
        spec = msgspec.structs.replace(machine.spec, locked=lock)
        self._record(machine=msgspec.structs.replace(machine, spec=spec))
        return True

    def delete_by_hand(self) -> bool:
        if self.workflow is None:
            return False
        self.workflows.append(None)
        self.log.append("deleted by hand")
        return True

    def replace_by_hand(self, *, disabled: bool = True) -> bool:
        """Somebody applies the object again from a file, labels and all."""
        self.delete_by_hand()
        self._append(disabled=disabled, by_hand=True)
        return True

    def restore(self, back: int) -> bool:
        """The cluster's etcd is put back from a backup; people stop Tinkerbell first, so that it serves nothing armed.

        What was armed was seen so by somebody: no restore is made in the moment between the patch and the mark.
        """
        index = max(len(self.workflows) - 1 - back, 0)
        found, arming = self.workflows[index], self.provision.arming
        is_unseen = arming is not None and not arming.armed and bool(self.armed) and not self.provision.ended
        if is_unseen or (found is not None and not found.view.staged):
            return False
        self.versions = max((workflow.version for workflow in self.workflows[: index + 1] if workflow), default=0)
        self.workflows.append(found)
        self.log.append(f"restored to {found}")
        return True

    def pass_time(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return True

    # To the end.

    def run_to_the_end(self) -> None:
        """Fairness: one owner that is not paused, views that catch up, Tinkerbell and a machine that work."""
        owner = self.replicas[self.owner]
        for _ in range(_MOST_STEPS):
            if self.provision.ended:
                return
            for act in (self.tink_controller, self.agent_asks, self.agent_begins, self.agent_ends):
                act()
            if owner.record is None:
                self.look(owner.name)
                self.pass_time(1)
            self.decide(owner.name)
            self.execute(owner.name)
        raise Broken(f"P5: {self.provision.status.phase} and no end in sight")

    # Inside.

    def _seen(self, replica: Replica) -> Seen:
        record = replica.record
        assert record is not None
        since = (self.now - replica.staged_at).total_seconds() if replica.staged_at else float("inf")
        return Seen(
            provision=record.provision,
            machine=record.machine,
            reachable=True,
            last_trouble="",
            global_timeout=GLOBAL_TIMEOUT,
            raw=False,
            workflow=replica.workflow.view if replica.workflow else None,
            asked=replica.asked,
            seen_armed=False,
            others=(),
            confirmed=frozenset(),
            past=frozenset(),
            hardware_ready=replica.hardware,
            hardware_known=True,
            secret_ready=True,
            template_ready=True,
            on_duty=(self.now - replica.on_duty_since).total_seconds(),
            vouched=self._is_vouched(replica),
            lost="",
            staged_for=since,
            now=self.now,
        )

    def _is_vouched(self, replica: Replica) -> bool:
        if self.mutation.arm_on_an_old_record:
            return True
        return replica.vouched_at is not None and self.now < replica.vouched_at + timedelta(seconds=LIMITS.vouched)

    def _ends_too_soon(self, view: WorkflowView) -> bool:
        return self.mutation.end_without_halting or (self.mutation.halt_by_state_alone and view.terminal)

    def _carry_out(self, replica: Replica, step: Step) -> bool:
        record = replica.record
        assert record is not None
        provision = record.provision
        match step:
            case steps.Start():
                return self._commit(replica, advanced(provision, self.now, phase="Starting", started_at=self.now))
            case steps.EnsureHardware():
                replica.hardware = True
            case steps.AskForWorkflow():
                self._ask(replica)
            case steps.CreateWorkflow() | steps.StageAndOpen():
                replica.hardware = replica.hardware or isinstance(step, steps.StageAndOpen)
                return self._create(replica)
            case steps.RecordArming(view):
                arming = Arming(uid=view.uid, resource_version=view.resource_version, epoch=replica.epoch, at=self.now)
                replica.vouched_at = self.now
                return self._commit(replica, msgspec.structs.replace(provision, arming=arming), arming=view)
            case steps.Arm(view):
                return self._arm(replica, view)
            case steps.HaltWorkflow(view):
                self._halt(replica, view)
            case steps.RemoveWorkflow(view):
                self._remove(replica, view)
            case steps.Record(changes):
                return self._commit(replica, seen_armed(advanced(provision, self.now, **changes)))
            case steps.Stop(phase, error):
                stopping = Stopping(phase=phase, error=error)
                return self._commit(replica, msgspec.structs.replace(provision, stopping=stopping))
            case steps.End(phase, error, changes):
                return self._commit(replica, ended(provision, self.now, phase, error, **changes))
            case _:
                raise Broken(f"did not expect {step}")
        return True

    def _commit(self, replica: Replica, provision: Provision, *, arming: WorkflowView | None = None) -> bool:
        """The transaction: claim and records as they were read, or nothing."""
        record = replica.record
        assert record is not None
        is_owner = (self.owner, self.epoch) == (replica.name, replica.epoch)
        unchanged = self.record.provision_revision == record.provision_revision
        if arming is not None and not self.mutation.ignore_lock:
            unchanged = unchanged and self.record.machine_revision == record.machine_revision
        if not (is_owner and unchanged) and not self.mutation.ignore_claim:
            return False
        if arming is not None and arming.staged:
            judge_arming(self.record)
        judge_result(provision, self.succeeded)
        self._record(provision=provision)
        replica.mirror, replica.record = len(self.records) - 1, self.record
        return True

    def _record(self, *, provision: Provision | None = None, machine: Machine | None = None) -> None:
        last = self.record
        revision = last.revision + 1
        if provision is not None:
            if last.provision.ended:
                raise Broken("a result is written once")
            self.records.append(last._replace(revision=revision, provision=provision, provision_revision=revision))
        if machine is not None:
            self.records.append(last._replace(revision=revision, machine=machine, machine_revision=revision))

    def _ask(self, replica: Replica) -> None:
        replica.cache = len(self.workflows) - 1
        replica.workflow, replica.asked = self.workflow, True

    def _create(self, replica: Replica) -> bool:
        if self.workflow is not None:
            self._ask(replica)
            return True
        self._append(disabled=True)
        replica.cache, replica.workflow, replica.staged_at = len(self.workflows) - 1, self.workflow, self.now
        return True

    def _append(self, *, disabled: bool, by_hand: bool = False) -> None:
        self.versions, self.uids = self.versions + 1, self.uids + 1
        self.workflows.append(Workflow(self.uids, self.versions, disabled, by_hand=by_hand))

    def _is_as_seen(self, view: WorkflowView) -> bool:
        workflow = self.workflow
        if workflow is None or self.mutation.ignore_preconditions:
            return workflow is not None
        return (str(workflow.uid), str(workflow.version)) == (view.uid, view.resource_version)

    def _arm(self, replica: Replica, view: WorkflowView) -> bool:
        if not (self._is_vouched(replica) or self.mutation.arm_unrecorded):
            return False  # too late: what etcd said is not believed any more
        if self.workflow is not None and self._is_as_seen(view):
            self.armed.append(self.workflow.uid)
            if len(self.armed) > 1:
                raise Broken("P1: armed twice")
            arming = self.provision.arming
            if arming is None or arming.uid != str(self.workflow.uid):
                raise Broken("P1: armed what was not recorded")
            judge_armed(self.record, self.now)
            self._write(self.workflow, disabled=False)
        self._ask(replica)
        return True

    def _halt(self, replica: Replica, view: WorkflowView) -> None:
        if self.workflow is not None and self._is_as_seen(view):
            state = view.state if view.terminal else "FAILED"
            agent = self.workflow.agent_id if self.mutation.halt_by_state_alone else ""
            self._write(self.workflow, state=state, agent_id=agent)
        self._ask(replica)

    def _remove(self, replica: Replica, view: WorkflowView) -> None:
        if self.workflow is not None and self._is_as_seen(view):
            if self.workflow.served:
                raise Broken("P1: deletes a Workflow that an agent was served")
            self.workflows.append(None)
        self._ask(replica)

    def _write(self, workflow: Workflow, **changes: object) -> bool:
        self.versions += 1
        self.workflows.append(msgspec.structs.replace(workflow, version=self.versions, **changes))
        return True

    def _of_the_agent(self) -> Workflow | None:
        """The Workflow whose action the agent has; without it the machine is rebooted."""
        workflow = self.workflow
        if self.handed is None:
            return None
        if workflow is None or workflow.uid != self.handed[0] or not workflow.actions:
            self.handed, self.running = None, False
            return None
        return workflow

    def _report(self, workflow: Workflow, action: ActionState, state: str) -> bool:
        assert self.handed is not None
        number = self.handed[1]
        actions = (*workflow.actions[:number], action, *workflow.actions[number + 1 :])
        return self._write(workflow, actions=actions, state=state)


def _arming_again(replica: Replica) -> Step:
    """What a replica would do that takes a staged Workflow for one that nobody armed yet."""
    assert replica.workflow is not None
    assert replica.record is not None
    assert replica.record.provision.arming is not None
    view = replica.workflow.view
    is_recorded = replica.record.provision.arming.resource_version == view.resource_version
    return steps.Arm(view) if is_recorded and replica.vouched_at is not None else steps.RecordArming(view)
