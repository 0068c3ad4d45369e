"""When a cluster counts as reached, and why not; in virtual time."""

import asyncio

import pytest

from dragonfly.kube.errors import Forbidden, Unreachable
from dragonfly.kube.resources import BMC_MACHINE, HARDWARE, TEMPLATE, WORKFLOW, Resource
from tests.unit.controllers.site import Site, run
from tests.virtual_time import now

REFUSED = Forbidden("may not watch", status=403)


class TestReach:
    def test_a_quiet_cluster_is_reached(self) -> None:
        """Nothing at all has to come on a watch for minutes."""

        async def story(site: Site) -> None:
            async with site.running():
                await site.settled(1)
                for _ in range(100):
                    assert (site.controller.twins.reachable, site.controller.twins.trouble) == (True, "")
                    await site.settled(5)

        run(story)

    @pytest.mark.parametrize("resource", [HARDWARE, WORKFLOW, TEMPLATE, BMC_MACHINE])
    def test_a_watch_that_keeps_failing_is_told_within_ten_seconds(self, resource: Resource) -> None:
        """P6: the API server answers other questions, and what is known of the machines gets older and older."""

        async def story(site: Site) -> None:
            async with site.running():
                await site.settled(200)
                site.kube.break_watch(resource, REFUSED)
                began = now()
                await site.settled(4)
                assert site.controller.twins.reachable
                await site.until(lambda: not site.controller.twins.reachable)
                assert now() - began < 10
                assert site.controller.twins.trouble == f"{resource.plural}: may not watch"
                site.kube.mend_watch(resource)
                await site.until(lambda: site.controller.twins.reachable)

        run(story)

    def test_a_watch_that_is_cut_and_goes_on_is_no_trouble(self) -> None:
        """However long ago the last word on it was."""

        async def story(site: Site) -> None:
            async with site.running():
                for _ in range(20):
                    await site.settled(200)
                    site.kube.break_watch(WORKFLOW, Unreachable("cut", maybe_done=False))
                    await site.settled(0.01)
                    site.kube.mend_watch(WORKFLOW)
                    assert site.controller.twins.reachable

        run(story)

    def test_an_api_server_that_answers_nothing_says_why(self) -> None:
        async def story(site: Site) -> None:
            async with site.running():
                await site.settled(20)
                site.kube.silent = Unreachable("connection refused", maybe_done=False)
                await site.until(lambda: not site.controller.twins.reachable, 10)
                assert site.controller.twins.trouble == "connection refused"

        run(story)

    def test_one_that_stays_away_is_asked_less_often_and_found_within_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def story(site: Site) -> None:
            asked: list[float] = []
            version = site.kube.version

            async def counted() -> str:
                asked.append(now())
                return await version()

            monkeypatch.setattr(site.kube, "version", counted)
            async with site.running():
                await site.settled(20)
                site.kube.silent = Unreachable("connection refused", maybe_done=False)
                await site.settled(60)
                asked.clear()
                await site.settled(600)
                assert 60 <= len(asked) <= 121, "every 5 to 10 s"
                site.kube.silent = None
                await site.until(lambda: site.controller.twins.reachable, 10.1)
                await site.settled(20)
                asked.clear()
                await site.settled(20)
                assert len(asked) >= 9, "as before"

        run(story)

    def test_an_api_server_that_hangs_is_told_before_a_call_has_failed(self) -> None:
        """And not in the words of some trouble that is long over."""

        async def story(site: Site) -> None:
            async with site.running():
                site.kube.silent = Unreachable("connection refused", maybe_done=False)
                await site.settled(5)
                site.kube.silent = None
                await site.settled(20)
                site.kube.gate("version")
                await site.until(lambda: not site.controller.twins.reachable, 10)
                assert site.controller.twins.trouble == "the API server does not answer"

        run(story)

    def test_before_the_first_list_it_is_not_reached(self) -> None:
        async def story(site: Site) -> None:
            assert not site.controller.twins.reachable
            assert site.controller.twins.trouble

        run(story)

    def test_a_copy_that_nobody_keeps_current_ends_the_controller(self) -> None:
        """A replica that is started again is better than one that works on what it saw hours ago."""

        async def story(site: Site) -> None:
            running = asyncio.create_task(site.controller.run())
            await site.settled(5)
            site.kube.break_watch(TEMPLATE, KeyError("a bug"))
            await asyncio.wait([running], timeout=10)
            assert running.done()
            with pytest.raises(ExceptionGroup) as caught:
                await running
            assert caught.group_contains(KeyError)

        run(story)
