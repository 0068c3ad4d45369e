"""A provision, its Workflow and what is seen of both, as stories of single steps have them."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from dragonfly.controllers.steps import End, Limits, Seen, Step, Stop, next_step
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.machine import Interface, Locked, Machine, MachineSpec
from dragonfly.model.provision import (
    ActionProgress,
    Arming,
    CancelRequest,
    Problem,
    Provision,
    ProvisionSpec,
    ProvisionStatus,
    Stopping,
)
from dragonfly.model.values import Metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(prepare=600, silence=3600, render=10, grace=120, settle=0.25)
MAC = "02:00:00:00:00:01"
METADATA = Metadata(name="p-1", created_at=NOW, updated_at=NOW)
MACHINE = Machine(
    metadata=Metadata(name="m-1", created_at=NOW, updated_at=NOW), spec=MachineSpec(interfaces=(Interface(mac=MAC),))
)
LOCKED = msgspec.structs.replace(
    MACHINE, spec=msgspec.structs.replace(MACHINE.spec, locked=Locked(reason="audit", by="bea", at=NOW))
)
CANCEL = CancelRequest(by="ann", at=NOW, reason="wrong machine")
ARMING = Arming(uid="u-1", resource_version="7", epoch=3, at=NOW)
ARMED = msgspec.structs.replace(ARMING, armed=True)
STOPPING = Stopping(phase="Cancelled", error=Problem("Cancelled", "Cancelled by ann."))
STAGED = WorkflowView(
    name="df-p-1",
    uid="u-1",
    resource_version="7",
    machine="m-1",
    provision="p-1",
    staged=True,
    state="",
    agent_id=MAC,
    served=False,
    rendering_error="",
    failure="",
    current_action="",
    actions=(),
)


def workflow(**changes: Any) -> WorkflowView:
    return STAGED._replace(**({"staged": False} | changes))


def running(**changes: Any) -> WorkflowView:
    actions = (ActionProgress(name="a", state="Succeeded"), ActionProgress(name="b", state="Running"))
    return workflow(state="RUNNING", served=True, current_action="b", actions=actions)._replace(**changes)


def provision(phase: str = "Starting", **changes: Any) -> Provision:
    status = {"phase": phase, "started_at": NOW} | changes.pop("status", {})
    spec = ProvisionSpec(machine="m-1", template="t", template_revision=1)
    return Provision(metadata=METADATA, spec=spec, status=ProvisionStatus(**status), **changes)


def seen(of: Provision, **changes: Any) -> Seen:
    known: dict[str, Any] = {
        "reachable": True,
        "last_trouble": "",
        "machine": MACHINE,
        "global_timeout": 900.0,
        "raw": False,
        "workflow": None,
        "asked": False,
        "seen_armed": False,
        "others": (),
        "confirmed": frozenset(),
        "past": frozenset(),
        "hardware_ready": True,
        "hardware_known": True,
        "secret_ready": True,
        "template_ready": True,
        "on_duty": float("inf"),
        "vouched": True,
        "lost": "",
        "staged_for": 1.0,
        "now": NOW,
    }
    return Seen(provision=of, **(known | changes))


def step(of: Provision, **changes: Any) -> Step:
    return next_step(seen(of, **changes), LIMITS)


def reason(found: Step) -> str:
    assert isinstance(found, Stop | End)
    assert found.error is not None
    return found.error.reason
