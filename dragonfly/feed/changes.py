"""Which objects of the API change at a revision, from which keys changed there. Pure.

One key may change many objects (a claim: all machines of its shard), many keys may change one (a provision that
begins: `provisions/…` and `active/…`, one machine). A transaction is one revision: all its changes become visible
together, so a client's state is one that the API shows only between revisions.

Invariant: whoever applies to the state at revision R all changes of the revisions after it up to S has the state at S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, Literal, NamedTuple, TypeAlias

from dragonfly.feed.shown import KINDS, Composer, Ref, Shards, Shown
from dragonfly.model.swarm import Member
from dragonfly.store import keys
from dragonfly.store.mirror import Held, Update
from dragonfly.swarm.members import Records

ChangeType: TypeAlias = Literal["created", "updated", "deleted"]

_ORDER: Final = {kind: order for order, kind in enumerate(KINDS)}
_OWN: Final = {
    keys.MACHINES: "Machine",
    keys.PROVISIONS: "Provision",
    keys.TEMPLATES: "Template",
    keys.CLUSTERS: "Cluster",
}
_BESIDE: Final = (keys.OBSERVED, keys.POWER, keys.ACTIVE)
_MADE_OF: Final = frozenset({*_OWN, *_BESIDE, keys.CLAIMS, keys.MEMBERS})


class Change(NamedTuple):
    """One object before and after a revision; not both None."""

    revision: int
    before: Shown | None
    after: Shown | None

    @property
    def ref(self) -> Ref:
        shown = self.after or self.before
        assert shown is not None
        return shown.ref


class Wide(NamedTuple):
    """What many machines share, and is another for them from a revision on."""

    places: frozenset[tuple[str, int]]
    """Clusters' shards that changed hands."""
    clusters: frozenset[str]
    """Those that came into reach or out of it, or are cut into other shards."""


Population: TypeAlias = Callable[[Wide], Iterable[str]]
"""The names of (at least) all machines that are in one of those."""


class Overlay:
    """Other records with some keys put differently; if the others change, `keep` must be told."""

    def __init__(self, base: Records, over: Mapping[str, Held | None]) -> None:
        self._base = base
        self._over = dict(over)
        self._keys: dict[str, set[str]] = {}
        """Those of `_over`, by their first segments."""
        for key in self._over:
            self._keys.setdefault(_segment(key), set()).add(key)

    @classmethod
    def before(cls, updates: Iterable[Update], base: Records) -> Overlay:
        """The records as they were before `updates`, which are in order and lead to `base`."""
        over: dict[str, Held | None] = {}
        for update in updates:
            over.setdefault(update.key, update.previous)
        return cls(base, over)

    def get(self, key: str) -> Held | None:
        return self._over[key] if key in self._over else self._base.get(key)

    def under(self, prefix: str) -> Iterator[Held]:
        """Yield what is held under the prefix, which has a slash, in no order."""
        over = self._over
        put = [over[key] for key in self._keys.get(_segment(prefix), ()) if key.startswith(prefix)]
        yield from (held for held in self._base.under(prefix) if held.key not in over)
        yield from (held for held in put if held is not None)

    def puts(self, key: str) -> bool:
        """Whether the key is one that is put differently."""
        return key in self._over

    def machines(self) -> list[str]:
        """Names of all machines that are put differently."""
        return [key.removeprefix(keys.MACHINES) for key in self._keys.get(keys.MACHINES, ())]

    def step(self, updates: Iterable[Update]) -> None:
        """Bring the records over the next updates."""
        for update in updates:
            self._put(update.key, update.held)

    def keep(self, updates: Iterable[Update]) -> None:
        """Stay as it is though the others change."""
        for update in updates:
            if update.key not in self._over:
                self._put(update.key, update.previous)

    def preceded_by(self, over: Mapping[str, Held | None]) -> Overlay:
        """The same, with more keys put differently; these win."""
        return Overlay(self._base, {**self._over, **over})

    def _put(self, key: str, held: Held | None) -> None:
        self._over[key] = held
        self._keys.setdefault(_segment(key), set()).add(key)


def is_made_of(key: str) -> bool:
    """Whether the key is of any concern to the objects that the API shows."""
    return _segment(key) in _MADE_OF


def by_revision(updates: Iterable[Update]) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """Group updates, which are in order."""
    for revision, group in groupby(updates, key=lambda update: update.revision):
        yield revision, tuple(group)


def changes_at(
    revision: int,
    updates: Sequence[Update],
    records: Records,
    unrecorded: Shards,
    *,
    living_in: Population,
    known: Callable[[Ref], Shown | None] | None = None,
) -> tuple[Change, ...]:
    """Return what changes at a revision, in order.

    Args:
        revision: all of `updates` happened there.
        updates: what changed in etcd.
        records: as they were just before.
        unrecorded: how clusters are cut that are there without a record.
        living_in: who may be affected when shards change hands or clusters come into reach.
        known: objects as they were before, if somebody has them already.
    """
    return in_order(each_at(revision, updates, records, unrecorded, living_in=living_in, known=known))


def each_at(
    revision: int,
    updates: Sequence[Update],
    records: Records,
    unrecorded: Shards,
    *,
    living_in: Population,
    known: Callable[[Ref], Shown | None] | None = None,
) -> Iterator[Change]:
    """Yield what may change at a revision, in no order, one after another, so that a caller may rest between two.

    The arguments are those of `changes_at`; `in_order` makes of it what that returns.
    """
    before = Composer(records, unrecorded)
    after = Composer(Overlay(records, {update.key: update.held for update in updates}), unrecorded)
    earlier = known or before.shown
    touched = dict.fromkeys(ref for update in updates for ref in _touched(update.key))
    for ref in touched:
        yield Change(revision, earlier(ref), after.shown(ref))
    wide = _wide(updates, before, after)
    if any(wide):
        for ref in {Ref("Machine", name) for name in living_in(wide)} - touched.keys():
            if (machine := earlier(ref)) is not None:
                yield Change(revision, machine, after.moved(machine))
    clusters = (*wide.clusters, *dict(wide.places), *_told_otherwise(updates, before, after))
    for ref in {Ref("Cluster", name) for name in clusters} - touched.keys():
        yield Change(revision, earlier(ref), after.shown(ref))


def in_order(found: Iterable[Change]) -> tuple[Change, ...]:
    """Return those that are changes indeed, in order."""
    return tuple(sorted(filter(_differs, found), key=_place))


def _touched(key: str) -> Iterator[Ref]:
    """Yield the objects that are made of a key, but for those that share it with many."""
    segment, _, rest = key.partition("/")
    prefix = segment + "/"
    if prefix in _OWN:
        yield Ref(_OWN[prefix], rest)
    if prefix in _BESIDE:
        yield Ref("Machine", rest)
    if prefix == keys.PROVISIONS:
        yield Ref("Machine", rest.partition("/")[0])


def _wide(updates: Sequence[Update], before: Composer, after: Composer) -> Wide:
    """Return the shards and clusters whose machines are shown with another owner or another reach."""
    claims = {place for update in updates if (place := keys.claim_in(update.key)) is not None}
    recorded = {update.key.removeprefix(keys.CLUSTERS) for update in updates if update.key.startswith(keys.CLUSTERS)}
    return Wide(
        frozenset(place for place in claims if before.owner(place) != after.owner(place)),
        frozenset(
            {name for name in set(_named_by_members(updates)) if before.reach(name) != after.reach(name)}
            | {name for name in recorded if before.shards(name) != after.shards(name)}
        ),
    )


def _named_by_members(updates: Iterable[Update]) -> Iterator[str]:
    """Yield the clusters that members whose records changed reach, or do not reach."""
    for update in updates:
        if update.key.startswith(keys.MEMBERS):
            for held in filter(None, (update.previous, update.held)):
                if isinstance(held.object, Member):
                    yield from (*held.object.clusters, *held.object.unreachable)


def _told_otherwise(updates: Sequence[Update], before: Composer, after: Composer) -> Iterator[str]:
    """Yield the clusters that a replica says something else of, whether or not that changes how they are reached."""
    if any(update.key.startswith(keys.MEMBERS) for update in updates):
        yield from (name for name in after.clusters() if before.replicas(name) != after.replicas(name))


def _differs(change: Change) -> bool:
    before = change.before.version if change.before is not None else None
    return before != (change.after.version if change.after is not None else None)


def _place(change: Change) -> tuple[int, str]:
    return _ORDER[change.ref.kind], change.ref.name


def _segment(key: str) -> str:
    """The key up to its first slash."""
    return key[: key.find("/") + 1]
