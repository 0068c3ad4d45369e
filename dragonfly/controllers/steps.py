"""What to do next for a provision. Pure: what is known goes in, one step comes out; `provisions` carries it out.

The promises P1 and P2 live here. A Workflow is created staged, which no agent is ever served; it is armed only after
`arming` was recorded in a transaction that compared the claim and the provision; from that record on it may have run,
so it is never created again. What that transaction found out is believed for a moment only (`vouched`): whoever arms
later, or after another replica's record, records it anew, so that no lock and no cancel is overtaken (P3). An end is
reached only when the Workflow provably cannot run on: it ended itself, it was deleted under a precondition that shows
that no agent was served, or it was halted. One that was armed and is as it was at an earlier time, as in a cluster
that was restored from a backup, is never armed again (`rewound`).

A cached Workflow may be old. Whatever is decided from it is carried out under its uid and resourceVersion; that a
Workflow does *not* exist, that the machine did *not* begin in time, and that another one is in the way is believed only
when the API server was asked in this very look (`asked`, `confirmed`).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from dragonfly.controllers.rewound import is_rewound, rewound
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.machine import Machine
from dragonfly.model.provision import Problem, Provision, ProvisionPhase


class Limits(NamedTuple):
    """Dragonfly's own deadlines, in seconds: Tinkerbell has none for a Workflow that nobody fetches or that hangs."""

    pending: float = 86_400
    """From the request until the start: an intent that is older says nothing about what the machine is for by now."""
    prepare: float = 600
    """From the start until the Workflow is armed."""
    silence: float = 3600
    """From arming until the machine begins."""
    render: float = 10
    """What Tinkerbell gets, before the arming, to say whom a raw template is for."""
    missing: float = 120
    """From arming until a Template or Hardware that Tinkerbell does not find counts as missing. Dragonfly made both;
    Tinkerbell's caches wait up to 60 s for their next try after an outage of the API server (client-go)."""
    grace: float = 120
    """Beyond the template's global timeout, for the machine's last report. As long every deadline waits for a replica
    that has just come, or reaches the cluster again: that others were away fails no provision (P7)."""
    settle: float = 0.25
    """What Tinkerbell gets to take note of a staged Workflow, which changes its resourceVersion."""
    vouched: float = 3
    """From the look at etcd that arming is based on until it is sent, at the latest."""
    note: float = 0.25
    """From arming until it is written down that it was seen armed, if there is nothing else to write by then."""
    away: float = 5
    """Between two looks at whether a cluster that is away is reached again."""


class Seen(NamedTuple):
    """All that is known of a provision at one moment."""

    reachable: bool
    """Whether this replica reaches the cluster."""
    last_trouble: str
    """Why this replica's last look at the machine failed; empty if it did not."""
    provision: Provision
    machine: Machine
    global_timeout: float
    """Seconds; the template's."""
    raw: bool
    """The template is Tinkerbell's own YAML: its tasks may be for any agent, and only Tinkerbell knows which."""
    workflow: WorkflowView | None
    asked: bool
    """`workflow` is the API server's answer in this very run, not the cache's."""
    seen_armed: bool
    """This replica has seen the Workflow armed, and then staged again."""
    others: tuple[WorkflowView, ...]
    """Other Workflows for the same machine or agent."""
    confirmed: frozenset[str]
    """uids of those of `others` that are the API server's answer in this very run."""
    past: frozenset[str]
    """uids of those of `others` whose provision has its result: a cluster that was put back may have them running."""
    hardware_ready: bool
    """Like all that only the preparation asks for, told until arming."""
    hardware_known: bool
    """Dragonfly has made a Hardware object for the machine, be it as it should be or not."""
    secret_ready: bool
    """The machine's BMC needs no Secret, or the API server showed in this very run that it is as it should be."""
    template_ready: bool
    on_duty: float
    """Seconds for which this replica has had the shard and reached its cluster."""
    vouched: bool
    """etcd has said in this very run, just now, that nothing stands against arming."""
    lost: str
    """A later provision of this machine that the cluster bears witness to and etcd does not know; empty if none."""
    staged_for: float
    """Seconds since this replica first saw the staged Workflow; infinite if it did not."""
    now: datetime


# Structs, not tuples: an empty tuple is false, and `Arm(w) == HaltWorkflow(w)` would hold.
class Start(msgspec.Struct, frozen=True):
    """Record that work begins, and where the Workflow will be."""


class EnsureTemplate(msgspec.Struct, frozen=True):
    """Create the Template object of this revision."""


class EnsureHardware(msgspec.Struct, frozen=True):
    """Bring Hardware (with netboot open), BMC and Secret to what they should be."""


class EnsureSecret(msgspec.Struct, frozen=True):
    """Read the BMC's Secret, which nobody follows, and write it if somebody has changed or deleted it."""


class AskForWorkflow(msgspec.Struct, frozen=True):
    """Read the Workflow from the API server: the cache may be behind."""


class AskAbout(msgspec.Struct, frozen=True):
    """Read this other Workflow from the API server: the cache may be behind, and it would fail the provision."""

    workflow: WorkflowView


class RemoveWorkflow(msgspec.Struct, frozen=True):
    """Delete this Workflow, given its uid and resourceVersion."""

    workflow: WorkflowView


class CreateWorkflow(msgspec.Struct, frozen=True):
    """Create the Workflow staged, under its one name."""


class StageAndOpen(msgspec.Struct, frozen=True):
    """Create the Workflow staged, and bring Hardware to what it should be meanwhile: neither needs the other."""


class RecordArming(msgspec.Struct, frozen=True):
    """Record in etcd, claim and provision compared, that this Workflow is about to be armed."""

    workflow: WorkflowView


class Arm(msgspec.Struct, frozen=True):
    """Let it run, given its uid and resourceVersion."""

    workflow: WorkflowView


class HaltWorkflow(msgspec.Struct, frozen=True):
    """Take it from its agent and, if it has not ended, set its state to FAILED. The running action goes on.

    The state alone does not hold: an agent that was handed an action reports RUNNING, tink-server 0.25 writes that over
    any state (doReportActionStatus), and then serves the next action. It finds Workflows by `status.agentID`
    (doGetAction), which no report writes, so without it nothing more is served, whatever the state becomes.
    """

    workflow: WorkflowView


class Record(msgspec.Struct, frozen=True):
    """Write what is new in the provision's status, and that its Workflow was seen armed."""

    changes: dict[str, Any]


class Stop(msgspec.Struct, frozen=True):
    """Record that the provision is being brought to this end."""

    phase: Literal["Failed", "TimedOut", "Cancelled"]
    error: Problem


class End(msgspec.Struct, frozen=True):
    """Write the result, once, and free the machine."""

    phase: ProvisionPhase
    error: Problem | None
    changes: dict[str, Any]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until something changes, or `seconds` have passed."""

    seconds: float | None


Step = (
    Start
    | EnsureTemplate
    | EnsureHardware
    | EnsureSecret
    | AskForWorkflow
    | AskAbout
    | RemoveWorkflow
    | CreateWorkflow
    | StageAndOpen
    | RecordArming
    | Arm
    | HaltWorkflow
    | Record
    | Stop
    | End
    | Wait
)


def next_step(seen: Seen, limits: Limits) -> Step:
    """Return the one thing to do now."""
    provision = seen.provision
    if provision.ended:
        return Wait(None)
    if provision.status.phase == "Pending":
        return _begin(seen, limits)
    if provision.stopping is not None:
        return _bring_to_an_end(seen)
    if cause := next(_causes_to_stop(seen, limits), None):
        return cause
    if provision.arming is None:
        return _prepare(seen, limits)
    return _follow(seen, limits)


def removable(workflow: WorkflowView) -> bool:
    """Whether its deletion, under its resourceVersion, proves that it never ran and never will.

    tink-server records an action in the status before it hands it out, so of an unserved Workflow whose
    resourceVersion is still current nothing has been handed out (GetAction of Tinkerbell 0.25).
    """
    return workflow.state in {"", "PREPARING", "PENDING"} and not workflow.served


def _begin(seen: Seen, limits: Limits) -> Step:
    status = seen.provision.status
    if status.cancel is not None:
        return End("Cancelled", _cancelled(seen), {})
    if lock := seen.machine.spec.locked:
        return End("Failed", Problem("MachineLocked", f"{lock.by} locked the machine: {lock.reason}"), {})
    if seen.lost:
        return End("Failed", _history_lost(seen), {})
    if seen.now >= seen.provision.metadata.created_at + timedelta(seconds=limits.pending):
        message = (
            f"Its cluster could not be reached within {limits.pending / 3600:.0f} h. Nothing was done; ask again if "
            "the machine is still to be installed."
        )
        return End("TimedOut", Problem("NotStarted", message), {})
    # The deadline for preparing begins with the start, and is for what can be worked on.
    return Start() if seen.reachable else Wait(limits.away)


def _causes_to_stop(seen: Seen, limits: Limits) -> Iterator[Stop | AskForWorkflow]:
    if seen.workflow is not None and seen.workflow.terminal:
        return
    status, arming = seen.provision.status, seen.provision.arming
    if status.cancel is not None:
        yield Stop("Cancelled", _cancelled(seen))
    lock = seen.machine.spec.locked
    if lock is not None and (seen.workflow is None or seen.workflow.staged or removable(seen.workflow)):
        yield Stop("Failed", Problem("MachineLocked", f"{lock.by} locked the machine: {lock.reason}"))
    if _left(seen, limits) > 0 or _has_just_begun(seen):
        return
    if not seen.asked:
        yield AskForWorkflow()
    if arming is None:
        message = f"Its Workflow could not be prepared within {limits.prepare:.0f} s."
        if seen.last_trouble:
            message += f" The last try: {seen.last_trouble}"
        yield Stop("TimedOut", Problem("NotPrepared", message))
    elif status.running_at is None:
        message = f"The machine asked for no action within {limits.silence:.0f} s. Does it boot from the network?"
        yield Stop("TimedOut", Problem("MachineSilent", message))
    else:
        message = f"Not finished within the template's {seen.global_timeout:.0f} s and {limits.grace:.0f} s of grace."
        yield Stop("TimedOut", Problem("Overran", message))


def _has_just_begun(seen: Seen) -> bool:
    """The machine runs and the provision does not know it yet: replicas were away, and that fails no provision (P7)."""
    return seen.workflow is not None and seen.provision.status.running_at is None and _runs(seen.workflow)


def _runs(workflow: WorkflowView) -> bool:
    return workflow.state in {"RUNNING", "POST"}


def _left(seen: Seen, limits: Limits) -> float:
    """Seconds until the provision is out of time."""
    left = (_deadline(seen, limits) - seen.now).total_seconds()
    return max(left, limits.grace - seen.on_duty, 0.0)


def _deadline(seen: Seen, limits: Limits) -> datetime:
    status, arming = seen.provision.status, seen.provision.arming
    if status.running_at is not None:
        return status.running_at + timedelta(seconds=seen.global_timeout + limits.grace)
    if arming is not None:
        return arming.at + timedelta(seconds=limits.silence)
    return (status.started_at or seen.now) + timedelta(seconds=limits.prepare)


def _prepare(seen: Seen, limits: Limits) -> Step:
    workflow = seen.workflow
    if workflow is not None and workflow.provision != seen.provision.name:
        message = f"There is a Workflow {workflow.name} that is not this provision's. It was not touched."
        return Stop("Failed", Problem("ForeignWorkflow", message))
    if seen.lost:
        return Stop("Failed", _history_lost(seen))
    if workflow is not None and workflow.terminal:
        return RecordArming(workflow)  # it has run, and etcd has forgotten: nothing may boot for it any more
    for other in seen.others:
        if step := _clear(other, confirmed=other.uid in seen.confirmed, is_past=other.uid in seen.past):
            return step
    if not seen.template_ready:
        return EnsureTemplate()
    if workflow is None and seen.hardware_known:
        # Staged it can wait for the rest, and Tinkerbell takes note of it meanwhile.
        return CreateWorkflow() if seen.hardware_ready else StageAndOpen()
    if workflow is None or not seen.hardware_ready:
        return EnsureHardware()
    if workflow.agent_id not in {"", seen.machine.agent_id}:
        return _wrong_machine(seen, workflow.agent_id)
    # Whom a raw template is for must be known before it is armed (P3); one that can't be rendered never tells.
    patience = limits.render if seen.raw else limits.settle
    if workflow.staged and not workflow.agent_id and seen.staged_for < patience:
        return Wait(patience - seen.staged_for)
    if not seen.secret_ready:
        return EnsureSecret()
    return RecordArming(workflow)


def _clear(other: WorkflowView, *, confirmed: bool, is_past: bool) -> Step | None:
    """A finished Workflow of the same agent hides the next one from tink-server 0.25, so it goes; its result stays."""
    if other.provision and other.halted and other.under_way:
        # tink-agent repeats a report for ever if it finds no Workflow; without an agent this one hides no other.
        return None
    if other.terminal or (other.provision and (other.staged or other.halted)):
        return RemoveWorkflow(other)
    if other.staged:
        return None
    if is_past:
        return _stop_past(other)
    if not confirmed:
        return AskAbout(other)
    message = (
        f"Workflow {other.name} of the same machine is {other.state or 'about to start'}. Delete it, or let it end."
    )
    return Stop("Failed", Problem("MachineBusy", message))


def _stop_past(other: WorkflowView) -> Step:
    """What has had its time is nothing that a machine may be given."""
    return RemoveWorkflow(other) if removable(other) else HaltWorkflow(other)


def _follow(seen: Seen, limits: Limits) -> Step:
    workflow, arming = seen.workflow, seen.provision.arming
    assert arming is not None
    for other in seen.others:
        if other.uid in seen.past and not (other.staged or other.terminal or other.halted):
            return _stop_past(other)  # its cluster was put back, and showed that only after the arming
    if workflow is None or workflow.uid != arming.uid:
        return _gone(seen)
    if is_rewound(seen.provision, workflow, seen_armed=seen.seen_armed):
        return Stop("Failed", rewound(workflow)) if seen.asked else AskForWorkflow()
    if workflow.staged:
        return _arm(seen, workflow, arming.resource_version)
    if workflow.rendering_error and workflow.state == "":
        return _unrendered(seen, workflow, arming.at, limits)
    if workflow.terminal:
        return _result(seen, workflow)
    for agent in workflow.agents:
        if agent not in {"", seen.machine.agent_id}:
            return _wrong_machine(seen, agent)
    changes = _news(seen, workflow)
    left = 0.0 if arming.armed else limits.note - (seen.now - arming.at).total_seconds()
    if changes or (left <= 0 and not arming.armed):
        return Record(changes)
    # Tinkerbell has something to tell within milliseconds, and that is written anyway.
    return Wait(min(left, limits.note) if left > 0 else _left(seen, limits))


def _wrong_machine(seen: Seen, agent: str) -> Stop:
    """A provision is for one machine: of another it has no claim, no lock and no netboot (P3)."""
    message = f"The template has a task for {agent}, not for this machine's {seen.machine.agent_id}."
    return Stop("Failed", Problem("WrongMachine", message))


def _unrendered(seen: Seen, workflow: WorkflowView, armed_at: datetime, limits: Limits) -> Step:
    if not seen.template_ready:
        return EnsureTemplate()  # the cluster was put back to before it was made
    if not seen.hardware_ready:
        return EnsureHardware()
    # Tinkerbell's words for what its cache does not show (processWorkflow); it tries again by itself.
    passing = workflow.rendering_error.startswith(("template not found", "hardware not found"))
    left = limits.missing - (seen.now - armed_at).total_seconds()
    if passing and left > 0:
        return Wait(left)
    return Stop("Failed", Problem("TemplateRenderingFailed", workflow.rendering_error))


def _arm(seen: Seen, workflow: WorkflowView, recorded: str) -> Step:
    if workflow.resource_version != recorded and not seen.asked:
        return AskForWorkflow()
    is_recorded = workflow.resource_version == recorded
    return Arm(workflow) if is_recorded and seen.vouched else RecordArming(workflow)


def _history_lost(seen: Seen) -> Problem:
    """Etcd was put back to before something ran: what it still holds of that time is no fresh intent (P2)."""
    message = (
        f"Provision {seen.lost} was carried out on this machine after this one was asked for, and etcd does not know "
        "it: etcd was restored from an earlier state. Nothing was done; ask again if the machine is to be installed."
    )
    return Problem("HistoryLost", message)


def _gone(seen: Seen) -> Step:
    if not seen.asked:
        return AskForWorkflow()
    word = "was deleted" if seen.workflow is None else "was replaced"
    message = f"Its Workflow {word} by somebody else after it was armed. It may have run, so it is not created again."
    return End("Failed", Problem("WorkflowGone", message), {})


def _bring_to_an_end(seen: Seen) -> Step:
    workflow, stopping = seen.workflow, seen.provision.stopping
    assert stopping is not None
    if workflow is None:
        return End(stopping.phase, stopping.error, {}) if seen.asked else AskForWorkflow()
    if workflow.provision != seen.provision.name:
        return End(stopping.phase, stopping.error, {})
    if workflow.state == "SUCCESS" and _is_armed_one(seen.provision, workflow):
        return _result(seen, workflow)
    if removable(workflow):
        return RemoveWorkflow(workflow)
    if not workflow.terminal or workflow.agent_id:
        return HaltWorkflow(workflow)
    return End(stopping.phase, stopping.error, _progress(seen, workflow))


def _is_armed_one(provision: Provision, workflow: WorkflowView) -> bool:
    """Whether it is the very Workflow that the provision armed, or was armed by hand before it could."""
    return provision.arming is None or provision.arming.uid == workflow.uid


def _result(seen: Seen, workflow: WorkflowView) -> Step:
    changes = _progress(seen, workflow)
    if workflow.state == "SUCCESS":
        return End("Succeeded", None, changes)
    if workflow.agent_id:
        return HaltWorkflow(workflow)
    failed = next((action for action in workflow.actions if action.state in {"Failed", "TimedOut"}), None)
    if workflow.state == "TIMEOUT":
        name = failed.name if failed else workflow.current_action
        message = (
            f"Action {name} took longer than its timeout." if failed else "The template's global timeout was reached."
        )
        return End("TimedOut", Problem("ActionTimedOut" if failed else "GlobalTimeout", message), changes)
    if failed is not None:
        # The agent reports neither output nor exit code to the API.
        message = f"Action {failed.name} failed on the machine. Its output is on the machine's console and syslog."
        return End("Failed", Problem("ActionFailed", message), changes)
    return End("Failed", Problem("WorkflowFailed", workflow.failure or "Tinkerbell gave no reason."), changes)


def _news(seen: Seen, workflow: WorkflowView) -> dict[str, Any]:
    """Return what the Workflow tells that the provision doesn't have yet."""
    status = seen.provision.status
    changes = _progress(seen, workflow)
    if status.phase == "Starting" and _runs(workflow):
        changes |= {"phase": "Running", "running_at": seen.now}
    return {key: value for key, value in changes.items() if getattr(status, key) != value}


def _progress(seen: Seen, workflow: WorkflowView) -> dict[str, Any]:
    before = {action.name: action for action in seen.provision.status.actions}
    actions = []
    for action in workflow.actions:
        known = before.get(action.name)
        if action.state == "Running" and action.started_at is None:
            # The agent tells the start of an action only at its end; until then it is when the owner saw it run.
            started = known.started_at if known and known.started_at else seen.now
            actions.append(msgspec.structs.replace(action, started_at=started))
            continue
        actions.append(action)
    total = len(actions)
    return {
        "actions": tuple(actions),
        "progress": min(100 * workflow.done // total, 99) if total else 0,
        "current_action": workflow.current_action,
    }


def _cancelled(seen: Seen) -> Problem:
    cancel = seen.provision.status.cancel
    assert cancel is not None
    reason = f": {cancel.reason}" if cancel.reason else ""
    return Problem("Cancelled", f"Cancelled by {cancel.by}{reason}.")
