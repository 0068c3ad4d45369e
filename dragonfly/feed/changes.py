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


Population: TypeAlias = Callable[[frozenset[tuple[str, int]]], Iterable[str]]
"""The names of (at least) all machines of some shards."""


class Overlay:
    """Other records with some keys put differently; the others' must not change while this is in use."""

    def __init__(self, base: Records, over: Mapping[str, Held | None]) -> None:
        self._base = base
        self._over = dict(over)

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
        """Yield what is held under the prefix, in no order."""
        over = self._over
        yield from (held for held in self._base.under(prefix) if held.key not in over)
        yield from (held for key, held in over.items() if held is not None and key.startswith(prefix))

    def machines(self) -> list[str]:
        """Names of all machines that are put differently."""
        return [key.removeprefix(keys.MACHINES) for key in self._over if key.startswith(keys.MACHINES)]

    def step(self, updates: Iterable[Update]) -> None:
        """Bring the records over the next updates."""
        self._over |= {update.key: update.held for update in updates}


def by_revision(updates: Iterable[Update]) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """Group updates, which are in order."""
    for revision, group in groupby(updates, key=lambda update: update.revision):
        yield revision, tuple(group)


def changes_at(
    revision: int,
    updates: Sequence[Update],
    records: Records,
    shards: Shards,
    *,
    living_in: Population,
    known: Callable[[Ref], Shown | None] | None = None,
) -> tuple[Change, ...]:
    """Return what changes at a revision, in order.

    Args:
        revision: all of `updates` happened there.
        updates: what changed in etcd.
        records: as they were just before.
        shards: the swarm's clusters.
        living_in: who may be affected when shards change hands or clusters come into reach.
        known: objects as they were before, if somebody has them already.
    """
    before = Composer(records, shards)
    after = Composer(Overlay(records, {update.key: update.held for update in updates}), shards)
    earlier = known or before.shown
    touched = dict.fromkeys(ref for update in updates for ref in _touched(update.key))
    found = [Change(revision, earlier(ref), after.shown(ref)) for ref in touched]
    places = _places(updates, before, after, shards)
    if places:
        wide = {Ref("Machine", name) for name in living_in(places)} - touched.keys()
        shown = (earlier(ref) for ref in wide)
        found += (Change(revision, machine, after.moved(machine)) for machine in shown if machine is not None)
    clusters = {cluster for cluster, _ in places} | _told_otherwise(updates, before, after, shards)
    refs = {Ref("Cluster", cluster) for cluster in clusters} - touched.keys()
    found += (Change(revision, earlier(ref), after.shown(ref)) for ref in refs)
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


def _places(updates: Sequence[Update], before: Composer, after: Composer, shards: Shards) -> frozenset[tuple[str, int]]:
    """Return the shards whose machines are shown with another owner or another reach of their cluster."""
    claims = {place for update in updates if (place := keys.claim_in(update.key)) is not None}
    changed = {place for place in claims if before.owner(place) != after.owner(place)}
    if any(update.key.startswith(keys.MEMBERS) for update in updates):
        moved = [cluster for cluster in shards if before.reach(cluster) != after.reach(cluster)]
        changed |= {(cluster, shard) for cluster in moved for shard in range(shards[cluster])}
    return frozenset(changed)


def _told_otherwise(updates: Sequence[Update], before: Composer, after: Composer, shards: Shards) -> set[str]:
    """Return the clusters that a replica says something else of, whether or not that changes how they are reached."""
    if not any(update.key.startswith(keys.MEMBERS) for update in updates):
        return set()
    return {cluster for cluster in shards if before.replicas(cluster) != after.replicas(cluster)}


def _differs(change: Change) -> bool:
    before = change.before.version if change.before is not None else None
    return before != (change.after.version if change.after is not None else None)


def _place(change: Change) -> tuple[int, str]:
    return _ORDER[change.ref.kind], change.ref.name
