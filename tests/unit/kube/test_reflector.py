"""What a reflector makes of lists and watches, against a cluster that says what the test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.errors import Gone, KubeError, Throttled, Unreachable
from dragonfly.kube.port import EventType, Listing, WatchEvent
from dragonfly.kube.reflector import Reflector, without_managed_fields
from dragonfly.kube.resources import WORKFLOW, Object, Ref, Resource

Stream = Sequence[WatchEvent | KubeError]
Step = Listing | KubeError | Stream
Change = tuple[str, str | None, str | None]
UNREACHABLE = Unreachable("cut", maybe_done=False)


def workflow(name: str, version: int | str, uid: str = "") -> Object:
    metadata = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": WORKFLOW.api_version, "kind": "Workflow", "metadata": metadata}


def event(kind: EventType, name: str, version: int | str, uid: str = "") -> WatchEvent:
    return WatchEvent(kind, workflow(name, version, uid))


def listing(version: int, *items: Object) -> Listing:
    return Listing(list(items), str(version))


class Exhausted(Exception):
    """The script is at its end."""


class ScriptedKube:
    """Answers lists and watches from a script: a Listing, a list of events with an error or nothing at its end."""

    def __init__(self, *script: Step) -> None:
        self._script = list(script)
        self.asked: list[str] = []
        self.on_list: Callable[[], None] = lambda: None
        """Called when a list was taken, and is not there yet."""

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        assert (resource, namespace, label_selector) == (WORKFLOW, "ns", "a=b")
        self.asked.append("list")
        step = self._next()
        if isinstance(step, KubeError):
            raise step
        assert isinstance(step, Listing), f"a list was not expected, but {step}"
        self.on_list()
        return step

    async def watch(
        self,
        resource: Resource,
        namespace: str,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout: float = 300,
        silence: float = 150,
    ) -> AsyncGenerator[WatchEvent, None]:
        assert (resource, namespace, label_selector) == (WORKFLOW, "ns", "a=b")
        assert 300 <= timeout <= 600
        assert silence > 123
        self.asked.append(f"watch {resource_version}")
        step = self._next()
        if isinstance(step, KubeError):
            raise step
        assert not isinstance(step, Listing), "a watch was not expected"  # a Listing is a sequence, too
        for entry in step:
            if isinstance(entry, KubeError):
                raise entry
            yield entry

    def _next(self) -> Step:
        if not self._script:
            raise Exhausted
        return self._script.pop(0)

    async def get(self, ref: Ref) -> Object:
        raise NotImplementedError

    async def create(self, obj: Object) -> Object:
        raise NotImplementedError

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        raise NotImplementedError

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        raise NotImplementedError

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        raise NotImplementedError

    async def version(self) -> str:
        raise NotImplementedError

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        raise NotImplementedError


class Story:
    """One reflector carried through a script, with what it told and how long it waited."""

    def __init__(self, *script: Step, time_passes: bool = True, **options: Any) -> None:
        self._time_passes = time_passes
        self.kube = ScriptedKube(*script)
        self.changes: list[Change] = []
        self.naps: list[float] = []
        self.now = 0.0
        self.reflector = Reflector(
            self.kube,
            WORKFLOW,
            "ns",
            label_selector="a=b",
            clock=lambda: self.now,
            random=lambda: 1.0,
            sleep=self._sleep,
            on_change=self._on_change,
            **options,
        )

    async def told(self, *, after: int = 0, then: Callable[[Reflector], None] = lambda _reflector: None) -> "Story":
        """To its end; after so many pauses something happens."""
        self._after, self._then = after, then
        with pytest.raises(Exhausted):
            await self.reflector.run()
        return self

    @property
    def names(self) -> dict[str, str]:
        return {name: obj["metadata"]["resourceVersion"] for name, obj in self.reflector.store.items()}

    def _on_change(self, name: str, old: Object | None, new: Object | None) -> None:
        versions = [obj["metadata"]["resourceVersion"] if obj else None for obj in (old, new)]
        self.changes.append((name, versions[0], versions[1]))

    async def _sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        if len(self.naps) == self._after:
            self._then(self.reflector)
        self.now += seconds if self._time_passes else 0


async def test_a_list_and_then_changes_in_order() -> None:
    story = await Story(
        listing(10, workflow("a", 3), workflow("b", 5)),
        [event("MODIFIED", "a", 11), event("DELETED", "b", 12), event("ADDED", "c", 13)],
    ).told()

    assert story.changes == [("a", None, "3"), ("b", None, "5"), ("a", "3", "11"), ("b", "5", None), ("c", None, "13")]
    assert story.names == {"a": "11", "c": "13"}
    assert story.reflector.synced.is_set()
    assert story.kube.asked == ["list", "watch 10", "watch 13"], "the end of a stream is no reason to list again"


async def test_a_broken_stream_goes_on_where_it_was() -> None:
    story = await Story(listing(10), [event("ADDED", "a", 11), UNREACHABLE], [event("MODIFIED", "a", 12)]).told()

    assert story.kube.asked == ["list", "watch 10", "watch 11", "watch 12"]
    assert story.changes == [("a", None, "11"), ("a", "11", "12")]


async def test_a_bookmark_moves_the_place_and_changes_nothing() -> None:
    mark = WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "99"}})
    story = await Story(listing(10), [mark]).told()

    assert story.changes == []
    assert story.kube.asked[-1] == "watch 99"


@pytest.mark.parametrize("in_stream", [True, False])
async def test_after_410_it_lists_again_and_tells_what_vanished(in_stream: bool) -> None:
    gone = Gone("too old", status=410)
    story = await Story(
        listing(10, workflow("a", 3), workflow("b", 4)), [gone] if in_stream else gone, listing(50, workflow("b", 40))
    ).told()

    assert story.kube.asked == ["list", "watch 10", "list", "watch 50"]
    assert story.changes[2:] == [("a", "3", None), ("b", "4", "40")]


async def test_an_older_event_never_replaces_a_newer_object() -> None:
    story = await Story(listing(10, workflow("a", 9)), [event("MODIFIED", "a", 8), event("DELETED", "a", 7)]).told()

    assert story.changes == [("a", None, "9")]


async def test_the_same_object_twice_is_told_once() -> None:
    story = await Story(listing(10, workflow("a", 9)), [event("ADDED", "a", 9)]).told()

    assert story.changes == [("a", None, "9")]


async def test_versions_that_are_no_numbers_are_not_compared() -> None:
    story = await Story(listing(10, workflow("a", "x9")), [event("MODIFIED", "a", "x8")]).told()

    assert story.changes[-1] == ("a", "x9", "x8")


async def test_an_object_made_again_under_its_name_is_an_end_and_a_beginning() -> None:
    story = await Story(listing(10, workflow("a", 9)), Gone("410"), listing(20, workflow("a", 15, "other"))).told()

    assert story.changes == [("a", None, "9"), ("a", "9", None), ("a", None, "15")]


async def test_the_answer_to_an_own_write_is_seen_at_once_and_not_undone_by_the_stream() -> None:
    story = Story(listing(10, workflow("a", 9)), [event("MODIFIED", "a", 11), event("MODIFIED", "a", 14)])
    story.kube.on_list = lambda: story.reflector.observe(workflow("a", 12))
    await story.told()

    assert story.changes == [("a", None, "12"), ("a", "12", "14")]


async def test_what_was_observed_after_a_list_was_taken_is_not_gone() -> None:
    story = Story(listing(10), [event("ADDED", "a", 12)])
    story.kube.on_list = lambda: story.reflector.observe(workflow("a", 12))
    await story.told()

    assert story.changes == [("a", None, "12")]


async def test_an_answer_that_the_watch_has_overtaken_brings_nothing_back() -> None:
    """Deleted by somebody right after the write: the watch told the end before the answer came."""
    ended = [event("MODIFIED", "a", 12), event("DELETED", "a", 13)]
    story = await Story(listing(10, workflow("a", 9)), ended).told()

    story.reflector.observe(workflow("a", 12))

    assert story.reflector.store == {}


async def test_objects_of_other_types_are_not_observed() -> None:
    story = Story()
    story.reflector.observe(workflow("a", 12) | {"kind": "Hardware"})

    assert story.reflector.store == {}


async def test_a_restored_backup_is_another_history_and_replaces_everything() -> None:
    story = await Story(
        listing(100, workflow("a", 90), workflow("b", 95)), Gone("410"), listing(50, workflow("a", 40))
    ).told()

    assert story.names == {"a": "40"}
    assert story.kube.asked[-1] == "watch 50"


@pytest.mark.parametrize("sign", [event("MODIFIED", "c", 60), event("BOOKMARK", "", 60), event("DELETED", "b", 60)])
async def test_a_stream_that_tells_of_before_what_was_seen_is_of_another_history(sign: WatchEvent) -> None:
    former = listing(100, workflow("a", 90), workflow("b", 95))
    story = await Story(former, [sign], listing(120, workflow("a", 40), workflow("c", 60))).told()

    assert story.kube.asked == ["list", "watch 100", "list", "watch 120"]
    assert story.names == {"a": "40", "c": "60"}


async def test_a_history_that_has_become_the_longer_one_shows_in_its_objects() -> None:
    """The restored cluster went on while nobody looked: its list is no sign, an object of before is."""
    former = listing(100, workflow("a", 90), workflow("b", 95))
    story = await Story(former, Gone("410"), listing(150, workflow("a", 40), workflow("c", 140))).told()

    assert story.names == {"a": "40", "c": "140"}
    assert ("a", "90", "40") in story.changes


async def test_an_answer_that_came_while_the_list_was_on_its_way_is_no_sign_of_another_history() -> None:
    story = Story(listing(10, workflow("a", 9), workflow("b", 8)))
    story.kube.on_list = lambda: story.reflector.observe(workflow("a", 12))
    await story.told()

    assert story.names == {"a": "12", "b": "8"}


@pytest.mark.parametrize("listed", [(workflow("a", 8),), ()], ids=["before the write", "before it was made"])
async def test_an_answer_of_before_the_list_was_asked_for_is_a_sign_of_another_history(
    listed: Sequence[Object],
) -> None:
    """A dead watch had told nothing of the write; the cluster was put back to before it. Found by seed 5000161."""
    story = await Story(listing(10, workflow("a", 8)), Gone("410"), listing(11, *listed)).told(
        after=1, then=lambda reflector: reflector.observe(workflow("a", 12))
    )

    assert story.names == {obj["metadata"]["name"]: "8" for obj in listed}


@pytest.mark.parametrize(("failures", "asks"), [(4, "watch"), (6, "list")])
async def test_after_an_absence_that_was_long_enough_for_a_restore_it_lists_again(failures: int, asks: str) -> None:
    """A watch in the new history says nothing of what the former one had after the backup was made."""
    mended: list[Step] = [[event("MODIFIED", "a", 101)]] if asks == "watch" else [listing(101, workflow("a", 101))]
    story = await Story(listing(100, workflow("a", 90)), *[UNREACHABLE] * failures, *mended).told()

    assert story.kube.asked[failures + 1].startswith(asks)
    assert story.names == {"a": "101"}


async def test_another_history_may_have_come_as_far_with_another_content() -> None:
    """The same uid and resourceVersion, and yet another object."""
    other = workflow("a", 90) | {"spec": {"disabled": True}}
    story = await Story(listing(100, workflow("a", 90)), Gone("410"), listing(100, other)).told()

    assert story.reflector.store["a"] == other


async def test_a_watch_whose_end_was_seen_late_is_not_gone_on_from() -> None:
    """The process was stopped, and the cluster put back meanwhile: the end of the watch says nothing of now."""
    story = await Story(listing(100, workflow("a", 90)), [], listing(120, workflow("a", 40))).told(
        after=1, then=lambda reflector: reflector.doubt()
    )

    assert story.kube.asked == ["list", "watch 100", "list", "watch 120"]
    assert story.names == {"a": "40"}


async def test_a_doubt_that_comes_up_while_a_list_is_on_its_way_has_it_asked_again() -> None:
    story = Story(listing(100, workflow("a", 90)), listing(50, workflow("a", 40)))

    def once() -> None:
        story.kube.on_list = lambda: None
        story.reflector.doubt()

    story.kube.on_list = once
    await story.told()

    assert story.kube.asked == ["list", "list", "watch 50"]
    assert story.names == {"a": "40"}


async def test_a_cluster_that_is_away_is_asked_ever_more_seldom_and_its_trouble_is_told() -> None:
    story = await Story(listing(10), *[UNREACHABLE] * 10).told()

    assert story.naps[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert story.naps[-1] == 8
    assert story.reflector.trouble is UNREACHABLE
    assert story.reflector.troubled_at == 0, "since the first of the row"
    assert story.reflector.fresh_at == 0, "nothing has been proven since the list"


async def test_trouble_ends_with_the_first_sign_of_life() -> None:
    mark = WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "10"}})
    story = await Story(listing(10), UNREACHABLE, [mark]).told()

    assert story.reflector.trouble is None
    assert story.reflector.troubled_at is None
    assert story.reflector.fresh_at == pytest.approx(0.1)


async def test_streams_that_close_in_a_burst_are_reopened_at_once() -> None:
    bursts: list[Step] = [[event("ADDED", f"m-{index}", 11 + index)] for index in range(20)]
    story = await Story(listing(10), *bursts).told()

    assert max(story.naps) <= 0.05


async def test_one_good_stream_after_many_failures_does_not_start_a_storm() -> None:
    flapping: list[Step] = [
        UNREACHABLE,
        UNREACHABLE,
        [event("ADDED", "a", 11)],
        UNREACHABLE,
        UNREACHABLE,
        [event("MODIFIED", "a", 12)],
    ]
    story = await Story(listing(10), *flapping).told()

    assert story.naps == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4, 0.2])


async def test_streams_that_close_without_a_word_are_reopened_ever_more_slowly() -> None:
    silent: list[Step] = [[]] * 7
    seldom: list[Step] = [listing(10), []]
    story = await Story(listing(10), *silent, *seldom * 4).told()

    assert story.naps[-1] == 8
    assert story.kube.asked[-3:] == ["list", "watch 10", "list"], "much can happen in 8 s"


async def test_a_throttled_cluster_gets_the_time_it_asks_for() -> None:
    story = await Story(listing(10), Throttled("busy", retry_after=20)).told()

    assert story.naps[-1] >= 20


async def test_a_list_that_fails_is_tried_again_before_anything_is_watched() -> None:
    story = await Story(UNREACHABLE, listing(10)).told()

    assert story.kube.asked == ["list", "list", "watch 10"]


async def test_a_listener_that_fails_harms_nobody() -> None:
    story = Story(listing(10, workflow("a", 3), workflow("b", 4)))

    def fail(name: str, *_: object) -> None:
        raise ValueError(name)

    story.reflector._on_change = fail
    await story.told()

    assert set(story.reflector.store) == {"a", "b"}


async def test_what_is_not_wanted_is_not_kept() -> None:
    fat = workflow("a", 3)
    fat["metadata"]["managedFields"] = [{}]
    story = await Story(listing(10, fat), slim=without_managed_fields).told()

    assert "managedFields" not in story.reflector.store["a"]["metadata"]


async def test_stop_closes_the_stream() -> None:
    opened, closed = asyncio.Event(), asyncio.Event()

    class Endless(ScriptedKube):
        async def watch(self, *_: Any, **__: Any) -> AsyncGenerator[WatchEvent, None]:
            opened.set()
            try:
                await asyncio.Event().wait()
                yield event("ADDED", "never", 1)
            finally:
                closed.set()

    async with _followed(Endless(listing(10))) as reflector:
        await asyncio.wait_for(opened.wait(), 60)
        assert reflector.synced.is_set()

    assert closed.is_set()
    await reflector.stop()


@asynccontextmanager
async def _followed(kube: ScriptedKube) -> AsyncIterator[Reflector]:
    async with Reflector(kube, WORKFLOW, "ns", label_selector="a=b") as reflector:
        yield reflector


@given(st.integers(0, 2**32))
async def test_whatever_is_cut_or_relisted_the_store_is_what_the_cluster_has(seed: int) -> None:
    """A random history of a cluster, looked at through cuts, replays and relists."""
    chance = Random(seed)
    history: list[WatchEvent] = []
    live: dict[str, Object] = {}
    for version in range(1, chance.randint(1, 25) + 1):
        name = chance.choice("abc")
        if name in live and chance.random() < 0.5:
            uid = live.pop(name)["metadata"]["uid"]
            history.append(event("DELETED", name, version, uid))
        else:
            kind: EventType = "MODIFIED" if name in live else "ADDED"
            uid = live[name]["metadata"]["uid"] if name in live else f"{name}-{version}"
            live[name] = workflow(name, version, uid)
            history.append(event(kind, name, version, uid))

    def state(until: int) -> list[Object]:
        found: dict[str, Object] = {}
        for change in history[:until]:
            found.pop(change.object["metadata"]["name"], None)
            if change.type != "DELETED":
                found[change.object["metadata"]["name"]] = change.object
        return list(found.values())

    at = chance.randint(0, len(history))
    script: list[Step] = [listing(at, *state(at))]
    while at < len(history):
        until = chance.randint(at, len(history))
        if chance.random() < 0.5:
            script += [Gone("410"), listing(until, *state(until))]
        else:
            script.append([*history[at:until], UNREACHABLE])
        at = until
    story = await Story(*script, time_passes=False).told()

    assert story.reflector.store == {item["metadata"]["name"]: item for item in state(len(history))}
    replayed: dict[str, str] = {}
    for name, old, new in story.changes:
        assert replayed.get(name) == old, "each change begins where the last one ended"
        replayed.pop(name, None)
        if new:
            replayed[name] = new
    assert replayed == story.names
