"""The work queue, in virtual time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly.controllers.queue import Priority, WorkQueue
from tests.virtual_time import now, play


def queue(**limits: float) -> WorkQueue:
    return WorkQueue(now, lambda: 1.0, **limits)


async def drained(work: WorkQueue) -> list[str]:
    found = []
    while work.depth:
        key, _ = await work.get()
        found.append(key)
        work.done(key)
    return found


def test_a_key_that_waits_is_one_entry_however_often_it_is_added() -> None:
    async def story() -> None:
        work = queue()
        for _ in range(1000):
            work.add("m-1")
        assert work.depth == 1
        assert await drained(work) == ["m-1"]

    play(story())


def test_users_go_before_events_before_resyncs_each_in_order_of_arrival() -> None:
    async def story() -> None:
        work = queue()
        work.add("resync", Priority.RESYNC)
        work.add("event-1")
        work.add("event-2")
        work.add("user", Priority.USER)
        assert await drained(work) == ["user", "event-1", "event-2", "resync"]

    play(story())


def test_a_users_wish_lifts_what_waits_and_nothing_lowers_it() -> None:
    async def story() -> None:
        work = queue()
        work.add("event")
        work.add("m-1", Priority.RESYNC)
        work.add("m-1", Priority.USER)
        work.add("m-1", Priority.RESYNC)
        assert await drained(work) == ["m-1", "event"]

    play(story())


def test_what_is_added_while_it_is_worked_on_runs_once_more_afterwards() -> None:
    async def story() -> None:
        work = queue()
        work.add("m-1")
        key, _ = await work.get()
        work.add("m-1", Priority.RESYNC)
        work.add("m-1", Priority.USER)
        work.add("other")
        assert work.depth == 1
        assert work.running == {"m-1"}
        work.done(key)
        assert await drained(work) == ["m-1", "other"]

    play(story())


def test_get_waits_and_tells_how_long_a_key_waited() -> None:
    async def story() -> None:
        work = queue()
        getting = asyncio.create_task(work.get())
        await asyncio.sleep(3)
        assert not getting.done()
        work.add("m-1")
        assert await getting == ("m-1", 0.0)
        work.done("m-1")
        work.add("m-1")
        await asyncio.sleep(2)
        key, waited = await work.get()
        assert (key, waited) == ("m-1", 2.0)

    play(story())


def test_later_is_later_and_the_earliest_of_several() -> None:
    async def story() -> None:
        work = queue()
        work.add_later("m-1", 30)
        work.add_later("m-1", 10)
        work.add_later("m-1", 20)
        assert (await work.get())[0] == "m-1"
        assert now() == pytest.approx(10)
        work.done("m-1")
        await asyncio.sleep(100)
        assert work.depth == 0

    play(story())


def test_even_no_pause_at_all_lets_time_pass() -> None:
    async def story() -> None:
        work = queue()
        work.add_later("m-1", 0.0)
        assert work.depth == 0
        await work.get()
        assert now() > 0

    play(story())


def test_an_event_makes_a_later_look_needless() -> None:
    async def story() -> None:
        work = queue()
        work.add_later("m-1", 10)
        work.add("m-1")
        assert await drained(work) == ["m-1"]
        await asyncio.sleep(100)
        assert work.depth == 0

    play(story())


def test_retries_back_off_to_a_limit_and_start_anew_after_a_success() -> None:
    async def story() -> None:
        work = queue(first=1, longest=5)
        assert [work.retry("m-1") for _ in range(5)] == [1, 2, 4, 5, 5]
        assert work.retry("other") == 1
        work.succeeded("m-1")
        assert work.retry("m-1") == 1

    play(story())


def test_jitter_takes_up_to_half_off_a_pause() -> None:
    async def story() -> None:
        work = WorkQueue(now, lambda: 0.0, first=1)
        assert work.retry("m-1") == 0.5
        assert (await work.get())[0] == "m-1"
        assert now() == pytest.approx(0.5)

    play(story())


def test_a_thousand_failures_do_not_overflow() -> None:
    async def story() -> None:
        work = queue()
        assert {work.retry("m-1") for _ in range(1000)} >= {30.0}

    play(story())


def test_what_is_forgotten_is_not_looked_at_but_what_runs_is_not_ended() -> None:
    async def story() -> None:
        work = queue()
        work.add("a-runs")
        await work.get()
        work.add("a-runs")
        work.add("a-waits")
        work.add_later("a-later", 1)
        work.add("b")

        work.forget(lambda key: key.startswith("a"))

        work.done("a-runs")
        await asyncio.sleep(10)
        assert await drained(work) == ["b"]
        work.add("a-waits")
        assert await drained(work) == ["a-waits"]

    play(story())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Priority), st.sampled_from([0, 1, 5])), max_size=30),
    st.integers(min_value=1, max_value=3),
)
def test_no_key_has_two_workers_and_the_last_request_is_always_followed_by_a_look(
    requests: list[tuple[str, Priority, int]], workers: int
) -> None:
    async def story() -> None:
        work = queue()
        busy: set[str] = set()
        began: dict[str, int] = {}
        asked: dict[str, int] = {}
        tick = 0

        async def worker() -> None:
            nonlocal tick
            while True:
                key, _ = await work.get()
                assert key not in busy
                busy.add(key)
                tick += 1
                began[key] = tick
                await asyncio.sleep(2)
                busy.remove(key)
                work.done(key)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker()) for _ in range(workers)]
            for key, priority, pause in requests:
                tick += 1
                asked[key] = tick
                work.add(key, priority)
                await asyncio.sleep(pause)
            await asyncio.sleep(500)
            for task in tasks:
                task.cancel()
        assert all(began[key] > asked[key] for key in asked)
        assert not work.running

    play(story())
