"""Everything that a controller may write for a machine, fenced by the claim on its shard (P4).

Each write first asks whether this replica may still act, by its own clock. In etcd the transaction then compares the
claim's create_revision; in Kubernetes the write creates a fixed name or carries the uid and resourceVersion that it
was computed from, and says under which epoch it was made. A write to Kubernetes may wait for its turn, or for a slow
API server; it is given up when the lease that it began under may have ended (P10).

Where the admission policy of `kube.policy` is installed, the API server refuses a write under a lower epoch than the
stored one. Then somebody else owns the shard, or etcd's revisions have begun anew: etcd is asked which.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from dragonfly.controllers.around import Gauges
from dragonfly.kube import errors
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.policy import REPLACES, is_fence
from dragonfly.kube.port import MAY_SEND, Kube, Listing
from dragonfly.kube.resources import Object, Ref, Resource, ref_of
from dragonfly.kube.tinkerbell import EPOCH
from dragonfly.store import keys
from dragonfly.store.port import Store
from dragonfly.store.values import Claimed, Condition, Write
from dragonfly.swarm.shards import ShardId

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_BREATH: Final = 0.01
"""Seconds between two looks at a lease that is just about to end."""

_LONGEST: Final = 60.0

OF_NO_OBJECT: Final = "1"
"""A resourceVersion that no object can have: etcd's first revision is empty.

Server-side apply creates where there is no object and compares where there is one, so an apply that carries this can
only create; without it, one that arrives late would overwrite what the next owner has written (API server 1.36).
"""


_REPLACED: Final = (
    "It was written under an epoch of another history of etcd, which was replaced. That happens once for each object "
    "after etcd was restored or set up anew. If it happens again and again, two swarms drive this machine: stop one."
)


class NotOwner(Exception):
    """This replica may not act on the shard now. Leave the machine to its owner."""


class Overtaken(NotOwner):
    """Another replica has claimed the shard, though this one has not seen it yet: never act under `epoch` again."""

    def __init__(self, shard: ShardId, epoch: int) -> None:
        super().__init__(f"shard {shard.cluster}/{shard.shard} at epoch {epoch} is another's by now")
        self.shard = shard
        self.epoch = epoch


class TooLate(Exception):
    """What a write was decided from is too old to be believed; this try was not sent. Look again."""


class Precondition(NamedTuple):
    """The very object that a write was computed from."""

    uid: str
    resource_version: str


class Fence:
    """Writes for one machine under one epoch."""

    def __init__(
        self,
        store: Store,
        kube: Kube,
        shard: ShardId,
        epoch: int,
        current: Callable[[ShardId], int | None],
        *,
        remaining: Callable[[], float] = lambda: float("inf"),
        holds: Callable[[ShardId], int | None] | None = None,
        gauges: Gauges | None = None,
        note: Callable[[Note], None] = lambda _: None,
    ) -> None:
        """Make it.

        Args:
            store: where the swarm's state is.
            kube: the machine's cluster.
            shard: the machine's shard.
            epoch: the claim under which the work began.
            current: tells under which epoch this replica may act now, or None.
            remaining: tells for how many seconds the replica's lease cannot have ended.
            holds: tells under which epoch what was sent may be waited for: as `current`, which it is if None, but also
                while the shard is being given up.
            gauges: told what the API server refuses.
            note: takes what a kubectl user should see.
        """
        self._note = note
        self._gauges = gauges
        self._remaining = remaining
        self._store = store
        self._kube = kube
        self._shard = shard
        self._current = current
        self._holds = holds or current
        self.epoch = epoch

    def check(self) -> None:
        """Raise NotOwner unless this replica may act under this epoch now."""
        self._check(self._current)

    async def commit(self, *writes: Write, given: Sequence[Condition]) -> int:
        """As `Store.commit`, if the claim is still the one that the work began under."""
        self.check()
        return await self._store.commit(*writes, given=[Claimed(keys.claim(*self._shard), self.epoch), *given])

    async def create(self, obj: Object) -> Object:
        return await self._fenced(lambda: self._kube.create(obj))

    async def apply(self, obj: Object, *, given: Precondition | None, force: bool) -> Object:
        """As `Kube.apply`; `given` is what `obj` was compared with, None where there was nothing: then it only creates.

        Raises:
            Conflict: there is another object than `given`, or one where there was none.
            Overtaken: the admission policy refused it, and so does etcd.
        """
        stamped = _with_precondition(obj, given or Precondition("", OF_NO_OBJECT))
        return await self._admitted(
            lambda: ref_of(obj), lambda more: self._kube.apply(_annotated(stamped, more), force=force)
        )

    async def patch(
        self,
        ref: Ref,
        body: dict[str, Any],
        *,
        given: Precondition,
        subresource: str = "",
        still: Callable[[], bool] = lambda: True,
    ) -> Object:
        """As `Kube.patch`; `still` says, in the step that sends, whether what it was decided from holds.

        Raises:
            Overtaken: as `apply` does.
            TooLate: it does not hold any more.
        """
        metadata = {"annotations": {EPOCH: str(self.epoch)}}
        stamped = _with_precondition({"metadata": metadata, **body}, given)
        return await self._admitted(
            lambda: ref,
            lambda more: self._kube.patch(ref, _annotated(stamped, more), subresource=subresource),
            still,
        )

    async def delete(self, ref: Ref, *, given: Precondition) -> None:
        await self._fenced(lambda: self._kube.delete(ref, uid=given.uid, resource_version=given.resource_version))

    async def get(self, ref: Ref) -> Object:
        return await self._kube.get(ref)

    async def list(self, resource: Resource, namespace: str, *, label_selector: str) -> Listing:
        return await self._kube.list(resource, namespace, label_selector=label_selector)

    async def _admitted(
        self,
        ref: Callable[[], Ref],
        send: Callable[[dict[str, str]], Awaitable[Object]],
        still: Callable[[], bool] = lambda: True,
    ) -> Object:
        """Carry `send` out; refused by the policy, do so once more only with etcd's word that this is the owner."""
        try:
            return await self._fenced(lambda: send({}), still)
        except errors.Forbidden as error:
            if not is_fence(error.policy):
                raise
            _log.warning("fence.refused", epoch=self.epoch, shard=self._shard.shard, error=error.message)
        if self._gauges is not None:
            self._gauges.refused(self._shard.cluster)
        replaced = await self._epoch_of_another_history(ref())
        written = await self._fenced(lambda: send({REPLACES: str(replaced)}), still)
        _log.warning("fence.epoch_replaced", object=str(ref()), replaced=replaced, epoch=self.epoch)
        self._note(Note(Subject.of(written), "Warning", "EpochReplaced", _REPLACED))
        if self._gauges is not None:
            self._gauges.replaced(self._shard.cluster)
        return written

    async def _epoch_of_another_history(self, ref: Ref) -> int:
        """Return the epoch that the object was written under, once it is certain that it is not of this etcd's history.

        The object is read first. Were its higher epoch that of a later claim of this shard, then etcd, asked after
        that, could not say that the claim of this epoch is there.

        Raises:
            Overtaken: it is another claim that is there, or none.
            Conflict: the object is not any more what was refused.
        """
        stored = _epoch_of(await self._kube.get(ref))
        claim, _ = await self._store.read(keys.claim(*self._shard))
        if claim is None or claim.create_revision != self.epoch:
            raise Overtaken(self._shard, self.epoch)
        if stored <= self.epoch:
            raise errors.Conflict(f"{ref} was written under epoch {stored} meanwhile", reason="Conflict")
        return stored

    async def _fenced(self, write: Callable[[], Awaitable[T]], still: Callable[[], bool] = lambda: True) -> T:
        """Carry `write` out; give it up at the moment when the claim may be somebody else's.

        Given up it may have happened, or still happen, like any write without an answer: whoever owns the shard next
        reads it back. So while the claim is held it is waited for, even if the shard is being given up meanwhile: a
        claim that was deleted under a write that is on its way would have that arrive after the next owner's first.
        """
        self.check()
        task = asyncio.ensure_future(self._checked(write, still))
        try:
            while not task.done():
                self._check(self._holds)
                await asyncio.wait({task}, timeout=min(max(self._remaining(), _BREATH), _LONGEST))
        finally:
            task.cancel()
        return await task

    def _check(self, current: Callable[[ShardId], int | None]) -> None:
        if current(self._shard) != self.epoch:
            raise NotOwner(f"shard {self._shard.cluster}/{self._shard.shard} at epoch {self.epoch}")

    async def _checked(self, write: Callable[[], Awaitable[T]], still: Callable[[], bool]) -> T:
        """Ask first, for a task begins later than it is made, and have it asked again in the very step that sends."""

        def ask() -> None:
            self.check()
            if not still():
                raise TooLate

        ask()
        MAY_SEND.set(ask)  # in this task's context only
        return await write()


async def together(*writes: Coroutine[Any, Any, None]) -> None:
    """Make writes of which none needs another; once all have ended, raise a failure, NotOwner before any other."""
    ends = await asyncio.gather(*writes, return_exceptions=True)
    failures = sorted((end for end in ends if end is not None), key=lambda end: not isinstance(end, NotOwner))
    for other in failures[1:]:
        _log.info("fence.failed_too", error=str(other))
    if failures:
        raise failures[0]


def precondition_of(obj: Object) -> Precondition:
    return Precondition(obj["metadata"]["uid"], obj["metadata"]["resourceVersion"])


def _with_precondition(obj: Object, given: Precondition) -> Object:
    seen = {"uid": given.uid, "resourceVersion": given.resource_version}
    return {**obj, "metadata": obj["metadata"] | {name: value for name, value in seen.items() if value}}


def _annotated(obj: Object, annotations: dict[str, str]) -> Object:
    if not annotations:
        return obj
    metadata = obj["metadata"]
    return {**obj, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), **annotations}}}


def _epoch_of(obj: Object) -> int:
    """Return the epoch that the object was last written under; 0 if that cannot be told."""
    text = obj["metadata"].get("annotations", {}).get(EPOCH, "")
    return int(text) if text.isdecimal() else 0
