"""Power actions: what a machine's BMC is asked to do, and what became of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from dragonfly.model.values import Input, Value

PowerAction = Literal["on", "off", "cycle", "reset", "pxe"]
"""`pxe` is off, boot from the network once, on."""

PowerPhase = Literal["Pending", "Running"]

HARMLESS: frozenset[PowerAction] = frozenset({"on"})
"""What no running installation minds."""

PAST: Mapping[PowerAction, str] = {
    "on": "switched on",
    "off": "switched off",
    "cycle": "power-cycled",
    "reset": "reset",
    "pxe": "restarted from the network",
}


class PowerInput(Input, frozen=True, kw_only=True):
    """Body of `POST machines/{name}/power`."""

    action: PowerAction


class JobArming(Value, frozen=True, kw_only=True):
    """Written before the Job is let go. From here on it may have run, and is never created again."""

    uid: str
    resource_version: str
    epoch: int
    at: datetime
    armed: bool = False
    """It has been let go since. Staged once more it has gone back in time, and is never let go again."""


class PowerRequest(Value, frozen=True, kw_only=True):
    """A power action that is under way; stored at `power/<machine>`, so a machine has one at most."""

    name: str
    """A ULID; the Job's name follows from it."""
    machine: str
    action: PowerAction
    requested_by: str
    requested_at: datetime
    phase: PowerPhase = "Pending"
    arming: JobArming | None = None


class PowerResult(Value, frozen=True, kw_only=True):
    """What became of a machine's last power action."""

    name: str
    action: PowerAction
    succeeded: bool
    reason: str
    """A word for programs: `Completed`, or why not."""
    message: str
    """A sentence for people, with the BMC's own words where there are any."""
    requested_by: str
    finished_at: datetime


class PowerSummary(Value, frozen=True, kw_only=True):
    """A power action that is under way, as its machine shows it."""

    name: str
    action: PowerAction
    phase: PowerPhase
    requested_by: str
    requested_at: datetime


def let_go(request: PowerRequest) -> PowerRequest:
    """Return the request with the mark that its Job was let go; the very same if there is no more to mark."""
    arming = request.arming
    if arming is None or arming.armed:
        return request
    return msgspec.structs.replace(request, arming=msgspec.structs.replace(arming, armed=True))


def summary_of_power(request: PowerRequest) -> PowerSummary:
    return PowerSummary(
        name=request.name,
        action=request.action,
        phase=request.phase,
        requested_by=request.requested_by,
        requested_at=request.requested_at,
    )


def job_name(request: str) -> str:
    """Return the one name that the request's Job can have. Rufio finds Tasks by it, so it is never used twice.

    With `-task-<n>` behind it, it still is a label's value: 63 characters at most.
    """
    return f"df-power-{request.lower()}"
