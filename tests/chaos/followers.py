"""Clients of the feed that check what they are told, and a witness of etcd that knows what is true.

A state is a set of objects, each with its content; its digest is the exclusive or of their hashes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, Self

import msgspec

from dragonfly.client import AsyncClient, Event
from dragonfly.feed.shown import Composer, Shown
from dragonfly.feed.view import Filter, View
from dragonfly.model.selectors import requirements
from dragonfly.store import follow
from dragonfly.store.client import EtcdStore
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Batch, Snapshot
from tests.chaos.each_id import EachId, misplaced


class Lens(NamedTuple):
    """A view, and how it is asked for."""

    query: dict[str, Any]
    view: View


LENSES: Final[Sequence[Lens]] = (
    Lens({}, View()),
    Lens({"kind": "Machine"}, View(Filter(kinds=frozenset({"Machine"})))),
    Lens({"labelSelector": "site=fra"}, View(Filter(selector=requirements("site=fra")))),
    Lens({"phase": "Provisioning"}, View(Filter(facets=(("phase", frozenset({"Provisioning"})),)))),
    Lens(
        {"kind": ["Machine", "Template"], "tag": "odd"},
        View(Filter(kinds=frozenset({"Machine", "Template"}), tags=frozenset({"odd"}))),
    ),
)


class Witness:
    """Follows etcd by itself, and remembers the state of each lens at each revision."""

    def __init__(self, settings: EtcdSettings, shards: dict[str, int]) -> None:
        self.store = _Store(settings)
        self.mirror = _EachRevision(
            decode, clock=self.store.gateway.clock, on_undecodable=lambda *_: None, seen=self._note
        )
        self._follower = follow.Follower(self.store, self.store.gateway, self.mirror, jitter=random.random)
        self._shards = shards
        self._digests: dict[int, list[int]] = {}
        self._known: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.skipped = 0

    async def __aenter__(self) -> Self:
        await self._follower.start()
        await self.mirror.wait_for(1, 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._follower.stop()
        await self.store.close()

    @property
    def revision(self) -> int:
        return self.mirror.revision

    @property
    def compactions(self) -> int:
        """How often etcd was told to forget."""
        return self.store.compactions

    def digest(self, lens: int, revision: int) -> int:
        """The state of a lens at a revision."""
        while revision not in self._digests:  # one that changed nothing here
            revision -= 1
        return self._digests[revision][lens]

    def _note(self, *, fresh: bool) -> None:
        self.skipped += fresh and bool(self._digests)
        state = [0] * len(LENSES)
        for shown in Composer(self.mirror, self._shards).all():
            for lens, found in enumerate(self._seen_through(shown)):
                state[lens] ^= found
        self._digests[self.mirror.revision] = state

    def _seen_through(self, shown: Shown) -> tuple[int, ...]:
        """The hash of an object for each lens; 0 where the lens does not show it."""
        known = (*shown.ref, shown.version)
        if known not in self._known:
            found = content(*shown.ref, msgspec.json.decode(shown.json()))
            self._known[known] = tuple(found if lens.view.shows(shown) else 0 for lens in LENSES)
        return self._known[known]

    @property
    def revisions(self) -> int:
        """How many revisions it has seen."""
        return len(self._digests)


class _Store(EtcdStore):
    """Counts how often it lets etcd forget."""

    compactions = 0

    async def compact(self, revision: int) -> None:
        self.compactions += 1
        await super().compact(revision)


class _EachRevision(Mirror):
    """Shows every revision by itself, though several came together."""

    def __init__(self, *args: Any, seen: Callable[..., None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._seen = seen

    def replace(self, snapshot: Snapshot) -> None:
        super().replace(snapshot)
        self._seen(fresh=True)

    def apply(self, batch: Batch) -> None:
        for revision, changes in groupby(batch.changes, key=lambda change: change.revision):
            super().apply(Batch(revision, tuple(changes)))
            self._seen(fresh=False)
        super().apply(Batch(batch.revision, ()))


class Told(NamedTuple):
    """What a client had put together at a revision that the feed named."""

    revision: int
    digest: int


class Checker:
    """One client: it connects, leaves, comes back somewhere else, and is strict about what it is told."""

    def __init__(self, number: int, *, start: int) -> None:
        self.lens = number % len(LENSES)
        self.told: list[Told] = []
        self.broken: list[str] = []
        self.resets: list[str] = []
        self.connections = 0
        self.changes = 0
        self._coalesced = number % 4 == 3
        self._random = random.Random(number)
        self._position = start
        self._objects: dict[tuple[str, str], int] = {}
        self._digest = 0
        query = LENSES[self.lens].query | ({"coalesce": True} if self._coalesced else {})
        self.follower = EachId(query, said=self._take)

    async def run(self, http: AsyncClient, *, stop: asyncio.Event, absences: tuple[float, float]) -> None:
        """Follow until told to stop.

        Args:
            http: through the load balancer.
            stop: then leave.
            absences: shortest and longest seconds between two connections.
        """
        while not stop.is_set():
            await self._follow(http, self._random.uniform(1, 9))
            if self._random.random() < 0.4:
                await asyncio.sleep(self._random.uniform(*absences))

    async def until(self, http: AsyncClient, revision: int) -> None:
        """Follow until everything up to a revision has been told."""
        while (self.follower.position or 0) < revision:
            await self._follow(http, 1.0)

    async def _follow(self, http: AsyncClient, seconds: float) -> None:
        self.connections += 1
        revisions = http.revisions(self.follower)
        try:
            async with asyncio.timeout(seconds):
                async for _ in revisions:
                    pass  # each is taken as it comes
        except TimeoutError:
            pass
        finally:
            await revisions.aclose()  # type: ignore[attr-defined]  # it is a generator

    def _take(self, events: Sequence[Event]) -> None:
        position = self.follower.position
        assert position is not None
        self.broken += misplaced(events, position, coalesced=self._coalesced)
        for event in events:
            if event.type == "reset":
                self.resets.append(event.name)
                self._objects.clear()
                self._digest = 0
                self._position = 0
            else:
                self._apply(event, position)
        self._position = position
        self.told.append(Told(position, self._digest))

    def _apply(self, event: Event, position: int) -> None:
        self.changes += 1
        ref = (event.kind, event.name)
        if not self._position < event.revision <= position:
            self.broken.append(f"{event.type} {ref} of {event.revision} between {self._position} and {position}")
        if (event.type == "created") == (ref in self._objects):
            there = "there" if ref in self._objects else "not there"
            self.broken.append(f"{event.type} {ref} at {event.revision}, which is {there}")
        self._digest ^= self._objects.pop(ref, 0)
        if event.type != "deleted":
            self._objects[ref] = content(*ref, event.object)
            self._digest ^= self._objects[ref]


def digest(documents: Sequence[Any]) -> int:
    """The state that objects make up, as lists show them."""
    return _all(content(document["kind"], document["metadata"]["name"], document) for document in documents)


def content(kind: str, name: str, document: object) -> int:
    return hash((kind, name, msgspec.json.encode(document)))


def _all(hashes: Any) -> int:
    found = 0
    for one in hashes:
        found ^= one
    return found
