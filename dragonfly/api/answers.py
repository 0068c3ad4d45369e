"""What each intent is answered, by whichever route it came."""

from functools import partial

import msgspec

from dragonfly.api import rows
from dragonfly.api.context import Context
from dragonfly.feed.views import machine_view, power_action_view, provision_view
from dragonfly.intent.idempotency import Answer
from dragonfly.model.machine import Machine
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Provision
from dragonfly.swarm.members import reach


def machine_created(context: Context, machine: Machine) -> Answer:
    owner = context.owner_of(machine.spec.cluster, machine.name)
    cluster = reach(context.mirror, machine.spec.cluster)
    view = machine_view(machine, 0, observed=None, active=None, power=None, owner=owner, cluster=cluster)
    return Answer(status=201, location=f"/api/v1/machines/{machine.name}", body=_json(view))


def machine_changed(context: Context, machine: Machine, status: int = 200) -> Answer:
    return Answer(status=status, body=_json(rows.composed(context, machine, 0)))


machine_accepted = partial(machine_changed, status=202)


def provision_accepted(provision: Provision) -> Answer:
    location = f"/api/v1/provisions/{provision.name}"
    return Answer(status=202, location=location, body=_json(provision_view(provision, 0)))


def power_accepted(request: PowerRequest) -> Answer:
    location = f"/api/v1/machines/{request.machine}"
    return Answer(status=202, location=location, body=_json(power_action_view(request, 0)))


def _json(view: msgspec.Struct) -> str:
    return msgspec.json.encode(view).decode()
