"""Kubernetes Events for what a kubectl user should see beside an object.

Best effort: `note` never waits and never fails. Repetitions become a count on one Event; when more is noted than the
cluster takes, what is new is dropped and counted in `dropped`. So is what has not left when this replica may not write
any more (P10).
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
import structlog

from dragonfly.kube.errors import AlreadyExists, KubeError, NotFound
from dragonfly.kube.port import MAY_SEND, Kube
from dragonfly.kube.resources import EVENT, Object, Ref

_log = structlog.get_logger(__name__)

_COMPONENT: Final = "dragonfly"
_WAITING: Final = 256
_REMEMBERED: Final = 1024
_LONGEST_MESSAGE: Final = 1024
"""The API server refuses longer ones."""


class Subject(NamedTuple):
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> "Subject":
        metadata = obj["metadata"]
        return cls(
            obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"], metadata.get("uid", "")
        )


class Note(NamedTuple):
    """What happened. Equal notes are one Event with a count; so no times and no numbers that change in `message`."""

    subject: Subject
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Tally(msgspec.Struct, frozen=True):
    """How often a note was made, and when."""

    count: int
    first: datetime
    last: datetime

    def plus(self, other: "Tally") -> "Tally":
        return Tally(self.count + other.count, min(self.first, other.first), max(self.last, other.last))


class _MayNotWrite(Exception):
    """It is not this replica's turn to say anything."""


class Recorder:
    """Writes what `note` takes in; `run` is its loop, cancelled by its owner."""

    def __init__(
        self,
        kube: Kube,
        replica: str,
        *,
        may_write: Callable[[], bool],
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make it, not yet running.

        Args:
            kube: the cluster.
            replica: who writes; replicas have Events of their own.
            may_write: whether this replica's lease cannot have ended.
            wall_clock: the time that Events tell.
        """
        self.dropped = 0
        self._may_write = may_write
        self._kube = kube
        self._replica = replica
        self._wall_clock = wall_clock
        self._waiting: OrderedDict[Note, Tally] = OrderedDict()
        self._written: OrderedDict[Note, Tally] = OrderedDict()
        self._something = asyncio.Event()

    def note(self, note: Note) -> None:
        """Remember `note` for writing. Never blocks."""
        if note not in self._waiting and len(self._waiting) >= _WAITING:
            self.dropped += 1
            return
        now = self._wall_clock()
        once = Tally(1, now, now)
        earlier = self._waiting.get(note)
        self._waiting[note] = earlier.plus(once) if earlier else once
        self._something.set()

    async def run(self) -> None:
        """Write what is waiting, until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what is waiting now; before the end of a process, say."""
        while self._waiting:
            await self._write(*self._waiting.popitem(last=False))

    async def _write(self, note: Note, more: Tally) -> None:
        asked = MAY_SEND.set(self._check)  # a write may wait for its turn until the lease has ended
        try:
            await self._add(note, more)
        except (KubeError, _MayNotWrite) as error:
            self.dropped += more.count
            _log.info("kube.event_dropped", subject=note.subject.name, event_reason=note.reason, error=str(error))
        finally:
            MAY_SEND.reset(asked)

    def _check(self) -> None:
        if not self._may_write():
            raise _MayNotWrite("this replica's lease may have ended")

    async def _add(self, note: Note, more: Tally) -> None:
        earlier = self._written.get(note)
        if earlier is None:
            await self._create(note, more)
            return
        total = earlier.plus(more)
        try:
            await self._kube.patch(self._ref(note), _times(total))
        except NotFound:
            # API servers forget Events, after an hour by default.
            await self._create(note, more)
            return
        self._remember(note, total)

    async def _create(self, note: Note, tally: Tally) -> None:
        ref = self._ref(note)
        try:
            await self._kube.create(event(ref, note, tally, self._replica))
        except AlreadyExists:
            # From this replica's life before a restart. The answer to a patch tells its count: Dragonfly has no right
            # to read Events, and needs none.
            stored = await self._kube.patch(ref, {"lastTimestamp": _rfc3339(tally.last)})
            tally = tally.plus(_tally_of(stored))
            await self._kube.patch(ref, _times(tally))
        self._remember(note, tally)

    def _remember(self, note: Note, tally: Tally) -> None:
        self._written[note] = tally
        self._written.move_to_end(note)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    def _ref(self, note: Note) -> Ref:
        """One Event for each note and replica: replicas would overwrite each other's counts."""
        content = "\0".join([*note.subject, note.type, note.reason, note.message, self._replica])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return Ref(EVENT, note.subject.namespace or "default", f"{note.subject.name[:200]}.{digest}")


def event(ref: Ref, note: Note, tally: Tally, replica: str) -> Object:
    """The Event object, in the core API, which `kubectl describe` shows."""
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": ref.name, "namespace": ref.namespace},
        "involvedObject": {
            "apiVersion": note.subject.api_version,
            "kind": note.subject.kind,
            "namespace": note.subject.namespace,
            "name": note.subject.name,
            "uid": note.subject.uid,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message[:_LONGEST_MESSAGE],
        "source": {"component": _COMPONENT, "host": replica},
        "reportingComponent": _COMPONENT,
        "reportingInstance": replica,
        **_times(tally),
    }


def _times(tally: Tally) -> dict[str, Any]:
    return {"count": tally.count, "firstTimestamp": _rfc3339(tally.first), "lastTimestamp": _rfc3339(tally.last)}


def _tally_of(stored: Mapping[str, Any]) -> Tally:
    return Tally(
        int(stored["count"]),
        datetime.fromisoformat(stored["firstTimestamp"]),
        datetime.fromisoformat(stored["lastTimestamp"]),
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
