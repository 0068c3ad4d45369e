"""Who carries the cluster when a host is taken off, and what of its undos that leaves. Pure.

Undos are written when a step is carried out, by a host that may have been alone then. What is in the cluster belongs to
all of its servers: only the last one takes it away. One that goes before it leaves the cluster, and takes off what is
on itself; so does one whose cluster does not answer, for it may be carried by others.
"""

from typing import Final

import msgspec

from dragonfly.install.steps import DeleteObjects, LeaveCluster, LeaveEtcd, StopService, Undo, is_data

ETCD_ROLE: Final = "node-role.kubernetes.io/etcd"


class Carriers(msgspec.Struct, frozen=True):
    """The servers of the cluster that this host is one of, as the cluster tells them."""

    host: str
    """This one, by its node's name."""
    others: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    """The nodes with a member of an etcd that the swarm has of its own."""
    etcd_problem: str = ""
    """Why that etcd cannot do without the member here; empty if it can, or nobody has to ask."""
    problem: str = ""
    """Why the cluster does not tell; empty if it does, or if there is none yet."""

    @property
    def goes_on(self) -> bool:
        """Whether the cluster is known to go on without this host."""
        return bool(self.others)

    @property
    def loses_swarm(self) -> bool:
        """Whether the cluster would go on, and the swarm's own etcd would not."""
        return self.goes_on and bool(self.etcd_problem)

    @property
    def members_left(self) -> int:
        """How many members the swarm's own etcd has without this host; 0 if it has none of its own."""
        return len(set(self.members) - {self.host})


def fitting(undos: tuple[Undo, ...], carriers: Carriers, *, delete_data: bool) -> tuple[Undo, ...]:
    """Return how a step is taken back on a host of a cluster that others carry, or do not."""
    if carriers.goes_on:
        return _leaving(undos, carriers)
    if carriers.problem:
        # Data that stays is written down still, for when it is known that nobody else has the cluster.
        return tuple(
            undo for undo in undos if not isinstance(undo, DeleteObjects) or (is_data(undo) and not delete_data)
        )
    # The last one stays a node: k3s empties the etcd of a node that is taken out, and the data is to stay.
    return tuple(undo for undo in undos if not isinstance(undo, LeaveCluster))


def _leaving(undos: tuple[Undo, ...], carriers: Carriers) -> tuple[Undo, ...]:
    """Its members go before the node, and the node before what runs there."""
    own = tuple(undo for undo in undos if not isinstance(undo, DeleteObjects | LeaveCluster))
    if not any(isinstance(undo, StopService) for undo in own):
        return own
    leaves_etcd = (LeaveEtcd(carriers.host),) if carriers.members else ()
    return (*leaves_etcd, LeaveCluster(carriers.host), *own)
