"""What of one webhook is sent next, and how far it has got. Pure.

Changes of one machine, its provisions' among them, go in one lane, those of any other object in a lane of its own. A
lane is sent strictly in order, one at a time; lanes do not wait for one another. A lane whose oldest change fails is
stuck: it is tried again ever less often, and the others go on.

Invariant: every change up to the cursor of `progress` was delivered or given up, but for those of its stuck lanes after
their `after`. So whoever begins anew from it sends everything that was not delivered, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from dragonfly.feed.shown import Ref
from dragonfly.feed.view import Seen, net
from dragonfly.model.webhook import Stuck

AT_ONCE: Final = 8
"""Deliveries of one webhook under way at the same time."""

PATIENCE: Final = timedelta(hours=24)
"""How long a change is tried before it is given up."""

_MOST_WAITING: Final = 1_000
_LONGEST_LANE: Final = 50
_DOWN: Final = 3
"""Lanes that failed one after another, from which on the receiver counts as down: it is asked one thing at a time."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 300.0
_LONGEST_WISH: Final = 3600.0
_STUCK_A_SECOND: Final = 200
"""Stuck lanes that may be saved in a second: their list is written anew each time, and etcd keeps each for minutes."""


def lane_of(seen: Seen) -> str:
    machine = seen.shown.facets.get("machine")
    kind, name = seen.shown.ref
    return f"Machine/{machine}" if machine is not None else f"{kind}/{name}"


def pause_after(attempts: int, chance: float, wish: float = 0.0) -> float:
    """Return the seconds until the next attempt: doubled each time up to five minutes, half of it by chance.

    Args:
        attempts: how many have failed, at least 1.
        chance: 0 to 1.
        wish: what the receiver asked for in `Retry-After`; an hour of it is heeded.
    """
    pause = min(_FIRST_PAUSE * 2.0 ** min(attempts - 1, 30), _LONGEST_PAUSE) * (0.5 + chance / 2)
    return max(pause, min(wish, _LONGEST_WISH))


def pause_between_saves(stuck: int) -> float:
    """Return the seconds between two saves of a progress with so many lanes that are stuck."""
    return max(1.0, stuck / _STUCK_A_SECOND)


class Message(NamedTuple):
    """One change to be sent."""

    seen: Seen
    gap: bool = False
    """Changes of the same object before it were left out: it waited too long behind others."""
    fleeting: bool = False
    """A deletion whose creation was left out as well: to the receiver the object was not there before either."""


class Attempt(NamedTuple):
    """What is to be sent now."""

    lane: str
    message: Message


class _Lane:
    __slots__ = ("attempts", "due", "messages", "refused", "since", "under_way")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.under_way = False
        self.attempts = 0
        self.since: datetime | None = None
        """When the oldest message failed first; the lane is stuck since then."""
        self.refused = False
        """Another lane was delivered since this one is stuck: it is this one that is not taken."""
        self.due = 0.0

    @property
    def head(self) -> int:
        """The revision of the oldest message."""
        return self.messages[0].seen.revision


class Progress(NamedTuple):
    """What must be saved: whoever begins anew from it sends everything that was not delivered."""

    cursor: int
    stuck: tuple[Stuck, ...]


class Outbox:
    """The changes of one webhook that are not delivered yet."""

    def __init__(self, cursor: int, stuck: Iterable[Stuck] = ()) -> None:
        """Go on from what was saved: the changes after `taken` must be put in; what was delivered is passed over."""
        self._told = {one.lane: one for one in stuck}
        self._lanes: dict[str, _Lane] = {}
        self._cursor = cursor
        self._failed: set[str] = set()
        """Lanes that have failed since something was delivered last."""
        self._known = max([cursor, *(one.after for one in self._told.values())])
        self.taken = min([cursor, *(one.after for one in self._told.values())])
        """Every change up to this revision was put in."""

    @property
    def is_caught_up(self) -> bool:
        """Whether what was saved has been read again; before that there is nothing better to save."""
        return self.taken >= self._known

    @property
    def waiting(self) -> int:
        """How many changes are not delivered yet."""
        return sum(len(lane.messages) for lane in self._lanes.values())

    @property
    def has_room(self) -> bool:
        """Whether more changes may be put in.

        What was saved is read again with room to spare: it must fit in once more.
        """
        return self.waiting < (_MOST_WAITING if self.is_caught_up else 2 * _MOST_WAITING)

    @property
    def is_down(self) -> bool:
        """Whether the receiver seems to take nothing at all."""
        return len(self._failed) >= _DOWN

    @property
    def failing_since(self) -> datetime | None:
        """Since when the change that has failed for longest does; None if none does."""
        return min((lane.since for lane in self._lanes.values() if lane.since is not None), default=None)

    def progress(self) -> Progress:
        """Return how far it has got; the cursor never falls.

        A lane that was not tried yet holds the cursor: else each save would list all that wait.
        """
        heads = [lane.head for lane in self._lanes.values() if lane.since is None and lane.head > self._cursor]
        self._cursor = max(self._cursor, min([self.taken, *(head - 1 for head in heads)]))
        stuck = [
            Stuck(lane=name, after=lane.head - 1, since=lane.since, attempts=lane.attempts)
            for name, lane in self._lanes.items()
            if lane.since is not None or lane.head <= self._cursor
        ]
        return Progress(self._cursor, tuple(sorted(stuck, key=lambda one: one.lane)))

    def put(self, changes: Iterable[Seen], upto: int) -> None:
        """Put in the changes after `taken` up to the revision `upto`, which are whole revisions and in order."""
        for seen in changes:
            name = lane_of(seen)
            told = self._told.get(name)
            if seen.revision <= (told.after if told is not None else self._cursor):
                continue  # delivered before this began
            lane = self._lanes.get(name) or self._lanes.setdefault(name, self._begun(told))
            lane.messages.append(Message(seen))
            if len(lane.messages) > _LONGEST_LANE:
                _shorten(lane)
        self.taken = upto
        if self.is_caught_up:
            self._told.clear()
        self._make_room()

    def next(self, now: float) -> list[Attempt]:
        """Return what is to be sent now; the end of each must be told by `delivered` or `failed`.

        Args:
            now: monotonic seconds.
        """
        ready = [(name, lane) for name, lane in self._lanes.items() if not lane.under_way and lane.due <= now]
        # What has never been tried comes first: who waits for its turn must not wait for what fails.
        ready.sort(key=lambda entry: (entry[1].due, entry[1].head))
        chosen = ready[: self._room()]
        for _, lane in chosen:
            lane.under_way = True
        return [Attempt(name, lane.messages[0]) for name, lane in chosen]

    def next_due(self) -> float | None:
        """Return when the next attempt may begin, by the clock of `next`; None if nothing waits for its time alone."""
        if not self._room():
            return None
        return min((lane.due for lane in self._lanes.values() if not lane.under_way), default=None)

    def delivered(self, lane: str) -> None:
        """The lane's oldest message has arrived.

        If the receiver was down, what failed meanwhile is due at once; not what it refuses while it takes the rest.
        """
        was_down = self.is_down
        for other in self._lanes.values():
            if other.since is not None and not other.refused:
                other.refused = True
                other.due = 0.0 if was_down else other.due
        self._failed.clear()
        self._done(lane)
        self._make_room()

    def failed(self, name: str, *, now: float, at: datetime, chance: float, wish: float = 0.0) -> None:
        """The lane's oldest message has not arrived, as far as anybody knows.

        Args:
            name: the lane.
            now: monotonic seconds.
            at: the same moment, for people.
            chance, wish: as in `pause_after`.
        """
        lane = self._lanes[name]
        lane.under_way = False
        lane.attempts += 1
        lane.since = lane.since or at
        lane.due = now + pause_after(lane.attempts, chance, wish)
        self._failed.add(name)

    def is_hopeless(self, name: str, at: datetime) -> bool:
        """Whether the lane's oldest message has been tried for long enough."""
        since = self._lanes[name].since
        return since is not None and at - since >= PATIENCE

    def trouble(self, name: str) -> tuple[datetime | None, int]:
        """Return since when the lane's oldest message fails, and how often it has."""
        lane = self._lanes[name]
        return lane.since, lane.attempts

    def give_up(self, name: str) -> None:
        """Forget the lane's oldest message, which somebody keeps as a dead letter."""
        self._done(name)

    def put_back(self, name: str) -> None:
        """What was under way was not sent, or nobody will ever know."""
        if name in self._lanes:
            self._lanes[name].under_way = False

    def _room(self) -> int:
        under_way = sum(lane.under_way for lane in self._lanes.values())
        return max(0, (1 if self.is_down else AT_ONCE) - under_way)

    def _make_room(self) -> None:
        """Leave out what is superseded of lanes that are refused: what they hold must not keep the others waiting.

        While nothing at all is delivered that is left alone: there may be no need to leave anything out.
        """
        if self.has_room:
            return
        for lane in self._lanes.values():
            if lane.refused:
                _shorten(lane)

    def _begun(self, told: Stuck | None) -> _Lane:
        lane = _Lane()
        if told is not None:
            lane.attempts, lane.since, lane.refused = told.attempts, told.since, told.since is not None
        return lane

    def _done(self, name: str) -> None:
        lane = self._lanes[name]
        lane.messages.popleft()
        lane.under_way, lane.refused, lane.attempts, lane.since, lane.due = False, False, 0, None, 0.0
        if (told := self._told.get(name)) is not None:
            self._told[name] = Stuck(lane=name, after=told.after)  # its trouble was that of the message that is done
        if not lane.messages:
            del self._lanes[name]


def _shorten(lane: _Lane) -> None:
    """Leave out what is superseded; the oldest message stays, for it may be under way."""
    first, *others = lane.messages
    lane.messages = deque([first, *_net(others)])


def _net(messages: Iterable[Message]) -> Iterable[Message]:
    """Leave one message of each object, in order of their last revisions.

    An object that came and went is told as well: that a machine was in a phase for a moment may be all that a webhook
    is for.
    """
    left: dict[Ref, Message] = {}
    for message in messages:
        ref = message.seen.shown.ref
        earlier = left.pop(ref, None)
        left[ref] = message if earlier is None else _merged(earlier, message)
    return left.values()


def _merged(earlier: Message, later: Message) -> Message:
    if earlier.fleeting:
        return later._replace(gap=True)
    both = net((earlier.seen, later.seen))
    return Message(both[0], gap=True) if both else Message(later.seen, gap=True, fleeting=True)
