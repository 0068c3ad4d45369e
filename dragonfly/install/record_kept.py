"""The record of the installation in the cluster: looked at, and replaced by who has read what it replaces."""

from dragonfly.install.cluster import Cluster, Say
from dragonfly.install.execution import RecordChanged, StepFailed
from dragonfly.install.journal import Journal
from dragonfly.install.recorded import RECORD, RECORD_STEP, Record, Seen, parsed, text_of
from dragonfly.install.steps import KeepRecord


def seen(cluster: Cluster) -> Seen:
    """Return what the cluster tells of its installation, and who is in it.

    Raises:
        StepFailed: the API server does not answer.
    """
    return Seen(text_of(cluster.get(RECORD)), cluster.node_names())


def anothers(seen: Seen, journal: Journal) -> Record | None:
    """Return the record that stands, if another server has made it; None where what this host was told counts.

    That is so while the record is the one that this host made last, or the one on top of which it was told what it has
    not carried out to the end; and before it has made any.

    Raises:
        UnknownRecord: as `parsed`.
    """
    made, told_on = made_here(journal), journal.told_on()
    if not seen.text or seen.text in {made, told_on}:
        return None
    if made is None and told_on is None and journal.stage().state != "installed":
        return None
    return parsed(seen.text)


def made_here(journal: Journal) -> str | None:
    """Return the text of the record that this host made last; None if it stands by none."""
    step = journal.records().get(RECORD_STEP)
    return step.proof if step and step.state == "done" else None


def keep(cluster: Cluster, action: KeepRecord, say: Say) -> str:
    """Replace the record that the plan was made from, and return the new one's text.

    Raises:
        RecordChanged: it is another one by now.
        StepFailed: the API server refuses it, or does not answer.
    """
    now = cluster.get(RECORD)
    found, new = text_of(now), text_of(action.object)
    if action.before is not None and found not in {action.before, new}:
        raise RecordChanged
    metadata = dict(action.object["metadata"])
    if now is not None:  # or somebody may come in between
        metadata["resourceVersion"] = now["metadata"]["resourceVersion"]
    try:
        cluster.apply([{**action.object, "metadata": metadata}], say)
    except StepFailed as error:
        if text_of(cluster.get(RECORD)) != found:
            raise RecordChanged from error
        raise
    return new
