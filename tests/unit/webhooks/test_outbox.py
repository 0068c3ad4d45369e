"""Whatever fails and whoever dies: each lane gets everything, in order, for the first time that it gets it."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly.feed.changes import ChangeType
from dragonfly.feed.shown import Ref, Shown
from dragonfly.feed.view import Seen
from dragonfly.model.webhook import Stuck
from dragonfly.webhooks.outbox import PATIENCE, Attempt, Outbox, Progress, lane_of, pause_after, pause_between_saves

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Said(NamedTuple):
    """What an outbox looks at of an object."""

    ref: Ref
    facets: dict[str, str]


def change(machine: str, revision: int, *, kind: str = "Machine", what: ChangeType = "updated") -> Seen:
    name = machine if kind == "Machine" else f"{kind}-{machine}"
    facets = {"machine": machine} if kind != "Template" else {}
    return Seen(what, cast("Shown", Said(Ref(kind, name), facets)), revision)


class Deliveries:
    """An outbox, the history that it is fed from, and a receiver."""

    def __init__(self, history: list[Seen]) -> None:
        self.history = history
        self.now = 0.0
        self.got: dict[str, list[int]] = defaultdict(list)
        self.outbox = Outbox(0)
        self.saved = Progress(0, ())

    @property
    def at(self) -> datetime:
        return _BEGAN + timedelta(seconds=self.now)

    def read(self, many: int = 3) -> None:
        if not self.outbox.has_room:
            return
        last = self.history[-1].revision if self.history else 0
        revisions = sorted({seen.revision for seen in self.history if seen.revision > self.outbox.taken})[:many]
        upto = revisions[-1] if revisions else last
        changes = [seen for seen in self.history if self.outbox.taken < seen.revision <= upto]
        self.outbox.put(changes, max(upto, self.outbox.taken))

    def end(self, attempt: Attempt, *, good: bool) -> None:
        if good:
            self.got[attempt.lane].append(attempt.message.seen.revision)
            self.outbox.delivered(attempt.lane)
        else:
            self.outbox.failed(attempt.lane, now=self.now, at=self.at, chance=1.0)

    def save(self) -> None:
        if self.outbox.is_caught_up:
            self.saved = self.outbox.progress()

    def die(self) -> None:
        self.outbox = Outbox(*self.saved)

    def finish(self) -> None:
        last = self.history[-1].revision if self.history else 0
        for _ in range(10_000):
            self.read()
            for attempt in self.outbox.next(self.now):
                self.end(attempt, good=True)
            if self.outbox.taken >= last and not self.outbox.waiting:
                return
            self.now += 60
        pytest.fail("it never ends")


def history_of(chance: Random) -> list[Seen]:
    """Changes of a few machines, several at some revisions."""
    revision, changes = 1, []
    for _ in range(chance.randrange(60)):
        revision += chance.choice([0, 1, 1, 3])
        changes.append(change(f"m-{chance.randrange(chance.choice([2, 5]))}", revision))
    return list({(seen.revision, seen.shown.ref): seen for seen in changes}.values())


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_no_change_is_lost_and_none_comes_before_an_earlier_one(seed: int) -> None:
    chance = Random(seed)
    world = Deliveries(history_of(chance))
    under_way: list[Attempt] = []
    weights = {"read": 4, "send": 6, "good": chance.choice([3, 6]), "bad": chance.choice([1, 5]), "save": 2, "die": 0.5}
    for _ in range(chance.randrange(300)):
        match chance.choices([*weights, "time"], [*weights.values(), 2])[0]:
            case "read":
                world.read(chance.choice([1, 3, 10]))
            case "send":
                under_way += world.outbox.next(world.now)
            case "good" | "bad" as end if under_way:
                world.end(under_way.pop(chance.randrange(len(under_way))), good=end == "good")
            case "save":
                world.save()
            case "die":
                under_way = []
                world.die()
            case _:
                world.now += chance.choice([1, 20])
    world.die()
    world.finish()

    for lane in {lane_of(seen) for seen in world.history}:
        expected = [seen.revision for seen in world.history if lane_of(seen) == lane]
        assert list(dict.fromkeys(world.got[lane])) == expected, lane


def test_a_machine_and_its_provisions_share_a_lane() -> None:
    lanes = [lane_of(change("m-1", 5, kind=kind)) for kind in ("Machine", "Provision", "Template")]

    assert lanes == ["Machine/m-1", "Machine/m-1", "Template/Template-m-1"]


def test_a_lane_waits_for_its_oldest_change_and_the_others_go_on() -> None:
    outbox = Outbox(10)
    outbox.put([change("bad", 11), change("bad", 12), change("good", 13)], 13)
    first = outbox.next(0.0)
    assert [(attempt.lane, attempt.message.seen.revision) for attempt in first] == [
        ("Machine/bad", 11),
        ("Machine/good", 13),
    ]
    outbox.failed("Machine/bad", now=0.0, at=_BEGAN, chance=1.0)
    outbox.delivered("Machine/good")

    assert outbox.next(0.5) == []
    cursor, stuck = outbox.progress()
    assert (cursor, [(one.lane, one.after, one.attempts) for one in stuck]) == (13, [("Machine/bad", 10, 1)])


def test_what_was_not_tried_yet_holds_the_cursor() -> None:
    outbox = Outbox(10)
    outbox.put([change("m-1", 12), change("m-2", 15), change("m-2", 16)], 20)

    assert outbox.progress() == (11, ())
    outbox.next(0.0)
    outbox.delivered("Machine/m-1")
    assert outbox.progress() == (14, ())


def test_a_lane_that_is_behind_the_cursor_stays_saved_until_it_has_caught_up() -> None:
    outbox = Outbox(10)
    outbox.put([change("bad", 11), change("bad", 12), change("good", 20)], 20)
    outbox.next(0.0)
    outbox.failed("Machine/bad", now=0.0, at=_BEGAN, chance=1.0)
    outbox.delivered("Machine/good")
    outbox.progress()
    outbox.next(10.0)
    outbox.delivered("Machine/bad")

    cursor, stuck = outbox.progress()
    assert (cursor, [(one.lane, one.after, one.since) for one in stuck]) == (20, [("Machine/bad", 11, None)])


def test_what_was_saved_is_not_saved_worse_while_it_is_read_again() -> None:
    outbox = Outbox(20, Outbox(0).progress().stuck)
    assert outbox.is_caught_up
    saved = Deliveries([change("bad", 5), change("bad", 8), change("good", 20)])
    saved.read()
    for attempt in saved.outbox.next(0.0):
        saved.end(attempt, good=attempt.lane == "Machine/good")
    saved.save()
    saved.die()

    assert not saved.outbox.is_caught_up
    assert saved.outbox.taken == 4


def test_trouble_of_old_is_not_laid_to_a_later_change() -> None:
    outbox = Outbox(20, [Stuck(lane="Machine/m-1", after=15, since=_BEGAN, attempts=9)])
    outbox.put([], 30)  # what was stuck is outside the view by now
    outbox.put([change("m-1", 31)], 31)

    assert outbox.trouble("Machine/m-1") == (None, 0)


def test_trouble_of_a_change_that_was_delivered_is_not_laid_to_the_next_one_on_a_later_page() -> None:
    outbox = Outbox(20, [Stuck(lane="Machine/m-1", after=15, since=_BEGAN, attempts=9)])
    outbox.put([change("m-1", 16)], 18)
    assert outbox.trouble("Machine/m-1") == (_BEGAN, 9)
    outbox.next(0.0)
    outbox.delivered("Machine/m-1")
    outbox.put([change("m-1", 19)], 20)

    assert outbox.trouble("Machine/m-1") == (None, 0)


def test_a_receiver_that_takes_nothing_is_asked_one_thing_at_a_time_and_everything_once_it_answers() -> None:
    outbox = Outbox(0)
    outbox.put([change(f"m-{number}", number) for number in range(1, 6)], 5)
    for attempt in outbox.next(0.0)[:3]:
        outbox.failed(attempt.lane, now=0.0, at=_BEGAN, chance=1.0)
    outbox.put_back("Machine/m-4")
    outbox.put_back("Machine/m-5")

    assert outbox.is_down
    (probe,) = outbox.next(100.0)
    outbox.delivered(probe.lane)
    assert len(outbox.next(0.0)) == 4


class Refusing:
    """A receiver that takes the changes of some machines and never those of the others, and the clock."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.revision = 0
        self.now = 0.0
        self.asked: list[str] = []
        self.got: list[int] = []

    def change(self, machine: str) -> int:
        self.revision += 1
        self.outbox.put([change(machine, self.revision)], self.revision)
        return self.revision

    def send(self) -> None:
        """Until nothing is due any more."""
        while attempts := self.outbox.next(self.now):
            for lane, message in attempts:
                self.asked.append(lane)
                if lane == "Machine/good":
                    self.got.append(message.seen.revision)
                    self.outbox.delivered(lane)
                else:
                    self.outbox.failed(lane, now=self.now, at=_BEGAN, chance=1.0)


def test_a_receiver_that_refuses_hundreds_of_machines_gets_the_changes_of_the_others() -> None:
    receiver = Refusing(Outbox(0))
    wanted = []
    for turn in range(20):
        for number in range(300):
            assert receiver.outbox.has_room
            receiver.change(f"bad-{number}")
        wanted.append(receiver.change("good"))
        receiver.now = 100.0 * turn
        receiver.send()

    assert receiver.got == wanted
    assert receiver.outbox.waiting <= 1_000


def test_what_is_refused_is_not_tried_anew_whenever_something_else_is_taken() -> None:
    receiver = Refusing(Outbox(0))
    for number in range(50):
        receiver.change(f"bad-{number}")
    receiver.change("good")
    receiver.send()
    receiver.asked.clear()

    for _ in range(10):
        receiver.change("good")
        receiver.send()

    assert receiver.asked == ["Machine/good"] * 10


def test_while_nothing_is_taken_nothing_is_left_out_of_what_waits_and_no_more_is_put_in() -> None:
    receiver = Refusing(Outbox(0))
    while receiver.outbox.has_room:
        receiver.change(f"bad-{receiver.revision % 40}")
        receiver.send()

    assert receiver.outbox.waiting == receiver.revision == 1_000


def test_what_was_saved_of_a_thousand_that_are_refused_fits_in_again() -> None:
    """The last page had more than there was room for."""
    receiver = Refusing(Outbox(0))
    receiver.change("good")
    for number in range(1_150):
        receiver.change(f"bad-{number}")
    receiver.send()

    again = Outbox(*receiver.outbox.progress())
    for number in range(1_150):
        assert again.has_room
        again.put([change(f"bad-{number}", number + 2)], number + 2)

    assert again.is_caught_up
    assert again.waiting == 1_150


def test_a_change_is_given_up_after_a_day() -> None:
    outbox = Outbox(0)
    outbox.put([change("m-1", 1), change("m-1", 2)], 2)
    outbox.next(0.0)
    outbox.failed("Machine/m-1", now=0.0, at=_BEGAN, chance=1.0)
    outbox.next(10.0)
    outbox.failed("Machine/m-1", now=10.0, at=_BEGAN + timedelta(seconds=10), chance=1.0)

    assert outbox.trouble("Machine/m-1") == (_BEGAN, 2)
    assert not outbox.is_hopeless("Machine/m-1", _BEGAN + PATIENCE - timedelta(seconds=1))
    assert outbox.is_hopeless("Machine/m-1", _BEGAN + PATIENCE)
    outbox.give_up("Machine/m-1")
    assert [attempt.message.seen.revision for attempt in outbox.next(0.0)] == [2]


def test_a_long_lane_leaves_out_what_is_superseded_and_says_so() -> None:
    outbox = Outbox(0)
    outbox.put([change("m-1", revision) for revision in range(1, 102)], 101)

    assert outbox.waiting < 51
    (first,) = outbox.next(0.0)
    assert (first.message.seen.revision, first.message.gap) == (1, False)
    outbox.delivered(first.lane)
    (second,) = outbox.next(0.0)
    assert (second.message.seen.revision, second.message.gap) == (100, True)


def test_what_came_and_went_behind_a_failed_change_is_told_with_a_gap() -> None:
    """To a webhook with the phase Failed a machine that fails is `created`, and `deleted` once it does no more."""
    outbox = Outbox(0)
    outbox.put([change("m-1", 1, kind="P0")], 1)
    for revision in range(2, 200):
        kind = f"P{revision // 2 % 30}"
        outbox.put([change("m-1", revision, kind=kind, what="deleted" if revision % 2 else "created")], revision)

    told = sent_to_the_end(outbox)[1:]

    assert len(told) < 51
    assert {kind for kind, *_ in told} == {f"P{number}" for number in range(30)}
    assert {(what, gap) for _, what, revision, gap in told if revision < 140} == {("deleted", True)}


@given(st.integers(0, 2**32), st.booleans())
def test_however_long_a_lane_each_object_s_last_change_is_told_and_every_gap(seed: int, there: bool) -> None:
    """What is left out is left out before a message of the same object that says so; and a receiver that counts what
    there is comes to the same.
    """
    names = ["Machine", "P1", "P2", "P3"]
    present = dict.fromkeys(names, there)
    chance = Random(seed)
    changes = []
    for revision in range(2, chance.randrange(40, 200)):
        kind = chance.choice(names)
        what: ChangeType = chance.choice(["deleted", "updated"]) if present[kind] else "created"
        present[kind] = what != "deleted"
        changes.append(change("m-1", revision, kind=kind, what=what))
    outbox = Outbox(0)
    outbox.put([change("m-1", 1, kind="P0")], 1)
    for seen in changes:
        outbox.put([seen], seen.revision)

    told = sent_to_the_end(outbox)[1:]

    known = dict.fromkeys(names, there)
    for kind in names:
        revisions = [seen.revision for seen in changes if seen.shown.ref.kind == kind]
        mine = [one for one in told if one[0] == kind]
        assert [revision for _, _, revision, _ in mine][-1:] == revisions[-1:]
        complete = not any(gap for *_, gap in mine)
        assert not complete or len(mine) == len(revisions)
        for _, what, _, gap in mine:
            assert what != "created" or not known[kind]
            assert known[kind] or what == "created" or (what == "deleted" and gap)
            known[kind] = what != "deleted"
        assert known[kind] == present[kind]


def sent_to_the_end(outbox: Outbox) -> list[tuple[str, ChangeType, int, bool]]:
    """Deliver all of one lane: kind, type, revision and gap of each message."""
    told = []
    while attempts := outbox.next(0.0):
        ((lane, message),) = attempts
        seen = message.seen
        told.append((seen.shown.ref.kind, seen.type, seen.revision, message.gap))
        outbox.delivered(lane)
    return told


def test_what_is_large_is_saved_more_seldom() -> None:
    assert [pause_between_saves(stuck) for stuck in (0, 200, 1_000)] == [1, 1, 5]


def test_pauses_double_up_to_five_minutes_and_heed_the_receiver() -> None:
    assert [pause_after(attempts, 1.0) for attempts in (1, 2, 3, 9, 10, 1000)] == [1, 2, 4, 256, 300, 300]
    assert pause_after(1, 0.0) == 0.5
    assert pause_after(1, 1.0, wish=120) == 120
    assert pause_after(1, 1.0, wish=1e9) == 3600
