"""The clusters of the swarm, as the mirror has them: how many shards each has, and which sites it prefers."""

from collections.abc import Iterator, Mapping

from dragonfly.model.cluster import Cluster
from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.swarm.shards import ShardId, Sites, shards_of


class Roster(Mapping[str, int]):
    """Into how many shards each cluster is cut, always as it is at this moment.

    `local` is there even while its record is not: the first replica writes that.
    """

    def __init__(self, mirror: Mirror, local: int) -> None:
        """Make it.

        Args:
            mirror: where clusters are read.
            local: the shards of `local`, where nothing else is known.
        """
        self._mirror = mirror
        self._local = local
        self._shards: dict[ShardId, Sites] | None = None
        mirror.subscribe(keys.CLUSTERS, self._changed, on_reset=self._changed)

    def __getitem__(self, name: str) -> int:
        cluster = self.cluster(name)
        if cluster is not None:
            return cluster.spec.shards
        if name == LOCAL:
            return self._local
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({LOCAL, *(name for name, _ in self.clusters())}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def cluster(self, name: str) -> Cluster | None:
        """Return what is stored of a cluster; None if there is no such one, or it can't be read."""
        held = self._mirror.get(keys.CLUSTERS + name)
        return held.object if held is not None and isinstance(held.object, Cluster) else None

    def clusters(self) -> Iterator[tuple[str, Cluster]]:
        """Yield what is stored of each."""
        for held in self._mirror.under(keys.CLUSTERS):
            name = keys.name_in(held.key, keys.CLUSTERS)
            if name is not None and isinstance(held.object, Cluster):
                yield name, held.object

    def shards(self) -> Mapping[ShardId, Sites]:
        """Every shard there is, with the sites that its cluster prefers."""
        if self._shards is None:
            self._shards = {shard: self.sites_of(name) for name in self for shard in shards_of(name, self[name])}
        return self._shards

    def sites_of(self, name: str) -> Sites:
        """Return the sites that a cluster prefers."""
        cluster = self.cluster(name)
        return cluster.spec.sites if cluster is not None else ()

    def _changed(self, _: object) -> None:
        self._shards = None
