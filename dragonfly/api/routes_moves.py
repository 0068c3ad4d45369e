"""Moves of machines over HTTP: decode, one call, encode."""

from functools import partial

from starlette.responses import Response

from dragonfly.api.answers import machine_accepted
from dragonfly.api.calls import Call
from dragonfly.api.desk import Desk
from dragonfly.api.routes_machines import MACHINES
from dragonfly.feed.views import MachineView
from dragonfly.intent import moves
from dragonfly.model.machine import MoveInput
from dragonfly.swarm.members import reach


async def move_machine(desk: Desk, call: Call) -> Response:
    sent = await call.input(MoveInput)
    context = desk.context
    decide = partial(
        moves.move, name=call.name("Machine"), sent=sent, terms=desk.terms(call), reach=partial(reach, context.mirror)
    )
    return await desk.post(call, decide, partial(machine_accepted, context))


OPERATIONS = (
    MACHINES.act(
        "move",
        move_machine,
        "Move a machine to another cluster; nothing is installed, and what is installed stays",
        {202: MachineView},
        "invalid",
        "machine-locked",
        "machine-deleting",
        "machine-moving",
        "provision-active",
        "power-busy",
        "cluster-closed",
        "cluster-unreachable",
        body=MoveInput,
    ),
)
