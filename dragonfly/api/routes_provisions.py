"""Provisions over HTTP: decode, one call, encode."""

from functools import partial
from typing import Final

from starlette.responses import Response

from dragonfly.api import rows
from dragonfly.api.answers import provision_accepted
from dragonfly.api.calls import Call
from dragonfly.api.desk import Desk, resource
from dragonfly.api.operations import Collection
from dragonfly.feed.views import ProvisionView
from dragonfly.intent import provisions
from dragonfly.intent.refusals import NotFound
from dragonfly.model.provision import CancelInput
from dragonfly.store import keys

_KIND = "Provision"


async def list_provisions(desk: Desk, call: Call) -> Response:
    return await desk.list(call, desk.provision_rows, rows.PROVISIONS)


async def get_provision(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    machine = desk.provisions.machine_of(name)
    if machine is None:
        raise NotFound(_KIND, name)
    held = desk.context.mirror.get(keys.provision(machine, name))
    row = desk.provision_rows.get(f"{machine}/{name}")
    if held is None or row is None:
        raise NotFound(_KIND, name)
    return resource(row.json(), held.mod_revision)


async def cancel_provision(desk: Desk, call: Call) -> Response:
    sent = await call.input(CancelInput, optional=True)
    name = call.name(_KIND)
    machine = await _machine_of(desk, name)
    decide = partial(provisions.cancel, machine=machine, name=name, reason=sent.reason, terms=desk.terms(call))
    return await desk.post(call, decide, provision_accepted)


async def _machine_of(desk: Desk, name: str) -> str:
    """Find the provision's machine; one that another replica has just accepted may not be here yet."""
    machine = desk.provisions.machine_of(name)
    if machine is not None:
        return machine
    _, revision = await desk.context.store.read(keys.SCHEMA)
    await desk.arrived(revision)
    machine = desk.provisions.machine_of(name)
    if machine is None:
        raise NotFound(_KIND, name)
    return machine


_PROVISIONS: Final = Collection("provisions", ProvisionView, None)

OPERATIONS = (
    _PROVISIONS.list(list_provisions, "List provisions, newest first", rows.PROVISIONS),
    _PROVISIONS.read(get_provision, "Read a provision"),
    _PROVISIONS.act(
        "cancel", cancel_provision, "Cancel a provision", {202: ProvisionView}, "provision-ended", body=CancelInput
    )._replace(body_optional=True),
)
