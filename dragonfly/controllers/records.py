"""What the mirror holds of a machine and of what goes on with it, read for the controllers."""

from dragonfly.controllers.provisions import Records, StuckError
from dragonfly.model.machine import Machine, Observed
from dragonfly.model.provision import Active, Provision
from dragonfly.model.swarm import ClusterReach
from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.swarm.members import reach


def running(mirror: Mirror, machine: Machine, revision: int) -> Records | None:
    """Return what is known of the machine's running provision; None if there is none.

    Args:
        revision: the machine's mod_revision.

    Raises:
        StuckError: there is one that can't be read.
    """
    held = mirror.get(keys.active(machine.name))
    if held is None:
        return None
    active = held.object
    provision = mirror.get(keys.provision(machine.name, active.provision)) if isinstance(active, Active) else None
    if not isinstance(active, Active) or provision is None or not isinstance(provision.object, Provision):
        # Not idle, and not to be read: whatever runs there must not be disturbed.
        raise StuckError(f"the running provision of {machine.name} can't be read")
    observed = mirror.get(keys.observed(machine.name))
    return Records(
        machine=machine,
        machine_revision=revision,
        active=active,
        provision=provision.object,
        revision=provision.mod_revision,
        observed=observed.object if observed and isinstance(observed.object, Observed) else None,
        observed_revision=observed.mod_revision if observed else 0,
    )


def provision_of(mirror: Mirror, machine: str, name: str) -> Provision | None:
    """Return a provision by its machine and name; None if there is no such one."""
    held = mirror.get(keys.provision(machine, name))
    return held.object if held is not None and isinstance(held.object, Provision) else None


def reach_in(mirror: Mirror, cluster: str) -> ClusterReach | None:
    """Return whether any live replica reaches a cluster; None if there is no such cluster."""
    if cluster != LOCAL and mirror.get(keys.cluster(cluster)) is None:
        return None
    return reach(mirror, cluster)
