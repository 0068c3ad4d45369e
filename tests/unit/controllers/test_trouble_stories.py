"""What comes between an intent and its end, and only delays it: errors, failovers, locks, people; in virtual time."""

import asyncio
import copy
from typing import Any

import pytest

from dragonfly.kube.errors import Conflict, Forbidden, KubeError, ServerFailed, Unreachable
from dragonfly.kube.resources import SECRET, WORKFLOW, Ref
from dragonfly.kube.resources import TEMPLATE as KUBE_TEMPLATE
from dragonfly.kube.tinkerbell import MANAGED_BY, MANAGER
from dragonfly.kube.tinkerbell import PROVISION as PROVISION_LABEL
from dragonfly.model.machine import Bmc
from dragonfly.model.provision import workflow_name
from dragonfly.model.template import TemplateSpec
from dragonfly.store.seal import Unsealable
from tests.unit.controllers.site import LIMITS, MAC, MACHINE, NAMESPACE, PROVISION, SHARD, WORKFLOW_NAME, Site, run

SECOND = "01JD0000000000000000000002"


async def ask_while_it_is_away(site: Site) -> None:
    """Have a provision asked for when the cluster has been out of reach for some time."""
    await site.settled()
    site.kube.silent = Unreachable("connection refused", maybe_done=False)
    await site.settled(20)
    await site.ask_for_provision()


class TestTrouble:
    @pytest.mark.parametrize("verb", ["create", "apply", "patch", "get"])
    @pytest.mark.parametrize(
        "error",
        [
            Conflict("changed", status=409),
            Unreachable("cut", maybe_done=True),
            ServerFailed("oops", maybe_done=True, status=500),
        ],
    )
    def test_a_storm_of_errors_only_delays(self, verb: str, error: KubeError) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.faults[verb] = [error] * 6
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"
            assert site.armings() == 1

        run(story)

    @pytest.mark.parametrize("fault", ["unsent", "lost answer"])
    def test_an_etcd_that_fails_only_delays(self, fault: Any) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                site.store.fail(*[fault] * 6)
                await site.install()
                site.store.fail(*[fault] * 6)
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"
            assert site.armings() == 1

        run(story)

    def test_what_can_never_be_written_says_so_in_the_result(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.faults["create"] = [Forbidden("cannot create templates", status=403)] * 10_000
            async with site.running():
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("TimedOut", "NotPrepared")
            error = site.provision().status.error
            assert error is not None
            assert error.message.endswith("The last try: cannot create templates")

        run(story)

    def test_of_trouble_that_is_over_nothing_is_told(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.faults["create"] = [Forbidden("cannot create templates", status=403)]
            async with site.running():
                await site.until(site.is_armed)
                await site.settled()
                assert not site.controller._troubles

        run(story)

    def test_a_provision_waits_for_a_cluster_that_is_away_and_has_all_its_time_then(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            async with site.running():
                await ask_while_it_is_away(site)
                await site.settled(2 * LIMITS.prepare)
                assert site.phase() == "Pending"
                site.kube.silent = None
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"

        run(story)

    def test_a_provision_that_waits_for_its_cluster_is_begun_as_soon_as_that_is_reached(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            async with site.running():
                await ask_while_it_is_away(site)
                # Whenever it comes back, whatever the pause between two looks.
                for beat in range(11):
                    assert site.phase() == "Pending", beat
                    await site.settled(0.5)
                site.kube.silent = None
                await site.until(lambda: site.controller.twins.reachable)
                await site.settled(0.6)
                assert site.phase() == "Starting"

        run(story)

    @pytest.mark.parametrize("asked", [False, True])
    def test_a_password_that_does_not_open_says_what_to_do(self, asked: bool) -> None:
        async def story(site: Site) -> None:
            site.unsealable = Unsealable("sealed with key abc, which the secret key file lacks")
            await site.add_machine(bmc=Bmc(host="10.0.1.1", username="root"))
            if asked:
                await site.ask_for_provision()
            async with site.running():
                await site.settled(20)

            (condition,) = site.observed().conditions
            assert (condition.status, condition.reason) == ("False", "SecretUnsealable")
            assert "key abc" in condition.message
            assert "secret key file" in condition.message
            assert not asked or (site.phase(), site.reason()) == ("Failed", "SecretUnsealable")

        run(story)

    @pytest.mark.parametrize("labels", [{MANAGED_BY: MANAGER}, {}])
    def test_a_template_that_was_made_otherwise_is_set_right_if_it_is_dragonflys(self, labels: dict[str, str]) -> None:
        async def story(site: Site) -> None:
            ref = Ref(KUBE_TEMPLATE, NAMESPACE, "ubuntu-r1")
            site.kube.put(ref, spec={"data": "of an older version"}, metadata={"labels": labels})
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                if labels:
                    await site.install()
                await site.until(lambda: not site.is_active())

            if labels:
                assert site.phase() == "Succeeded"
                assert site.kube.objects[ref]["spec"]["data"] != "of an older version"
            else:
                assert (site.phase(), site.reason()) == ("Failed", "ForeignObject")
                assert site.kube.objects[ref]["spec"]["data"] == "of an older version"

        run(story)

    def test_its_own_workflow_that_is_there_already_is_gone_on_with(self) -> None:
        """The answer to a predecessor's create was lost, or it died right after."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            labels = {MANAGED_BY: "dragonfly", "dragonfly.io/machine": MACHINE, PROVISION_LABEL: PROVISION}
            spec = {"disabled": True, "hardwareRef": MACHINE}
            async with site.running(claim=False):
                await site.settled()
                site.kube.gate("watch")
                site.kube.put(site.ref(), metadata={"labels": labels}, spec=spec)
                await site.claim()
                await site.until(site.is_armed)
                site.kube.gates.pop("watch").set()
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"
            assert ("create", "Workflow") not in site.kube.writes()

        run(story)

    def test_somebody_elses_workflow_of_its_name_is_not_touched(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.put(site.ref(), spec={"disabled": True})
            before = copy.deepcopy(site.workflows())
            async with site.running():
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert (site.phase(), site.reason()) == ("Failed", "ForeignWorkflow")
            assert site.workflows() == before

        run(story)

    @pytest.mark.parametrize("verb", ["create", "apply", "patch"])
    def test_after_the_claim_is_lost_nothing_more_is_written(self, verb: str) -> None:
        """The call that is under way may arrive; nothing follows it (P1, P4)."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            gate = site.kube.gate(verb)
            async with site.running():
                await site.until(lambda: verb in site.kube.waiting)
                await site.lose_claim()
                revision, calls = site.store.revision, len(site.kube.calls)
                gate.set()
                await site.settled(100)

            assert site.store.revision == revision
            assert len(site.kube.calls) <= calls + 1

        run(story)

    def test_a_lease_in_doubt_pauses_and_goes_on(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                epoch, site.epoch = site.epoch, None
                await site.settled(60)
                assert not site.kube.calls
                site.epoch = epoch
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"

        run(story)

    def test_the_next_owner_goes_on_where_the_last_one_stopped(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                await site.lose_claim()
                site.tinkerbell.reconcile()
                await site.settled(60)
                await site.claim()
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"
            assert site.armings() == 1

        run(story)

    def test_a_lock_that_comes_while_the_workflow_is_made_prevents_its_arming(self) -> None:
        """P3: it is compared in the very transaction that records the arming, however far the mirror lags."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(lambda: bool(site.workflows()))
                assert site.provision().arming is None
                site.watch.hold()
                await site.lock()
                await site.settled(5)
                assert site.armings() == 0
                site.watch.go_on()
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "MachineLocked")
            assert not site.workflows()
            assert site.armings() == 0

        run(story)

    def test_a_copy_that_lags_fails_no_provision(self) -> None:
        """P7: after a failover the last Workflow seems to run still."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                site.tinkerbell.serves(WORKFLOW_NAME, 0)
                await site.until(lambda: site.phase() == "Running")
                stale = copy.deepcopy(site.workflows()[WORKFLOW_NAME])
                site.tinkerbell.reports(WORKFLOW_NAME, 0, "SUCCESS", state="RUNNING")
                site.tinkerbell.serves(WORKFLOW_NAME, 1)
                site.tinkerbell.reports(WORKFLOW_NAME, 1, "SUCCESS", state="POST")
                site.tinkerbell.reconcile()
                await site.until(lambda: not site.is_active())
                site.kube.gate("watch")
                site.controller.twins.workflows.store[WORKFLOW_NAME] = stale
                await site.ask_for_provision(SECOND)
                await site.until(lambda: site.is_armed(workflow_name(SECOND)))

            assert site.phase(SECOND) == "Starting"

        run(story)

    def test_a_workflow_of_somebody_else_that_runs_is_in_the_way(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            theirs = Ref(WORKFLOW, NAMESPACE, "theirs")
            site.kube.put(theirs, spec={"hardwareRef": MACHINE}, status={"state": "RUNNING", "agentID": MAC})
            await site.ask_for_provision()
            async with site.running():
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "MachineBusy")
            assert list(site.workflows()) == ["theirs"]

        run(story)

    @pytest.mark.parametrize("failover", [False, True])
    def test_a_raw_template_for_another_machine_is_never_armed(self, failover: bool) -> None:
        """P3: however long Tinkerbell takes to say whom it is for, and whoever owns the machine then."""

        async def story(site: Site) -> None:
            site.tinkerbell.worker = "02:00:00:00:00:99"
            await site.add_machine()
            await site.ask_for_provision(template=TemplateSpec(raw="tasks: []", global_timeout=300))
            async with site.running():
                await site.until(lambda: bool(site.workflows()))
                await site.settled(LIMITS.render / 2)
                if failover:
                    await site.lose_claim()
                    site.controller._cluster.staged.clear()  # another replica's memory
                    await site.claim()
                    await site.settled(LIMITS.render / 2 + 1)
                site.tinkerbell.reconcile()
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "WrongMachine")
            assert site.armings() == 0

        run(story)

    def test_a_raw_template_that_is_never_rendered_fails_with_tinkerbells_words(self) -> None:
        async def story(site: Site) -> None:
            site.tinkerbell.rendering_error = 'template: function "nope" not defined'
            await site.add_machine()
            await site.ask_for_provision(template=TemplateSpec(raw="tasks: []", global_timeout=300))
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                await site.until(lambda: not site.is_active())

            assert (site.phase(), site.reason()) == ("Failed", "TemplateRenderingFailed")

        run(story)

    @pytest.mark.parametrize("damage", ["deleted", "edited", "emptied"])
    def test_a_secret_that_somebody_spoilt_is_right_before_the_machine_is_provisioned(self, damage: str) -> None:
        """Nobody follows Secrets; Rufio would fail to log in, and the machine would never boot from the network."""

        async def story(site: Site) -> None:
            secret = Ref(SECRET, NAMESPACE, f"{MACHINE}-bmc")
            await site.add_machine(bmc=Bmc(host="10.0.1.1", username="root"))
            async with site.running():
                await site.settled()
                good = site.kube.objects[secret]["data"]
                if damage == "deleted":
                    site.kube.remove(secret)
                else:
                    site.kube.put(secret, data={"password": "YmFk"} if damage == "edited" else None)
                await site.ask_for_provision()
                await site.until(site.is_armed)

            assert site.kube.objects[secret]["data"] == good
            assert good == {"username": "cm9vdA==", "password": "aHVudGVyMg=="}

        run(story)

    def test_a_secret_that_is_right_is_not_written_again(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=Bmc(host="10.0.1.1", username="root"))
            async with site.running():
                await site.settled()
                await site.ask_for_provision()
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.kube.writes().count(("apply", "Secret")) == 1

        run(story)

    def test_a_finished_workflow_of_somebody_else_is_removed_and_told(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            theirs = Ref(WORKFLOW, NAMESPACE, "theirs")
            async with site.running():
                await site.settled()
                site.kube.put(theirs, spec={"hardwareRef": MACHINE}, status={"state": "FAILED", "agentID": MAC})
                await site.ask_for_provision()
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.ask_for_provision(SECOND)
                await site.until(lambda: site.is_armed(workflow_name(SECOND)))

            told = [note for note in site.notes if note.reason == "ForeignWorkflowRemoved"]
            assert [(note.type, note.subject.kind, note.subject.name) for note in told] == [
                ("Warning", "Hardware", MACHINE)
            ], "and nothing of what is Dragonfly's own"
            assert "theirs" in told[0].message
            assert "FAILED" in told[0].message
            assert list(site.workflows()) == [workflow_name(SECOND)]

        run(story)


class TestQuiesce:
    def test_it_returns_once_nothing_of_the_shard_is_under_way(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            gate = site.kube.gate("apply")
            async with site.running():
                await site.until(lambda: "apply" in site.kube.waiting)
                quiet = asyncio.create_task(site.controller.quiesce(SHARD))
                await site.settled(60)
                assert not quiet.done()
                gate.set()
                await quiet
                calls = len(site.kube.calls)
                await site.settled(60)
                assert len(site.kube.calls) == calls

        run(story)
