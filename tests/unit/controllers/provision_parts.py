"""What the world of one provision is made of: records, Workflow and replicas, and what may be done wrong in it."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from dragonfly.controllers.steps import Limits, Step
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.machine import Machine
from dragonfly.model.provision import ActionProgress, ActionState, Provision, workflow_name

AGENT: Final = "02:00:00:00:00:01"
PROVISION: Final = "01JD0000000000000000000001"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS: Final = Limits(prepare=100, silence=200, grace=20, settle=0.25, render=10)
GLOBAL_TIMEOUT: Final = 300
ACTIONS: Final = 3


class Broken(AssertionError):
    """A promise is broken."""


class Mutation(NamedTuple):
    """What to do wrong on purpose: a checker that finds nothing proves nothing."""

    ignore_preconditions: bool = False
    arm_unrecorded: bool = False
    ignore_claim: bool = False
    create_after_arming: bool = False
    halt_by_state_alone: bool = False
    ignore_lock: bool = False
    end_without_halting: bool = False
    delete_what_runs: bool = False
    arm_on_an_old_record: bool = False
    arm_the_rewound: bool = False


class Record(NamedTuple):
    """What etcd has of the provision and its machine at one revision."""

    revision: int
    provision: Provision
    provision_revision: int
    machine: Machine
    machine_revision: int


class Workflow(msgspec.Struct, frozen=True):
    uid: int
    version: int
    disabled: bool
    by_hand: bool = False
    state: str = ""
    agent_id: str = ""
    served: bool = False
    actions: tuple[ActionState, ...] = ()

    @property
    def view(self) -> WorkflowView:
        return WorkflowView(
            name=workflow_name(PROVISION),
            uid=str(self.uid),
            resource_version=str(self.version),
            machine="m-1",
            provision=PROVISION,
            staged=self.disabled and self.state == "",
            state=self.state,
            agent_id=self.agent_id,
            served=self.served,
            rendering_error="",
            failure="",
            current_action="",
            actions=tuple(ActionProgress(name=f"a{i}", state=state) for i, state in enumerate(self.actions)),
        )


class Replica:
    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = 0
        self.mirror = 0
        """Index of the newest record that it has seen."""
        self.cache = 0
        self.record: Record | None = None
        """What its present look works on; None between two looks."""
        self.workflow: Workflow | None = None
        self.asked = False
        self.staged_at: datetime | None = None
        self.vouched_at: datetime | None = None
        """When its present look recorded the arming."""
        self.on_duty_since = START
        self.decided: Step | None = None
        self.hardware = False
