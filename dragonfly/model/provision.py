"""Provision: one attempt to install a template on a machine; its twin is exactly one Workflow, ever."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from dragonfly.model.template import TemplateSpec
from dragonfly.model.values import Input, Metadata, Value

ProvisionPhase = Literal["Pending", "Starting", "Running", "Succeeded", "Failed", "TimedOut", "Cancelled"]
ActionState = Literal["Pending", "Running", "Succeeded", "Failed", "TimedOut", "Interrupted"]

TERMINAL: frozenset[ProvisionPhase] = frozenset({"Succeeded", "Failed", "TimedOut", "Cancelled"})

TRANSITIONS: Mapping[ProvisionPhase, frozenset[ProvisionPhase]] = {
    "Pending": frozenset({"Pending", "Starting", "Failed", "TimedOut", "Cancelled"}),
    "Starting": frozenset({"Starting", "Running", "Succeeded", "Failed", "TimedOut", "Cancelled"}),
    "Running": frozenset({"Running", "Succeeded", "Failed", "TimedOut", "Cancelled"}),
    "Succeeded": frozenset(),
    "Failed": frozenset(),
    "TimedOut": frozenset(),
    "Cancelled": frozenset(),
}
"""What may follow what. Nothing follows an end: a result is written once."""


class IllegalTransition(Exception):
    """A change of phase that the table does not have: a bug, never a user's mistake."""


class Problem(Value, frozen=True):
    """Why a provision did not succeed: a word for programs, a sentence for people."""

    reason: str
    message: str


class WorkflowRef(Value, frozen=True, kw_only=True):
    """Where the provision's Workflow is."""

    cluster: str
    namespace: str
    name: str
    uid: str = ""


class Arming(Value, frozen=True, kw_only=True):
    """Written before the Workflow is armed. From here on it may have run, and is never created again (P1)."""

    uid: str
    resource_version: str
    epoch: int
    at: datetime
    armed: bool = False
    """It has been seen armed since. Staged once more it has gone back in time, and is never armed again."""


class Stopping(Value, frozen=True, kw_only=True):
    """The end that is being brought about; a phase becomes terminal only when the Workflow provably cannot run on."""

    phase: Literal["Failed", "TimedOut", "Cancelled"]
    error: Problem


class CancelRequest(Value, frozen=True, kw_only=True):
    by: str
    at: datetime
    reason: str = ""


class ActionProgress(Value, frozen=True, kw_only=True):
    """One action as the machine reported it."""

    name: str
    state: ActionState = "Pending"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None


class ProvisionSpec(Value, frozen=True, kw_only=True):
    machine: str
    template: str
    template_revision: int
    cluster: str = ""
    """The machine's when it was asked for, which it stays in meanwhile. Empty where an older replica accepted it."""
    parameters: dict[str, Any] = {}
    reason: str = ""
    requested_by: str = ""


class ProvisionStatus(Value, frozen=True, kw_only=True):
    phase: ProvisionPhase = "Pending"
    progress: int = 0
    """Percent; 100 only when the provision has succeeded."""
    eta: datetime | None = None
    current_action: str = ""
    actions: tuple[ActionProgress, ...] = ()
    workflow: WorkflowRef | None = None
    started_at: datetime | None = None
    running_at: datetime | None = None
    finished_at: datetime | None = None
    error: Problem | None = None
    booted: bool = False
    cancel: CancelRequest | None = None


class Provision(Value, frozen=True, kw_only=True):
    """A provision as it is stored below `provisions/<machine>/`. `arming` and `stopping` are not shown."""

    metadata: Metadata
    spec: ProvisionSpec
    status: ProvisionStatus = ProvisionStatus()
    arming: Arming | None = None
    stopping: Stopping | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def cluster(self) -> str:
        """Where it happens; "" if nobody knows."""
        workflow = self.status.workflow
        return self.spec.cluster or (workflow.cluster if workflow is not None else "")

    @property
    def ended(self) -> bool:
        return self.status.phase in TERMINAL


class ProvisionSummary(Value, frozen=True, kw_only=True):
    """What a machine tells of its running or last provision."""

    name: str
    template: str
    phase: ProvisionPhase
    began: bool = False
    """The machine had begun: whatever was on its disks may be gone."""
    progress: int = 0
    eta: datetime | None = None
    finished_at: datetime | None = None
    error: Problem | None = None


class Active(Value, frozen=True, kw_only=True):
    """The value of `active/<machine>`: its one running provision, and the template as it was when it was asked for.

    The template is kept here so that an edit after the intent changes nothing; it goes when the provision ends.
    """

    provision: str
    template: TemplateSpec


class ProvisionRequest(Input, frozen=True, kw_only=True):
    """Body of `POST machines/{name}/provision`."""

    template: str
    parameters: dict[str, Any] = {}
    reason: str = ""


class CancelInput(Input, frozen=True, kw_only=True):
    """Body of `POST provisions/{name}/cancel`."""

    reason: str = ""


def summary_of(provision: Provision) -> ProvisionSummary:
    status = provision.status
    return ProvisionSummary(
        name=provision.name,
        template=provision.spec.template,
        phase=status.phase,
        began=status.running_at is not None,
        progress=status.progress,
        eta=status.eta,
        finished_at=status.finished_at,
        error=status.error,
    )


def advanced(provision: Provision, now: datetime, **changes: Any) -> Provision:
    """Return the provision with its status changed.

    Raises:
        IllegalTransition: the table does not have this change of phase.
    """
    before = provision.status.phase
    after = changes.get("phase", before)
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{provision.name}: {before} → {after}")
    status = msgspec.structs.replace(provision.status, **changes)
    metadata = msgspec.structs.replace(provision.metadata, updated_at=now)
    return msgspec.structs.replace(provision, status=status, metadata=metadata)


def seen_armed(provision: Provision) -> Provision:
    """Return the provision with the mark that its Workflow was armed; the very same if there is no more to mark."""
    arming = provision.arming
    if arming is None or arming.armed:
        return provision
    return msgspec.structs.replace(provision, arming=msgspec.structs.replace(arming, armed=True))


def ended(
    provision: Provision, now: datetime, phase: ProvisionPhase, error: Problem | None = None, **changes: Any
) -> Provision:
    """Return the provision with its result: written once, and never changed again.

    Raises:
        IllegalTransition: `phase` is no end, or the provision has its result already.
    """
    if phase not in TERMINAL:
        raise IllegalTransition(f"{provision.name}: {phase} is no end")
    told = {**changes, "phase": phase, "error": error, "finished_at": now, "eta": None, "current_action": ""}
    told["actions"] = tuple(_closed(action, now) for action in changes.get("actions", provision.status.actions))
    if phase == "Succeeded":
        told["progress"] = 100
    finished = advanced(provision, now, **told)
    return msgspec.structs.replace(finished, stopping=None)


def _closed(action: ActionProgress, now: datetime) -> ActionProgress:
    """What was running at the end was interrupted: nobody will hear how it ended."""
    if action.state != "Running":
        return action
    seconds = (now - action.started_at).total_seconds() if action.started_at else None
    return msgspec.structs.replace(action, state="Interrupted", finished_at=now, seconds=seconds)


def workflow_name(provision: str) -> str:
    """Return the one name that this provision's Workflow can have; tink-controller bears 42 characters."""
    return f"df-{provision.lower()}"
