"""Power actions over HTTP: decode, one call, encode."""

from functools import partial

from starlette.responses import Response

from dragonfly.api.answers import power_accepted
from dragonfly.api.calls import Call
from dragonfly.api.desk import Desk
from dragonfly.api.routes_machines import MACHINES
from dragonfly.feed.views import PowerActionView
from dragonfly.intent import power
from dragonfly.model.power import PowerInput


async def power_machine(desk: Desk, call: Call) -> Response:
    sent = await call.input(PowerInput)
    machine, name = call.name("Machine"), desk.context.new_ulid()
    decide = partial(power.accept, machine=machine, name=name, action=sent.action, terms=desk.terms(call))
    return await desk.post(call, decide, power_accepted)


OPERATIONS = (
    MACHINES.act(
        "power",
        power_machine,
        "Have a machine's BMC switch it",
        {202: PowerActionView},
        "no-bmc",
        "machine-locked",
        "machine-deleting",
        "machine-moving",
        "provision-active",
        "power-busy",
        body=PowerInput,
    ),
)
