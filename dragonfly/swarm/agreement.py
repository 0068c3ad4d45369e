"""What all replicas must agree on, written once into etcd by the first of them.

A machine's shard is its hash modulo the number of shards: replicas with different numbers would both drive it.
"""

import msgspec

from dragonfly.model.values import Value
from dragonfly.store import keys
from dragonfly.store.errors import Conflict
from dragonfly.store.port import Store
from dragonfly.store.records import encode
from dragonfly.store.values import Absent, Put


class Disagreement(Exception):
    """This replica is set up otherwise than the swarm; it must not work. The message says how to mend it."""


class _ClusterSpec(Value, frozen=True, kw_only=True):
    shards: int


class _ClusterRecord(Value, frozen=True, kw_only=True):
    """The part of `clusters/<name>` that is needed before any work."""

    spec: _ClusterSpec


async def agree_on_shards(store: Store, cluster: str, shards: int) -> None:
    """Write how many shards a cluster has, or see that it has as many.

    Raises:
        Disagreement: the swarm has another number.
        Unavailable: try again; doing it twice is harmless.
    """
    key = keys.cluster(cluster)
    record = encode(_ClusterRecord(spec=_ClusterSpec(shards=shards)))
    try:
        await store.commit(Put(key, record), given=[Absent(key)])
    except Conflict as conflict:
        stored = conflict.current[0]
        if stored is None:
            raise
        found = msgspec.json.decode(stored.value, type=_ClusterRecord).spec.shards
        if found != shards:
            message = f"cluster {cluster} has {found} shards in this swarm, this replica is told {shards}"
            raise Disagreement(f"{message}: set DRAGONFLY_SHARDS={found}") from None
