"""What must never happen to one provision, looked for at the moments when it would: raises `Broken`."""

from collections.abc import Collection
from datetime import datetime, timedelta

from dragonfly.model.provision import Provision
from tests.unit.controllers.provision_parts import LIMITS, Broken, Record, Workflow


def judge_serving(workflow: Workflow, provision: Provision, armed: Collection[int]) -> None:
    """The agent is about to be given an action."""
    if workflow.by_hand:
        return
    if workflow.uid not in armed:
        raise Broken("P1: served without having been armed")
    if provision.ended:
        raise Broken(f"P1: an action is served after {provision.status.phase}")


def judge_arming(record: Record) -> None:
    """Arming is about to be recorded; etcd has `record`."""
    if record.machine.spec.locked is not None:
        raise Broken("P3: arming of a locked machine is recorded")
    if record.provision.status.cancel is not None or record.provision.status.phase != "Starting":
        raise Broken("arming of a provision that was cancelled or has moved on is recorded")


def judge_armed(record: Record, now: datetime) -> None:
    """The Workflow is armed; etcd has `record`. What was said a moment ago may still be under way."""
    lock, cancel = record.machine.spec.locked, record.provision.status.cancel
    if lock is not None and now >= lock.at + timedelta(seconds=LIMITS.vouched):
        raise Broken("P3: armed although the machine has been locked for long")
    if cancel is not None and now >= cancel.at + timedelta(seconds=LIMITS.vouched):
        raise Broken("P1: armed although it has been cancelled for long")


def judge_result(provision: Provision, succeeded: Collection[int]) -> None:
    """The provision is about to be written; those Workflows succeeded."""
    if provision.status.phase == "Succeeded" and not succeeded:
        raise Broken("Succeeded, but no Workflow did")
