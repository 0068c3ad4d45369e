"""A replica of the feed's tests: what it knows arrives when the test says so."""

from dragonfly.feed.feed import Feed
from dragonfly.store.values import Batch
from tests.unit.feed.swarm_history import SHARDS, Etcd, new_mirror


class Replica:
    """A mirror and its feed, some revisions behind the store."""

    def __init__(self, etcd: Etcd, *, most_bytes: int = 1 << 20) -> None:
        self._etcd = etcd
        self._read = len(etcd.batches)
        self.mirror = new_mirror()
        self.mirror.replace(etcd.snapshot())
        self.feed = Feed(self.mirror, SHARDS, etcd, clock=lambda: 0.0, most_bytes=most_bytes)

    def read(self, revisions: int) -> None:
        """Let so many more revisions arrive, all at once."""
        batches = self._etcd.batches[self._read : self._read + revisions]
        self._read += len(batches)
        if batches:
            self.mirror.apply(Batch(batches[-1].revision, tuple(c for batch in batches for c in batch.changes)))

    def read_all(self) -> None:
        self.read(len(self._etcd.batches))
