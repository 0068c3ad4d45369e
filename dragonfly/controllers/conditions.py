"""The conditions of a machine: how they change, and the ones that the controllers set. Pure."""

from collections.abc import Iterable
from datetime import datetime

from dragonfly.model.machine import Condition

SYNCED = "Synced"
"""Whether the machine's objects in the cluster are what the machine says."""


MOVED = "Moved"
"""True of a machine that came from another cluster; False of one whose move waits for something."""

OLD_WORKFLOW = "OldWorkflow"
"""A Workflow of an ended provision was found where it might have run again, and was stopped."""


def synced(now: datetime) -> Condition:
    return Condition(type=SYNCED, status="True", reason="AsWanted", since=now)


def not_synced(reason: str, message: str, now: datetime) -> Condition:
    return Condition(type=SYNCED, status="False", reason=reason, message=message, since=now)


def old_workflow(sentence: str, now: datetime) -> Condition:
    return Condition(type=OLD_WORKFLOW, status="True", reason="Stopped", message=sentence, since=now)


def with_condition(conditions: Iterable[Condition], new: Condition) -> tuple[Condition, ...]:
    """Return the conditions with `new` in the place of the one of its type; `since` stays while the status does.

    Equal but for the time means the very same condition, so that what did not change is not written again.
    """
    kept = list(conditions)
    for index, old in enumerate(kept):
        if old.type == new.type:
            kept[index] = _merged(old, new)
            return tuple(kept)
    return (*kept, new)


def _merged(old: Condition, new: Condition) -> Condition:
    since = old.since if old.status == new.status else new.since
    return Condition(type=new.type, status=new.status, reason=new.reason, message=new.message, since=since)
