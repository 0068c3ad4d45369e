"""Each step of a provision as a story: what is known, and the one thing to do."""

from datetime import datetime, timedelta
from typing import Any

import pytest

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
    Record,
    RecordArming,
    RemoveWorkflow,
    StageAndOpen,
    Start,
    Stop,
    Wait,
    removable,
)
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.provision import ActionProgress, Arming, Problem, Stopping
from tests.unit.controllers.step_parts import (
    ARMED,
    ARMING,
    CANCEL,
    LIMITS,
    LOCKED,
    MAC,
    NOW,
    STAGED,
    STOPPING,
    provision,
    reason,
    running,
    step,
    workflow,
)


class TestBegin:
    def test_what_was_accepted_is_started(self) -> None:
        assert step(provision("Pending")) == Start()

    def test_a_cancelled_one_ends_at_once(self) -> None:
        found = step(provision("Pending", status={"cancel": CANCEL}))

        assert found == End("Cancelled", Problem("Cancelled", "Cancelled by ann: wrong machine."), {})

    def test_of_a_locked_machine_it_ends_at_once(self) -> None:
        found = step(provision("Pending"), machine=LOCKED)

        assert isinstance(found, End)
        assert found.phase == "Failed"
        assert found.error == Problem("MachineLocked", "bea locked the machine: audit")

    def test_while_the_cluster_is_away_it_is_not_started(self) -> None:
        """The deadline for preparing is for what can be worked on. What needs no cluster ends as ever."""
        assert step(provision("Pending"), reachable=False) == Wait(LIMITS.away)
        assert isinstance(step(provision("Pending", status={"cancel": CANCEL}), reachable=False), End)
        assert reason(step(provision("Pending"), reachable=False, machine=LOCKED)) == "MachineLocked"

    @pytest.mark.parametrize("reachable", [True, False])
    def test_an_intent_that_is_a_day_old_is_not_begun(self, reachable: bool) -> None:
        """Whatever the machine is for by now, nobody has asked for this since yesterday (P2)."""
        before = NOW + timedelta(seconds=LIMITS.pending - 1)
        then = NOW + timedelta(seconds=LIMITS.pending)

        assert step(provision("Pending"), now=before) == Start()
        end = step(provision("Pending"), now=then, reachable=reachable)
        assert isinstance(end, End)
        assert (end.phase, reason(end)) == ("TimedOut", "NotStarted")

    def test_what_a_later_one_has_overtaken_is_not_begun(self) -> None:
        """P2: etcd was put back to before that."""
        end = step(provision("Pending"), lost="p-2")

        assert isinstance(end, End)
        assert (end.phase, reason(end)) == ("Failed", "HistoryLost")
        assert "p-2" in (end.error.message if end.error else "")

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed", "TimedOut", "Cancelled"])
    def test_after_an_end_nothing_is_done(self, phase: str) -> None:
        assert step(provision(phase, status={"cancel": CANCEL}), machine=LOCKED, workflow=running()) == Wait(None)


class TestPrepare:
    def test_the_template_comes_first(self) -> None:
        assert step(provision(), template_ready=False, hardware_ready=False) == EnsureTemplate()

    def test_then_the_hardware_of_a_machine_that_has_none(self) -> None:
        assert step(provision(), hardware_ready=False, hardware_known=False) == EnsureHardware()

    def test_a_known_machine_is_opened_while_tinkerbell_takes_note_of_the_staged_workflow(self) -> None:
        assert step(provision(), hardware_ready=False) == StageAndOpen()
        assert step(provision(), hardware_ready=False, workflow=STAGED) == EnsureHardware()

    def test_then_the_workflow(self) -> None:
        assert step(provision()) == CreateWorkflow()

    def test_tinkerbell_gets_a_moment_to_take_note_of_it(self) -> None:
        assert step(provision(), workflow=STAGED._replace(agent_id=""), staged_for=0.1) == Wait(0.25 - 0.1)

    def test_it_is_armed_without_further_waiting_once_tinkerbell_has(self) -> None:
        assert step(provision(), workflow=STAGED, staged_for=0.1) == RecordArming(STAGED)

    def test_or_after_the_moment(self) -> None:
        quiet = STAGED._replace(agent_id="")

        assert step(provision(), workflow=quiet, staged_for=0.3) == RecordArming(quiet)

    def test_the_secret_of_its_bmc_is_looked_at_once_all_else_is_done(self) -> None:
        assert step(provision(), workflow=STAGED, secret_ready=False) == EnsureSecret()
        waiting = step(provision(), workflow=STAGED._replace(agent_id=""), staged_for=0.0, secret_ready=False)
        assert isinstance(waiting, Wait), "or it would be looked at twice"
        assert isinstance(step(provision(arming=ARMING), workflow=STAGED, secret_ready=False), Arm)

    def test_whom_a_raw_template_is_for_is_waited_for(self) -> None:
        """P3: it may name another machine, and armed it would run there."""
        quiet = STAGED._replace(agent_id="")

        assert step(provision(), workflow=quiet, raw=True, staged_for=0.3) == Wait(10 - 0.3)
        assert step(provision(), workflow=STAGED, raw=True, staged_for=0.3) == RecordArming(STAGED)

    def test_one_that_cannot_be_rendered_is_armed_for_tinkerbell_to_say_why(self) -> None:
        quiet = STAGED._replace(agent_id="")

        assert step(provision(), workflow=quiet, raw=True, staged_for=10) == RecordArming(quiet)

    def test_what_was_armed_by_hand_is_followed(self) -> None:
        assert step(provision(), workflow=running()) == RecordArming(running())

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILED", "TIMEOUT"])
    def test_of_one_that_has_ended_before_etcd_knew_netboot_stays_closed(self, state: str) -> None:
        """etcd was put back to before it was armed (P2)."""
        over = running(state=state)

        assert step(provision(), workflow=over, hardware_ready=False, template_ready=False) == RecordArming(over)

    def test_what_a_later_one_has_overtaken_goes_no_further(self) -> None:
        other = running(name="df-p-2", uid="u-2", provision="p-2", state="SUCCESS")

        stop = step(provision(), workflow=STAGED, others=(other,), lost="p-2")

        assert isinstance(stop, Stop)
        assert (stop.phase, reason(stop)) == ("Failed", "HistoryLost")

    def test_a_workflow_of_somebody_else_under_its_name_is_not_touched(self) -> None:
        found = step(provision(), workflow=STAGED._replace(provision=""))

        assert reason(found) == "ForeignWorkflow"
        stopped = provision(stopping=Stopping(phase="Failed", error=Problem("ForeignWorkflow", "")))
        assert isinstance(step(stopped, workflow=STAGED._replace(provision="")), End)

    def test_a_template_that_names_another_machine_is_not_armed(self) -> None:
        """P3: a raw template may name any worker; the other machine may be locked, or in use."""
        found = step(provision(), workflow=STAGED._replace(agent_id="02:00:00:00:00:99"))

        assert reason(found) == "WrongMachine"

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILED", "TIMEOUT"])
    def test_finished_workflows_of_the_machine_go_first(self, state: str) -> None:
        other = running(name="old", uid="u-0", provision="p-0", state=state)

        assert step(provision(), others=(other,), template_ready=False) == RemoveWorkflow(other)

    def test_staged_left_overs_of_dragonfly_go_too(self) -> None:
        other = STAGED._replace(name="df-p-0", uid="u-0", provision="p-0")

        assert step(provision(), others=(other,)) == RemoveWorkflow(other)

    def test_a_halted_one_goes_even_if_a_late_report_says_that_it_runs(self) -> None:
        done = (ActionProgress(name="write", state="Succeeded"),)
        other = running(name="df-p-0", uid="u-0", provision="p-0", agent_id="", current_action="write", actions=done)

        assert step(provision(), others=(other,)) == RemoveWorkflow(other)

    def test_a_halted_one_stays_while_its_machine_has_yet_to_report(self) -> None:
        """tink-agent repeats for ever a report that finds no Workflow; the next provision would wait for a reboot."""
        busy = (ActionProgress(name="write", state="Running"),)
        other = running(name="df-p-0", uid="u-0", provision="p-0", agent_id="", current_action="write", actions=busy)

        assert step(provision(), others=(other,)) == CreateWorkflow()

    def test_a_staged_one_of_somebody_else_is_left_alone(self) -> None:
        other = STAGED._replace(name="theirs", uid="u-0", provision="")

        assert step(provision(), others=(other,)) == CreateWorkflow()

    def test_another_that_runs_is_looked_at_before_it_fails_the_provision(self) -> None:
        """The copy may lag: what ended minutes ago may seem to run after a failover (P7)."""
        other = running(name="df-p-0", uid="u-0", provision="p-0")

        assert step(provision(), others=(other,)) == AskAbout(other)
        assert reason(step(provision(), others=(other,), confirmed=frozenset({"u-0"}))) == "MachineBusy"

    def test_one_of_a_provision_that_has_ended_is_stopped_as_after_a_restore(self) -> None:
        served, armed = running(name="df-p-0", uid="u-0", provision="p-0"), workflow(name="df-p-0", uid="u-0")
        past = frozenset({"u-0"})

        assert step(provision(), others=(served,), past=past) == HaltWorkflow(served)
        assert step(provision(), others=(armed._replace(provision="p-0"),), past=past) == RemoveWorkflow(
            armed._replace(provision="p-0")
        )


class TestArm:
    def test_the_recorded_one_is_armed(self) -> None:
        assert step(provision(arming=ARMING), workflow=STAGED) == Arm(STAGED)

    def test_on_what_was_recorded_earlier_nothing_is_armed(self) -> None:
        """P3: a lock may have come since, and this replica's view may be behind; the new record compares."""
        assert step(provision(arming=ARMING), workflow=STAGED, vouched=False) == RecordArming(STAGED)

    def test_one_that_changed_since_is_asked_for_then_recorded_anew(self) -> None:
        changed = STAGED._replace(resource_version="8")

        assert step(provision(arming=ARMING), workflow=changed) == AskForWorkflow()
        assert step(provision(arming=ARMING), workflow=changed, asked=True) == RecordArming(changed)

    def test_one_that_a_predecessor_armed_is_followed(self) -> None:
        pending = workflow(state="PENDING", resource_version="9")

        assert isinstance(step(provision(arming=ARMING), workflow=pending), Wait)

    @pytest.mark.parametrize("found", [None, STAGED._replace(uid="u-2")])
    def test_one_that_is_gone_or_another_is_never_made_again(self, found: WorkflowView | None) -> None:
        """P1: it may have run."""
        assert step(provision(arming=ARMING), workflow=found) == AskForWorkflow()
        end = step(provision(arming=ARMING), workflow=found, asked=True)
        assert isinstance(end, End)
        assert (end.phase, reason(end)) == ("Failed", "WorkflowGone")

    def test_a_lock_stops_it_while_it_is_staged(self) -> None:
        assert reason(step(provision(arming=ARMING), workflow=STAGED, machine=LOCKED)) == "MachineLocked"
        assert reason(step(provision(), machine=LOCKED)) == "MachineLocked"

    @pytest.mark.parametrize("state", ["", "PREPARING", "PENDING"])
    def test_a_lock_stops_an_armed_one_that_the_machine_has_not_begun(self, state: str) -> None:
        """P3: or the machine would be wiped when it is switched on, locked as it is."""
        armed = workflow(state=state)

        assert reason(step(provision(arming=ARMING), workflow=armed, machine=LOCKED)) == "MachineLocked"
        stopping = Stopping(phase="Failed", error=Problem("MachineLocked", ""))
        assert step(provision(arming=ARMING, stopping=stopping), workflow=armed) == RemoveWorkflow(armed)

    def test_a_lock_does_not_stop_what_runs(self) -> None:
        assert isinstance(step(provision(arming=ARMING), workflow=running(), machine=LOCKED), Record)


class TestFollow:
    def test_a_template_that_turns_out_to_have_a_task_for_another_machine_is_stopped(self) -> None:
        """P3: that one may be locked, or in use, and nobody opened its netboot."""
        found = step(provision(arming=ARMING), workflow=running(agents=(MAC, "02:00:00:00:00:99")))

        assert reason(found) == "WrongMachine"
        assert isinstance(step(provision(arming=ARMING), workflow=running(agents=(MAC, MAC))), Record)

    def test_one_of_a_provision_that_has_ended_is_stopped_though_this_one_is_armed(self) -> None:
        """A cluster that was put back may show it only after the arming."""
        served = running(name="df-p-0", uid="u-0", provision="p-0")
        unserved = workflow(name="df-p-0", uid="u-0", provision="p-0")
        past = frozenset({"u-0"})

        assert step(provision(arming=ARMING), workflow=running(), others=(served,), past=past) == HaltWorkflow(served)
        assert step(provision(arming=ARMING), workflow=STAGED, others=(unserved,), past=past) == RemoveWorkflow(
            unserved
        )

    @pytest.mark.parametrize(
        "harmless", [{"staged": True}, {"state": "SUCCESS"}, {"state": "RUNNING", "served": True, "agent_id": ""}]
    )
    def test_what_cannot_run_or_may_be_under_way_elsewhere_is_left_alone_once_this_one_is_armed(
        self, harmless: dict[str, Any]
    ) -> None:
        other = workflow(name="df-p-0", uid="u-0", provision="p-0")._replace(**harmless)
        unknown = running(name="df-p-0", uid="u-0", provision="p-0")

        followed = step(provision(arming=ARMING), workflow=running())
        assert step(provision(arming=ARMING), workflow=running(), others=(other,), past=frozenset({"u-0"})) == followed
        assert step(provision(arming=ARMING), workflow=running(), others=(unknown,)) == followed

    def test_the_machine_begins(self) -> None:
        found = step(provision(arming=ARMING), workflow=running())

        assert isinstance(found, Record)
        assert (found.changes["phase"], found.changes["running_at"]) == ("Running", NOW)
        assert (found.changes["progress"], found.changes["current_action"]) == (50, "b")

    def test_an_action_that_runs_began_when_it_was_first_seen(self) -> None:
        known = (ActionProgress(name="b", state="Running", started_at=NOW - timedelta(seconds=5)),)
        found = step(provision("Running", arming=ARMING, status={"actions": known}), workflow=running())

        assert isinstance(found, Record)
        assert found.changes["actions"][1].started_at == NOW - timedelta(seconds=5)

    def test_without_news_it_waits_for_its_deadline(self) -> None:
        first = step(provision("Running", arming=ARMED, status={"running_at": NOW}), workflow=running())
        assert isinstance(first, Record)
        known = provision("Running", arming=ARMED, status={"running_at": NOW, **first.changes})

        assert step(known, workflow=running()) == Wait(1020.0)

    def test_that_it_was_armed_is_noted_on_its_own_only_if_tinkerbell_has_nothing_to_tell(self) -> None:
        pending = workflow(state="PENDING", resource_version="9")
        soon, later = NOW + timedelta(seconds=0.1), NOW + timedelta(seconds=0.3)

        assert step(provision(arming=ARMING), workflow=pending, now=soon) == Wait(0.25 - 0.1)
        assert step(provision(arming=ARMING), workflow=pending, now=later) == Record({})
        assert step(provision(arming=ARMED), workflow=pending, now=later) == Wait(3600 - 0.3)

    def test_progress_stays_below_100_until_it_has_succeeded(self) -> None:
        actions = (ActionProgress(name="a", state="Succeeded"), ActionProgress(name="b", state="Succeeded"))
        found = step(provision("Running", arming=ARMING), workflow=running(state="POST", actions=actions))

        assert isinstance(found, Record)
        assert found.changes["progress"] == 99

    def test_success(self) -> None:
        found = step(provision("Running", arming=ARMING), workflow=running(state="SUCCESS"))

        assert isinstance(found, End)
        assert (found.phase, found.error) == ("Succeeded", None)

    def test_success_is_a_result_though_a_cancel_came_before_it_was_seen(self) -> None:
        found = step(provision("Running", arming=ARMING, status={"cancel": CANCEL}), workflow=running(state="SUCCESS"))

        assert isinstance(found, End)
        assert found.phase == "Succeeded"

    @pytest.mark.parametrize(
        ("state", "action", "phase", "why"),
        [
            ("FAILED", "Failed", "Failed", "ActionFailed"),
            ("FAILED", "TimedOut", "Failed", "ActionFailed"),
            ("FAILED", "Succeeded", "Failed", "WorkflowFailed"),
            ("TIMEOUT", "TimedOut", "TimedOut", "ActionTimedOut"),
            ("TIMEOUT", "Running", "TimedOut", "GlobalTimeout"),
        ],
    )
    def test_a_bad_end_is_taken_from_the_agent_then_told(self, state: str, action: Any, phase: str, why: str) -> None:
        actions = (ActionProgress(name="a", state=action),)
        ended = running(state=state, actions=actions)

        assert step(provision("Running", arming=ARMING), workflow=ended) == HaltWorkflow(ended)
        found = step(provision("Running", arming=ARMING), workflow=ended._replace(agent_id=""))
        assert isinstance(found, End)
        assert (found.phase, reason(found)) == (phase, why)

    def test_tinkerbells_words_are_passed_on(self) -> None:
        failed = workflow(state="FAILED", agent_id="", failure="BootJobFailed: job failed")
        found = step(provision(arming=ARMING), workflow=failed)

        assert isinstance(found, End)
        assert found.error == Problem("WorkflowFailed", "BootJobFailed: job failed")

    def test_a_template_that_cannot_be_rendered_fails_at_once_in_tinkerbells_words(self) -> None:
        broken = workflow(rendering_error="error rendering template: unclosed action")
        missing = workflow(rendering_error="template not found: name=t")
        assert step(provision(arming=ARMING), workflow=missing, template_ready=False) == EnsureTemplate()
        assert step(provision(arming=ARMING), workflow=missing, hardware_ready=False) == EnsureHardware()

        found = step(provision(arming=ARMING), workflow=broken)

        assert isinstance(found, Stop)
        assert found.error == Problem("TemplateRenderingFailed", "error rendering template: unclosed action")

    @pytest.mark.parametrize("words", ["template not found", "hardware not found: x"])
    def test_what_tinkerbells_cache_does_not_show_yet_gets_some_time(self, words: str) -> None:
        missing = workflow(rendering_error=words)

        assert step(provision(arming=ARMING), workflow=missing, now=NOW + timedelta(seconds=4)) == Wait(116.0)
        late = step(provision(arming=ARMING), workflow=missing, now=NOW + timedelta(seconds=120))
        assert reason(late) == "TemplateRenderingFailed"


class TestDeadlines:
    @pytest.mark.parametrize(
        ("arming", "running_at", "found", "at", "why"),
        [
            (None, None, None, 600, "NotPrepared"),
            (ARMING, None, workflow(state="PENDING"), 3600, "MachineSilent"),
            (ARMING, NOW, running(), 1020, "Overran"),
        ],
    )
    def test_each_phase_has_one_and_asks_before_it_believes(
        self, arming: Arming | None, running_at: datetime | None, found: WorkflowView | None, at: int, why: str
    ) -> None:
        phase = "Running" if running_at else "Starting"
        of = provision(phase, arming=arming, status={"running_at": running_at})
        before, then = NOW + timedelta(seconds=at - 1), NOW + timedelta(seconds=at)

        assert not isinstance(step(of, workflow=found, asked=True, now=before), Stop)
        assert step(of, workflow=found, now=then) == AskForWorkflow()
        stop = step(of, workflow=found, asked=True, now=then)
        assert isinstance(stop, Stop)
        assert (stop.phase, reason(stop)) == ("TimedOut", why)

    @pytest.mark.parametrize(
        ("arming", "running_at", "found"),
        [(None, None, None), (ARMING, None, workflow(state="PENDING")), (ARMING, NOW, running())],
    )
    def test_a_replica_that_has_just_come_gives_it_time(
        self, arming: Arming | None, running_at: datetime | None, found: WorkflowView | None
    ) -> None:
        """P7: all were away, or the cluster was; that fails nothing."""
        phase = "Running" if running_at else "Starting"
        of = provision(phase, arming=arming, status={"running_at": running_at})
        later = NOW + timedelta(hours=9)

        first = step(of, workflow=found, asked=True, now=later, on_duty=1.0)
        assert not isinstance(first, Stop)
        assert isinstance(step(of, workflow=found, asked=True, now=later, on_duty=LIMITS.grace), Stop)

    def test_who_has_just_come_waits_as_long_as_it_takes(self) -> None:
        pending = workflow(state="PENDING")
        later = NOW + timedelta(hours=9)

        assert step(provision(arming=ARMED), workflow=pending, asked=True, now=later, on_duty=100.0) == Wait(20.0)

    def test_what_was_not_prepared_says_what_went_wrong_last(self) -> None:
        late = NOW + timedelta(seconds=600)

        stop = step(provision(), asked=True, now=late, last_trouble="workflows is forbidden")

        assert isinstance(stop, Stop)
        assert stop.error.message == (
            "Its Workflow could not be prepared within 600 s. The last try: workflows is forbidden"
        )

    def test_replicas_that_were_all_away_fail_no_machine_that_runs(self) -> None:
        """P7: nobody was there to see it begin in time."""
        hours_later = NOW + timedelta(hours=5)

        found = step(provision(arming=ARMING), workflow=running(), now=hours_later)

        assert isinstance(found, Record)
        assert found.changes["running_at"] == hours_later


class TestStop:
    @pytest.mark.parametrize("found", [None, STAGED, workflow(state="PENDING"), running()])
    def test_a_cancel_is_recorded_first(self, found: WorkflowView | None) -> None:
        stop = step(provision(arming=ARMING if found else None, status={"cancel": CANCEL}), workflow=found)

        assert stop == Stop("Cancelled", Problem("Cancelled", "Cancelled by ann: wrong machine."))

    def test_without_a_workflow_it_ends_when_the_server_has_said_so(self) -> None:
        assert step(provision(stopping=STOPPING)) == AskForWorkflow()
        assert step(provision(stopping=STOPPING), asked=True) == End(STOPPING.phase, STOPPING.error, {})

    @pytest.mark.parametrize(
        "found", [STAGED, workflow(), workflow(state="PREPARING"), workflow(state="PENDING")], ids=lambda w: w.state
    )
    def test_what_no_agent_was_served_is_deleted(self, found: WorkflowView) -> None:
        assert removable(found)
        assert step(provision(stopping=STOPPING, arming=ARMING), workflow=found) == RemoveWorkflow(found)

    @pytest.mark.parametrize("state", ["PENDING", "RUNNING", "POST"])
    def test_what_an_agent_was_served_is_halted_never_deleted(self, state: str) -> None:
        served = running(state=state)

        assert not removable(served)
        assert step(provision(stopping=STOPPING, arming=ARMING), workflow=served) == HaltWorkflow(served)

    def test_what_is_halted_is_the_end(self) -> None:
        halted = running(state="FAILED", agent_id="")
        found = step(provision(stopping=STOPPING, arming=ARMING), workflow=halted)

        assert isinstance(found, End)
        assert (found.phase, found.error) == ("Cancelled", STOPPING.error)

    def test_a_failed_one_that_still_has_its_agent_is_not_yet_the_end(self) -> None:
        failed = running(state="FAILED")

        assert step(provision(stopping=STOPPING, arming=ARMING), workflow=failed) == HaltWorkflow(failed)

    def test_it_may_have_succeeded_meanwhile(self) -> None:
        found = step(provision(stopping=STOPPING, arming=ARMING), workflow=running(state="SUCCESS"))

        assert isinstance(found, End)
        assert found.phase == "Succeeded"

    def test_the_success_of_a_replacement_is_not_its_own(self) -> None:
        replaced = running(state="SUCCESS", uid="u-2", agent_id="")
        found = step(provision(stopping=STOPPING, arming=ARMING), workflow=replaced)

        assert isinstance(found, End)
        assert found.phase == "Cancelled"
