"""What to do next for a power action. Pure: what is known goes in, one step comes out; `power` carries it out.

As a provision's Workflow, the Job is created staged, and armed only after `arming` was recorded in a transaction that
compared the claim, the request and the machine; from that record on it may have run, so it is never created again.
A replica that wakes late can at worst leave a staged Job behind.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from dragonfly.kube.power import JobView
from dragonfly.kube.resources import is_older
from dragonfly.model.machine import Machine
from dragonfly.model.power import HARMLESS, PAST, PowerRequest


class PowerLimits(NamedTuple):
    """Dragonfly's own deadlines, in seconds."""

    prepare: float = 600
    """From the request until the Job is armed: nobody wants a machine to go off hours after it was asked for."""
    vouched: float = 3
    """From the look at etcd that arming is based on until it is sent, at the latest."""
    carry_out: float = 900
    """From arming to the end. Rufio's own limit is ten minutes for each Task."""
    settle: float = 15
    """From the end until its objects are removed: a BMC that cycles a machine takes seconds to say that it is on."""


class PowerSeen(NamedTuple):
    """All that is known of a power action at one moment."""

    request: PowerRequest
    machine: Machine
    provision: str
    """The machine's running provision; empty if there is none."""
    bmc_known: bool
    """Rufio's Machine is there, and is Dragonfly's."""
    job: JobView | None
    asked: bool
    """`job` is the API server's answer in this very run, not the copy's."""
    vouched: bool
    """etcd has said in this very run, just now, that nothing stands against arming."""
    withdrawn: bool
    """The Job was deleted in this very run, in a way that proves that it never ran."""
    failure: str | None
    """The BMC's words; None if nobody has asked for them yet."""
    rejected: str
    """Why the API server refused the Job in this very run; empty if it did not."""
    now: datetime


class AskForJob(msgspec.Struct, frozen=True):
    """Read the Job from the API server: the copy may be behind."""


class CreateJob(msgspec.Struct, frozen=True):
    """Create the Job staged, under its one name."""


class RecordJobArming(msgspec.Struct, frozen=True):
    """Record in etcd, claim, request and machine compared, that this Job is about to be armed."""

    job: JobView


class ArmJob(msgspec.Struct, frozen=True):
    """Let it run, given its uid and resourceVersion."""

    job: JobView


class RecordJobArmed(msgspec.Struct, frozen=True):
    """Record in etcd that it was let go: whoever finds it staged after that finds a cluster that was put back."""


class WithdrawJob(msgspec.Struct, frozen=True):
    """Delete the staged Job, given its uid and resourceVersion: success proves that it never ran."""

    job: JobView


class HaltJob(msgspec.Struct, frozen=True):
    """Have Rufio begin nothing more of it."""

    job: JobView


class ReadFailure(msgspec.Struct, frozen=True):
    """Read the BMC's words from the Job's Tasks."""

    job: JobView


class Finish(msgspec.Struct, frozen=True):
    """Write the result, once, and free the machine."""

    succeeded: bool
    reason: str
    message: str


class Pause(msgspec.Struct, frozen=True):
    """Nothing to do until something changes, or `seconds` have passed."""

    seconds: float


PowerStep = (
    AskForJob
    | CreateJob
    | RecordJobArming
    | ArmJob
    | RecordJobArmed
    | WithdrawJob
    | HaltJob
    | ReadFailure
    | Finish
    | Pause
)


def next_power_step(seen: PowerSeen, limits: PowerLimits) -> PowerStep:
    """Return the one thing to do now."""
    if seen.request.arming is None:
        return _prepare(seen, limits)
    return _follow(seen, limits)


def _prepare(seen: PowerSeen, limits: PowerLimits) -> PowerStep:
    """Nothing of it can have run yet: what stands against it ends it at once."""
    if refusal := _refusal(seen, limits):
        return refusal
    if not seen.bmc_known:
        return Pause(_left(seen, limits))
    if seen.job is None:
        return CreateJob()
    if seen.job.request != seen.request.name:
        message = f"There is a Job {seen.job.name} that is not this power action's. It was not touched."
        return Finish(succeeded=False, reason="ForeignJob", message=message)
    return RecordJobArming(seen.job)


def _refusal(seen: PowerSeen, limits: PowerLimits) -> Finish | None:
    if lock := seen.machine.spec.locked:
        return _failed("MachineLocked", f"{lock.by} locked the machine: {lock.reason}")
    if seen.machine.spec.bmc is None:
        return _failed("NoBmc", "The machine no longer has a BMC.")
    if seen.rejected:
        return _failed("Rejected", f"The cluster refused its Job: {seen.rejected}")
    if seen.provision and seen.request.action not in HARMLESS:
        return _failed("ProvisionActive", f"Provision {seen.provision} is running.")
    if seen.now >= seen.request.requested_at + timedelta(seconds=limits.prepare):
        return _failed("NotPrepared", f"Its Job could not be prepared within {limits.prepare:.0f} s. Nothing was done.")
    return None


def _follow(seen: PowerSeen, limits: PowerLimits) -> PowerStep:
    job, arming = seen.job, seen.request.arming
    assert arming is not None
    if seen.withdrawn:
        return _refusal(seen, limits) or _failed("Withdrawn", "It was withdrawn before it began.")
    if job is None or job.uid != arming.uid:
        return _gone(seen)
    if job.state == "Completed":
        return Finish(succeeded=True, reason="Completed", message=_sentence(seen.request))
    if job.state == "Failed":
        return _failure(seen, job)
    if job.staged and (arming.armed or is_older(job.resource_version, arming.resource_version)):
        return _rewound(seen)
    if job.staged:
        return _let_go(seen, job, limits)
    if not arming.armed:
        return RecordJobArmed()
    if job.halted:
        return _failed("TimedOut", f"The BMC was not done within {limits.carry_out:.0f} s.")
    left = (arming.at + timedelta(seconds=limits.carry_out) - seen.now).total_seconds()
    if left > 0:
        return Pause(left)
    return HaltJob(job) if seen.asked else AskForJob()


def _gone(seen: PowerSeen) -> PowerStep:
    if not seen.asked:
        return AskForJob()
    # A withdrawal whose answer was lost looks the same, and does not prove any more that the Job never ran.
    message = (
        "Its Job is gone: somebody deleted it, or it was withdrawn and no answer came. "
        "It may have run, so it is not created again."
    )
    return _failed("JobGone", message)


def _rewound(seen: PowerSeen) -> PowerStep:
    if not seen.asked:
        return AskForJob()
    message = (
        "Its Job was let go, and is held back again, as after a restore of the cluster from a backup. "
        "It may have run, so it is not let go again."
    )
    return _failed("JobRewound", message)


def _failure(seen: PowerSeen, job: JobView) -> PowerStep:
    if seen.failure is None:
        return ReadFailure(job)
    return _failed("Failed", seen.failure or job.message or "Rufio gave no reason.")


def _let_go(seen: PowerSeen, job: JobView, limits: PowerLimits) -> PowerStep:
    if _refusal(seen, limits) is not None:
        return WithdrawJob(job)
    is_recorded = seen.request.arming is not None and job.resource_version == seen.request.arming.resource_version
    if not is_recorded and not seen.asked:
        return AskForJob()
    return ArmJob(job) if is_recorded and seen.vouched else RecordJobArming(job)


def _left(seen: PowerSeen, limits: PowerLimits) -> float:
    return (seen.request.requested_at + timedelta(seconds=limits.prepare) - seen.now).total_seconds()


def _failed(reason: str, message: str) -> Finish:
    return Finish(succeeded=False, reason=reason, message=message)


def _sentence(request: PowerRequest) -> str:
    return f"The machine was {PAST[request.action]}."
