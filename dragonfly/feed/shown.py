"""Objects as the API shows them, each put together from all the keys that it is made of, at one revision.

A `Shown` is what the feed compares, filters and sends. Two of the same object with the same `version` are the same to
the API's clients: the version names the state of each key that the view is made of. Its JSON is made when somebody asks
for it first, then kept, so that all who follow share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from dragonfly.feed.views import cluster_view, machine_view, provision_view, template_view
from dragonfly.model.cluster import Cluster
from dragonfly.model.machine import Machine, Observed, phase_of
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Active, Provision, summary_of
from dragonfly.model.swarm import ClusterReach, Member, ReplicaReach, reach_of, reaches_of
from dragonfly.model.template import Template
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Held
from dragonfly.swarm.claims import owner_of
from dragonfly.swarm.members import Records, members
from dragonfly.swarm.shards import shard_of

KINDS: Final = ("Machine", "Provision", "Template", "Cluster")
"""What the feed tells of; within one revision changes are in this order, then by name."""

_encode = msgspec.json.Encoder().encode


class Ref(NamedTuple):
    """Which object: its kind, and its name."""

    kind: str
    name: str


class Parts(Protocol):
    """The records that an object is made of."""

    def view(self) -> object:
        """What the API shows."""
        ...

    def words(self) -> str:
        """The text to search in, in lower case."""
        ...


class Shown:
    """One object of the API at one revision. There are as many as objects, so they are kept small."""

    __slots__ = ("_json", "facets", "labels", "parts", "place", "ref", "tags", "version")

    def __init__(
        self,
        ref: Ref,
        version: tuple[object, ...],
        parts: Parts,
        *,
        metadata: Metadata | None,
        facets: Mapping[str, str],
        place: tuple[str, int] | None = None,
    ) -> None:
        """Put one together.

        Args:
            ref: which object.
            version: what differs whenever the view differs.
            parts: what it is made of.
            metadata: its labels and tags can be asked for; None for an object that has none.
            facets: what else can be asked for.
            place: a machine's cluster and shard.
        """
        self.ref = ref
        self.version = version
        self.labels: Mapping[str, str] = metadata.labels if metadata is not None else {}
        self.tags: tuple[str, ...] = metadata.tags if metadata is not None else ()
        self.facets = facets
        self.place = place
        self.parts = parts
        self._json: bytes | None = None

    def words(self) -> str:
        return self.parts.words()

    def json(self) -> bytes:
        """The object as the API shows it."""
        if self._json is None:
            self._json = _encode(self.parts.view())
        return self._json


class _MachineParts(NamedTuple):
    machine: Machine
    revision: int
    observed: Observed | None
    active: Provision | None
    power: PowerRequest | None
    owner: str
    cluster: ClusterReach
    phase: str

    def view(self) -> object:
        return machine_view(
            self.machine,
            self.revision,
            observed=self.observed,
            active=self.active,
            power=self.power,
            owner=self.owner,
            cluster=self.cluster,
        )

    def words(self) -> str:
        return haystack(self.machine.metadata, self.phase, *machine_words(self.machine, self.observed))


class _ProvisionParts(NamedTuple):
    provision: Provision
    revision: int

    def view(self) -> object:
        return provision_view(self.provision, self.revision)

    def words(self) -> str:
        spec = self.provision.spec
        words = (spec.machine, self.provision.status.phase, spec.template, spec.reason, spec.requested_by)
        return haystack(self.provision.metadata, *words)


class _TemplateParts(NamedTuple):
    template: Template
    revision: int

    def view(self) -> object:
        return template_view(self.template, self.revision)

    def words(self) -> str:
        os = self.template.spec.os
        return haystack(self.template.metadata, os.family, os.version, os.arch)


class _ClusterParts(NamedTuple):
    name: str
    cluster: Cluster
    revision: int
    reach: ClusterReach
    replicas: tuple[ReplicaReach, ...]
    owners: tuple[str, ...]

    def view(self) -> object:
        return cluster_view(
            self.name, self.cluster, self.revision, reach=self.reach, replicas=self.replicas, owners=self.owners
        )

    def words(self) -> str:
        return cluster_words(self.name, self.cluster)


Shards: TypeAlias = Mapping[str, int]
"""Into how many shards clusters are cut, by their names."""


class Composer:
    """Puts objects together from records at one revision; what all machines share is looked up once."""

    def __init__(self, records: Records, unrecorded: Shards) -> None:
        """Begin.

        Args:
            records: of one revision.
            unrecorded: how clusters are cut that are there without a record.
        """
        self._records = records
        self._unrecorded = unrecorded
        self._shards: dict[str, int] = {}
        self._owners: dict[tuple[str, int], str] = {}
        self._reaches: dict[str, ClusterReach] = {}
        self._members: list[Member] | None = None
        self._places: dict[tuple[str, int], tuple[str, int]] = {}

    def shown(self, ref: Ref) -> Shown | None:
        """The object; None if there is no such one, or its record can't be read."""
        match ref.kind:
            case "Machine":
                return self._machine(ref)
            case "Provision":
                return self._provision(ref)
            case "Template":
                return self._template(ref)
            case _:
                return self._cluster(ref)

    def all(self) -> Iterator[Shown]:
        """Every object, by kind and name."""
        for ref in refs(self._records):
            if (shown := self.shown(ref)) is not None:
                yield shown

    def moved(self, shown: Shown) -> Shown:
        """A machine of which nothing has changed but who drives it, and whether its cluster is reached."""
        parts = shown.parts
        assert isinstance(parts, _MachineParts)
        cluster = parts.machine.spec.cluster
        place = self._place(cluster, shown.ref.name)
        owner = self.owner(place) if place is not None else ""
        reach = self.reach(cluster)
        return Shown(
            shown.ref,
            (*shown.version[:-2], owner, reach),
            parts._replace(owner=owner, cluster=reach),
            metadata=parts.machine.metadata,
            facets=shown.facets,
            place=place,
        )

    def owner(self, place: tuple[str, int]) -> str:
        """Who drives a shard; "" for nobody."""
        if place not in self._owners:
            self._owners[place] = owner_of(self._records, keys.claim(*place))
        return self._owners[place]

    def reach(self, cluster: str) -> ClusterReach:
        """Whether any replica reaches the cluster."""
        if cluster not in self._reaches:
            self._reaches[cluster] = reach_of(cluster, self._present())
        return self._reaches[cluster]

    def replicas(self, cluster: str) -> tuple[ReplicaReach, ...]:
        """Which replicas reach the cluster, and which do not."""
        return reaches_of(cluster, self._present())

    def _present(self) -> list[Member]:
        if self._members is None:
            self._members = members(self._records)
        return self._members

    def clusters(self) -> list[str]:
        """The names of all that have a record."""
        return [held.key.removeprefix(keys.CLUSTERS) for held in self._records.under(keys.CLUSTERS)]

    def shards(self, cluster: str) -> int:
        """Into how many shards a cluster is cut; 0 for one that is not there."""
        if cluster not in self._shards:
            held = self._records.get(keys.CLUSTERS + cluster)
            recorded = held.object.spec.shards if held is not None and isinstance(held.object, Cluster) else None
            self._shards[cluster] = self._unrecorded.get(cluster, 0) if recorded is None else recorded
        return self._shards[cluster]

    def _machine(self, ref: Ref) -> Shown | None:
        found = self._records.get(keys.MACHINES + ref.name)
        if found is None or not isinstance(found.object, Machine):
            return None
        machine = found.object
        seen, power, running = self._beside(ref.name)
        observed = seen.object if seen is not None and isinstance(seen.object, Observed) else None
        request = power.object if power is not None and isinstance(power.object, PowerRequest) else None
        active = running.object if running is not None and isinstance(running.object, Provision) else None
        cluster = machine.spec.cluster
        place = self._place(cluster, ref.name)
        owner = self.owner(place) if place is not None else ""
        reach = self.reach(cluster)
        phase = phase_of(machine, observed, summary_of(active) if active is not None else None)
        return Shown(
            ref,
            (found.mod_revision, _revision(seen), _revision(power), _place_of(running), owner, reach),
            _MachineParts(machine, found.mod_revision, observed, active, request, owner, reach, phase),
            metadata=machine.metadata,
            facets={"phase": phase, "cluster": cluster, "machine": ref.name},
            place=place,
        )

    def _place(self, cluster: str, machine: str) -> tuple[str, int] | None:
        """A machine's shard; the same object for all of a shard."""
        shards = self.shards(cluster)
        if not shards:
            return None
        place = (cluster, shard_of(machine, shards))
        return self._places.setdefault(place, place)

    def _beside(self, name: str) -> tuple[Held | None, Held | None, Held | None]:
        """What is observed of a machine, its power action, and the provision that runs."""
        get = self._records.get
        active = get(keys.ACTIVE + name)
        if active is None or not isinstance(active.object, Active):
            return get(keys.OBSERVED + name), get(keys.POWER + name), None
        running = get(keys.provision(name, active.object.provision))
        return get(keys.OBSERVED + name), get(keys.POWER + name), running

    def _provision(self, ref: Ref) -> Shown | None:
        machine, _, name = ref.name.rpartition("/")
        found = self._records.get(keys.PROVISIONS + ref.name)
        if found is None or not isinstance(found.object, Provision):
            return None
        provision = found.object
        facets = {"phase": provision.status.phase, "machine": machine, "template": provision.spec.template}
        return Shown(
            ref._replace(name=name),
            (found.mod_revision,),
            _ProvisionParts(provision, found.mod_revision),
            metadata=provision.metadata,
            facets=facets | {"cluster": provision.cluster} if provision.cluster else facets,
        )

    def _template(self, ref: Ref) -> Shown | None:
        found = self._records.get(keys.TEMPLATES + ref.name)
        if found is None or not isinstance(found.object, Template):
            return None
        template = found.object
        return Shown(
            ref,
            (found.mod_revision,),
            _TemplateParts(template, found.mod_revision),
            metadata=template.metadata,
            facets={},
        )

    def _cluster(self, ref: Ref) -> Shown | None:
        found = self._records.get(keys.CLUSTERS + ref.name)
        if found is None or not isinstance(found.object, Cluster):
            return None
        cluster, revision = found.object, found.mod_revision
        owners = tuple(self.owner((ref.name, shard)) for shard in range(cluster.spec.shards))
        reach, replicas = self.reach(ref.name), self.replicas(ref.name)
        return Shown(
            ref,
            (revision, owners, reach, replicas),
            _ClusterParts(ref.name, cluster, revision, reach, replicas, owners),
            metadata=cluster.metadata,
            facets={"cluster": ref.name},
        )


def refs(records: Records) -> Iterator[Ref]:
    """Yield where each object's own record is; a provision goes by `<machine>/<name>` until it is shown."""
    prefixes = (keys.MACHINES, keys.PROVISIONS, keys.TEMPLATES, keys.CLUSTERS)
    for kind, prefix in zip(KINDS, prefixes, strict=True):
        yield from (Ref(kind, held.key.removeprefix(prefix)) for held in records.under(prefix))


def machine_words(machine: Machine, observed: Observed | None) -> Sequence[str]:
    """What people search for in a machine, beside its name, labels and tags."""
    spec = machine.spec
    words = [spec.hostname, spec.cluster, spec.arch]
    for interface in spec.interfaces:
        words += [interface.mac, interface.address]
    if spec.bmc is not None:
        words.append(spec.bmc.host)
    if observed is not None and observed.os is not None:
        words.append(observed.os.template)
    return words


def cluster_words(name: str, cluster: Cluster) -> str:
    """The text that a search for clusters goes through."""
    words = (cluster.server, cluster.spec.namespace, *cluster.spec.sites)
    metadata = cluster.metadata
    return haystack(metadata, *words) if metadata is not None else "\n".join((name, *words)).lower()


def haystack(metadata: Metadata, *words: str) -> str:
    """The text that a search goes through."""
    labels: Iterable[str] = (f"{key}={value}" for key, value in metadata.labels.items())
    return "\n".join((metadata.name, *labels, *metadata.tags, *words)).lower()


def _revision(held: Held | None) -> int:
    return held.mod_revision if held is not None else 0


def _place_of(held: Held | None) -> tuple[str, int] | None:
    """Two provisions may have been written at one revision."""
    return (held.key, held.mod_revision) if held is not None else None
