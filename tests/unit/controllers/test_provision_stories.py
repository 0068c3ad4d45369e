"""From the intent to the installed machine, or to another end; in virtual time."""

from dragonfly.kube.errors import Invalid
from dragonfly.model.machine import Bmc, phase_of, status_of
from dragonfly.model.provision import workflow_name
from tests.unit.controllers.site import MACHINE, PROVISION, WORKFLOW_NAME, Site, netboot, run

SECOND = "01JD0000000000000000000002"
BMC = Bmc(host="10.0.1.1", username="root")


class TestHappyPath:
    def test_an_intent_becomes_an_installed_machine(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(boot="netboot", bmc=BMC)
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.settled()

            status = site.provision().status
            assert (status.phase, status.progress, status.error) == ("Succeeded", 100, None)
            assert [action.state for action in status.actions] == ["Succeeded", "Succeeded"]
            assert status.running_at is not None
            assert status.workflow is not None
            assert status.workflow.name == WORKFLOW_NAME
            observed = site.observed()
            assert observed.os is not None
            assert (observed.os.template, observed.os.provision) == ("ubuntu", PROVISION)
            assert observed.last_provision is not None
            assert not netboot(site)
            assert [(note.type, note.reason) for note in site.notes] == [("Normal", "ProvisionSucceeded")]

        run(story)

    def test_it_takes_these_writes_and_no_others(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.settled(300)

            assert site.kube.writes() == [
                ("create", "Template"),
                ("apply", "Secret"),
                ("apply", "Machine"),
                ("apply", "Hardware"),
                ("create", "Workflow"),
                ("patch", "Workflow"),
                ("apply", "Hardware"),
            ]
            assert site.armings() == 1

        run(story)

    def test_the_next_provision_removes_the_finished_workflow_of_the_last_before_it_begins(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.ask_for_provision(SECOND)
                await site.install(workflow_name(SECOND))
                await site.until(lambda: not site.is_active())

            assert site.phase(SECOND) == "Succeeded"
            assert list(site.workflows()) == [workflow_name(SECOND)]
            assert site.provision().status.phase == "Succeeded"

        run(story)

    def test_the_eta_of_the_second_run_is_how_long_the_first_took(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.ask_for_provision(SECOND)
                await site.until(lambda: site.is_armed(workflow_name(SECOND)))
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(workflow_name(SECOND), 0)
                await site.until(lambda: site.phase(SECOND) == "Running")

            first, status = site.provision().status, site.provision(SECOND).status
            assert status.eta is not None
            assert status.running_at is not None
            assert first.finished_at is not None
            assert first.running_at is not None
            assert status.eta - status.running_at == first.finished_at - first.running_at

        run(story)

    def test_tinkerbell_gets_its_moment_whatever_wakes_the_machine_in_between(self) -> None:
        """Armed too soon, the Workflow changes under the patch: one more transaction, one more conflict."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(lambda: bool(site.workflows()))
                site.controller.queue.add(MACHINE)
                await site.settled(0.1)
                assert site.provision().arming is None
                site.tinkerbell.reconcile()
                await site.settled(0.1)
                assert site.is_armed()

        run(story)

    def test_without_a_word_of_tinkerbells_it_is_armed_all_the_same(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed, seconds=1)

        run(story)


class TestDuty:
    def test_before_the_api_server_has_answered_a_replica_has_reached_it_for_no_time_at_all(self) -> None:
        """Less than none would put every deadline off for ever."""

        async def story(site: Site) -> None:
            assert site.controller.twins.reached_for == 0.0
            async with site.running():
                await site.settled(7)
                assert 0 < site.controller.twins.reached_for <= 7

        run(story)


class TestCancel:
    def test_before_the_workflow_exists(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            gate = site.kube.gate("create")
            async with site.running():
                await site.until(lambda: "create" in site.kube.waiting)
                await site.cancel()
                gate.set()
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert site.phase() == "Cancelled"
            assert not site.workflows()
            assert not netboot(site)
            assert site.armings() == 0

        run(story)

    def test_of_a_staged_one(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            gate = site.kube.gate("patch")
            async with site.running():
                await site.until(lambda: "patch" in site.kube.waiting)
                site.tinkerbell.reconcile()
                await site.cancel()
                gate.set()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Cancelled"
            assert not site.workflows()
            assert site.armings() == 0

        run(story)

    def test_of_an_armed_one_that_no_agent_was_served(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                await site.cancel()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Cancelled"
            assert not site.workflows()

        run(story)

    def test_of_one_that_runs_halts_it_and_leaves_it_there(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(WORKFLOW_NAME, 0)
                await site.until(lambda: site.phase() == "Running")
                await site.cancel()
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert site.phase() == "Cancelled"
            status = site.workflows()[WORKFLOW_NAME]["status"]
            assert (status["state"], status["agentID"]) == ("FAILED", "")
            assert not netboot(site)
            assert ("delete", "Workflow") not in site.kube.writes()

        run(story)

    def test_of_a_reinstallation_leaves_no_claim_about_what_is_on_the_disks(self) -> None:
        """The first system is gone from the second run's first action on, and the second never got there."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                assert site.observed().os is not None
                await site.ask_for_provision(SECOND)
                await site.until(lambda: site.is_armed(workflow_name(SECOND)))
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(workflow_name(SECOND), 0)
                await site.until(lambda: site.phase(SECOND) == "Running")
                assert status_of(site.machine(), site.observed(), site.summary(SECOND), "a").os is None
                await site.cancel(SECOND)
                await site.until(lambda: not site.is_active())

            assert site.observed().os is None
            assert phase_of(site.machine(), site.observed(), None) == "Failed"

        run(story)

    def test_that_never_began_leaves_what_was_installed(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.ask_for_provision(SECOND)
                await site.until(lambda: site.is_armed(workflow_name(SECOND)))
                await site.cancel(SECOND)
                await site.until(lambda: not site.is_active())

            assert site.phase(SECOND) == "Cancelled"
            assert site.observed().os is not None
            assert phase_of(site.machine(), site.observed(), None) == "Deployed"

        run(story)

    def test_that_comes_after_success_changes_nothing(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.gate("watch")
            async with site.running():
                await site.install()
                await site.cancel()
                site.kube.gates.pop("watch").set()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"

        run(story)


class TestFailure:
    def test_a_template_that_cannot_be_rendered_fails_within_seconds_in_tinkerbells_words(self) -> None:
        async def story(site: Site) -> None:
            site.tinkerbell.rendering_error = "error rendering template: function nope not defined"
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                await site.until(lambda: not site.is_active(), seconds=5)
                await site.settled()

            error = site.provision().status.error
            assert error is not None
            assert (site.phase(), error.reason) == ("Failed", "TemplateRenderingFailed")
            assert "function nope not defined" in error.message
            assert not site.workflows()
            assert not netboot(site)

        run(story)

    def test_an_action_that_fails(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(WORKFLOW_NAME, 0)
                site.tinkerbell.reports(WORKFLOW_NAME, 0, "FAILED", state="FAILED")
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert (site.phase(), site.reason()) == ("Failed", "ActionFailed")
            assert site.observed().os is None
            assert not netboot(site)

        run(story)

    def test_a_machine_that_stays_silent(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert (site.phase(), site.reason()) == ("TimedOut", "MachineSilent")
            assert not site.workflows()
            assert not netboot(site)

        run(story)

    def test_what_the_cluster_refuses_fails_the_provision_with_its_words(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.faults["apply"].append(Invalid("spec.interfaces[0]: too odd", status=422))
            async with site.running():
                await site.until(lambda: not site.is_active())

            error = site.provision().status.error
            assert error is not None
            assert (site.phase(), error.reason) == ("Failed", "Rejected")
            assert "too odd" in error.message

        run(story)

    def test_a_workflow_that_was_deleted_by_hand_after_it_was_armed_is_not_made_again(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.kube.remove(site.ref())
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert (site.phase(), site.reason()) == ("Failed", "WorkflowGone")
            assert site.kube.writes().count(("create", "Workflow")) == 1

        run(story)
