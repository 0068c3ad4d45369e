"""The one next step of a power action, where no story leads."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

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
from dragonfly.kube.power import JobView
from dragonfly.model.machine import Bmc, Interface, Locked, Machine, MachineSpec
from dragonfly.model.power import JobArming, PowerRequest
from dragonfly.model.values import Metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = PowerLimits(prepare=100, carry_out=200)
REQUEST = PowerRequest(name="01JD", machine="m-1", action="cycle", requested_by="ann", requested_at=NOW)
ARMING = JobArming(uid="u", resource_version="3", epoch=7, at=NOW)
RUNNING = msgspec.structs.replace(REQUEST, phase="Running", arming=ARMING)
LET_GO = msgspec.structs.replace(RUNNING, arming=msgspec.structs.replace(ARMING, armed=True))
STAGED = JobView("df-power-01jd", "u", "3", "01JD", staged=True, halted=False, state="", message="")
ARMED = STAGED._replace(staged=False, resource_version="4")
LOCK = Locked(reason="audit", by="bea", at=NOW)
SPEC = MachineSpec(interfaces=(Interface(mac="02:00:00:00:00:01"),), bmc=Bmc(host="10.0.1.1"))


def machine(**spec: Any) -> Machine:
    changed = msgspec.structs.replace(SPEC, **spec)
    return Machine(metadata=Metadata(name="m-1", created_at=NOW, updated_at=NOW), spec=changed)


def step(request: PowerRequest, job: JobView | None, *, after: float = 1, **changes: Any) -> PowerStep:
    seen = PowerSeen(
        request=request,
        machine=machine(),
        provision="",
        bmc_known=True,
        job=job,
        asked=False,
        vouched=True,
        withdrawn=False,
        failure=None,
        rejected="",
        now=NOW + timedelta(seconds=after),
    )
    return next_power_step(seen._replace(**changes), LIMITS)


def reason(found: PowerStep) -> str:
    assert isinstance(found, Finish)
    return found.reason


def test_it_is_created_recorded_and_armed_in_this_order() -> None:
    assert step(REQUEST, None) == CreateJob()
    assert step(REQUEST, STAGED) == RecordJobArming(STAGED)
    assert step(RUNNING, STAGED) == ArmJob(STAGED)
    assert step(RUNNING, ARMED) == RecordJobArmed()
    assert step(LET_GO, ARMED, after=50) == Pause(150)


@pytest.mark.parametrize(("request_", "version"), [(LET_GO, "3"), (LET_GO, "9"), (RUNNING, "2")])
def test_a_job_that_was_let_go_and_is_staged_again_is_never_let_go_again(request_: PowerRequest, version: str) -> None:
    """Its cluster came back from a backup; the machine may have been switched already."""
    back = STAGED._replace(resource_version=version)

    assert step(request_, back) == AskForJob(), "the copy may be behind"
    assert reason(step(request_, back, asked=True)) == "JobRewound"


def test_on_what_was_recorded_earlier_nothing_is_armed() -> None:
    """P3: a lock may have come since; the new record compares."""
    assert step(RUNNING, STAGED, vouched=False) == RecordJobArming(STAGED)


def test_a_job_is_armed_only_as_it_was_recorded() -> None:
    touched = STAGED._replace(resource_version="9")

    assert step(RUNNING, touched) == AskForJob()
    assert step(RUNNING, touched, asked=True) == RecordJobArming(touched)


def test_after_it_was_recorded_nothing_creates_it_again() -> None:
    assert step(RUNNING, None) == AskForJob()
    assert reason(step(RUNNING, None, asked=True)) == "JobGone"
    assert reason(step(RUNNING, ARMED._replace(uid="other"), asked=True)) == "JobGone"


def test_a_withdrawal_whose_answer_was_lost_is_not_told_as_somebody_elses_deed() -> None:
    """Found by the simulator: locked after the record, its Job withdrawn, no answer, and the next look finds none."""
    finish = step(RUNNING, None, asked=True)

    assert isinstance(finish, Finish)
    assert "somebody deleted it, or it was withdrawn" in finish.message
    assert "It may have run" in finish.message


def test_without_its_bmc_in_the_cluster_it_waits() -> None:
    assert step(REQUEST, None, bmc_known=False, after=30) == Pause(70)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"machine": machine(locked=LOCK)}, "MachineLocked"),
        ({"machine": machine(bmc=None)}, "NoBmc"),
        ({"provision": "01JE"}, "ProvisionActive"),
        ({"rejected": "422"}, "Rejected"),
        ({"after": 100}, "NotPrepared"),
    ],
)
def test_what_stands_against_it_ends_it_before_it_begins(changes: dict[str, Any], expected: str) -> None:
    assert reason(step(REQUEST, STAGED, **changes)) == expected


def test_what_was_recorded_but_not_armed_is_withdrawn_from_a_locked_machine() -> None:
    """P3."""
    locked = machine(locked=LOCK)

    assert step(RUNNING, STAGED, machine=locked) == WithdrawJob(STAGED)
    assert reason(step(RUNNING, None, machine=locked, asked=True, withdrawn=True)) == "MachineLocked"


def test_what_runs_is_not_touched_by_a_lock() -> None:
    assert step(LET_GO, ARMED, machine=machine(locked=LOCK)) == Pause(199)


def test_switching_on_disturbs_no_installation() -> None:
    assert step(msgspec.structs.replace(REQUEST, action="on"), None, provision="01JE") == CreateJob()


def test_a_job_that_is_not_its_own_is_left_alone() -> None:
    assert reason(step(REQUEST, STAGED._replace(request=""))) == "ForeignJob"


def test_too_late_is_halted_only_after_a_look_at_the_api_server() -> None:
    assert step(LET_GO, ARMED, after=200) == AskForJob()
    assert step(LET_GO, ARMED, after=200, asked=True) == HaltJob(ARMED)
    assert reason(step(LET_GO, ARMED._replace(halted=True))) == "TimedOut"


def test_a_result_counts_even_if_it_is_late() -> None:
    assert reason(step(RUNNING, ARMED._replace(state="Completed"), after=999)) == "Completed"


def test_a_failure_is_told_in_the_best_words_there_are() -> None:
    failed = ARMED._replace(state="Failed", message="task x failed")

    assert step(RUNNING, failed) == ReadFailure(failed)
    for words, expected in (("the fuse is blown", "the fuse is blown"), ("", "task x failed")):
        found = step(RUNNING, failed, failure=words)
        assert isinstance(found, Finish)
        assert (found.succeeded, found.message) == (False, expected)
