"""Machines: create, replace, patch, delete, lock. Each is one transaction; the MACs are kept unique in the same one."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from dragonfly.intent.documents import as_input, merged
from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Plan, Sealer
from dragonfly.intent.refusals import (
    AlreadyExists,
    ClusterClosed,
    MachineDeleting,
    MachineLocked,
    MachineMoving,
    MacInUse,
    NotFound,
    PowerBusy,
    ProvisionActive,
)
from dragonfly.intent.resource import check_same_name, document_of, is_same, matching, no_key
from dragonfly.intent.terms import Match, Terms
from dragonfly.model.cluster import Cluster
from dragonfly.model.machine import (
    Bmc,
    Locked,
    Machine,
    MachineInput,
    MachineSpec,
    memorable_name,
    metadata_of,
    validated,
)
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Active
from dragonfly.model.values import LOCAL, FieldError, Input, Invalid, Value
from dragonfly.store import keys, records
from dragonfly.store.values import Absent, Condition, Delete, Put, Unchanged, Write

_KIND = "Machine"
_LONGEST_REASON = 1024
_AT_ONCE = 64  # of the 128 operations of a transaction; the others are for the machine's own keys


class MacHolder(Value, frozen=True):
    """The value of `unique/mac/<mac>`."""

    machine: str


class LockInput(Input, frozen=True, kw_only=True):
    """Body of `POST machines/{name}/lock`."""

    reason: str


class UnlockInput(Input, frozen=True, kw_only=True):
    """Body of `POST machines/{name}/unlock`."""

    reason: str = ""


class Forgotten(NamedTuple):
    """A machine that was removed, or from which there is more to remove."""

    machine: Machine
    more: bool


def password_place(machine: str) -> str:
    """What the sealed BMC password of a machine is bound to."""
    return f"{keys.machine(machine)}/spec.bmc.password"


def create(facts: Facts, sent: MachineInput, terms: Terms) -> Plan[Machine]:
    """Make a machine; without a name it gets a memorable one, always the same for the same first MAC.

    Raises:
        Invalid: the document breaks rules.
        AlreadyExists: the name is taken.
        MacInUse: a MAC belongs to another machine.
        ClusterClosed: its cluster is being removed.
    """
    spec, password = _accepted(sent.spec, terms)
    is_open = open_cluster(facts, spec.cluster, terms, "spec.cluster")
    name = sent.metadata.name or memorable_name(spec.interfaces[0].mac)
    metadata = metadata_of(sent.metadata, name, terms.now)
    key = keys.machine(name)
    if facts.get(key, Machine) is not None:
        raise AlreadyExists(_KIND, name)
    _check_macs(facts, name, spec)
    sealed = _sealed(name, password, terms.sealer) if password else ""
    machine = Machine(metadata=metadata, spec=spec, sealed_password=sealed)
    macs = sorted(_macs(spec))
    return Plan(
        machine,
        (Put(key, records.encode(machine)), *_hold_macs(name, macs)),
        (Absent(key), *is_open, *(Absent(keys.mac(mac)) for mac in macs)),
    )


def replace(facts: Facts, name: str, sent: MachineInput, match: Match, terms: Terms) -> Plan[Machine]:
    """Make the machine what was sent. A BMC password that was not sent stays.

    Raises:
        NotFound, Changed, Invalid, MacInUse: as they say.
        MachineLocked, MachineDeleting: the spec would change and must not.
        ProvisionActive, PowerBusy: a MAC would change under what runs.
    """
    machine = matching(facts, Machine, keys.machine(name), name, match)
    return _replace(facts, machine, sent, terms)


def patch(facts: Facts, name: str, change: dict[str, Any], match: Match, terms: Terms) -> Plan[Machine]:
    """Apply a JSON Merge Patch (RFC 7396) to what people may set of the machine; raises as `replace`."""
    machine = matching(facts, Machine, keys.machine(name), name, match)
    sent = as_input(merged(document_of(machine.metadata, machine.spec), change), MachineInput)
    return _replace(facts, machine, sent, terms)


def delete(facts: Facts, name: str, match: Match, terms: Terms) -> Plan[Machine]:
    """Ask for the machine's end; the owner of its shard removes it in its cluster and then here.

    Raises:
        NotFound, Changed, MachineLocked: as they say.
        ProvisionActive, PowerBusy: what runs must end first.
    """
    machine = existing(facts, name)
    revision = facts.revision_of(keys.machine(name))
    match.check(_KIND, name, revision)
    check_unlocked(machine)
    if machine.deleting_since is not None:
        return Plan(machine, revision=revision)
    check_idle(facts, name)
    given = (Unchanged(keys.machine(name), revision), *idle(name))
    doomed = msgspec.structs.replace(touched(machine, terms), deleting_since=terms.now, moving=None)
    return Plan(doomed, (put(doomed),), given)


def force_delete(facts: Facts, name: str, match: Match, is_reached: Callable[[str], bool]) -> Plan[Forgotten]:
    """Forget the machine at once, with what runs on it: the way out when its cluster is gone for good.

    While a replica reaches the cluster, what runs must end first: nobody would look after an armed Workflow and open
    netboot of a machine that is forgotten, and the machine would be wiped when it boots next (P2).

    What it leaves behind may be too much for one transaction. Then this removes the oldest of it and says `more`: carry
    it out again, without `match`, when the mirror has caught up.

    Raises:
        NotFound, Changed, MachineLocked: as they say. Not even force touches a locked machine (P3).
        ProvisionActive, PowerBusy: something runs in a cluster that is reached.
    """
    machine = existing(facts, name)
    revision = facts.revision_of(keys.machine(name))
    match.check(_KIND, name, revision)
    check_unlocked(machine)
    if is_reached(machine.spec.cluster):
        check_idle(facts, name)
    active = Unchanged(keys.active(name), facts.revision_of(keys.active(name)))
    given = (Unchanged(keys.machine(name), revision), active)
    left = facts.keys_under(keys.provisions_of(name))
    if len(left) > _AT_ONCE:
        return Plan(Forgotten(machine, more=True), tuple(map(Delete, left[:_AT_ONCE])), given)
    own = [keys.machine(name), keys.active(name), keys.power(name), keys.observed(name)]
    own += [keys.mac(mac) for mac in sorted(_macs(machine.spec))]
    return Plan(Forgotten(machine, more=False), tuple(map(Delete, [*own, *left])), given)


def lock(facts: Facts, name: str, reason: str, terms: Terms) -> Plan[Machine]:
    """Keep everybody's hands off the machine until it is unlocked (P3).

    Raises:
        Invalid: no reason is given.
        NotFound, MachineDeleting: as they say.
        MachineLocked: by somebody else, or for another reason; the first lock stands.
    """
    if not 1 <= len(reason.strip()) <= _LONGEST_REASON:
        raise Invalid([FieldError("reason", f"must say why, in 1 to {_LONGEST_REASON} characters", reason)])
    machine = existing(facts, name)
    revision = facts.revision_of(keys.machine(name))
    held = machine.spec.locked
    if held is not None and (held.by, held.reason) == (terms.by, reason):
        return Plan(machine, revision=revision)
    check_unlocked(machine)
    check_not_deleting(machine)
    return _with_lock(machine, revision, Locked(reason=reason, by=terms.by, at=terms.now), terms)


def unlock(facts: Facts, name: str, terms: Terms) -> Plan[Machine]:
    """Take the lock off; no effect without one.

    Raises:
        NotFound: there is no such machine.
    """
    machine = existing(facts, name)
    revision = facts.revision_of(keys.machine(name))
    if machine.spec.locked is None:
        return Plan(machine, revision=revision)
    return _with_lock(machine, revision, None, terms)


def existing(facts: Facts, name: str) -> Machine:
    """Return the machine, or raise `NotFound`."""
    machine = facts.get(keys.machine(name), Machine)
    if machine is None:
        raise NotFound(_KIND, name)
    return machine


def check_unlocked(machine: Machine) -> None:
    """Pass, or raise `MachineLocked`."""
    if machine.spec.locked is not None:
        raise MachineLocked(machine.name, machine.spec.locked)


def check_not_deleting(machine: Machine) -> None:
    """Pass, or raise `MachineDeleting`."""
    if machine.deleting_since is not None:
        raise MachineDeleting(machine.name)


def check_not_moving(machine: Machine) -> None:
    """Pass, or raise `MachineMoving`."""
    if machine.moving is not None:
        raise MachineMoving(machine.name, machine.moving.to)


def check_powered_by_nobody(facts: Facts, name: str) -> None:
    """Pass, or raise `PowerBusy`."""
    request = facts.get(keys.power(name), PowerRequest)
    if request is not None:
        raise PowerBusy(name, request.action)


def open_cluster(facts: Facts, name: str, terms: Terms, field: str) -> tuple[Condition, ...]:
    """Return the condition that the cluster is still there when a machine comes into it; `local` always is.

    Args:
        field: who named it, for the error.

    Raises:
        Invalid: there is no such cluster.
        ClusterClosed: it is being removed.
    """
    if name == LOCAL:
        return ()
    key = keys.cluster(name)
    cluster = facts.get(key, Cluster)
    if cluster is None:
        known = ", ".join(sorted(terms.clusters))
        raise Invalid([FieldError(field, f"{name} is no cluster of this swarm, which has {known}", name)])
    if cluster.removing_since is not None:
        raise ClusterClosed(name)
    return (Unchanged(key, facts.revision_of(key)),)


def check_idle(facts: Facts, name: str) -> None:
    """Pass, or raise `ProvisionActive` or `PowerBusy`."""
    active = facts.get(keys.active(name), Active)
    if active is not None:
        raise ProvisionActive(name, active.provision)
    check_powered_by_nobody(facts, name)


def idle(name: str) -> tuple[Absent, Absent]:
    """Return the conditions that `check_idle` still passes when the change is written."""
    return Absent(keys.active(name)), Absent(keys.power(name))


def _replace(facts: Facts, machine: Machine, sent: MachineInput, terms: Terms) -> Plan[Machine]:
    name = machine.name
    check_same_name(_KIND, sent.metadata, name)
    spec, password = _accepted(sent.spec, terms, locked=machine.spec.locked)
    _check_cluster_stays(machine, spec.cluster)
    metadata = metadata_of(sent.metadata, name, terms.now, machine.metadata.created_at)
    revision = facts.revision_of(keys.machine(name))
    given: list[Condition] = [Unchanged(keys.machine(name), revision)]
    if spec != machine.spec or password:
        check_unlocked(machine)
        check_not_deleting(machine)
    if _moves(machine.spec, spec):
        check_idle(facts, name)
        given += idle(name)
    _check_macs(facts, name, spec)
    sealed = _sealed(name, password, terms.sealer) if password else _kept_password(machine, spec.bmc)
    changed = msgspec.structs.replace(machine, metadata=metadata, spec=spec, sealed_password=sealed)
    if is_same(changed, machine):
        return Plan(machine, revision=revision)
    before, after = _macs(machine.spec), _macs(spec)
    writes: list[Write] = [put(changed), *(Delete(keys.mac(mac)) for mac in sorted(before - after))]
    given += [Absent(keys.mac(mac)) for mac in sorted(after - before)]
    return Plan(changed, (*writes, *_hold_macs(name, sorted(after - before))), tuple(given))


def _accepted(spec: MachineSpec, terms: Terms, locked: Locked | None = None) -> tuple[MachineSpec, str]:
    """Return the spec as it is stored, without the BMC's password, and that password."""
    errors = [*_lock_errors(spec, locked), *_password_errors(spec, terms)]
    if errors:
        raise Invalid(errors)
    if spec.bmc is None or not spec.bmc.password:
        return validated(spec), ""
    shown = msgspec.structs.replace(spec, bmc=msgspec.structs.replace(spec.bmc, password=""))
    return validated(shown), spec.bmc.password


def _lock_errors(spec: MachineSpec, locked: Locked | None) -> Iterator[FieldError]:
    if spec.locked != locked:
        yield FieldError("spec.locked", "is set by POST machines/{name}/lock and taken off by unlock only")


def _check_cluster_stays(machine: Machine, cluster: str) -> None:
    """What the former cluster knows of the machine would stay there, and nobody would look after it any more."""
    if cluster != machine.spec.cluster:
        message = (
            f"must stay {machine.spec.cluster}: a machine goes to another cluster by a move of its own, "
            f"POST /api/v1/machines/{machine.name}/move"
        )
        raise Invalid([FieldError("spec.cluster", message, cluster)])


def _password_errors(spec: MachineSpec, terms: Terms) -> Iterator[FieldError]:
    if spec.bmc is not None and spec.bmc.password and terms.sealer is None:
        yield no_key("spec.bmc.password", "passwords")


def _sealed(name: str, password: str, sealer: Sealer | None) -> str:
    assert sealer is not None  # _password_errors has seen to it
    return sealer.seal(password_place(name), password)


def _kept_password(machine: Machine, bmc: Bmc | None) -> str:
    """The stored password stays while the BMC stays: it must not be sent to another address than it was set for."""
    before = machine.spec.bmc
    if bmc is None or before is None or not machine.sealed_password:
        return ""
    if (bmc.host, bmc.port, bmc.insecure_tls) != (before.host, before.port, before.insecure_tls):
        message = "must be sent again when host, port or insecureTLS change: the stored one is for the old address"
        raise Invalid([FieldError("spec.bmc.password", message)])
    return machine.sealed_password


def _check_macs(facts: Facts, name: str, spec: MachineSpec) -> None:
    errors = tuple(_mac_errors(facts, name, spec))
    if errors:
        raise MacInUse("; ".join(f"{error.field} {error.value} {error.message}" for error in errors), errors)


def _mac_errors(facts: Facts, name: str, spec: MachineSpec) -> Iterator[FieldError]:
    for index, interface in enumerate(spec.interfaces):
        holder = facts.get(keys.mac(interface.mac), MacHolder)
        if holder is None or holder.machine == name:
            continue
        other = facts.get(keys.machine(holder.machine), Machine)
        cluster = f" in cluster {other.spec.cluster}" if other is not None else ""
        message = (
            f"already belongs to machine {holder.machine}{cluster}. "
            "Remove it there first, or give this interface another MAC"
        )
        yield FieldError(f"spec.interfaces[{index}].mac", message, interface.mac)


def _moves(before: MachineSpec, after: MachineSpec) -> bool:
    """Whether Tinkerbell would know the machine by another name."""
    return _macs(before) != _macs(after) or _agent(before) != _agent(after)


def _agent(spec: MachineSpec) -> str:
    return spec.interfaces[0].mac


def _macs(spec: MachineSpec) -> frozenset[str]:
    return frozenset(interface.mac for interface in spec.interfaces)


def _hold_macs(name: str, macs: list[str]) -> Iterator[Put]:
    return (Put(keys.mac(mac), records.encode(MacHolder(name))) for mac in macs)


def _with_lock(machine: Machine, revision: int, locked: Locked | None, terms: Terms) -> Plan[Machine]:
    spec = msgspec.structs.replace(machine.spec, locked=locked)
    changed = msgspec.structs.replace(touched(machine, terms), spec=spec)
    return Plan(changed, (put(changed),), (Unchanged(keys.machine(machine.name), revision),))


def touched(machine: Machine, terms: Terms) -> Machine:
    """Return the machine as changed now."""
    return msgspec.structs.replace(machine, metadata=msgspec.structs.replace(machine.metadata, updated_at=terms.now))


def put(machine: Machine) -> Put:
    """Return what writes the machine."""
    return Put(keys.machine(machine.name), records.encode(machine))
