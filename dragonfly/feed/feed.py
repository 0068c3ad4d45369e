"""The feed of one replica: made from what arrives in its mirror, followed by any number of subscriptions.

Confined to one event loop. Clients with the same view share a channel: what it shows of a change is found out and
encoded once, and only where the change has something that the view asks for (`audience`). Whoever waits is woken at
most once in `_PACE` seconds for each subscription there is, and then all at once: they stand at the same place, and get
the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from dragonfly.feed.audience import Audience
from dragonfly.feed.changes import Change, Overlay, Wide, by_revision, changes_at, is_made_of
from dragonfly.feed.channel import Channel, Taken, rest
from dragonfly.feed.earlier import Past, Replay, updates_of
from dragonfly.feed.history import MOST_BYTES, Cursor, History, Node, after
from dragonfly.feed.shown import KINDS, Composer, Ref, Shards, Shown
from dragonfly.feed.view import Filter, Seen, View
from dragonfly.store.errors import Compacted
from dragonfly.store.mirror import Arrival, Mirror
from dragonfly.store.past import TooMuch

_PACE: Final = 20e-6  # seconds; what it takes to wake a subscription and to hand bytes to its connection
_SLOWEST: Final = 0.5
_KEPT: Final = 10.0
"""Seconds for which what was read again stays: those who asked for it need time to take it."""

Reason: TypeAlias = Literal["compacted", "too-old", "future", "other-etcd", "skipped"]


class Lost(Exception):
    """A position cannot be resumed; read the state at `revision` or later, and follow from there."""

    def __init__(self, reason: Reason, revision: int) -> None:
        super().__init__(f"{reason} at revision {revision}")
        self.reason: Reason = reason
        self.revision = revision


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
        if self._is_alone and cursor.between_revisions:
            cursor = self._history.at(cursor.node.revision) or cursor
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
        return self._history.revision if self._cursor.node is self._history.last else self._cursor.node.revision

    def is_left_behind(self) -> bool:
        """Whether what follows is no longer in the history: others must not wait, nor memory grow.

        In the middle of a revision what is left of it can be taken all the same, and should be: whoever is cut there
        gets all of it again, and again. What happened outside the view is passed over before that is asked.
        """
        if self._history is self._feed.history:
            self._cursor = self._channel.past(self._cursor, self._history)
        return self._is_alone or (self._cursor.node.next is not None and not self._history.holds(self._cursor))

    def let_go(self) -> None:
        """Keep nothing alive any more but what is left of a revision: only that may be taken after this."""
        if self._cursor.between_revisions:
            self._cursor = after(self._history.last)
        elif not self._is_alone:
            self._cursor = Cursor(self._cursor.node.alone(), self._cursor.done)

    @property
    def _is_alone(self) -> bool:
        """Whether nothing is linked to what it holds."""
        return self._cursor.node.next is None and self._cursor.node is not self._history.last

    def close(self) -> None:
        self._feed.leave(self, self._channel)


class Feed:
    """Invariant: `history` holds what the mirror went through, and `_current` is what the mirror shows."""

    def __init__(
        self,
        mirror: Mirror,
        unrecorded: Shards,
        past: Past,
        *,
        clock: Callable[[], float],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Begin with what the mirror has.

        Args:
            mirror: whose changes are told.
            unrecorded: how clusters are cut that are there without a record.
            past: asked for what was before this replica followed.
            clock: monotonic seconds.
            most_bytes: about what the history keeps alive.
        """
        self._mirror = mirror
        self._unrecorded = unrecorded
        self._past = past
        self._clock = clock
        self._most_bytes = most_bytes
        self._channels: dict[tuple[View, bool], Channel] = {}
        self._audience: Audience[Channel] = Audience()
        self._waiting: set[Channel] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._flushed = clock()
        self._reading = asyncio.Lock()
        self._replay: Replay | None = None
        self._shrinking: asyncio.TimerHandle | None = None
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
        for shown in Composer(self._mirror, self._unrecorded).all():
            self._current[shown.ref.kind][shown.ref.name] = shown

    def _arrive(self, arrival: Arrival) -> None:
        if self._replay is not None:
            self._replay.arrived(arrival.updates)
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
        concern = [update for update in arrival.updates if is_made_of(update.key)]
        past = Overlay.before(concern, self._mirror)
        for revision, updates in by_revision(concern):
            changes = changes_at(
                revision, updates, past, self._unrecorded, living_in=self._living_in, known=self._known
            )
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

    def _living_in(self, wide: Wide) -> list[str]:
        places, clusters = wide
        machines = self._current["Machine"].items()
        if not clusters:
            return [name for name, shown in machines if shown.place in places]
        return [name for name, shown in machines if shown.facets["cluster"] in clusters or shown.place in places]

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
        """Read again what was between `since` and the beginning of the history, and keep it for a while."""
        history = self.history
        if history.is_heavy:  # what was kept for others has had its time
            history.shrink()
        history.stretch()
        first = history.first
        if self._shrinking is not None:
            self._shrinking.cancel()
        try:
            earlier = await self._earlier(since, history)
        except Compacted:
            self._forgotten = _Forgotten(since, "compacted")
            return
        except TooMuch:
            self._forgotten = _Forgotten(since, "too-old")
            return
        finally:
            self._shrinking = asyncio.get_running_loop().call_later(_KEPT, self._shrink)
        if history is self.history and first is history.first:
            history.prepend(since, earlier)

    async def _earlier(self, since: int, history: History) -> list[Node]:
        stored = await self._past.between(since, history.first.revision)
        updates = await asyncio.to_thread(updates_of, stored)
        self._replay = Replay(self._mirror, self._unrecorded, self._living_in)
        try:
            return await self._replay.nodes(updates, history.updates())
        finally:
            self._replay = None

    def _shrink(self) -> None:
        self._shrinking = None
        self.history.shrink()
