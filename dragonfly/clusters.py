"""The clusters that one replica works on: taken up, renewed and left as they are registered, changed and removed."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
import structlog

from dragonfly.controllers.checkup import examine
from dragonfly.controllers.cluster import ClusterController
from dragonfly.intent.clusters import kubeconfig_place
from dragonfly.kube.channel import DEFAULT_LIMITS, Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import InCluster, Inline
from dragonfly.kube.errors import KubeError
from dragonfly.kube.kubeconfig import server_side_of
from dragonfly.model.cluster import IN_CLUSTER, NAMESPACE, Checkup, Cluster, ClusterSpec
from dragonfly.model.swarm import AdmissionPolicy
from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from dragonfly.store.seal import Unsealable
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.reach import Reach, until_next_look
from dragonfly.swarm.roster import Roster
from dragonfly.swarm.shards import ShardId
from dragonfly.tended import Means, Parts, Setup, Tended
from dragonfly.whereabouts import uid_of

_log = structlog.get_logger(__name__)

_ASKING: Final = 5.0
"""Seconds that a cluster gets to say what it is, before it is registered without."""

_IN_NO_POD: Final = (
    "it is the cluster of the pods that replicas run in (spec.inCluster), and this replica runs in none: Kubernetes "
    "gave it no KUBERNETES_SERVICE_HOST"
)


class Clusters:
    """All clusters of a replica; it passes on to each what ownership says of its shards."""

    def __init__(self, own: Setup, roster: Roster, means: Means) -> None:
        """Make it, with `local` alone.

        Args:
            own: the cluster that this replica was started with.
            roster: all clusters there are.
            means: what their parts are made with.
        """
        self._own = own
        self._roster = roster
        self._means = means
        self._ownership: Ownership | None = None
        self._tended: dict[str, Tended] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def belong_to(self, ownership: Ownership) -> None:
        """Say who tells what is owned; once, before `run`."""
        self._ownership = ownership

    @property
    def reached(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, tended in self._tended.items() if tended.reach.since is None))

    @property
    def unreached(self) -> Mapping[str, Reach]:
        return {name: tended.reach for name, tended in sorted(self._tended.items()) if tended.reach.since is not None}

    @property
    def checkups(self) -> dict[str, Checkup]:
        """What this replica found in the clusters that it examines."""
        found = {name: tended.parts.examiner.found for name, tended in self._tended.items() if tended.parts is not None}
        return {name: checkup for name, checkup in found.items() if checkup is not None}

    @property
    def admission_policies(self) -> dict[str, AdmissionPolicy]:
        """Of the clusters whose policy this replica keeps."""
        found = {name: tended.parts.guard.state for name, tended in self._tended.items() if tended.parts is not None}
        return {name: state for name, state in found.items() if state is not None}

    @property
    def since(self) -> datetime | None:
        """Since when no cluster at all is reached; None while one is."""
        if self.reached:
            return None
        lost = [reach.since for reach in self.unreached.values() if reach.since is not None]
        return max(lost, default=self._means.started)

    @property
    def reason(self) -> str:
        """Why no cluster at all is reached; empty while one is."""
        if self.reached:
            return ""
        troubles = {name: reach.reason for name, reach in self.unreached.items() if reach.reason}
        return "; ".join(f"{name}: {reason}" for name, reason in troubles.items()) or "it is being connected"

    def look(self) -> bool:
        """Look at all of them, and return whether one is reached."""
        for tended in self._tended.values():
            if tended.look() and self._ownership is not None:
                self._ownership.look()
        return self.since is None

    async def check(self, name: str) -> Checkup:
        """Ask a cluster itself what it lacks."""
        tended = self._tended.get(name)
        if tended is None or tended.parts is None:
            return Checkup(error=tended.reach.reason if tended is not None else "it is being connected")
        return await examine(tended.parts.kube, tended.parts.controller.place.namespace)

    async def identify(self, name: str, kubeconfig: str, namespace: str) -> str:
        """Ask a cluster for the uid of Tinkerbell's namespace; empty if it cannot be asked now.

        Args:
            kubeconfig: by which it is to be reached, as `handed` returns it; empty for the present connection.
        """
        tended = self._tended.get(name)
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(_ASKING):
                if not kubeconfig:
                    return await uid_of(tended.parts.kube, namespace) if tended and tended.parts else ""
                async with Connection(Inline(kubeconfig)) as kube:
                    return await uid_of(kube, namespace)
        return ""

    def gained(self, shard: ShardId) -> None:
        if controller := self._controller(shard):
            controller.gained(shard)

    def lost(self, shard: ShardId) -> None:
        if controller := self._controller(shard):
            controller.lost(shard)

    async def quiesce(self, shard: ShardId) -> None:
        if parts := self._parts(shard):
            await parts.quiesce(shard)

    async def run(self) -> None:
        """Be connected to what is registered, until cancelled; ends only if `local` fails, which is a bug."""
        unsubscribe = self._means.mirror.subscribe(keys.CLUSTERS, lambda _: self._wake.set())
        try:
            self._follow()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_on(), name="registered clusters")
                group.create_task(self._watch(), name="reach")
                await self._tasks[LOCAL]
        finally:
            unsubscribe()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), *self._ending, return_exceptions=True)

    async def _follow_on(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._follow()

    async def _watch(self) -> None:
        while True:
            self.look()
            metrics = self._means.metrics
            for name, tended in self._tended.items():
                metrics.swarm.reachable.labels(name).set(tended.reach.since is None)
                depth = tended.parts.controller.queue.depth if tended.parts is not None else 0
                metrics.queue.depth.labels(name).set(depth)
            lost = [reach.since for reach in self.unreached.values() if reach.since is not None]
            await asyncio.sleep(until_next_look(lost, self._means.now()))

    def _follow(self) -> None:
        """Make what is registered, change what has changed, drop what is gone."""
        assert self._ownership is not None
        wanted = {LOCAL: self._own} | {name: self._setup_of(name, known) for name, known in self._roster.clusters()}
        for name in self._tended.keys() - wanted.keys():
            self._drop(name)
        for name, setup in wanted.items():
            if name in self._tended:
                self._tended[name].set_up(setup)
                continue
            since = self._known_since(name)
            self._tended[name] = tended = Tended(name, setup, since, self._means, self._ownership)
            self._tasks[name] = asyncio.create_task(tended.run(), name=f"tend {name}")
            _log.info("cluster.taken_up", cluster=name)
        self._ownership.look()

    def _known_since(self, name: str) -> datetime:
        """Since when this replica might have reached a cluster: its own start, or that it was registered."""
        cluster = self._roster.cluster(name)
        if name == LOCAL or cluster is None or cluster.metadata is None:
            return self._means.started
        return max(self._means.started, cluster.metadata.created_at)

    def _drop(self, name: str) -> None:
        del self._tended[name]
        task = self._tasks.pop(name)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        metrics = self._means.metrics
        for gauge in (metrics.swarm.reachable, metrics.queue.depth):
            with contextlib.suppress(KeyError):
                gauge.remove(name)
        _log.info("cluster.dropped", cluster=name)

    def _setup_of(self, name: str, cluster: Cluster) -> Setup:
        spec = cluster.spec
        limits = _limits(spec)
        if name == LOCAL:
            return self._own._replace(limits=limits)
        setup = Setup(None, spec.namespace or NAMESPACE, spec.shards, limits, cluster.server)
        if spec.in_cluster:
            return self._setup_in_pod(setup)
        try:
            text = self._means.open(kubeconfig_place(name), cluster.sealed_kubeconfig)
        except Unsealable as error:
            return setup._replace(trouble=str(error))
        return setup._replace(source=Inline(text), server_side=server_side_of(text))

    def _setup_in_pod(self, setup: Setup) -> Setup:
        if not self._means.in_pod:
            return setup._replace(trouble=_IN_NO_POD)
        return setup._replace(source=InCluster(), server_side=IN_CLUSTER)

    def _controller(self, shard: ShardId) -> ClusterController | None:
        parts = self._parts(shard)
        return parts.controller if parts is not None else None

    def _parts(self, shard: ShardId) -> Parts | None:
        tended = self._tended.get(shard.cluster)
        return tended.parts if tended is not None else None


def _limits(spec: ClusterSpec) -> Limits:
    limits = DEFAULT_LIMITS if spec.qps is None else Limits(qps=spec.qps, burst=2 * spec.qps)
    return limits if spec.in_flight is None else msgspec.structs.replace(limits, in_flight=spec.in_flight)
