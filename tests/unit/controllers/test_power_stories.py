"""A power action's life, in virtual time: once, fenced, never on a locked machine, and nothing left behind."""

import pytest

from dragonfly.controllers.power_steps import PowerLimits
from dragonfly.kube.errors import KubeError, ServerFailed, Unreachable
from dragonfly.kube.power import LOOKED
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, BMC_TASK, Object, Ref
from dragonfly.model.machine import Bmc, Condition
from dragonfly.model.power import PowerAction, PowerRequest, PowerResult, job_name
from dragonfly.store import keys
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from tests.unit.controllers.rufio_model import Rufio
from tests.unit.controllers.site import MACHINE, NAMESPACE, SHARD, Site, run

BMC = Bmc(host="10.0.1.1", username="root")
REQUEST = "01JD0000000000000000000009"
LATER_REQUEST = "01JD000000000000000000000A"
JOB = job_name(REQUEST)
LIMITS = PowerLimits()


async def ask(site: Site, action: PowerAction = "cycle", name: str = REQUEST) -> None:
    request = PowerRequest(name=name, machine=MACHINE, action=action, requested_by="ann", requested_at=site.time())
    await site.store.commit(Put(keys.power(MACHINE), encode(request)))


def rufio_of(site: Site) -> Rufio:
    return Rufio(site.kube, NAMESPACE)


def request_of(site: Site) -> PowerRequest | None:
    item = site.store.items().get(keys.power(MACHINE))
    found = decode(item.key, item.value) if item else None
    assert found is None or isinstance(found, PowerRequest)
    return found


def result_of(site: Site) -> PowerResult:
    result = site.observed().last_power_action
    assert result is not None
    return result


def condition_of(site: Site, kind: str) -> Condition:
    return next(condition for condition in site.observed().conditions if condition.type == kind)


def job_of(site: Site) -> Object | None:
    return site.kube.of(BMC_JOB).get(JOB)


def is_armed(site: Site) -> bool:
    job = job_of(site)
    return job is not None and job["spec"]["machineRef"]["name"] == MACHINE


def creations(site: Site) -> int:
    return site.kube.writes().count(("create", "Job"))


class TestOnce:
    def test_it_is_staged_armed_carried_out_told_and_tidied_up(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                request = request_of(site)
                assert request is not None
                assert (request.phase, request.arming is not None) == ("Running", True)
                rufio.completes(JOB)
                await site.until(lambda: request_of(site) is None, 5)
                result = result_of(site)
                assert (result.succeeded, result.reason, result.action) == (True, "Completed", "cycle")
                assert condition_of(site, "PowerAction").status == "True"
                await site.settled(1)
                marks = site.kube.of(BMC_MACHINE)[MACHINE]["metadata"]["annotations"]
                assert marks[LOOKED] == REQUEST
                await site.settled(LIMITS.settle + 1)

            assert site.kube.of(BMC_JOB) == site.kube.of(BMC_TASK) == {}
            assert rufio.ran == [f"{JOB}-task-0"]
            assert "PowerActionCompleted" in [note.reason for note in site.notes]

        run(story)

    @pytest.mark.parametrize(
        "fault",
        [Unreachable("lost", maybe_done=True), ServerFailed("busy", maybe_done=True, status=503)],
        ids=["lost", "failed"],
    )
    @pytest.mark.parametrize("verb", ["create", "patch"])
    def test_a_fault_on_the_way_repeats_nothing(self, verb: str, fault: KubeError) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                site.kube.faults[verb].append(fault)
                await ask(site)
                await site.until(lambda: is_armed(site), 60)
                rufio.completes(JOB)
                await site.until(lambda: request_of(site) is None, 60)

            assert result_of(site).succeeded
            assert creations(site) == 1
            assert rufio.ran == [f"{JOB}-task-0"]

        run(story)

    def test_an_owner_that_wakes_late_leaves_a_staged_job_that_is_swept(self) -> None:
        """The first owner sleeps just before it creates the Job; when it wakes, the action is long over."""

        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                gate = site.kube.gate("create")
                await ask(site)
                await site.until(lambda: "create" in site.kube.waiting, 5)
                await site.lose_claim()
                await site.store.commit(Delete(keys.power(MACHINE)))
                gate.set()
                await site.settled(1)
                assert job_of(site) is not None
                rufio.reconcile()
                await site.claim()
                await site.until(lambda: job_of(site) is None, 5)

            assert rufio.ran == []

        run(story)

    def test_a_staged_job_without_a_request_is_swept_and_never_ran(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            labels = {
                "app.kubernetes.io/managed-by": "dragonfly",
                "dragonfly.io/machine": MACHINE,
                "dragonfly.io/power": REQUEST,
            }
            async with site.running():
                await site.settled()
                ref = Ref(BMC_JOB, NAMESPACE, JOB)
                metadata = {"name": JOB, "namespace": NAMESPACE, "labels": labels}
                site.kube.put(ref, metadata=metadata, spec={"machineRef": {"name": f"{MACHINE}.staged"}})
                rufio.reconcile()
                await site.until(lambda: job_of(site) is None, 5)

            assert rufio.ran == []

        run(story)

    def test_a_job_that_somebody_deleted_is_not_created_again(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                site.kube.remove(Ref(BMC_JOB, NAMESPACE, JOB))
                await site.until(lambda: request_of(site) is None, 5)

            assert (result_of(site).succeeded, result_of(site).reason) == (False, "JobGone")
            assert creations(site) == 1

        run(story)

    def test_a_cluster_that_was_put_back_switches_no_machine_a_second_time(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                gate = site.kube.gate("patch")
                await ask(site)
                await site.until(lambda: "patch" in site.kube.waiting)
                staged = site.kube.backup()
                gate.set()
                await site.until(lambda: is_armed(site), 5)
                await site.settled(1)
                await site.kube.restore(staged)
                assert not is_armed(site)
                await site.until(lambda: request_of(site) is None)
                assert result_of(site).reason == "JobRewound"
                await site.settled()
                assert (job_of(site), creations(site)) == (None, 1)
                assert len([call for call in site.kube.calls if (call.verb, call.name) == ("patch", JOB)]) == 1

        run(story)

    def test_an_ended_action_that_a_backup_brings_back_is_stopped_though_a_later_one_is_under_way(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                armed = site.kube.backup()
                rufio.completes(JOB)
                await site.settled(LIMITS.settle + 5)
                assert job_of(site) is None
                site.kube.silent = Unreachable("connection refused", maybe_done=False)
                await ask(site, name=LATER_REQUEST)
                await site.kube.restore(armed)
                await site.until(lambda: job_name(LATER_REQUEST) in site.kube.of(BMC_JOB))
                await site.settled()
                request = request_of(site)
                assert request is not None
                assert (request.name, request.phase) == (LATER_REQUEST, "Running")
                assert job_of(site) is not None
                assert not is_armed(site)

        run(story)

    def test_the_next_owner_goes_on(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                await site.lose_claim()
                rufio.completes(JOB)
                await site.settled()
                assert request_of(site) is not None
                await site.claim()
                await site.until(lambda: request_of(site) is None, 5)

            assert result_of(site).succeeded
            assert creations(site) == 1

        run(story)


class TestRefused:
    def test_a_machine_that_is_locked_meanwhile_is_not_touched(self) -> None:
        """P3."""

        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await site.lock()
                await ask(site)
                await site.until(lambda: request_of(site) is None, 5)

            assert result_of(site).reason == "MachineLocked"
            assert creations(site) == 0

        run(story)

    def test_a_lock_between_the_look_and_the_record_holds(self) -> None:
        """P3: the machine is compared in the transaction that comes before arming."""

        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                gate = site.kube.gate("create")
                await ask(site)
                await site.until(lambda: "create" in site.kube.waiting, 5)
                site.watch.hold()
                await site.lock()
                gate.set()
                await site.settled(1)
                site.watch.go_on()
                rufio.reconcile()
                await site.until(lambda: request_of(site) is None, 60)
                await site.settled(1)

            assert result_of(site).reason == "MachineLocked"
            assert job_of(site) is None
            assert rufio.ran == []

        run(story)

    def test_a_lock_between_two_tries_to_arm_holds(self) -> None:
        """P3: the arming is recorded, the patch fails, and the view of etcd stands still from then on."""

        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                site.kube.faults["patch"] = [ServerFailed("etcd is slow", maybe_done=False)]
                gate = site.kube.gate("patch")
                await ask(site)
                await site.until(lambda: "patch" in site.kube.waiting, 5)
                site.watch.hold()
                await site.lock()
                gate.set()
                await site.settled(20)
                site.watch.go_on()
                rufio.reconcile()
                await site.until(lambda: request_of(site) is None, 60)

            assert result_of(site).reason == "MachineLocked"
            assert rufio.ran == []

        run(story)

    def test_nothing_that_would_kill_an_installation_begins_during_one(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await site.ask_for_provision()
                await site.until(site.is_armed)
                await ask(site, "reset")
                await site.until(lambda: request_of(site) is None, 5)
                assert result_of(site).reason == "ProvisionActive"
                await ask(site, "on")
                await site.until(lambda: is_armed(site), 5)

        run(story)


class TestEnds:
    def test_the_bmcs_words_are_told(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                rufio.fails(JOB, "the fuse is blown")
                await site.until(lambda: request_of(site) is None, 5)

            assert (result_of(site).succeeded, result_of(site).message) == (False, "the fuse is blown")
            assert condition_of(site, "PowerAction").status == "False"

        run(story)

    def test_what_takes_too_long_is_halted_and_removed(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                rufio.reconcile()
                await site.until(lambda: request_of(site) is None, LIMITS.carry_out + 5)
                assert result_of(site).reason == "TimedOut"
                job = job_of(site)
                assert job is not None
                assert job["spec"]["machineRef"]["name"] == f"{MACHINE}.halted"
                await site.settled(LIMITS.settle + 2)
                rufio.reconcile()

            assert site.kube.of(BMC_JOB) == site.kube.of(BMC_TASK) == {}
            assert rufio.ran == [f"{JOB}-task-0"]

        run(story)

    def test_what_cannot_be_prepared_is_given_up_untouched(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine(bmc=BMC)
            site.kube.put(Ref(BMC_MACHINE, NAMESPACE, MACHINE), spec={"theirs": True})
            async with site.running():
                await ask(site)
                await site.until(lambda: request_of(site) is None, LIMITS.prepare + 60)

            assert result_of(site).reason == "NotPrepared"
            assert creations(site) == 0

        run(story)

    def test_a_machine_that_is_deleted_takes_its_jobs_along(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                await ask(site)
                await site.until(lambda: is_armed(site), 5)
                rufio.completes(JOB)
                await site.until(lambda: request_of(site) is None, 5)
                await site.delete_machine()
                await site.until(lambda: keys.machine(MACHINE) not in site.store.items(), 10)

            assert site.kube.of(BMC_JOB) == site.kube.of(BMC_TASK) == {}

        run(story)


class TestSeen:
    def test_what_rufio_says_of_a_bmc_shows_and_is_written_once(self) -> None:
        async def story(site: Site) -> None:
            rufio = rufio_of(site)
            await site.add_machine(bmc=BMC)
            async with site.running():
                await site.settled()
                assert site.observed().power == "unknown"
                rufio.sees(MACHINE, "on")
                await site.until(lambda: site.observed().power == "on", 5)
                assert condition_of(site, "BmcReachable").status == "True"
                written = site.store.revision
                site.controller.gained(SHARD)
                await site.settled(100)
                assert site.store.revision == written
                rufio.sees(MACHINE, "unknown", contactable=False, message="no route to host")
                await site.until(lambda: site.observed().power == "unknown", 5)
                condition = condition_of(site, "BmcReachable")
                assert (condition.status, condition.message) == ("False", "no route to host")
                await site.change_machine(bmc=None)
                await site.settled()

            assert [condition.type for condition in site.observed().conditions] == ["Synced"]

        run(story)
