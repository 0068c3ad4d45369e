"""Whether a Workflow is as it was at an earlier time. Pure.

A cluster whose etcd is put back from a backup has its objects of then, with their uids and resourceVersions of then:
one that was armed may be staged again, and one that had begun may wait for its agent. What Dragonfly knows of it is in
etcd of its own, and does not go back: `arming`, the mark that it was seen armed, and what the machine has reported.

That a Workflow was staged again by hand looks the same, and means the same: it may have run.
"""

from typing import Final

from dragonfly.kube.resources import is_older
from dragonfly.kube.tinkerbell import WorkflowView
from dragonfly.model.provision import Problem, Provision

_REWOUND: Final = "WorkflowRewound"


def is_rewound(provision: Provision, workflow: WorkflowView, *, seen_armed: bool) -> bool:
    """Whether `workflow`, if it is what the cluster has now, is as it was before something that happened to it.

    Args:
        provision: what etcd has of it.
        workflow: the Workflow under its name.
        seen_armed: this replica itself has seen it armed.
    """
    arming = provision.arming
    if arming is None or workflow.uid != arming.uid or workflow.terminal:
        return False
    if workflow.staged:
        was_armed = arming.armed or seen_armed or _has_begun(provision)
        return was_armed or is_older(workflow.resource_version, arming.resource_version)
    return _has_lost_progress(provision, workflow)


def rewound(workflow: WorkflowView) -> Problem:
    """Return what people are told of it."""
    found = "not armed" if workflow.staged else "not as far as it was"
    message = (
        f"Its Workflow was armed, and is {found} any more, as after a restore of the cluster from a backup. "
        "It may have run, so it is not armed again, nor left to run."
    )
    return Problem(_REWOUND, message)


def _has_begun(provision: Provision) -> bool:
    """Whether Tinkerbell or the machine has told what only follows the arming."""
    return provision.status.running_at is not None or bool(provision.status.actions)


def _has_lost_progress(provision: Provision, workflow: WorkflowView) -> bool:
    """Whether the machine is to begin again what it has reported: in one history neither is ever taken back."""
    status = provision.status
    if status.running_at is not None and not workflow.served:
        return True
    now = [action.state for action in workflow.actions]
    done = [index for index, action in enumerate(status.actions) if action.state == "Succeeded"]
    return any(index >= len(now) or now[index] != "Succeeded" for index in done)
