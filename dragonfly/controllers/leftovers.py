"""What is in a cluster of a machine's past, and what becomes of it.

A Workflow whose provision has its result must never run (again): a cluster that comes back from a backup, or after the
machine was moved out of it, may hold one that is armed. Unserved it is removed, which proves that it never will be
served; else it is taken from its agent. What it is known by is the provision's own record, for another swarm may work
in the same namespace: without one nothing is touched, unless the machine itself leaves.
"""

from collections.abc import Callable
from enum import Enum

import structlog

from dragonfly.controllers.fence import Fence, Precondition
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.steps import removable
from dragonfly.controllers.twins import Twins
from dragonfly.kube.errors import NotFound
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.resources import WORKFLOW, Ref
from dragonfly.kube.tinkerbell import WorkflowView, halting, is_managed
from dragonfly.model.machine import Machine
from dragonfly.model.provision import Provision

_log = structlog.get_logger(__name__)


class Fate(Enum):
    """What becomes of a Workflow of a machine on which nothing is being provisioned."""

    STAY = "stay"
    REMOVE = "remove"
    HALT = "halt"


def fate_of(workflow: WorkflowView, *, is_known: bool, has_ended: bool, is_leaving: bool) -> Fate:
    """Decide; pure.

    Args:
        workflow: one of Dragonfly's.
        is_known: etcd has a record of its provision.
        has_ended: its provision has its result.
        is_leaving: the machine is leaving the cluster, so that what it has there goes.
    """
    if not (is_known or is_leaving):
        return Fate.STAY
    if workflow.staged or (has_ended and removable(workflow)):
        return Fate.REMOVE
    if workflow.terminal or workflow.halted:
        if has_ended and workflow.state != "SUCCESS" and workflow.agent_id:
            # An agent's report could bring it back to life.
            return Fate.HALT
        return Fate.REMOVE if is_leaving else Fate.STAY
    return Fate.HALT if has_ended else Fate.STAY


class Leftovers:
    """Stops and removes them, in one cluster."""

    def __init__(
        self,
        cluster: str,
        namespace: str,
        *,
        twins: Twins,
        hardware: HardwareLoop,
        provision: Callable[[str, str], Provision | None],
        note: Callable[[Note], None],
    ) -> None:
        """Make it.

        Args:
            cluster: which one.
            namespace: Tinkerbell's.
            twins: what is in it.
            hardware: what knows of a machine's Hardware, BMC and Secret.
            provision: returns the record of a machine's provision; None if there is none.
            note: takes what a kubectl user should see.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._twins = twins
        self._hardware = hardware
        self._provision = provision
        self._note = note

    async def sweep(self, fence: Fence, machine: Machine) -> list[str]:
        """Remove what never ran and never may of a machine at rest, and stop what has had its time.

        Returns:
            For each Workflow that might have run again, a sentence for people.
        """
        told = []
        for workflow in self._twins.workflows_of(machine.name, machine.agent_id):
            if not workflow.provision:
                continue
            found = self._provision(workflow.machine, workflow.provision) if workflow.machine else None
            fate = fate_of(
                workflow,
                is_known=found is not None,
                has_ended=found is not None and found.ended,
                is_leaving=machine.deleting_since is not None,
            )
            if fate is Fate.STAY:
                continue
            is_armed = not (workflow.staged or workflow.terminal or workflow.halted)
            await self.carry_out(fence, workflow, fate)
            if is_armed:
                told.append(self._told(machine.name, workflow, fate))
        return told

    async def clear(self, fence: Fence, name: str, machine: Machine | None) -> None:
        """Remove what has come up here of a machine that is not in this cluster any more.

        Args:
            name: the machine's.
            machine: None if it was deleted.
        """
        for workflow in self._twins.workflows_of(name, name):
            if workflow.machine != name or not self._is_of_the_past(workflow):
                continue
            fate = fate_of(workflow, is_known=True, has_ended=True, is_leaving=True)
            await self.carry_out(fence, workflow, fate)
            self._told(name, workflow, fate)
        if machine is not None and self._is_former(machine):
            _log.warning("machine.leftover_removed", machine=name, cluster=self._cluster)
            await self._hardware.remove(fence, machine)

    def _is_former(self, machine: Machine) -> bool:
        """Whether there is a Hardware of the machine that it had before it was moved, known by its agent too."""
        live = self._twins.hardware.store.get(machine.name)
        if live is None or self._cluster not in machine.formerly or not is_managed(live):
            return False
        return bool(live.get("spec", {}).get("agentID") == machine.agent_id)

    def _is_of_the_past(self, workflow: WorkflowView) -> bool:
        """Whether it belongs to a provision of this swarm's that can't be under way here."""
        if not workflow.provision:
            return False
        found = self._provision(workflow.machine, workflow.provision)
        if found is None or found.status.workflow is None:
            return False
        return found.ended or found.status.workflow.cluster != self._cluster

    async def carry_out(self, fence: Fence, workflow: WorkflowView, fate: Fate) -> None:
        """Remove the very Workflow that was decided on, or take it from its agent; one that is gone is done with."""
        ref = Ref(WORKFLOW, self._namespace, workflow.name)
        given = Precondition(workflow.uid, workflow.resource_version)
        try:
            if fate is Fate.HALT:
                self._twins.workflows.observe(
                    await fence.patch(ref, halting(workflow), given=given, subresource="status")
                )
            else:
                await fence.delete(ref, given=given)
        except NotFound:
            return
        _log.info(
            "workflow.swept",
            machine=workflow.machine,
            workflow=workflow.name,
            state=workflow.state or "staged",
            fate=fate.value,
        )

    def _told(self, machine: str, workflow: WorkflowView, fate: Fate) -> str:
        """Tell kubectl users and the log; return the sentence."""
        done = (
            "it was removed before any agent was served it"
            if fate is Fate.REMOVE and not workflow.served
            else "it was taken from its agent, which may have begun it again"
        )
        sentence = (
            f"Workflow {workflow.name} of provision {workflow.provision}, which has ended, was found in cluster "
            f"{self._cluster} as {workflow.state or 'about to start'}, as after a restore from a backup: {done}."
        )
        _log.warning("workflow.of_the_past", machine=machine, workflow=workflow.name, state=workflow.state)
        hardware = self._twins.hardware.store.get(machine)
        if hardware is not None:
            self._note(Note(Subject.of(hardware), "Warning", "OldWorkflowStopped", sentence))
        return sentence
