"""Moves of machines between clusters: ask for one, take it back, or leave a cluster that is gone for good.

What is asked for is written into the machine's record; the owner of its shard in the old cluster takes it out there and
then writes, in one transaction, that it is in the new one (`controllers.departure`). No step installs anything (P2).

A cluster that no replica reaches has no owner who could do that. With force the machine leaves it here and now, and
what it had there stays there.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from dragonfly.intent.facts import Facts
from dragonfly.intent.machines import (
    check_idle,
    check_not_deleting,
    check_unlocked,
    existing,
    idle,
    open_cluster,
    put,
    touched,
)
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import ClusterUnreachable, MachineMoving
from dragonfly.intent.terms import Terms
from dragonfly.model.machine import Machine, MoveInput, Moving, Observed, moved
from dragonfly.model.power import PowerRequest, PowerResult
from dragonfly.model.provision import Active, Problem, Provision, ended, summary_of
from dragonfly.model.swarm import ClusterReach
from dragonfly.store import keys, records
from dragonfly.store.values import Condition, Delete, Put, Unchanged, Write

FORSAKEN: Final = "ClusterForsaken"
"""Why what ran in a cluster that was given up did not succeed."""

_WAIT: Final = "Wait until it is reached again."
_GIVE_UP: Final = (
    "Wait until it is reached again; if it is gone for good, move the machine with force, which leaves there what it "
    "has there."
)


def move(facts: Facts, name: str, sent: MoveInput, terms: Terms, reach: Callable[[str], ClusterReach]) -> Plan[Machine]:
    """Ask for a move, or take one back by naming the cluster that the machine is in. No effect if it is so already.

    Args:
        reach: whether any replica reaches a cluster now.

    Raises:
        NotFound: there is no such machine.
        Invalid: there is no such cluster.
        MachineLocked, MachineDeleting, ProvisionActive, PowerBusy: the machine must not be touched now.
        MachineMoving: it is on its way to a third cluster.
        ClusterClosed: the cluster is being removed.
        ClusterUnreachable: no replica reaches one of the two; of the old one force does not mind.
    """
    machine = existing(facts, name)
    check_not_deleting(machine)
    is_here = sent.cluster == machine.spec.cluster
    if is_here and machine.moving is None:
        return _as_it_is(facts, machine)
    check_unlocked(machine)
    if is_here:
        return _written(facts, msgspec.structs.replace(touched(machine, terms), moving=None))
    is_open = open_cluster(facts, sent.cluster, terms, "cluster")
    source = reach(machine.spec.cluster)
    is_forsaken = sent.force and not source.reachable
    if machine.moving is not None and not is_forsaken:
        if machine.moving.to == sent.cluster:
            return _as_it_is(facts, machine)
        raise MachineMoving(name, machine.moving.to)
    _check_reached(sent.cluster, reach(sent.cluster), _WAIT)
    if is_forsaken:
        return _forsaken(facts, machine, sent.cluster, terms, is_open)
    check_idle(facts, name)
    _check_reached(machine.spec.cluster, source, _GIVE_UP)
    moving = Moving(to=sent.cluster, by=terms.by, since=terms.now)
    return _written(facts, msgspec.structs.replace(touched(machine, terms), moving=moving), *idle(name), *is_open)


def _check_reached(cluster: str, found: ClusterReach, advice: str) -> None:
    if not found.reachable:
        raise ClusterUnreachable(cluster, found.reason, advice)


class _End(NamedTuple):
    """What ends with the old cluster: what is written of it, given what, and the machine as it is seen then."""

    writes: tuple[Write, ...]
    given: tuple[Condition, ...]
    observed: Observed


def _forsaken(facts: Facts, machine: Machine, to: str, terms: Terms, is_open: tuple[Condition, ...]) -> Plan[Machine]:
    """Leave the old cluster as it is. What was under way there counts as failed, for nobody will hear of its end."""
    observed = facts.get(keys.observed(machine.name), Observed) or Observed()
    provision = _ended_provision(facts, machine, observed, terms)
    power = _ended_power(facts, machine, provision.observed, terms)
    seen = msgspec.structs.replace(power.observed, conditions=(), power="unknown", observed_at=terms.now)
    changed = moved(machine, to, terms.now)
    key = keys.observed(machine.name)
    return Plan(
        changed,
        (put(changed), Put(key, records.encode(seen)), *provision.writes, *power.writes),
        (
            _unchanged(facts, keys.machine(machine.name)),
            _unchanged(facts, key),
            *provision.given,
            *power.given,
            *is_open,
        ),
    )


def _ended_provision(facts: Facts, machine: Machine, observed: Observed, terms: Terms) -> _End:
    key = keys.active(machine.name)
    active = facts.get(key, Active)
    provision = facts.get(keys.provision(machine.name, active.provision), Provision) if active is not None else None
    if active is None or provision is None:
        return _End((), (_unchanged(facts, key),), observed)
    error = Problem(
        FORSAKEN,
        f"{terms.by} moved the machine out of cluster {machine.spec.cluster}, which no replica reached. "
        "Nobody knows what became of its Workflow there.",
    )
    done = ended(provision, terms.now, "Failed", error)
    may_have_run = provision.arming is not None or provision.status.running_at is not None
    seen = msgspec.structs.replace(observed, os=None if may_have_run else observed.os, last_provision=summary_of(done))
    place = keys.provision(machine.name, provision.name)
    writes = (Put(place, records.encode(done)), Delete(key))
    return _End(writes, (_unchanged(facts, key), _unchanged(facts, place)), seen)


def _ended_power(facts: Facts, machine: Machine, observed: Observed, terms: Terms) -> _End:
    key = keys.power(machine.name)
    request = facts.get(key, PowerRequest)
    if request is None:
        return _End((), (_unchanged(facts, key),), observed)
    result = PowerResult(
        name=request.name,
        action=request.action,
        succeeded=False,
        reason=FORSAKEN,
        message=f"The machine was moved out of cluster {machine.spec.cluster}, which no replica reached.",
        requested_by=request.requested_by,
        finished_at=terms.now,
    )
    seen = msgspec.structs.replace(observed, last_power_action=result)
    return _End((Delete(key),), (_unchanged(facts, key),), seen)


def _as_it_is(facts: Facts, machine: Machine) -> Plan[Machine]:
    return Plan(machine, revision=facts.revision_of(keys.machine(machine.name)))


def _written(facts: Facts, machine: Machine, *given: Condition) -> Plan[Machine]:
    return Plan(machine, (put(machine),), (_unchanged(facts, keys.machine(machine.name)), *given))


def _unchanged(facts: Facts, key: str) -> Unchanged:
    return Unchanged(key, facts.revision_of(key))
