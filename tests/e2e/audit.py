"""What the API server's own audit log says that Dragonfly did to Workflows.

The log is the witness that nobody can have influenced: one JSON line for each request, with the bodies of requests and
responses for Tinkerbell's groups. A resourceVersion orders the writes of one object, whatever the order of the lines.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

OURS: Final = "system:serviceaccount:tinkerbell:dragonfly"
_TINKERBELL: Final = "tinkerbell.org"
_EPOCH: Final = "dragonfly.io/epoch"
_MACHINE: Final = "dragonfly.io/machine"
_SECRET: Final = "-bmc"
"""What the name of a machine's Secret ends in."""
_ENDED: Final = frozenset({"SUCCESS", "FAILED", "TIMEOUT"})


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Reference(msgspec.Struct, frozen=True, rename="camel"):
    resource: str = ""
    name: str = ""
    api_group: str = ""
    subresource: str = ""


class _Status(msgspec.Struct, frozen=True):
    code: int = 0


class _Line(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of an `audit.k8s.io/v1` Event."""

    verb: str
    request_received_timestamp: datetime
    stage_timestamp: datetime
    stage: str = ""
    user: _User = _User()
    object_ref: _Reference = _Reference()
    response_status: _Status = _Status()
    request_object: Any = None
    response_object: Any = None


class Write(NamedTuple):
    """A request to change a Workflow."""

    workflow: str
    verb: str
    by: str
    subresource: str
    asked_at: datetime
    answered_at: datetime
    code: int
    sent: dict[str, Any]
    became: dict[str, Any]
    """The Workflow afterwards; of a delete, the API server's Status."""

    @property
    def is_ours(self) -> bool:
        return self.by == OURS

    @property
    def is_done(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_lost(self) -> bool:
        """Nobody knows by the answer whether it happened: the client was killed while it waited for it."""
        return self.code >= 500

    @property
    def arms(self) -> bool:
        """Whether it asks for `spec.disabled` to be false: from then on an agent may be served."""
        is_main = self.verb in {"patch", "update"} and not self.subresource
        return is_main and self.is_ours and _at(self.sent, "spec", "disabled") is False

    @property
    def uid(self) -> str:
        """Of the Workflow that was changed."""
        return _at(self.became, "metadata", "uid") or _at(self.became, "details", "uid") or ""

    @property
    def version(self) -> int:
        return int(_at(self.became, "metadata", "resourceVersion") or 0)


class Stamped(NamedTuple):
    """A write of Dragonfly's to an object of Tinkerbell's that was carried out, and the epoch that it came with."""

    object: str
    """`resource/name`."""
    machine: str
    """Whose it is; empty for a Template."""
    uid: str
    version: int
    """The object's resourceVersion afterwards; the same as before if the write changed nothing."""
    epoch: int
    asked_at: datetime


class Unmarked(NamedTuple):
    """A write of Dragonfly's that was carried out and tells no epoch: a deletion, or one to a Secret, whose body is not
    logged. Its name alone tells whose it is."""

    object: str
    """`resource/name`."""
    verb: str
    machine: str
    asked_at: datetime


class RunningDeleted(NamedTuple):
    """A Workflow was deleted that an agent had been given an action of, and that had not ended."""

    workflow: str
    state: str
    status: dict[str, Any]


class Audit:
    """The requests to change Workflows that were carried out, or may have been, in the order of the log."""

    def __init__(self, writes: Iterable[Write]) -> None:
        self._by_name: dict[str, list[Write]] = {}
        for write in writes:
            self._by_name.setdefault(write.workflow, []).append(write)

    def creates(self, workflow: str) -> list[Write]:
        """Each object of this name that Dragonfly made, by what made it.

        A create whose answer was lost is known by an object that nobody else made.
        """
        made = [write for write in self._done(workflow) if write.verb == "create"]
        unexplained = {write.uid for write in self._done(workflow)} - {write.uid for write in made}
        lost = [write for write in self._lost(workflow) if write.verb == "create"]
        return [*(write for write in made if write.is_ours), *_matching(lost, len(unexplained), workflow)]

    def armings(self, workflow: str) -> list[Write]:
        """What armed the Workflow of this name, each time that it was done.

        An arming whose answer was lost is known by a Workflow that is seen armed before any other arming.
        """
        done = [write for write in self._done(workflow) if write.arms]
        seen = [w.version for w in self._done(workflow) if w.version and _at(w.became, "spec", "disabled") is False]
        unexplained = bool(seen) and (not done or min(seen) < min(write.version for write in done))
        lost = [write for write in self._lost(workflow) if write.arms]
        return [*done, *_matching(lost, int(unexplained), workflow)]

    def deletes(self, workflow: str) -> list[Write]:
        return [write for write in self._done(workflow) if write.verb == "delete" and write.is_ours]

    def running_deleted(self) -> list[RunningDeleted]:
        """Every Workflow that Dragonfly deleted while it ran, which no cancellation and no crash may ever do."""
        return list(self._running_deleted())

    def _done(self, workflow: str) -> list[Write]:
        return [write for write in self._by_name.get(workflow, []) if write.is_done]

    def _lost(self, workflow: str) -> list[Write]:
        return [write for write in self._by_name.get(workflow, []) if write.is_lost and write.is_ours]

    def _running_deleted(self) -> Iterator[RunningDeleted]:
        for workflow, writes in self._by_name.items():
            for write in writes:
                if write.verb == "delete" and write.is_ours and _runs(status := self._status_at(write)):
                    yield RunningDeleted(workflow, status.get("state", ""), status)

    def _status_at(self, delete: Write) -> dict[str, Any]:
        """The status of the Workflow that was deleted: no write of it can have come after that.

        If the answer was lost, the one that it was to be deleted with, for that is the precondition.
        """
        uid = delete.uid or _at(delete.sent, "preconditions", "uid")
        versions = [write for write in self._done(delete.workflow) if write.version and write.uid == uid]
        if delete.is_lost:
            wanted = int(_at(delete.sent, "preconditions", "resourceVersion") or 0)
            versions = [write for write in versions if write.version == wanted]
        if not versions:
            raise LookupError(f"the log does not know the Workflow {delete.workflow} of uid {uid} that was deleted")
        return max(versions, key=lambda write: write.version).became.get("status") or {}


def read_audit(path: Path) -> Audit:
    """Read the log as it is now; a line that is being written is not looked at yet."""
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return audit_of(complete.splitlines())


def read_stamped(path: Path) -> list[Stamped]:
    """Every write of Dragonfly's that tells its epoch, in the order of the log."""
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return stamped_of(complete.splitlines())


def stamped_of(lines: Iterable[bytes]) -> list[Stamped]:
    decoder = msgspec.json.Decoder(_Line)
    return [stamped for line in map(decoder.decode, lines) if (stamped := _stamped(line))]


def read_unmarked(path: Path, *, has_gaps: bool = False) -> list[Unmarked]:
    """Every write of Dragonfly's that tells no epoch, in the order of the log; of Templates nothing is deleted."""
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return unmarked_of(complete.splitlines(), has_gaps=has_gaps)


def unmarked_of(lines: Iterable[bytes], *, has_gaps: bool = False) -> list[Unmarked]:
    """As `read_unmarked`.

    Args:
        lines: of the log.
        has_gaps: some are missing, so that it may not tell whose an object was; such a one is left out.

    Raises:
        LookupError: it has none, and does not.
    """
    decoder = msgspec.json.Decoder(_Line)
    decoded = [decoder.decode(line) for line in lines]
    machines = {_object(line): machine for line in decoded if (machine := _label(line))}
    found = [_unmarked(line, machines) for line in decoded if _tells_no_epoch(line)]
    if not has_gaps and (unknown := [write.object for write in found if not write.machine]):
        raise LookupError(f"the log does not know whose these were: {unknown}")
    return [write for write in found if write.machine]


def audit_of(lines: Iterable[bytes]) -> Audit:
    decoder = msgspec.json.Decoder(_Line)
    return Audit(_write(line) for line in map(decoder.decode, lines) if _may_have_changed_a_workflow(line))


def _may_have_changed_a_workflow(line: _Line) -> bool:
    reference = line.object_ref
    is_workflow = (reference.api_group, reference.resource) == (_TINKERBELL, "workflows")
    is_write = line.verb in {"create", "update", "patch", "delete"}
    is_refused = 300 <= line.response_status.code < 500
    return is_workflow and is_write and line.stage == "ResponseComplete" and not is_refused


def _is_done_by_us(line: _Line) -> bool:
    is_done = line.stage == "ResponseComplete" and 200 <= line.response_status.code < 300
    return is_done and line.user.username == OURS


def _tells_no_epoch(line: _Line) -> bool:
    group, resource = line.object_ref.api_group, line.object_ref.resource
    is_secret = (group, resource) == ("", "secrets") and line.verb in {"create", "update", "patch", "delete"}
    return _is_done_by_us(line) and (is_secret or (group.endswith(_TINKERBELL) and line.verb == "delete"))


def _unmarked(line: _Line, machines: Mapping[str, str]) -> Unmarked:
    reference, known = line.object_ref, _object(line)
    if reference.resource in {"hardware", "machines"}:
        machine = reference.name
    elif reference.resource == "secrets":
        machine = reference.name.removesuffix(_SECRET)
    else:
        machine = machines.get(known, "")
    return Unmarked(known, line.verb, machine, line.request_received_timestamp)


def _object(line: _Line) -> str:
    return f"{line.object_ref.resource}/{line.object_ref.name or _at(line.response_object, 'metadata', 'name')}"


def _label(line: _Line) -> str:
    return _at(line.response_object, "metadata", "labels", _MACHINE) or ""


def _stamped(line: _Line) -> Stamped | None:
    is_write = line.verb in {"create", "update", "patch"} and line.object_ref.api_group.endswith(_TINKERBELL)
    if not (is_write and _is_done_by_us(line)):
        return None
    became = line.response_object
    epoch = _at(line.request_object, "metadata", "annotations", _EPOCH)
    return Stamped(
        object=_object(line),
        machine=_label(line),
        uid=_at(became, "metadata", "uid") or "",
        version=int(_at(became, "metadata", "resourceVersion") or 0),
        epoch=int(epoch) if str(epoch).isdecimal() else 0,
        asked_at=line.request_received_timestamp,
    )


def _matching(lost: list[Write], count: int, workflow: str) -> list[Write]:
    if len(lost) < count:
        raise LookupError(f"the Workflow {workflow} was changed by nobody that the log knows")
    return lost[:count]


def _write(line: _Line) -> Write:
    became = line.response_object or {}
    return Write(
        workflow=line.object_ref.name or _at(became, "metadata", "name") or "",
        verb=line.verb,
        by=line.user.username,
        subresource=line.object_ref.subresource,
        asked_at=line.request_received_timestamp,
        answered_at=line.stage_timestamp,
        code=line.response_status.code,
        sent=line.request_object or {},
        became=became,
    )


def _runs(status: dict[str, Any]) -> bool:
    """Whether an agent was given an action and may be given the next one: it has an agent, and has not ended."""
    served = bool(status.get("currentState")) or status.get("state") in {"RUNNING", "POST"}
    return served and bool(status.get("agentID")) and status.get("state", "") not in _ENDED


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document
