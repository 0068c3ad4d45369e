"""Takes a machine that is being moved out of its cluster: what to do next, and how it is done.

Every look asks the API server what is left there and does the first thing that is due: close netboot, stop and remove
the machine's Workflows, remove its Jobs, Hardware, BMC and Secret; and when nothing is left, write in one transaction
that it is in the new cluster. Nothing but the record `moving` and what is in the cluster says how far it is, so any
replica goes on where another ended. The new cluster's owner sees the machine only after that transaction, and makes its
Hardware as for any machine at rest: netboot closed, no Workflow (P2).

What a former owner sent before may still arrive after that. Whoever owns the shard in the old cluster then removes it
as a leftover (`leftovers`).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import structlog

from dragonfly.controllers.conditions import MOVED, not_synced, with_condition
from dragonfly.controllers.fence import Fence
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.leftovers import Fate, Leftovers, fate_of
from dragonfly.controllers.provisions import StuckError
from dragonfly.kube.resources import WORKFLOW
from dragonfly.kube.tinkerbell import MACHINE, WorkflowView, workflow_view
from dragonfly.model.machine import Condition, Machine, Moving, Observed, moved
from dragonfly.model.swarm import ClusterReach
from dragonfly.store import keys
from dragonfly.store.records import encode
from dragonfly.store.values import Absent, Put, Unchanged

_log = structlog.get_logger(__name__)

HOLD: Final = 5.0
"""Seconds between two looks at what holds a move up."""

_STEPS: Final = 40
"""More than any machine needs in one look."""


class Leaving(NamedTuple):
    """All that is known of a machine on its way out."""

    machine: Machine
    target: ClusterReach | None
    """Whether any replica reaches the new cluster; None if there is no such cluster any more."""
    netboot: bool
    """The machine's Hardware lets it boot from the network."""
    workflows: tuple[WorkflowView, ...]
    """Of the machine, as the API server has just told, and those of others that name its agent."""


# Structs, not tuples: an empty tuple is false, and one step would equal another.
class Hold(msgspec.Struct, frozen=True):
    """Wait: a word for programs, and a sentence for people."""

    reason: str
    message: str


class CloseNetboot(msgspec.Struct, frozen=True):
    """Let the machine boot from the network no more."""


class Remove(msgspec.Struct, frozen=True):
    """Delete this Workflow, given its uid and resourceVersion."""

    workflow: WorkflowView


class Halt(msgspec.Struct, frozen=True):
    """Take this Workflow from its agent."""

    workflow: WorkflowView


class Leave(msgspec.Struct, frozen=True):
    """Remove all that is left, and write that the machine is in the new cluster."""


Step = Hold | CloseNetboot | Remove | Halt | Leave


def next_step(seen: Leaving) -> Step:
    """Return the one thing to do now."""
    moving = seen.machine.moving
    assert moving is not None
    if obstacle := _obstacle(seen, moving):
        return obstacle
    if seen.netboot:
        return CloseNetboot()
    for workflow in seen.workflows:
        if workflow.provision:
            # Nothing is active on the machine, so whatever runs there is nothing that anybody still waits for.
            fate = fate_of(workflow, is_known=True, has_ended=True, is_leaving=True)
            return Halt(workflow) if fate is Fate.HALT else Remove(workflow)
    return Leave()


def _obstacle(seen: Leaving, moving: Moving) -> Hold | None:
    if lock := seen.machine.spec.locked:
        return Hold("MachineLocked", f"{lock.by} locked the machine: {lock.reason}")
    if seen.target is None:
        return Hold("ClusterGone", f"There is no cluster {moving.to} any more. Move the machine to the one it is in.")
    if not seen.target.reachable:
        reason = f": {seen.target.reason}" if seen.target.reason else ""
        return Hold("ClusterUnreachable", f"No replica reaches cluster {moving.to}{reason}")
    for workflow in seen.workflows:
        if not workflow.provision and not workflow.staged and not workflow.terminal:
            state = workflow.state or "about to start"
            return Hold("MachineBusy", f"Workflow {workflow.name}, which is not Dragonfly's, is {state}.")
    return None


class Departures:
    """Carries the steps out, for the machines of one cluster."""

    def __init__(
        self,
        cluster: str,
        namespace: str,
        *,
        hardware: HardwareLoop,
        leftovers: Leftovers,
        foreign: Callable[[Machine], list[WorkflowView]],
        now: Callable[[], datetime],
    ) -> None:
        """Make it.

        Args:
            cluster: the one that machines are taken out of.
            namespace: Tinkerbell's.
            hardware: what knows of the machine's Hardware, BMC and Secret.
            leftovers: what removes and stops Workflows.
            foreign: tells the Workflows of a machine's agent that the label would not find.
            now: the time.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._hardware = hardware
        self._leftovers = leftovers
        self._foreign = foreign
        self._now = now

    async def advance(self, fence: Fence, machine: Machine, target: ClusterReach | None) -> Hold | None:
        """Do all that can be done but the last; None once nothing but `Leave` is left to do.

        Raises:
            NotOwner: the claim is gone.
            KubeError: look again after a back-off.
        """
        for _ in range(_STEPS):
            seen = Leaving(
                machine,
                target,
                await self._hardware.allows_netboot(fence, machine),
                tuple(await self._workflows(fence, machine)),
            )
            step = next_step(seen)
            match step:
                case Hold():
                    return step
                case Leave():
                    return None
                case CloseNetboot():
                    await self._hardware.close_netboot(fence, machine)
                case Halt(workflow):
                    await self._leftovers.carry_out(fence, workflow, Fate.HALT)
                case Remove(workflow):
                    await self._leftovers.carry_out(fence, workflow, Fate.REMOVE)
            _log.info("machine.leaving", machine=machine.name, cluster=self._cluster, step=type(step).__name__)
        raise StuckError(f"the move of {machine.name}")

    async def leave(
        self, fence: Fence, machine: Machine, revision: int, observed: Observed, observed_revision: int
    ) -> int:
        """Write that the machine is in its new cluster; return the revision.

        Args:
            revision: the machine's mod_revision, under which all was removed.
            observed_revision: that of `observed`, 0 if there is none.

        Raises:
            Conflict: something was asked of the machine meanwhile.
        """
        moving, now = machine.moving, self._now()
        assert moving is not None
        changed = moved(machine, moving.to, now)
        seen = msgspec.structs.replace(
            observed, power="unknown", conditions=_conditions(self._cluster, moving, now), observed_at=now
        )
        key, seen_key = keys.machine(machine.name), keys.observed(machine.name)
        written = await fence.commit(
            Put(key, encode(changed)),
            Put(seen_key, encode(seen)),
            given=[
                Unchanged(key, revision),
                Unchanged(seen_key, observed_revision),
                Absent(keys.active(machine.name)),
                Absent(keys.power(machine.name)),
            ],
        )
        _log.info("machine.moved", machine=machine.name, cluster=moving.to, former=self._cluster)
        return written

    async def _workflows(self, fence: Fence, machine: Machine) -> list[WorkflowView]:
        listed = await fence.list(WORKFLOW, self._namespace, label_selector=f"{MACHINE}={machine.name}")
        found = [workflow_view(item) for item in listed.items]
        known = {workflow.uid for workflow in found}
        others = (other for other in self._foreign(machine) if not other.provision and other.uid not in known)
        return [*found, *others]


def held_up(machine: Machine, hold: Hold, now: datetime) -> Condition:
    """What a machine shows whose move waits."""
    assert machine.moving is not None
    message = f"The move to cluster {machine.moving.to} waits: {hold.message}"
    return Condition(type=MOVED, status="False", reason=hold.reason, message=message, since=now)


def without_hold(observed: Observed) -> Observed:
    """Return what is observed of a machine that is not being moved: what a move waited for says nothing any more."""
    kept = tuple(found for found in observed.conditions if (found.type, found.status) != (MOVED, "False"))
    return observed if len(kept) == len(observed.conditions) else msgspec.structs.replace(observed, conditions=kept)


def _conditions(former: str, moving: Moving, now: datetime) -> tuple[Condition, ...]:
    """What the machine shows until its new owner has looked at it; what the old cluster said of it says nothing now."""
    message = f"{moving.by} moved the machine from cluster {former} to {moving.to}."
    told = Condition(type=MOVED, status="True", reason="Moved", message=message, since=now)
    awaited = not_synced("Moved", f"No replica has made its objects in cluster {moving.to} yet.", now)
    return with_condition((told,), awaited)
