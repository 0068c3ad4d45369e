"""Machines over HTTP: decode, one call, encode."""

from functools import partial
from typing import Final

from starlette.responses import Response

from dragonfly.api import rows
from dragonfly.api.answers import machine_changed, machine_created, provision_accepted
from dragonfly.api.calls import Call
from dragonfly.api.desk import Desk, removed, resource
from dragonfly.api.operations import Collection, Parameter, list_parameters
from dragonfly.feed.views import MachineView, ProvisionView
from dragonfly.intent import machines, provisions
from dragonfly.intent.machines import LockInput, UnlockInput
from dragonfly.intent.refusals import NotFound
from dragonfly.intent.terms import ANY, Match
from dragonfly.model.machine import MachineInput
from dragonfly.model.provision import ProvisionRequest
from dragonfly.store import keys
from dragonfly.swarm.members import reach

_KIND = "Machine"


async def list_machines(desk: Desk, call: Call) -> Response:
    return await desk.list(call, desk.machine_rows, rows.MACHINES)


async def get_machine(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    held = desk.context.mirror.get(keys.machine(name))
    row = desk.machine_rows.get(name)
    if held is None or row is None:
        raise NotFound(_KIND, name)
    return resource(row.json(), held.mod_revision)


async def create_machine(desk: Desk, call: Call) -> Response:
    sent = await call.input(MachineInput)
    decide = partial(machines.create, sent=sent, terms=desk.terms(call))
    return await desk.post(call, decide, partial(machine_created, desk.context))


async def replace_machine(desk: Desk, call: Call) -> Response:
    match = call.match()
    sent = await call.input(MachineInput)
    terms = desk.terms(call)
    decide = partial(machines.replace, name=call.name(_KIND), sent=sent, match=match, terms=terms)
    return await desk.change(decide, partial(rows.composed, desk.context))


async def patch_machine(desk: Desk, call: Call) -> Response:
    match = call.match()
    change = await call.patch()
    terms = desk.terms(call)
    decide = partial(machines.patch, name=call.name(_KIND), change=change, match=match, terms=terms)
    return await desk.change(decide, partial(rows.composed, desk.context))


async def delete_machine(desk: Desk, call: Call) -> Response:
    name, match = call.name(_KIND), call.match()
    if call.flag("force"):
        return await _forget(desk, name, match)
    decide = partial(machines.delete, name=name, match=match, terms=desk.terms(call))
    return await desk.change(decide, partial(rows.composed, desk.context), 202)


async def lock_machine(desk: Desk, call: Call) -> Response:
    sent = await call.input(LockInput)
    decide = partial(machines.lock, name=call.name(_KIND), reason=sent.reason, terms=desk.terms(call))
    return await desk.post(call, decide, partial(machine_changed, desk.context))


async def unlock_machine(desk: Desk, call: Call) -> Response:
    await call.input(UnlockInput, optional=True)
    decide = partial(machines.unlock, name=call.name(_KIND), terms=desk.terms(call))
    return await desk.post(call, decide, partial(machine_changed, desk.context))


async def provision_machine(desk: Desk, call: Call) -> Response:
    request = await call.input(ProvisionRequest)
    machine, name = call.name(_KIND), desk.context.new_ulid()
    decide = partial(provisions.accept, machine=machine, name=name, request=request, terms=desk.terms(call))
    return await desk.post(call, decide, provision_accepted)


async def machine_history(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    mirror = desk.context.mirror
    if mirror.get(keys.machine(name)) is None and mirror.count(keys.provisions_of(name)) == 0:
        raise NotFound(_KIND, name)
    return await desk.list(call, desk.provision_rows, rows.PROVISIONS, machine=name)


async def _forget(desk: Desk, name: str, match: Match) -> Response:
    decide = partial(machines.force_delete, name=name, is_reached=lambda to: reach(desk.context.mirror, to).reachable)
    done = await desk.write(partial(decide, match=match))
    while done.outcome.more:
        await desk.arrived(done.revision)
        done = await desk.write(partial(decide, match=ANY))
    return removed(done.revision)


MACHINES: Final = Collection("machines", MachineView, MachineInput)
_HISTORY = rows.PROVISIONS._replace(filters=("phase", "template"))
_FORCE = Parameter(
    "force",
    "Forget the machine at once, with its provisions, and leave what is in its cluster as it is. While a replica "
    "reaches that cluster, what runs on the machine must be cancelled first.",
    {"type": "boolean", "default": False},
)
_SPEC_PROBLEMS = ("mac-in-use", "machine-locked", "machine-deleting", "provision-active", "power-busy")

OPERATIONS = (
    MACHINES.list(list_machines, "List machines", rows.MACHINES),
    MACHINES.create(create_machine, "Create a machine", "mac-in-use"),
    MACHINES.read(get_machine, "Read a machine"),
    MACHINES.replace(replace_machine, "Replace a machine's labels, tags and spec", *_SPEC_PROBLEMS),
    MACHINES.patch(patch_machine, "Change some of a machine's labels, tags and spec", *_SPEC_PROBLEMS),
    MACHINES.delete(
        delete_machine, "Delete a machine, in its cluster too", "machine-locked", "provision-active", "power-busy"
    )._replace(answers={202: MachineView, 204: None}, query=(_FORCE,)),
    MACHINES.act(
        "lock",
        lock_machine,
        "Lock a machine: nothing touches it until it is unlocked",
        {200: MachineView},
        "invalid",
        "machine-locked",
        "machine-deleting",
        body=LockInput,
    ),
    MACHINES.act("unlock", unlock_machine, "Unlock a machine", {200: MachineView}, body=UnlockInput)._replace(
        body_optional=True
    ),
    MACHINES.act(
        "provision",
        provision_machine,
        "Install a template on a machine",
        {202: ProvisionView},
        "invalid",
        "unknown-template",
        "machine-locked",
        "machine-deleting",
        "machine-moving",
        "machine-maintenance",
        "provision-active",
        "power-busy",
        body=ProvisionRequest,
    ),
    MACHINES.below("history", machine_history, "List a machine's provisions, newest first", ProvisionView)._replace(
        query=list_parameters(_HISTORY)
    ),
)
