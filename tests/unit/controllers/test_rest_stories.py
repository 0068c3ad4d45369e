"""A machine without a provision, and one that is deleted; in virtual time."""

import copy
from typing import Any

import pytest

from dragonfly.kube.errors import Conflict, KubeError, Unreachable
from dragonfly.kube.resources import BMC_MACHINE, HARDWARE, SECRET, WORKFLOW, Ref
from dragonfly.kube.tinkerbell import MANAGED_BY
from dragonfly.kube.tinkerbell import PROVISION as PROVISION_LABEL
from dragonfly.model.machine import Bmc
from dragonfly.store import keys
from tests.unit.controllers.site import MAC, MACHINE, NAMESPACE, PROVISION, SHARD, WORKFLOW_NAME, Site, netboot, run

BMC = Bmc(host="10.0.1.1", username="root")
LABELS = {MANAGED_BY: "dragonfly", "dragonfly.io/machine": MACHINE, PROVISION_LABEL: PROVISION}


class TestRest:
    def test_a_machine_gets_its_objects_in_order_with_netboot_closed(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()

            assert site.kube.writes() == [("apply", "Secret"), ("apply", "Machine"), ("apply", "Hardware")]
            assert not netboot(site)
            (condition,) = site.observed().conditions
            assert (condition.type, condition.status) == ("Synced", "True")

        run(story)

    def test_a_machine_that_comes_between_the_claim_and_the_first_look_is_not_missed(self) -> None:
        """P5: its cluster was asked something first, or was set up otherwise at that moment."""

        async def story(site: Site) -> None:
            await site.claim()
            await site.add_machine()
            async with site.running(claim=False):
                await site.until(lambda: MACHINE in site.kube.of(HARDWARE), seconds=20)

        run(story)

    def test_nothing_is_written_where_nothing_differs(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                calls, revision = len(site.kube.calls), site.store.revision
                site.controller.gained(SHARD)
                await site.settled(1000)
                assert (len(site.kube.calls), site.store.revision) == (calls, revision)

        run(story)

    def test_a_foreign_edit_is_undone(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            async with site.running():
                await site.settled()
                ref = Ref(HARDWARE, NAMESPACE, MACHINE)
                interfaces = copy.deepcopy(site.kube.objects[ref]["spec"]["interfaces"])
                interfaces[0]["netboot"]["allowPXE"] = True
                site.kube.put(ref, spec={"interfaces": interfaces})
                await site.settled()
                assert [note.reason for note in site.notes] == ["ForeignEdit"]

            assert not netboot(site)

        run(story)

    @pytest.mark.parametrize("resource", [HARDWARE, BMC_MACHINE, SECRET])
    def test_a_foreign_object_is_left_alone_and_told(self, resource: Any) -> None:
        async def story(site: Site) -> None:
            name = f"{MACHINE}-bmc" if resource == SECRET else MACHINE
            ref = Ref(resource, NAMESPACE, name)
            before = site.kube.put(ref, spec={"agentID": "theirs"})
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()

            assert site.kube.objects[ref] == before
            (condition,) = site.observed().conditions
            assert (condition.status, condition.reason) == ("False", "ForeignObject")
            assert name in condition.message

        run(story)

    def test_a_bmc_that_the_machine_no_longer_has_goes_with_its_secret(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                assert site.kube.of(SECRET)
                await site.change_machine(bmc=None)
                await site.settled()

            assert not site.kube.of(SECRET)
            assert not site.kube.of(BMC_MACHINE)
            assert "bmcRef" not in site.kube.of(HARDWARE)[MACHINE]["spec"]

        run(story)

    def test_a_staged_workflow_that_a_late_replica_left_is_swept(self) -> None:
        """P1."""

        async def story(site: Site) -> None:
            await site.add_machine()
            theirs = Ref(WORKFLOW, NAMESPACE, "theirs")
            async with site.running():
                await site.ask_for_provision()
                await site.cancel()
                await site.until(lambda: not site.is_active())
                await site.settled()
                site.kube.put(site.ref(), metadata={"labels": LABELS}, spec={"disabled": True})
                site.kube.put(theirs, spec={"disabled": True}, status={"agentID": MAC})
                await site.settled()

            assert list(site.workflows()) == ["theirs"]

        run(story)

    def test_a_staged_workflow_that_another_swarm_left_stays_until_the_machine_goes(self) -> None:
        """Two swarms in a namespace may have a machine of one name: what nobody asked this one for is the other's."""

        async def story(site: Site) -> None:
            await site.add_machine()
            async with site.running():
                await site.settled()
                site.kube.put(site.ref(), metadata={"labels": LABELS}, spec={"disabled": True})
                await site.settled(1000)
                assert list(site.workflows()) == [WORKFLOW_NAME]

                await site.delete_machine()
                await site.until(lambda: keys.machine(MACHINE) not in site.store.items())
            assert not site.workflows()

        run(story)

    def test_what_ran_is_kept_until_the_next(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.settled(1000)

            assert list(site.workflows()) == [WORKFLOW_NAME]

        run(story)


class TestDeletion:
    def test_a_machine_goes_with_all_that_was_made_for_it(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.delete_machine()
                await site.until(lambda: keys.machine(MACHINE) not in site.store.items())
                await site.settled()

            left = {ref.resource.kind for ref in site.kube.objects}
            assert left == {"Template"}
            assert keys.mac(MAC) not in site.store.items()
            assert keys.observed(MACHINE) not in site.store.items()

        run(story)

    def test_what_is_somebody_elses_stays(self) -> None:
        async def story(site: Site) -> None:
            ref = Ref(HARDWARE, NAMESPACE, MACHINE)
            before = site.kube.put(ref, spec={"agentID": "theirs"})
            await site.add_machine()
            async with site.running():
                await site.settled()
                await site.delete_machine()
                await site.until(lambda: keys.machine(MACHINE) not in site.store.items())

            assert site.kube.objects == {ref: before}

        run(story)

    @pytest.mark.parametrize("error", [Conflict("changed", status=409), Unreachable("cut", maybe_done=True)])
    def test_errors_only_delay_it(self, error: KubeError) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                site.kube.faults["delete"] = [error] * 5
                await site.delete_machine()
                await site.until(lambda: keys.machine(MACHINE) not in site.store.items())

            assert not site.kube.objects

        run(story)
