"""The members of an etcd: who they are, one more, one fewer. For whoever runs that etcd; replicas need none of it."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from dragonfly.store.gateway import Gateway
from dragonfly.store.wire import Answer


class Member(msgspec.Struct, frozen=True):
    """One, as etcd's own list has it."""

    id: int = msgspec.field(default=0, name="ID")
    name: str = ""
    """Empty until it has started for the first time."""
    peers: tuple[str, ...] = msgspec.field(default=(), name="peerURLs")
    clients: tuple[str, ...] = msgspec.field(default=(), name="clientURLs")
    is_learner: bool = msgspec.field(default=False, name="isLearner")
    """Whether it has no vote yet."""

    @property
    def is_started(self) -> bool:
        """Whether it ever was."""
        return bool(self.name)


class _Members(Answer):
    members: tuple[Member, ...] = ()


class EtcdMembers(Gateway):
    """A gateway to that etcd; open it as one."""

    def members(self) -> tuple[Member, ...]:
        """Return all, as a quorum knows them.

        Raises:
            StoreError: no member that has a vote answers, or they have no leader.
        """
        return self._call("cluster/member/list", {"linearizable": True}, _Members).members

    def add_learner(self, peer: str) -> None:
        """Add a member without a vote, by its peer URL.

        Raises:
            Rejected: there is a learner already, or this very member.
            Unavailable: nobody knows whether it was added.
        """
        self._call("cluster/member/add", {"peerURLs": [peer], "isLearner": True}, _Members, write=True)

    def promote(self, member: int) -> None:
        """Give a learner its vote.

        Raises:
            Rejected: it has not caught up yet, or is no learner.
            Unavailable: nobody knows whether it was given.
        """
        self._call("cluster/member/promote", {"ID": str(member)}, _Members, write=True)

    def remove(self, member: int) -> None:
        """Take a member out, for good: its data are of no use from then on.

        Raises:
            Rejected: it is not there, or those that would stay are too few.
            Unavailable: nobody knows whether it was taken out.
        """
        self._call("cluster/member/remove", {"ID": str(member)}, _Members, write=True)

    def answering(self) -> Collection[int]:
        """Return the ids of the members that answer on the endpoints that this was opened with."""
        found = (self.status(endpoint) for endpoint in self.endpoints)
        return {status.member_id for status in found if status.reachable}
