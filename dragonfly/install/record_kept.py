"""The record of the installation in the cluster: looked at, and replaced by who has read what it replaces."""

from dragonfly.install.cluster import Cluster, Say
from dragonfly.install.execution import StepFailed
from dragonfly.install.recorded import RECORD, Seen, text_of
from dragonfly.install.steps import KeepRecord


def seen(cluster: Cluster) -> Seen:
    """Return what the cluster tells of its installation, and who is in it.

    Raises:
        StepFailed: the API server does not answer.
    """
    return Seen(text_of(cluster.get(RECORD)), cluster.node_names())


def keep(cluster: Cluster, action: KeepRecord, say: Say) -> str:
    """Replace the record that the plan was made from, and return the new one's text.

    Raises:
        StepFailed: it is another one by now, or the API server refuses it.
    """
    standing = cluster.get(RECORD)
    found, new = text_of(standing), text_of(action.object)
    if action.before is not None and found not in {action.before, new}:
        raise StepFailed(
            "another server has changed the installation meanwhile", "Said again, it takes up what that made of it."
        )
    metadata = dict(action.object["metadata"])
    if standing is not None:  # or somebody may come in between
        metadata["resourceVersion"] = standing["metadata"]["resourceVersion"]
    cluster.apply([{**action.object, "metadata": metadata}], say)
    return new
