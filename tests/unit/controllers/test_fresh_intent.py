"""P2 and P3: nothing runs on a machine for an intent that is overtaken: by a lock, a cancel, a day, or lost history."""

import pytest

from dragonfly.kube.errors import ServerFailed
from dragonfly.kube.resources import HARDWARE
from dragonfly.store import keys
from dragonfly.store.values import Delete, Put
from tests.unit.controllers.site import LIMITS, MACHINE, PROVISION, WORKFLOW_NAME, Site, netboot, run

LATER = "01JD0000000000000000000002"
LATER_WORKFLOW = "df-01jd0000000000000000000002"
FRESH = "01JD0000000000000000000003"
FRESH_WORKFLOW = "df-01jd0000000000000000000003"


class Backup:
    """What etcd had of the machine at one moment, to be put back."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._items = {key: item.value for key, item in site.store.items().items() if MACHINE in key}

    async def restore(self) -> None:
        now = [key for key in self._site.store.items() if MACHINE in key]
        await self._site.store.commit(
            *(Delete(key) for key in now if key not in self._items),
            *(Put(key, value) for key, value in self._items.items()),
        )


async def _install_both(site: Site) -> None:
    """Carry out the provision, and a later one that etcd will have forgotten."""
    await site.install()
    await site.until(lambda: not site.is_active())
    await site.ask_for_provision(LATER)
    await site.install(LATER_WORKFLOW)
    await site.until(lambda: not site.is_active())


class TestRestoredEtcd:
    def test_an_intent_that_a_later_installation_has_overtaken_runs_no_more(self) -> None:
        """etcd is backed up with a provision that is not armed yet; that runs, another one runs, etcd is put back."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            backup = Backup(site)
            async with site.running():
                await _install_both(site)
                armings = site.armings()
                await site.lose_claim()
                await site.settled()
                await backup.restore()
                await site.claim()
                await site.until(lambda: not site.is_active())
                await site.settled(300)

            assert (site.phase(), site.reason()) == ("Failed", "HistoryLost")
            assert site.armings() == armings == 2
            assert WORKFLOW_NAME not in site.workflows()
            assert not netboot(site)

        run(story)

    def test_the_cluster_alone_still_knows_when_the_later_workflow_is_gone_too(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            backup = Backup(site)
            async with site.running():
                await _install_both(site)
                await site.settled()
                await site.lose_claim()
                site.kube.remove(site.ref(LATER_WORKFLOW))
                await backup.restore()
                await site.settled()
                await site.claim()
                await site.until(lambda: not site.is_active())
                await site.settled(300)

            assert (site.phase(), site.reason()) == ("Failed", "HistoryLost")
            assert site.armings() == 2
            assert not netboot(site)

        run(story)

    def test_what_the_last_one_left_is_no_bar_to_a_fresh_intent(self) -> None:
        """Whatever etcd has lost: who asks now is served."""

        async def story(site: Site) -> None:
            await site.add_machine()
            backup = Backup(site)
            await site.ask_for_provision(LATER)
            async with site.running():
                await site.install(LATER_WORKFLOW)
                await site.until(lambda: not site.is_active())
                await site.settled()
                await backup.restore()
                await site.ask_for_provision(FRESH)
                await site.install(FRESH_WORKFLOW)
                await site.until(lambda: not site.is_active())

            assert site.phase(FRESH) == "Succeeded"

        run(story)

    def test_a_clock_that_is_wrong_stops_nothing_that_etcd_knows(self) -> None:
        """A name that looks later is no sign of lost history while etcd has its record."""

        async def story(site: Site) -> None:
            await site.add_machine()
            async with site.running():
                await site.ask_for_provision(LATER)
                await site.install(LATER_WORKFLOW)
                await site.until(lambda: not site.is_active())
                await site.ask_for_provision(PROVISION)
                await site.install()
                await site.until(lambda: not site.is_active())

            assert site.phase() == "Succeeded"

        run(story)

    def test_one_that_ran_and_ended_is_told_and_opens_nothing(self) -> None:
        """etcd is put back to before it was armed, and nothing else has run since."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            backup = Backup(site)
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.settled()
                assert not netboot(site)
                await site.lose_claim()
                await backup.restore()
                await site.settled()
                opened = len([call for call in site.kube.calls if _opens(call.body)])
                await site.claim()
                await site.until(lambda: not site.is_active())
                await site.settled()

            assert site.phase() == "Succeeded"
            assert site.armings() == 1
            assert len([call for call in site.kube.calls if _opens(call.body)]) == opened == 1

        run(story)

    def test_the_hardware_says_for_which_provision_it_was_opened_last(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.install()
                await site.until(lambda: not site.is_active())
                await site.settled()
                await site.change_machine(hostname="renamed")
                await site.settled()

            hardware = site.kube.of(HARDWARE)[MACHINE]
            assert hardware["metadata"]["annotations"]["dragonfly.io/provision"] == PROVISION
            assert hardware["spec"]["metadata"]["instance"]["hostname"] == "renamed"
            assert not netboot(site)

        run(story)


class TestLock:
    def test_a_machine_that_has_not_begun_is_disarmed(self) -> None:
        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            async with site.running():
                await site.until(site.is_armed)
                site.tinkerbell.reconcile()
                await site.settled()
                await site.lock()
                await site.until(lambda: not site.is_active(), seconds=5)
                await site.settled()

            assert (site.phase(), site.reason()) == ("Failed", "MachineLocked")
            assert WORKFLOW_NAME not in site.workflows()
            assert not netboot(site)

        run(story)

    @pytest.mark.parametrize("overtaken_by", ["lock", "cancel"])
    def test_that_comes_between_two_tries_to_arm_is_not_overtaken(self, overtaken_by: str) -> None:
        """The arming is recorded, the patch fails, and this replica's view of etcd stands still from then on."""

        async def story(site: Site) -> None:
            await site.add_machine()
            await site.ask_for_provision()
            site.kube.faults["patch"] = [ServerFailed("etcd is slow", maybe_done=False)]
            gate = site.kube.gate("patch")
            async with site.running():
                await site.until(lambda: "patch" in site.kube.waiting)
                site.watch.hold()
                await (site.lock() if overtaken_by == "lock" else site.cancel())
                gate.set()
                await site.settled(LIMITS.vouched + 5)
                assert site.armings() == 0
                site.watch.go_on()
                await site.until(lambda: not site.is_active())

            assert site.reason() == ("MachineLocked" if overtaken_by == "lock" else "Cancelled")
            assert site.armings() == 0

        run(story)


def test_an_intent_of_yesterday_is_not_carried_out() -> None:
    """Its cluster was away for a day, and the machine is in use meanwhile."""

    async def story(site: Site) -> None:
        await site.add_machine()
        await site.ask_for_provision()
        await site.settled(LIMITS.pending + 1)
        async with site.running():
            await site.until(lambda: not site.is_active())
            await site.settled()

        assert (site.phase(), site.reason()) == ("TimedOut", "NotStarted")
        assert site.armings() == 0
        assert keys.active(MACHINE) not in site.store.items()

    run(story)


def _opens(body: dict[str, object]) -> bool:
    spec = body.get("spec", {})
    interfaces = spec.get("interfaces", ()) if isinstance(spec, dict) else ()
    return any(interface["netboot"]["allowPXE"] for interface in interfaces)
