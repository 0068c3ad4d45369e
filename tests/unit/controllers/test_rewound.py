"""P1 and P2 where a cluster comes back from a backup while a provision is under way: nothing runs a second time."""

from datetime import timedelta
from typing import Any

import pytest

from dragonfly.controllers.steps import AskForWorkflow, HaltWorkflow, RecordArming, RemoveWorkflow, Stop
from dragonfly.kube.errors import KubeError, Unreachable
from dragonfly.kube.resources import HARDWARE, WORKFLOW
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.machine import InstalledOs
from dragonfly.model.provision import ActionProgress, Arming, Problem, Stopping
from tests.unit.controllers.kube_model import Backup
from tests.unit.controllers.site import MACHINE, Site, netboot, run
from tests.unit.controllers.step_parts import ARMED, ARMING, NOW, STAGED, provision, reason, running, step, workflow

RUNNING = {"running_at": NOW}
HALF = (ActionProgress(name="a", state="Succeeded"), ActionProgress(name="b", state="Running"))
BACK = (ActionProgress(name="a", state="Running"), ActionProgress(name="b", state="Pending"))


class TestSteps:
    @pytest.mark.parametrize(
        ("arming", "status", "version", "seen_armed"),
        [
            (ARMED, {}, "7", False),
            (ARMED, {}, "9", False),
            (ARMING, {}, "7", True),
            (ARMING, {}, "6", False),
            (ARMING, RUNNING, "7", False),
            (ARMING, {"actions": BACK}, "7", False),
        ],
        ids=["marked", "marked, and changed since", "seen by this replica", "older", "it ran", "it was rendered"],
    )
    def test_what_was_armed_and_is_staged_again_is_never_armed_again(
        self, arming: Arming, status: dict[str, Any], version: str, seen_armed: bool
    ) -> None:
        of = provision(arming=arming, status=status)
        found = STAGED._replace(resource_version=version)

        assert step(of, workflow=found, seen_armed=seen_armed) == AskForWorkflow(), "the copy may be behind"
        stop = step(of, workflow=found, seen_armed=seen_armed, asked=True)
        assert isinstance(stop, Stop)
        assert (stop.phase, reason(stop)) == ("Failed", "WorkflowRewound")

    def test_what_was_recorded_and_perhaps_not_armed_is_armed_as_ever(self) -> None:
        """P7: whoever recorded it died before the patch, or the patch was lost; Tinkerbell may take note of it late."""
        noted = STAGED._replace(resource_version="8")

        assert step(provision(arming=ARMING), workflow=noted, asked=True) == RecordArming(noted)

    @pytest.mark.parametrize(
        "found",
        [
            workflow(state="PENDING"),
            running(actions=BACK, current_action="a"),
            running(actions=()),
        ],
        ids=["to be fetched again", "an action taken back", "not rendered"],
    )
    def test_a_machine_that_would_begin_again_what_it_has_done_is_stopped(self, found: WorkflowView) -> None:
        of = provision("Running", arming=ARMED, status=RUNNING | {"actions": HALF})

        assert step(of, workflow=found) == AskForWorkflow()
        assert reason(step(of, workflow=found, asked=True)) == "WorkflowRewound"
        stopping = provision("Running", arming=ARMED, stopping=Stopping(phase="Failed", error=Problem("r", "m")))
        last = step(stopping, workflow=found)
        assert last == (HaltWorkflow(found) if found.served else RemoveWorkflow(found))

    def test_another_workflow_under_its_name_is_no_earlier_state_of_it(self) -> None:
        replaced = STAGED._replace(uid="u-2", resource_version="3")

        assert reason(step(provision(arming=ARMED), workflow=replaced, asked=True)) == "WorkflowGone"

    def test_what_has_ended_has_its_result_whatever_it_says_of_its_actions(self) -> None:
        of = provision("Running", arming=ARMED, status=RUNNING | {"actions": HALF})
        found = running(state="FAILED", agent_id="", actions=())

        assert reason(step(of, workflow=found)) == "WorkflowFailed"

    def test_a_replica_that_was_away_finds_it_as_far_as_it_is(self) -> None:
        of = provision("Running", arming=ARMED, status=RUNNING | {"actions": HALF})
        done = (ActionProgress(name="a", state="Succeeded"), ActionProgress(name="b", state="Succeeded"))

        found = step(of, workflow=running(state="POST", actions=done), now=NOW + timedelta(seconds=60))

        assert not isinstance(found, Stop | AskForWorkflow)


class TestStories:
    """With a real mirror and real copies; the cluster is put back under them."""

    @pytest.mark.parametrize("begun", [False, True], ids=["no agent had it", "the machine had begun"])
    @pytest.mark.parametrize("settled", [False, True], ids=["at once", "later"])
    def test_a_workflow_that_is_staged_again_is_not_armed_again(self, settled: bool, begun: bool) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            staged = await _armed(site)
            if begun:
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(next(iter(site.workflows())), 0)
            if settled:
                await site.settled()
            await site.kube.restore(staged)
            await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowRewound")
            await site.settled()
            assert site.armings() == 1
            assert not site.workflows()
            assert not netboot(site)

        _follow(story)

    def test_what_is_installed_is_told_as_unknown_since_the_machine_may_have_begun(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            former = InstalledOs(template="old", revision=1, installed_at=site.time(), provision="p")
            await site.observe(os=former)
            staged = await _armed(site)
            await site.settled()
            await site.kube.restore(staged)
            await site.until(lambda: not site.is_active())

            assert site.reason() == "WorkflowRewound"
            assert site.observed().os is None

        _follow(story)

    def test_a_replica_that_saw_nothing_of_it_arms_it_no_second_time(self) -> None:
        """The mark is in etcd: all replicas may have been started again after the restore."""

        async def story(site: Site) -> None:
            await site.add_machine()
            staged = await _armed(site)
            await site.settled()
            await site.lose_claim()
            await site.kube.restore(staged)
            successor = site.successor()
            async with successor.running():
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowRewound")
            assert site.armings() == 1

        _follow(story)

    def test_without_etcd_for_the_mark_the_replica_remembers(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            gate = site.kube.gate("patch")
            await site.until(lambda: "patch" in site.kube.waiting)
            staged = site.kube.backup()
            site.store.fail("unsent", "unsent", "unsent")
            gate.set()
            await site.until(site.is_armed)
            await site.kube.restore(staged)
            await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowRewound")
            assert site.armings() == 1

        _follow(story)

    @pytest.mark.parametrize("error", [None, Unreachable("cut", maybe_done=False), Unreachable("cut", maybe_done=True)])
    def test_a_backup_of_before_the_arming_is_armed_once(self, error: KubeError | None) -> None:
        """What was put back before anything was armed is no hindrance: the patch is still to be sent."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            gate = site.kube.gate("patch")
            await site.until(lambda: "patch" in site.kube.waiting)
            await site.kube.restore(site.kube.backup())
            if error is not None:
                site.kube.faults["patch"] = [error]
            gate.set()
            await site.install()
            await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"
            assert site.armings() == 1

        _follow(story)

    def test_a_machine_that_would_begin_again_is_stopped(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await _armed(site)
            site.tinkerbell.reconcile()
            fetched = site.kube.backup()
            [name] = site.workflows()
            site.tinkerbell.serves(name, 0)
            await site.settled()
            site.tinkerbell.reports(name, 0, "SUCCESS", state="RUNNING")
            await site.settled()
            await site.kube.restore(fetched)
            await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowRewound")
            assert not site.workflows()

        _follow(story)

    def test_a_backup_from_before_the_workflow_ends_it_as_gone(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.settled()
            empty = site.kube.backup()
            await _armed(site)
            await site.settled()
            await site.kube.restore(empty)
            await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowGone")
            assert not [call for call in site.kube.calls if call.verb == "create" and call.kind == "Workflow"][1:]

        _follow(story)

    def test_the_workflow_of_a_machine_that_was_deleted_does_not_run(self) -> None:
        """P2: nobody gains a shard by then, which alone had what is there of such machines looked at."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await _armed(site)
            armed = site.kube.backup()
            await site.install()
            await site.until(lambda: not site.is_active())
            await site.delete_machine()
            await site.settled()
            await site.kube.restore(armed)
            await site.settled()

            assert not site.workflows()

        _follow(story)


def _follow(story: Any) -> None:
    async def running(site: Site) -> None:
        async with site.running():
            await site.settled()
            await story(site)

    run(running)


async def _armed(site: Site) -> Backup:
    """Provision up to the arming; return the cluster as it was just before."""
    await site.ask_for_provision()
    gate = site.kube.gate("patch")
    await site.until(lambda: "patch" in site.kube.waiting)
    [workflow] = site.kube.of(WORKFLOW).values()
    assert workflow["spec"]["disabled"]
    assert MACHINE in site.kube.of(HARDWARE)
    staged = site.kube.backup()
    gate.set()
    await site.until(site.is_armed)
    return staged
