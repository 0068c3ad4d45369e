"""Power actions: accept one."""

from dragonfly.intent.facts import Facts
from dragonfly.intent.machines import (
    check_not_deleting,
    check_not_moving,
    check_powered_by_nobody,
    check_unlocked,
    existing,
)
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import NoBmc, ProvisionActive
from dragonfly.intent.terms import Terms
from dragonfly.model.power import HARMLESS, PowerAction, PowerRequest
from dragonfly.model.provision import Active
from dragonfly.store import keys, records
from dragonfly.store.values import Absent, Condition, Put, Unchanged


def accept(facts: Facts, machine: str, name: str, action: PowerAction, terms: Terms) -> Plan[PowerRequest]:
    """Accept a power action; the owner of the machine's shard has it carried out, at most once.

    Args:
        name: a new ULID.

    Raises:
        NotFound: there is no such machine.
        MachineLocked, MachineDeleting, MachineMoving, PowerBusy: the machine must not be touched now.
        ProvisionActive: the action would kill a running installation.
        NoBmc: nothing can carry it out.
    """
    found = existing(facts, machine)
    check_unlocked(found)
    check_not_deleting(found)
    check_not_moving(found)
    if found.spec.bmc is None:
        raise NoBmc(machine)
    check_powered_by_nobody(facts, machine)
    given: list[Condition] = [
        Unchanged(keys.machine(machine), facts.revision_of(keys.machine(machine))),
        Absent(keys.power(machine)),
    ]
    if action not in HARMLESS:
        active = facts.get(keys.active(machine), Active)
        if active is not None:
            raise ProvisionActive(machine, active.provision)
        given.append(Absent(keys.active(machine)))
    request = PowerRequest(name=name, machine=machine, action=action, requested_by=terms.by, requested_at=terms.now)
    return Plan(request, (Put(keys.power(machine), records.encode(request)),), tuple(given))
