"""Provisions: accept one, cancel one; and find one by its name alone."""

from collections.abc import Callable

from dragonfly.intent.facts import Facts
from dragonfly.intent.machines import (
    check_not_deleting,
    check_not_moving,
    check_powered_by_nobody,
    check_unlocked,
    existing,
)
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import (
    MachineInMaintenance,
    NotFound,
    NotProvisioning,
    ProvisionActive,
    ProvisionEnded,
    UnknownTemplate,
)
from dragonfly.intent.terms import Terms
from dragonfly.model.machine import Machine
from dragonfly.model.provision import (
    Active,
    CancelRequest,
    Problem,
    Provision,
    ProvisionRequest,
    ProvisionSpec,
    advanced,
    ended,
)
from dragonfly.model.template import Template, checked_parameters
from dragonfly.model.values import FieldError, Invalid, Metadata, is_dns_label
from dragonfly.store import keys, records
from dragonfly.store.mirror import Mirror, Update
from dragonfly.store.values import Absent, Delete, Put, Unchanged

_KIND = "Provision"
_TEMPLATES_TOLD = 10


def accept(facts: Facts, machine: str, name: str, request: ProvisionRequest, terms: Terms) -> Plan[Provision]:
    """Accept the intent to install a template on a machine.

    Args:
        name: a new ULID.

    Raises:
        NotFound: there is no such machine.
        MachineLocked, MachineDeleting, MachineMoving, MachineInMaintenance, ProvisionActive, PowerBusy: the machine
            must not be touched now.
        UnknownTemplate: there is no such template.
        Invalid: the parameters do not fit the template.
    """
    found = existing(facts, machine)
    _check_may_be_provisioned(facts, found)
    template = _template(facts, request.template)
    _check_can_boot(found, template)
    template_revision = facts.revision_of(keys.template(request.template))
    spec = ProvisionSpec(
        machine=machine,
        template=request.template,
        template_revision=template_revision,
        cluster=found.spec.cluster,
        parameters=checked_parameters(template.spec, request.parameters),
        reason=request.reason,
        requested_by=terms.by,
    )
    metadata = Metadata(name=name, created_at=terms.now, updated_at=terms.now)
    provision = Provision(metadata=metadata, spec=spec)
    active = Active(provision=name, template=template.spec)
    key = keys.provision(machine, name)
    return Plan(
        provision,
        (Put(key, records.encode(provision)), Put(keys.active(machine), records.encode(active))),
        (
            Unchanged(keys.machine(machine), facts.revision_of(keys.machine(machine))),
            Unchanged(keys.template(request.template), template_revision),
            Absent(keys.active(machine)),
            Absent(keys.power(machine)),
            Absent(key),
        ),
    )


def cancel(facts: Facts, machine: str, name: str, reason: str, terms: Terms) -> Plan[Provision]:
    """Ask for the provision's end. What no replica has started ends at once; the rest the owner of the shard ends.

    Raises:
        NotFound: there is no such provision.
        ProvisionEnded: it has its result already.
    """
    key = keys.provision(machine, name)
    provision = facts.get(key, Provision)
    if provision is None:
        raise NotFound(_KIND, name)
    if provision.ended:
        raise ProvisionEnded(name, provision.status.phase)
    revision = facts.revision_of(key)
    if provision.status.cancel is not None:
        return Plan(provision, revision=revision)
    request = CancelRequest(by=terms.by, at=terms.now, reason=reason)
    if provision.status.phase == "Pending":
        return _cancelled(facts, provision, request, terms)
    cancelling = advanced(provision, terms.now, cancel=request)
    return Plan(cancelling, (Put(key, records.encode(cancelling)),), (Unchanged(key, revision),))


def cancel_running(facts: Facts, machine: str, reason: str, terms: Terms) -> Plan[Provision]:
    """As `cancel`, for whatever is being provisioned on the machine.

    Raises:
        NotFound: there is no such machine.
        NotProvisioning: nothing is.
    """
    existing(facts, machine)
    active = facts.get(keys.active(machine), Active)
    if active is None:
        raise NotProvisioning(machine)
    return cancel(facts, machine, active.provision, reason, terms)


class ProvisionIndex:
    """Which machine a provision is of: its name alone addresses it, its key has the machine too."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._machines: dict[str, str] = {}
        for held in mirror.under(keys.PROVISIONS):
            self._enter(held.key)
        self.close: Callable[[], None] = mirror.subscribe(keys.PROVISIONS, self._changed)

    def machine_of(self, name: str) -> str | None:
        return self._machines.get(name)

    def _changed(self, update: Update) -> None:
        if update.held is not None:
            self._enter(update.key)
        elif pair := keys.pair_in(update.key, keys.PROVISIONS):
            self._machines.pop(pair.second, None)

    def _enter(self, key: str) -> None:
        if pair := keys.pair_in(key, keys.PROVISIONS):
            self._machines[pair.second] = pair.first


def _check_may_be_provisioned(facts: Facts, machine: Machine) -> None:
    check_unlocked(machine)
    check_not_deleting(machine)
    check_not_moving(machine)
    if machine.spec.maintenance is not None:
        raise MachineInMaintenance(machine.name, machine.spec.maintenance.reason)
    active = facts.get(keys.active(machine.name), Active)
    if active is not None:
        raise ProvisionActive(machine.name, active.provision)
    check_powered_by_nobody(facts, machine.name)


def _check_can_boot(machine: Machine, template: Template) -> None:
    """Tinkerbell would fail such a Workflow without a word (its prepareWorkflow sets no condition)."""
    if template.spec.boot == "iso" and machine.spec.bmc is not None and not machine.spec.iso_url:
        message = f"boots from an ISO image, and machine {machine.name} has no spec.isoURL"
        raise Invalid([FieldError("template", message, template.name)])


def _template(facts: Facts, name: str) -> Template:
    template = facts.get(keys.template(name), Template) if is_dns_label(name) else None
    if template is not None:
        return template
    some = [key.removeprefix(keys.TEMPLATES) for key in facts.keys_under(keys.TEMPLATES, _TEMPLATES_TOLD)]
    message = f"is no template; there are {', '.join(some)}" if some else "is no template; there is none yet"
    raise UnknownTemplate(f"There is no template {name}.", (FieldError("template", message, name),))


def _cancelled(facts: Facts, provision: Provision, request: CancelRequest, terms: Terms) -> Plan[Provision]:
    """End what is still Pending: no Workflow can exist, since one is made only after the step to Starting."""
    machine = provision.spec.machine
    key = keys.provision(machine, provision.name)
    error = Problem(reason="Cancelled", message=_words(request))
    done = ended(provision, terms.now, "Cancelled", error, cancel=request)
    active = facts.get(keys.active(machine), Active)
    is_ours = active is not None and active.provision == provision.name
    return Plan(
        done,
        (Put(key, records.encode(done)), *([Delete(keys.active(machine))] if is_ours else [])),
        (
            Unchanged(key, facts.revision_of(key)),
            Unchanged(keys.active(machine), facts.revision_of(keys.active(machine))),
        ),
    )


def _words(request: CancelRequest) -> str:
    return f"Cancelled by {request.by}: {request.reason}" if request.reason else f"Cancelled by {request.by}"
