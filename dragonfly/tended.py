"""One cluster of a replica's: its connection, and all that goes over it, from its registration to its removal.

It has a queue, workers and deadlines of its own, and a task that shares nothing with the others' but the event loop:
what fails, hangs or is set up wrongly in one cluster stays there (P12).
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from dragonfly.controllers.around import Around, Gauges, Place
from dragonfly.controllers.checkup import Examiner, Turns
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.guard import Guard
from dragonfly.kube.channel import DEFAULT_LIMITS, Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Source
from dragonfly.kube.events import Recorder
from dragonfly.kube.measured import MeasuredKube
from dragonfly.model.machine import Machine
from dragonfly.model.values import LOCAL
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.reach import Reach
from dragonfly.swarm.shards import ShardId
from dragonfly.telemetry.metrics import Metrics
from dragonfly.whereabouts import Whereabouts

_log = structlog.get_logger(__name__)

_PATIENCE: Final = 15.0
"""Seconds that what is under way gets to end before a connection is made anew: more than a call's deadline."""

_AGAIN: Final = 5.0
"""Seconds until a cluster's parts are made again after a failure that is a bug."""


class Setup(NamedTuple):
    """What a connection is made of."""

    source: Source | None
    """None if there is none to be had; `trouble` says why."""
    namespace: str
    shards: int
    limits: Limits = DEFAULT_LIMITS
    server: str = ""
    server_side: str = ""
    """A fingerprint of it; empty for `local`."""
    trouble: str = ""

    def is_same_place(self, other: "Setup") -> bool:
        """Whether the one can take over from the other with nothing but its credentials."""
        return self.source is not None and self._replace(source=other.source) == other


class Means(NamedTuple):
    """What every cluster's parts are made with."""

    replica: str
    store: Store
    mirror: Mirror
    dispatch: Dispatch
    examinations: Turns
    metrics: Metrics
    gauges: Gauges
    unseal: Callable[[Machine], str]
    open: Callable[[str, str], str]
    """Opens what was sealed for a place; raises Unsealable."""
    started: datetime
    """When this replica was."""
    in_pod: bool
    """Whether this replica runs in a pod, as Kubernetes says in its environment."""
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]


class Parts:
    """A connection, and all that goes over it."""

    def __init__(self, name: str, setup: Setup, source: Source, means: Means, ownership: Ownership) -> None:
        """Make them, not yet running. In the event loop that will run them."""
        self.connection = Connection(source, setup.limits)
        kube = MeasuredKube(self.connection, means.metrics.kube_calls, name)
        self.kube = kube
        recorder = Recorder(kube, means.replica, may_write=lambda: ownership.remaining() > 0)
        around = Around(means.now, means.monotonic, means.random, means.unseal, means.gauges, recorder.note)
        self._recorder = recorder
        self._whereabouts = Whereabouts(
            name, kube, setup.namespace, server_side=setup.server_side, store=means.store, mirror=means.mirror
        )
        self.controller = ClusterController(
            Place(name, setup.namespace, setup.shards),
            kube=kube,
            store=means.store,
            mirror=means.mirror,
            dispatch=means.dispatch,
            epoch=ownership.epoch,
            around=around,
            remaining=ownership.remaining,
            holds=ownership.holds,
        )

        def has_first_shard() -> bool:
            return ownership.epoch(ShardId(name, 0)) is not None

        self.guard = Guard(
            kube,
            setup.namespace,
            mine=has_first_shard,
            clock=means.monotonic,
            now=means.now,
            changed=ownership.look,
        )
        self.examiner = Examiner(
            kube,
            setup.namespace,
            mine=has_first_shard,
            clock=means.monotonic,
            turns=means.examinations,
            changed=ownership.look,
        )

    @property
    def trouble(self) -> str:
        """Why the cluster is not reached, or not worked on, for people; empty while it is."""
        return self._whereabouts.trouble or self.controller.twins.trouble

    async def run(self) -> None:
        """Work until cancelled, but not where another cluster leads as well; whatever ends one of them ends all."""
        await self._whereabouts.settle()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.controller.run())
            group.create_task(self.guard.run())
            group.create_task(self.examiner.run())
            group.create_task(self._recorder.run())

    async def left(self) -> str:
        """Return once what is known of the cluster is not of the place that its kubeconfig leads to; says why."""
        ends = {
            asyncio.create_task(self.connection.left()): "its kubeconfig leads to another API server now",
            asyncio.create_task(self._whereabouts.lost()): "it was said that it is another one",
        }
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return ends[done.pop()]
        finally:
            for task in ends:
                task.cancel()

    async def quiesce(self, shard: ShardId) -> None:
        """Take up nothing more of the shard, and return once nothing is under way that its claim stands for."""
        await self.controller.quiesce(shard)
        if shard.shard == 0:
            await self.guard.quiesce()


class Tended:
    """One cluster, from its registration to its removal."""

    def __init__(self, name: str, setup: Setup, since: datetime, means: Means, ownership: Ownership) -> None:
        self.name = name
        self.parts: Parts | None = None
        self._setup = setup
        self._means = means
        self._ownership = ownership
        self._changed = asyncio.Event()
        self._told: tuple[datetime | None, str] | None = None
        self.reach = Reach(self._trouble, means.now, since)

    def set_up(self, setup: Setup) -> None:
        """Go on as this says; no effect if it is as it was."""
        if setup == self._setup:
            return
        former, self._setup = self._setup, setup
        if self.parts is not None and setup.source is not None and setup.is_same_place(former):
            _log.info("cluster.credentials_renewed", cluster=self.name)
            self.parts.connection.renew(setup.source)
        else:
            self._changed.set()

    async def run(self) -> None:
        """Be connected as it is set up, until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._work(self._setup)
            except* Exception:
                if self.name == LOCAL:
                    raise
                _log.exception("cluster.failed", cluster=self.name, seconds=_AGAIN)
                await asyncio.sleep(_AGAIN)

    def look(self) -> bool:
        """Look whether it is reached; whether that, or the reason why not, is another than it was."""
        reaches = self.reach.look()
        if (found := (self.reach.since, self.reach.reason)) == self._told:
            return False
        if reaches:
            _log.info("cluster.reachable", cluster=self.name)
        elif self._told is None or self._told[0] is None:
            _log.warning("cluster.unreachable", cluster=self.name, reason=self.reach.reason)
        self._told = found
        return True

    async def _work(self, setup: Setup) -> None:
        """Work until it is set up otherwise, or is somewhere else."""
        if setup.source is None:
            await self._changed.wait()
            return
        self.parts = parts = Parts(self.name, setup, setup.source, self._means, self._ownership)
        work = asyncio.create_task(parts.run(), name=f"cluster {self.name}")
        changed = asyncio.create_task(self._changed.wait())
        left = asyncio.create_task(parts.left())
        try:
            for shard in self._owned():
                parts.controller.gained(shard)
            await asyncio.wait({work, changed, left}, return_when=asyncio.FIRST_COMPLETED)
            if left.done() and not left.cancelled():
                _log.warning("cluster.left", cluster=self.name, reason=left.result())
            if not work.done():
                await self._rest(parts)
        finally:
            await _ended(changed)
            await _ended(left)
            await _ended(work)
            # Not before: whoever asks for a shard meanwhile waits for what these have under way.
            self.parts = None
            await parts.connection.close()
        if not work.cancelled():
            work.result()

    async def _rest(self, parts: Parts) -> None:
        """Let what is under way end, so that nothing of this connection's comes after the next one's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for shard in self._owned():
                    await parts.quiesce(shard)

    def _owned(self) -> list[ShardId]:
        return [shard for shard in self._ownership.owned if shard.cluster == self.name]

    def _trouble(self) -> str:
        if self._setup.trouble:
            return self._setup.trouble
        return self.parts.trouble if self.parts is not None else "it is being connected"


async def _ended(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end; what it raised stays in it."""
    task.cancel()
    await asyncio.wait({task})
