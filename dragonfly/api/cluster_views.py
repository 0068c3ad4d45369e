"""Clusters as lists and single answers show them: what people set, who reaches them, who drives them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from dragonfly.api.catalog import Catalog, Row
from dragonfly.api.lists import Listing
from dragonfly.feed.shown import cluster_words
from dragonfly.feed.views import ClusterView, cluster_view
from dragonfly.model.cluster import WITHOUT, Checkup, Cluster, MissingRight
from dragonfly.model.machine import Machine
from dragonfly.model.swarm import Member, drivers_of
from dragonfly.model.values import Value
from dragonfly.store import keys
from dragonfly.store.mirror import Held, Mirror, Update
from dragonfly.swarm.claims import owner_of
from dragonfly.swarm.members import checkup_of, reach, reaches

CLUSTERS: Final = Listing("Cluster", (), ("name", "createdAt", "updatedAt"), "name")

_encode = msgspec.json.Encoder().encode


class OptionalRight(Value, frozen=True, kw_only=True):
    """Something that the credentials may not do, and that Dragonfly can do without."""

    verb: str
    resource: str
    """As in RBAC's rules, with its group."""
    without: str
    """What comes of it."""


class ClusterCheckView(Value, frozen=True, kw_only=True):
    """What a cluster lacks, as its API server said a moment ago. `ok`: Dragonfly can work there."""

    kind: Literal["ClusterCheck"]
    cluster: str
    replica: str
    """Who asked."""
    ok: bool
    error: str
    version: str
    """Kubernetes'."""
    tinkerbell: str
    """Tinkerbell's version, as the image of its Deployment says; empty for unknown."""
    namespace: str
    """Tinkerbell's, where it was looked for."""
    missing_types: tuple[str, ...]
    missing_rights: tuple[MissingRight, ...]
    missing_optional: tuple[OptionalRight, ...] = ()
    """These leave `ok` as it is."""
    reached_by: dict[str, str] = {}
    """If this replica could not ask: those that reach it, each with its address."""


class Population:
    """Which machines are in which cluster, or on their way there, as the mirror has it."""

    def __init__(self, mirror: Mirror) -> None:
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        for held in mirror.under(keys.MACHINES):
            self._add(held)
        mirror.subscribe(keys.MACHINES, self._changed)

    def of(self, cluster: str) -> frozenset[str]:
        """Return the names of the machines in a cluster."""
        return frozenset(self._names.get(cluster, ()))

    def count(self, cluster: str) -> int:
        return len(self._names.get(cluster, ()))

    def _changed(self, update: Update) -> None:
        if update.previous is not None and isinstance(update.previous.object, Machine):
            machine = update.previous.object
            for cluster in _clusters_of(machine):
                self._names[cluster].discard(machine.name)
        self._add(update.held)

    def _add(self, held: Held | None) -> None:
        if held is not None and isinstance(held.object, Machine):
            for cluster in _clusters_of(held.object):
                self._names[cluster].add(held.object.name)


def _clusters_of(machine: Machine) -> tuple[str, ...]:
    here = machine.spec.cluster
    return (here,) if machine.moving is None else (here, machine.moving.to)


def check_view(cluster: str, replica: str, found: Checkup, live: Iterable[Member]) -> ClusterCheckView:
    """`live`: the replicas of the swarm, of which others may reach what this one does not."""
    reaching = {member.id: member.address for member in drivers_of(live) if cluster in member.clusters}
    return ClusterCheckView(
        kind="ClusterCheck",
        cluster=cluster,
        replica=replica,
        ok=not (found.error or found.missing_types or found.missing_rights),
        error=found.error,
        version=found.version,
        tinkerbell=found.tinkerbell,
        namespace=found.namespace,
        missing_types=found.missing_types,
        missing_rights=found.missing_rights,
        missing_optional=tuple(
            OptionalRight(verb=right.verb, resource=right.resource, without=WITHOUT.get(right.resource, ""))
            for right in found.missing_optional
        ),
        reached_by=reaching if found.error else {},
    )


def composed(mirror: Mirror, population: Population, name: str, cluster: Cluster, revision: int) -> ClusterView:
    """The cluster with what is known of it now."""
    return cluster_view(
        name,
        cluster,
        revision,
        reach=reach(mirror, name),
        replicas=reaches(mirror, name),
        owners=[owner_of(mirror, keys.claim(name, shard)) for shard in range(cluster.spec.shards)],
        machines=population.count(name),
        checkup=checkup_of(mirror, name),
    )


def cluster_catalog(mirror: Mirror, population: Population) -> Catalog:
    def build(name: str) -> Row | None:
        found = mirror.get(keys.cluster(name))
        if found is None or not isinstance(found.object, Cluster):
            return None
        cluster = found.object
        metadata = cluster.metadata
        return Row(
            name,
            {
                "createdAt": metadata.created_at.isoformat() if metadata is not None else "",
                "updatedAt": metadata.updated_at.isoformat() if metadata is not None else "",
            },
            lambda: _encode(composed(mirror, population, name, cluster, found.mod_revision)),
            labels=metadata.labels if metadata is not None else {},
            tags=metadata.tags if metadata is not None else (),
            haystack=cluster_words(name, cluster),
        )

    made_of = {keys.CLUSTERS: lambda key: keys.name_in(key, keys.CLUSTERS)}
    return Catalog(mirror, build, made_of, shown_with=(keys.CLAIMS, keys.MEMBERS, keys.MACHINES))
