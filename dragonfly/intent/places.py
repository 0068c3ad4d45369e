"""Where clusters lead, kept unique: no two of them to one namespace of one API server (`model.cluster.places`).

Each place is a key that is created only if it is absent, in the same transaction as the cluster's record. A key whose
cluster does not lead there any more, as one that a replica without places has changed, is taken over.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import ClusterRegistered, NotFound
from dragonfly.model.cluster import Cluster, PlaceHolder, is_found_by_each, places
from dragonfly.model.values import LOCAL
from dragonfly.store import keys, records
from dragonfly.store.values import Condition, Delete, Put, Unchanged, Write


class Held(NamedTuple):
    """What a transaction needs besides for a cluster to have its places and no others."""

    writes: tuple[Write, ...]
    given: tuple[Condition, ...]


def hold(facts: Facts, name: str, after: Cluster | None, before: Cluster | None) -> Held:
    """Take the places of a cluster as it will be, and give up those that it had.

    Args:
        after: None if it is removed.
        before: None if it is new.

    Raises:
        ClusterRegistered: another cluster has one of them.
    """
    wanted = places(after) if after is not None else ()
    for place in wanted:
        if (other := holder(facts, name, place)) is not None:
            raise _registered(facts, other, after)
    left = [place for place in (places(before) if before is not None else ()) if place not in wanted]
    writes = [*_taken(facts, name, wanted), *_given_up(facts, name, left)]
    touched = [keys.cluster_place(place) for place in (*wanted, *left)]
    # That a place is free because its holder has left is decided from the holder's record, so that must hold as well.
    touched += sorted({keys.cluster(former) for place in wanted if (former := _named(facts, place)) not in {"", name}})
    return Held(tuple(writes), tuple(Unchanged(key, facts.revision_of(key)) for key in touched))


def holder(facts: Facts, name: str, place: str) -> str | None:
    """Return which other cluster has the place; None if it is free, or this one's own."""
    named = _named(facts, place)
    if named in {"", name}:
        return None
    other = facts.get(keys.cluster(named), Cluster)
    return named if other is not None and place in places(other) else None


class Settled(NamedTuple):
    """Whether the places that a replica has found are its cluster's; they are if neither field says otherwise."""

    other: str = ""
    """The cluster that leads there."""
    elsewhere: str = ""
    """Of a cluster that each replica finds by means of its own: the uid of where it is instead."""


def settle(facts: Facts, name: str, server_side: str, uid: str) -> Plan[Settled]:
    """Take a cluster's places as a replica that reaches it has found them, and write them down if they are its own.

    One kubeconfig for all replicas that leads to another namespace than it did tells that the namespace was made anew.
    A cluster without one, `local` above all, stays where the first replica found it: who finds another is elsewhere.

    Raises:
        NotFound: nobody has written down that there is a `local`, which every replica does before it works.
    """
    key = keys.cluster(name)
    cluster = facts.get(key, Cluster)
    if cluster is None and name == LOCAL:
        # Its record may just not have arrived in the mirror yet: refused, etcd itself is asked.
        raise NotFound("Cluster", name)
    if cluster is None:
        return Plan(Settled())
    if is_found_by_each(name, cluster) and cluster.uid not in {"", uid}:
        return Plan(Settled(elsewhere=cluster.uid))
    found = msgspec.structs.replace(cluster, server_side=server_side or cluster.server_side, uid=uid or cluster.uid)
    for place in places(found):
        if (other := holder(facts, name, place)) is not None:
            return Plan(Settled(other))
    if found == cluster and all(_named(facts, place) == name for place in places(found)):
        return Plan(Settled())
    held = hold(facts, name, found, cluster)
    given = (Unchanged(key, facts.revision_of(key)), *held.given)
    return Plan(Settled(), (Put(key, records.encode(found)), *held.writes), given)


def _named(facts: Facts, place: str) -> str:
    """Return which cluster a place's key names, whether that leads there or not; empty for none."""
    held = facts.get(keys.cluster_place(place), PlaceHolder)
    return held.cluster if held is not None else ""


def _taken(facts: Facts, name: str, wanted: tuple[str, ...]) -> Iterator[Write]:
    for place in wanted:
        if _named(facts, place) != name:
            yield Put(keys.cluster_place(place), records.encode(PlaceHolder(name)))


def _given_up(facts: Facts, name: str, left: list[str]) -> Iterator[Write]:
    for place in left:
        if _named(facts, place) == name:
            yield Delete(keys.cluster_place(place))


def _registered(facts: Facts, other: str, cluster: Cluster | None) -> ClusterRegistered:
    there = facts.get(keys.cluster(other), Cluster)
    namespace = cluster.spec.namespace if cluster is not None else ""
    return ClusterRegistered(other, namespace, there.server if there is not None and other != LOCAL else "")
