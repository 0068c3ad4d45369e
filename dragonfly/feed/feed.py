"""The feed of one replica: made from what arrives in its mirror, followed by any number of subscriptions.

Confined to one event loop. Clients with the same view share a channel: what it shows of a change is found out and
encoded once, and only where the change has something that the view asks for (`audience`). Whoever waits is woken at
most once in `_PACE` seconds for each subscription there is, and then all at once: they stand at the same place, and get
the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from dragonfly.feed.audience import Audience
from dragonfly.feed.changes import Change, Overlay, by_revision, changes_at
from dragonfly.feed.channel import Channel, Taken, rest
from dragonfly.feed.history import MOST_BYTES, Cursor, History, Node, after
from dragonfly.feed.shown import KINDS, Composer, Ref, Shards, Shown
from dragonfly.feed.view import Filter, Seen, View
from dragonfly.store import records
from dragonfly.store.errors import Compacted
from dragonfly.store.mirror import Arrival, Held, Mirror, Undecodable, Update
from dragonfly.store.past import TooMuch
from dragonfly.store.values import Change as Stored
from dragonfly.store.values import Item

_PACE: Final = 20e-6  # seconds; what it takes to wake a subscription and to hand bytes to its connection
_SLOWEST: Final = 0.5

Reason: TypeAlias = Literal["compacted", "too-old", "future", "other-etcd", "skipped"]


class Lost(Exception):
    """A position cannot be resumed; read the state at `revision` or later, and follow from there."""

    def __init__(self, reason: Reason, revision: int) -> None:
        super().__init__(f"{reason} at revision {revision}")
        self.reason: Reason = reason
        self.revision = revision


class Past(Protocol):
    """What etcd still knows of earlier revisions."""

    async def between(self, revision: int, until: int) -> Sequence[Stored]:
        """Return all changes after `revision` up to `until`, each with its `previous`.

        Raises:
            Compacted: etcd has forgotten some of them.
            TooMuch: they are too many.
            StoreError: etcd does not say.
        """
        ...


class _Forgotten(NamedTuple):
    """Positions up to here are lost for good: what is compacted, or too much already, never comes back."""

    until: int
    reason: Reason


class Snapshot(NamedTuple):
    """All objects of a view at a revision, and the subscription that goes on from there."""

    revision: int
    objects: list[Shown]
    subscription: Subscription


class Subscription:
    """One client's place in the feed."""

    def __init__(self, feed: Feed, channel: Channel, history: History, cursor: Cursor) -> None:
        self._feed = feed
        self._channel = channel
        self._history = history
        self._cursor = cursor
        self.woken = asyncio.Event()

    def take(self) -> Taken | None:
        """Take what comes next; None if there is nothing at the moment.

        Raises:
            Lost: the feed skipped changes.
        """
        if self._history is not self._feed.history:
            raise Lost("skipped", self._feed.revision)
        self.woken.clear()
        taken = self._next()
        # What the channel remembers may end earlier than the history does by now.
        while taken is None and self.more:
            taken = self._next()
        return taken

    def _next(self) -> Taken | None:
        taken, cursor = self._channel.take(self._channel.past(self._cursor, self._history))
        self._cursor = self._channel.past(cursor, self._history)
        return taken

    @property
    def more(self) -> bool:
        """Whether anything is left to take; `woken` tells only of what came after the last `take`."""
        return self._cursor.node.next is not None or not self._cursor.between_revisions

    def page(self, limit: int) -> list[Seen]:
        """Take whole revisions, until that is `limit` changes or more, or there are no more."""
        found: list[Seen] = []
        for node, done in rest(self._cursor):
            found += (seen for _, seen in self._channel.seen(node, done))
            self._cursor = after(node)
            if len(found) >= limit:
                break
        return found

    @property
    def position(self) -> int | None:
        """The revision up to which everything was taken; None in the middle of one."""
        if not self._cursor.between_revisions:
            return None
        return self._history.revision if self._cursor.node.next is None else self._cursor.node.revision

    def is_left_behind(self) -> bool:
        """Whether what comes next is no longer in the history: others must not wait, nor memory grow.

        What happened outside the view is passed over before that is asked.
        """
        if self._history is self._feed.history:
            self._cursor = self._channel.past(self._cursor, self._history)
        return self._cursor.node.next is not None and not self._history.holds(self._cursor)

    def let_go(self) -> None:
        """Keep nothing alive any more; nothing may be taken after this."""
        self._cursor = after(self._history.last)

    def close(self) -> None:
        self._feed.leave(self, self._channel)


class Feed:
    """Invariant: `history` holds what the mirror went through, and `_current` is what the mirror shows."""

    def __init__(
        self,
        mirror: Mirror,
        shards: Shards,
        past: Past,
        *,
        clock: Callable[[], float],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Begin with what the mirror has.

        Args:
            mirror: whose changes are told.
            shards: the swarm's clusters.
            past: asked for what was before this replica followed.
            clock: monotonic seconds.
            most_bytes: about what the history keeps alive.
        """
        self._mirror = mirror
        self._shards = shards
        self._past = past
        self._clock = clock
        self._most_bytes = most_bytes
        self._channels: dict[tuple[View, bool], Channel] = {}
        self._audience: Audience[Channel] = Audience()
        self._waiting: set[Channel] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._flushed = clock()
        self._reading = asyncio.Lock()
        self._wanted: list[int] = []
        self._forgotten = _Forgotten(-1, "compacted")
        self.subscriptions = 0
        self.closed = False
        self._begin()
        mirror.observe(self._arrive)

    @property
    def stale_for(self) -> float | None:
        """Seconds for which nobody has vouched for the feed being current; None while the mirror is followed."""
        since = self._mirror.stale_since
        return None if since is None else max(0.0, self._clock() - since)

    @property
    def revision(self) -> int:
        """Everything up to here is in the feed."""
        return self.history.revision

    async def resume(self, view: View, since: int, *, patience: float, coalesce: bool = False) -> Subscription:
        """Follow what comes after `since`.

        Args:
            view: what to follow.
            since: a revision of this etcd.
            patience: seconds to wait for a revision that another replica has seen already.
            coalesce: leave out what is superseded before it is taken.

        Raises:
            Lost: what follows `since` cannot be had.
            StoreError: etcd does not say.
        """
        try:
            await self._mirror.wait_for(since, patience)
        except TimeoutError:
            raise Lost("future", self.revision) from None
        return self._join(view, await self._find(since), coalesce=coalesce)

    def follow(self, view: View, *, coalesce: bool = False) -> Subscription:
        """Follow what comes from now on."""
        return self._join(view, after(self.history.last), coalesce=coalesce)

    def snapshot(self, view: View, *, coalesce: bool = False) -> Snapshot:
        """Take the state as it is now, and follow what comes."""
        objects = [shown for shown in self._named(view.filter) if view.shows(shown)]
        return Snapshot(self.revision, objects, self.follow(view, coalesce=coalesce))

    def leave(self, subscription: Subscription, channel: Channel) -> None:
        if subscription in channel.subscriptions:
            channel.subscriptions.remove(subscription)
            self.subscriptions -= 1
        if not channel.subscriptions and self._channels.pop((channel.view, channel.coalesce), None) is not None:
            self._waiting.discard(channel)
            self._audience.discard(channel, channel.wants)

    def close(self) -> None:
        """Tell all who follow to go elsewhere: `closed` is true, and they are woken."""
        self.closed = True
        self._wake_all()

    def _begin(self) -> None:
        self.history = History(self._mirror.revision, most_bytes=self._most_bytes)
        self._current: dict[str, dict[str, Shown]] = {kind: {} for kind in KINDS}
        for shown in Composer(self._mirror, self._shards).all():
            self._current[shown.ref.kind][shown.ref.name] = shown

    def _arrive(self, arrival: Arrival) -> None:
        try:
            if not arrival.fresh:
                self._go_on(arrival)
                return
        except Exception:
            # A bug must not let the feed tell what is not so: everybody is reset. The mirror's follower tells of it.
            self._begin_anew()
            raise
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._begin()
        for channel in self._channels.values():
            channel.begin(self.history.last.number)
        self._wake_all()

    def _go_on(self, arrival: Arrival) -> None:
        past = Overlay.before(arrival.updates, self._mirror)
        for revision, updates in by_revision(arrival.updates):
            changes = changes_at(revision, updates, past, self._shards, living_in=self._living_in, known=self._known)
            past.step(updates)
            self._note(changes)
            self._announce(self.history.append(revision, updates, changes, self._clock()))
        self.history.revision = arrival.revision

    def _note(self, changes: Iterable[Change]) -> None:
        for change in changes:
            kind, name = change.ref
            if change.after is not None:
                self._current[kind][name] = change.after
            else:
                self._current[kind].pop(name, None)

    def _known(self, ref: Ref) -> Shown | None:
        return self._current[ref.kind].get(ref.name.rpartition("/")[2])

    def _living_in(self, places: frozenset[tuple[str, int]]) -> list[str]:
        return [name for name, shown in self._current["Machine"].items() if shown.place in places]

    def _announce(self, node: Node) -> None:
        concerned: set[Channel] = set()
        for change in node.changes:
            for channel in self._audience.of(change):
                if channel not in concerned and (channel in self._waiting or channel.view.seen(change) is not None):
                    concerned.add(channel)
        for channel in concerned:
            channel.note(node, first=channel not in self._waiting)
        self._waiting |= concerned
        if self._waiting and self._flush is None:
            pause = self._flushed + min(self.subscriptions * _PACE, _SLOWEST) - self._clock()
            self._flush = asyncio.get_running_loop().call_later(max(pause, 0), self._wake)

    def _wake_all(self) -> None:
        self._waiting.update(self._channels.values())
        self._wake()

    def _wake(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._flushed = self._clock()
        for channel in self._waiting:
            for subscription in channel.subscriptions:
                subscription.woken.set()
        self._waiting.clear()

    def _join(self, view: View, cursor: Cursor, *, coalesce: bool) -> Subscription:
        channel = self._channels.get((view, coalesce)) or self._opened(view, coalesce=coalesce)
        subscription = Subscription(self, channel, self.history, cursor)
        channel.subscriptions.add(subscription)
        self.subscriptions += 1
        return subscription

    def _opened(self, view: View, *, coalesce: bool) -> Channel:
        channel = Channel(view, coalesce=coalesce, since=self.history.last.number)
        self._channels[view, coalesce] = channel
        self._audience.add(channel, channel.wants)
        return channel

    def _named(self, asked: Filter) -> Iterator[Shown]:
        """The objects that are of a kind and have a name that a filter asks for, if it asks for any."""
        for kind in KINDS:
            if asked.kinds and kind not in asked.kinds:
                continue
            current = self._current[kind]
            if asked.names:
                yield from (current[name] for name in sorted(asked.names) if name in current)
            else:
                yield from current.values()

    async def _find(self, since: int) -> Cursor:
        if (cursor := self.history.at(since)) is not None:
            return cursor
        self._wanted.append(since)
        try:
            async with self._reading:
                return await self._found(since)
        finally:
            self._wanted.remove(since)

    async def _found(self, since: int) -> Cursor:
        """Read again what is missing: at once for all who wait, or else for this one; the history may drop it again."""
        for beginning in (min(self._wanted), since, since):
            if (cursor := self.history.at(since)) is not None:
                return cursor
            if since <= self._forgotten.until:
                raise Lost(self._forgotten.reason, self.revision)
            if beginning > self._forgotten.until:
                await self._extend(beginning)
        if (cursor := self.history.at(since)) is not None:
            return cursor
        raise Lost(self._forgotten.reason if since <= self._forgotten.until else "too-old", self.revision)

    async def _extend(self, since: int) -> None:
        """Read again what was between `since` and the beginning of the history."""
        history, first = self.history, self.history.first
        try:
            stored = await self._past.between(since, history.told_from)
        except Compacted:
            self._forgotten = _Forgotten(since, "compacted")
            return
        except TooMuch:
            self._forgotten = _Forgotten(since, "too-old")
            return
        updates = await asyncio.to_thread(_updates, stored)
        if history is not self.history or first is not self.history.first:
            return
        past = Overlay.before(chain(updates, history.updates()), self._mirror)
        earlier = []
        for revision, group in by_revision(updates):
            changes = changes_at(
                revision,
                group,
                past,
                self._shards,
                living_in=lambda places: {*self._living_in(places), *past.machines()},
            )
            earlier.append((revision, group, changes))
            past.step(group)
        history.prepend(since, earlier)


def _updates(stored: Iterable[Stored]) -> list[Update]:
    """What etcd told of the past, as the mirror would have made it.

    The state before the first update of a key is etcd's `previous`; after that it is what the one before left.
    """
    known: dict[str, Held | None] = {}
    updates: list[Update] = []
    for change in stored:
        previous = known[change.key] if change.key in known else _held(change.previous)
        held = _held(change.item)
        known[change.key] = held
        updates.append(Update(change.key, held, previous, change.revision))
    return updates


def _held(item: Item | None) -> Held | None:
    if item is None:
        return None
    try:
        decoded = records.decode(item.key, item.value)
    except Exception as error:  # as the mirror: one bad record must not blind anybody
        decoded = Undecodable(f"{type(error).__name__}: {error}")
    return Held(item.key, decoded, item.create_revision, item.mod_revision, item.lease, len(item.value))
