"""What the process has seen of etcd so far, so that no answer travels back in time.

One for all connections of a process. The floor is taken before a request is sent and compared when its answer comes:
answers may overtake each other, but a linearizable answer is never older than what was known before it was asked for.
Only such answers raise the floor, and what a watch has brought, for that is committed. What a member says of itself
(status, a keepalive's header) does not: a member cut off from the others may stand in a term that the cluster never
reaches.

An endpoint whose linearizable answer is below the floor lags behind nothing: its etcd has lost what was seen, as one
does that was restored from a backup, be it that its cluster id is the same. It is asked nothing more. Its revisions
would reach the floor some day, and from there on tell another history to a mirror that shows the former one.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from dragonfly.store.errors import OtherEtcd
from dragonfly.store.faults import StaleFault
from dragonfly.store.wire import Header


class Floor(NamedTuple):
    """No linearizable answer to a request sent now can be below these."""

    term: int
    revision: int


class Seen:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floor = Floor(0, 0)
        self._cluster_id = 0
        self._other: OtherEtcd | None = None
        self._strays: dict[str, str] = {}
        """The endpoints of another history, each with the words that tell so."""
        self._outdated: dict[str, int] = {}
        """Endpoints of which the term alone was behind, with the revision at which that was seen first."""

    @property
    def cluster_id(self) -> int:
        """Which etcd this is; 0 until one has answered."""
        return self._cluster_id

    def floor(self, endpoint: str) -> Floor:
        """Take the floor for a request that is about to be sent to `endpoint`.

        Raises:
            OtherEtcd: another etcd was met before.
            StaleFault: this endpoint was behind what had been seen; for good.
        """
        if self._other is not None:
            raise self._other
        if words := self._strays.get(endpoint):
            raise StaleFault(words, unsent=True)
        return self._floor

    def admit(self, endpoint: str, header: Header, floor: Floor) -> None:
        """Accept a linearizable answer to a request sent when `floor` was taken, and raise the floor to it.

        Raises:
            OtherEtcd: it comes from another etcd.
            StaleFault: it is older than the floor; sticky for this endpoint, unless its term may only not show yet.
        """
        self.same_cluster(endpoint, header)
        if header.raft_term < floor.term or header.revision < floor.revision:
            words = (
                f"{endpoint} is at term {header.raft_term}, revision {header.revision}; term {floor.term}, revision "
                f"{floor.revision} was seen already. If etcd was restored from a backup, start this replica again"
            )
            if header.revision < floor.revision or self._has_applied_since(endpoint, header.revision):
                self._strays[endpoint] = words
            raise StaleFault(words)
        self._outdated.pop(endpoint, None)
        with self._lock:
            self._floor = Floor(max(self._floor.term, header.raft_term), max(self._floor.revision, header.revision))

    def _has_applied_since(self, endpoint: str, revision: int) -> bool:
        """Whether a member with a former term has applied an entry since that was seen first, which sets its term.

        One that has caught up by its leader's snapshot tells the former term until then. The answer to a write may be
        a moment ahead of the term, so that one revision more proves nothing (etcd 3.7, `EtcdServer.apply`).
        """
        return revision > self._outdated.setdefault(endpoint, revision) + 1

    def saw(self, revision: int) -> None:
        """Raise the floor to what a watch has brought."""
        with self._lock:
            self._floor = self._floor._replace(revision=max(self._floor.revision, revision))

    def same_cluster(self, endpoint: str, header: Header) -> None:
        """Accept the header's cluster id, the first one for good.

        Raises:
            OtherEtcd: it is not the one that was seen first; sticky.
        """
        with self._lock:
            self._cluster_id = self._cluster_id or header.cluster_id
            if header.cluster_id == self._cluster_id:
                return
            self._other = OtherEtcd(endpoint, expected=self._cluster_id, found=header.cluster_id)
            raise self._other
