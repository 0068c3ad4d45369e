"""The controller of one cluster: a queue of machines, workers, and what wakes them.

Each replica runs one for every cluster that it reaches and keeps its copies warm; it works only on the shards that it
has claimed. A cluster has its own queue, connection and workers, so a slow one delays no other (P12).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec
import structlog

from dragonfly.controllers.around import Around, Place
from dragonfly.controllers.conditions import not_synced, old_workflow, synced, with_condition
from dragonfly.controllers.departure import HOLD, Departures, held_up, without_hold
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.fence import Fence, NotOwner, Overtaken, TooLate
from dragonfly.controllers.hardware import Blocked, HardwareLoop
from dragonfly.controllers.leftovers import Leftovers
from dragonfly.controllers.power import PowerPlace, PowerRun, power_records, with_bmc
from dragonfly.controllers.provisions import Cluster, ProvisionRun, Records
from dragonfly.controllers.queue import Priority, WorkQueue
from dragonfly.controllers.records import provision_of, reach_in, running
from dragonfly.controllers.twins import Twins
from dragonfly.kube.errors import Invalid, KubeError
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.port import Kube
from dragonfly.model.machine import Condition, Machine, Observed
from dragonfly.model.provision import Provision
from dragonfly.store import keys
from dragonfly.store.errors import Conflict, StoreError
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.store.records import encode
from dragonfly.store.values import Delete, Put, Unchanged
from dragonfly.swarm.shards import ShardId, shard_of

_log = structlog.get_logger(__name__)

_CATCH_UP = 10.0
"""Seconds that a machine waits for the mirror to show this replica's own last write."""


class ClusterController:
    """Brings the machines of the shards that this replica owns to what people asked for."""

    def __init__(
        self,
        place: Place,
        *,
        kube: Kube,
        store: Store,
        mirror: Mirror,
        dispatch: Dispatch,
        epoch: Callable[[ShardId], int | None],
        around: Around,
        remaining: Callable[[], float] = lambda: float("inf"),
        holds: Callable[[ShardId], int | None] | None = None,
    ) -> None:
        """Make it, not yet running.

        Args:
            place: the cluster.
            kube: the connection to it.
            store: where the swarm's state is written.
            mirror: where it is read.
            dispatch: tells of its changes.
            epoch: tells under which epoch this replica may act on a shard now, or None.
            around: time, chance, secrets.
            remaining: tells for how many seconds this replica's lease cannot have ended.
            holds: as `epoch`, but also of a shard that is being given up; `epoch` if None.
        """
        self.place = place
        self._kube = kube
        self._store = store
        self._mirror = mirror
        self._dispatch = dispatch
        self._claimed = epoch
        self._over: dict[ShardId, int] = {}
        """Epochs under which etcd itself has said that nothing may be done any more."""
        self._remaining = remaining
        self._holds = holds or epoch
        self._around = around
        self.queue = WorkQueue(around.monotonic, around.random)
        self.twins = Twins(kube, place.namespace, self._twin_changed, around.monotonic, around.random)
        self._hardware = HardwareLoop(self.twins, place.namespace, around.unseal, around.note)
        self._working: dict[ShardId, float] = {}
        """What is worked on, and since when by the monotonic clock."""
        self._written: dict[str, int] = {}
        self._troubles: dict[str, str] = {}
        self._idle = asyncio.Event()
        self._cluster = Cluster(
            name=place.name,
            namespace=place.namespace,
            twins=self.twins,
            hardware=self._hardware,
            limits=place.limits,
            durations=dispatch.durations,
            staged={},
            troubles=self._troubles,
            now=around.now,
            monotonic=around.monotonic,
            on_duty=self._on_duty,
            known=partial(provision_of, mirror),
            ended=self._ended,
            note=around.note,
        )
        self._leftovers = Leftovers(
            place.name,
            place.namespace,
            twins=self.twins,
            hardware=self._hardware,
            provision=partial(provision_of, mirror),
            note=around.note,
        )
        self._departures = Departures(
            place.name,
            place.namespace,
            hardware=self._hardware,
            leftovers=self._leftovers,
            foreign=lambda machine: self.twins.workflows_of(machine.name, machine.agent_id),
            now=around.now,
        )
        self._powered = PowerPlace(
            place.name, place.namespace, self.twins, around.now, around.monotonic, around.note, place.power
        )

    async def run(self) -> None:
        """Follow the cluster and work until cancelled."""
        stop = self._dispatch.follow(self.place.name, self._wake)
        for shard in self._working:
            self._take_up(shard)  # what has come since it was gained has woken nobody
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.twins.run(), name=f"{self.place.name} twins")
                for number in range(self.place.workers):
                    group.create_task(self._work(), name=f"{self.place.name} worker {number}")
        finally:
            stop()

    def gained(self, shard: ShardId) -> None:
        """Look at every machine of the shard, those with a running provision first."""
        self._working[shard] = self._around.monotonic()
        self._take_up(shard)

    def _take_up(self, shard: ShardId) -> None:
        """Have every machine of the shard looked at, and what is there of machines that are gone."""
        for name in self._dispatch.machines_of(self.place.name):
            if self._shard_named(name) == shard:
                self.queue.add(name, Priority.USER if self._dispatch.is_awaited(name) else Priority.RESYNC)
        for name in self.twins.mentioned:
            if self._shard_named(name) == shard and self._mirror.get(keys.machine(name)) is None:
                self.queue.add(name, Priority.RESYNC)

    def lost(self, shard: ShardId) -> None:
        """Drop what waits; what is under way finds the fence closed."""
        self._working.pop(shard, None)
        self.queue.forget(lambda name: self._shard_named(name) == shard)
        for name in [name for name in self._troubles if self._shard_named(name) == shard]:
            del self._troubles[name]

    async def quiesce(self, shard: ShardId) -> None:
        """Take up nothing more of the shard, and return once nothing of it is under way."""
        self.lost(shard)
        while any(self._shard_named(name) == shard for name in self.queue.running):
            self._idle.clear()
            await self._idle.wait()

    async def _work(self) -> None:
        await self.twins.synced()
        while True:
            name, waited = await self.queue.get()
            began = self._around.monotonic()
            try:
                await self._look(name)
            finally:
                self.queue.done(name)
                self._idle.set()
            if self._around.gauges is not None:
                self._around.gauges.looked(self.place.name, waited, self._around.monotonic() - began)

    async def _look(self, name: str) -> None:
        """Reconcile one machine; whatever goes wrong is told and tried again, for that machine alone."""
        try:
            pause = await self._reconcile(name)
        except NotOwner as error:
            if isinstance(error, Overtaken):
                self._over[error.shard] = error.epoch
            if self._shard_named(name) in self._working:
                # The lease is in doubt, not lost: look again when it is held.
                self._retry(name)
        except (Conflict, TooLate):
            self._retry(name)
        except (KubeError, StoreError, TimeoutError) as error:
            self._troubles[name] = str(error) or type(error).__name__
            seconds = self._retry(name)
            _log.warning("machine.retry", machine=name, cluster=self.place.name, error=str(error), seconds=seconds)
        except Exception as error:
            self._troubles[name] = f"{type(error).__name__}, an error in Dragonfly itself; its log has more."
            seconds = self._retry(name)
            _log.exception("machine.failed", machine=name, cluster=self.place.name, seconds=seconds)
        else:
            self._troubles.pop(name, None)
            self.queue.succeeded(name)
            if pause is not None:
                self.queue.add_later(name, pause, self._dispatch.priority(name))

    def _retry(self, name: str) -> float:
        if self._around.gauges is not None:
            self._around.gauges.retried(self.place.name)
        return round(self.queue.retry(name), 3)

    async def _reconcile(self, name: str) -> float | None:
        shard = self._shard_named(name)
        if shard not in self._working:
            return None
        epoch = self._epoch(shard)
        if epoch is None:
            raise NotOwner(name)
        await self._caught_up(name)
        held = self._mirror.get(keys.machine(name))
        machine = held.object if held is not None and isinstance(held.object, Machine) else None
        fence = self._fence(shard, epoch)
        if held is None or machine is None or machine.spec.cluster != self.place.name:
            await self._clear(fence, name, machine)
            return None
        if self._is_leaving(machine):
            return await self._depart(fence, machine, held.mod_revision)
        if records := running(self._mirror, machine, held.mod_revision):
            pause = await self._provision(fence, records)
        else:
            pause = None
            await self._settle(fence, machine, held.mod_revision)
        if machine.deleting_since is not None:
            return pause
        return _sooner(pause, await self._power(fence, machine, held.mod_revision))

    def _is_leaving(self, machine: Machine) -> bool:
        """Whether the machine is to be taken out; what a replica that knows no moves has begun on it ends first."""
        return (
            machine.moving is not None
            and machine.deleting_since is None
            and not self._dispatch.is_awaited(machine.name)
        )

    async def _depart(self, fence: Fence, machine: Machine, revision: int) -> float | None:
        """Take the machine out of this cluster, and hand it over to the other one."""
        name, moving = machine.name, machine.moving
        assert moving is not None
        hold = await self._departures.advance(fence, machine, reach_in(self._mirror, moving.to))
        if hold is not None:
            await self._tell(fence, machine, held_up(machine, hold, self._around.now()))
            return HOLD
        records = power_records(self._mirror, machine, revision)
        await PowerRun(self._powered, fence, records).remove_all()
        await self._hardware.remove(fence, machine)
        seen, seen_revision = records.observed, records.observed_revision
        self._note_written(name, await self._departures.leave(fence, machine, revision, seen, seen_revision))
        return None

    async def _clear(self, fence: Fence, name: str, machine: Machine | None) -> None:
        """Remove what there is of a machine that is not in this cluster any more."""
        if not self.twins.knows(name):
            return
        await self._leftovers.clear(fence, name, machine)

    def _fence(self, shard: ShardId, epoch: int) -> Fence:
        gauges, note = self._around.gauges, self._around.note
        return Fence(
            self._store,
            self._kube,
            shard,
            epoch,
            self._epoch,
            remaining=self._remaining,
            holds=self._holds,
            gauges=gauges,
            note=note,
        )

    def _on_duty(self, machine: str) -> float:
        now = self._around.monotonic()
        return min(now - self._working.get(self._shard_named(machine), now), self.twins.reached_for)

    def _epoch(self, shard: ShardId) -> int | None:
        """Return the epoch under which this replica may act on the shard now, or None if it may not."""
        epoch = self._claimed(shard)
        return None if epoch == self._over.get(shard) else epoch

    async def _provision(self, fence: Fence, records: Records) -> float | None:
        run = ProvisionRun(self._cluster, fence, records)
        try:
            pause = await run.run()
        finally:
            self._note_written(records.machine.name, run.written)
        if run.over:
            # The machine is free: close netboot at once.
            self.queue.add(records.machine.name, Priority.USER)
        return pause

    async def _power(self, fence: Fence, machine: Machine, revision: int) -> float | None:
        """Carry out the machine's power action, and show what is known of its BMC."""
        if machine.spec.bmc is None and self._mirror.get(keys.power(machine.name)) is None:
            return None
        await self._tell(fence, machine)
        await self._caught_up(machine.name)
        run = PowerRun(self._powered, fence, power_records(self._mirror, machine, revision))
        try:
            return await run.run()
        finally:
            self._note_written(machine.name, run.written)

    async def _caught_up(self, name: str) -> None:
        """Wait until the mirror shows what this replica itself has written of the machine."""
        await self._mirror.wait_for(self._written.get(name, 0), _CATCH_UP)
        self._written.pop(name, None)

    async def _settle(self, fence: Fence, machine: Machine, revision: int) -> None:
        """Bring a machine without a running provision to rest: netboot closed, nothing staged, or gone."""
        try:
            if not self._hardware.ready(machine, netboot_for="") and machine.deleting_since is None:
                await self._hardware.ensure(fence, machine, netboot_for="")
            await self._hardware.tidy(fence, machine)
            swept = await self._leftovers.sweep(fence, machine)
        except Blocked as blocked:
            await self._tell(fence, machine, not_synced(blocked.reason, blocked.message, self._around.now()))
            return
        except Invalid as error:
            await self._tell(fence, machine, not_synced("Rejected", error.message, self._around.now()))
            return
        if machine.deleting_since is not None:
            await self._delete(fence, machine, revision)
            return
        now = self._around.now()
        await self._tell(fence, machine, synced(now), *(old_workflow(sentence, now) for sentence in swept[-1:]))

    async def _delete(self, fence: Fence, machine: Machine, revision: int) -> None:
        """Remove the machine's twins, then its records: the finalizer of a machine."""
        name = machine.name
        await PowerRun(self._powered, fence, power_records(self._mirror, machine, revision)).remove_all()
        await self._hardware.remove(fence, machine)
        unchanged = {keys.machine(name): revision, keys.active(name): 0, keys.power(name): 0}
        macs = [Delete(keys.mac(interface.mac)) for interface in machine.spec.interfaces]
        await fence.commit(
            Delete(keys.machine(name)),
            Delete(keys.observed(name)),
            *macs,
            given=[Unchanged(key, found) for key, found in unchanged.items()],
        )
        _log.info("machine.deleted", machine=name, cluster=self.place.name)

    async def _tell(self, fence: Fence, machine: Machine, *conditions: Condition) -> None:
        """Write the conditions and what Rufio says of the BMC, if it is something new."""
        await self._caught_up(machine.name)
        held = self._mirror.get(keys.observed(machine.name))
        observed = held.object if held is not None and isinstance(held.object, Observed) else Observed()
        told = observed if machine.moving is not None else without_hold(observed)
        seen = with_bmc(told, self.twins.bmcs.store.get(machine.name), self._around.now())
        for condition in conditions:
            seen = msgspec.structs.replace(seen, conditions=with_condition(seen.conditions, condition))
        if seen == observed:
            return
        updated = msgspec.structs.replace(seen, observed_at=self._around.now())
        key = keys.observed(machine.name)
        given = [Unchanged(key, held.mod_revision if held else 0)]
        self._note_written(machine.name, await fence.commit(Put(key, encode(updated)), given=given))

    def _note_written(self, name: str, revision: int) -> None:
        if revision:
            self._written[name] = max(revision, self._written.get(name, 0))

    def _ended(self, provision: Provision) -> None:
        self._note_result(provision)
        if self._around.gauges is not None:
            self._around.gauges.ended(provision)

    def _note_result(self, provision: Provision) -> None:
        hardware = self.twins.hardware.store.get(provision.spec.machine)
        if hardware is None:
            return
        error, phase = provision.status.error, provision.status.phase
        message = f"{provision.spec.template}, provision {provision.name}" + (f": {error.message}" if error else "")
        kind: Literal["Normal", "Warning"] = "Normal" if phase == "Succeeded" else "Warning"
        self._around.note(Note(Subject.of(hardware), kind, f"Provision{phase}", message))

    def _twin_changed(self, key: str) -> None:
        name = self._dispatch.machine_of(key) or key
        self._wake(name, self._dispatch.priority(name))

    def _wake(self, name: str, priority: Priority) -> None:
        if self._shard_named(name) not in self._working:
            return
        held = self._mirror.get(keys.machine(name))
        if held is None:
            is_ours = self.twins.mentions(name)  # of a machine that was deleted, as in a cluster that was put back
        else:
            is_ours = not isinstance(held.object, Machine) or self._shard_of(held.object) is not None
        if is_ours:
            self.queue.add(name, priority)

    def _shard_of(self, machine: Machine) -> ShardId | None:
        """Return the shard here of a machine that is in this cluster, or was and may have left something behind."""
        is_ours = machine.spec.cluster == self.place.name or self.place.name in machine.formerly
        return self._shard_named(machine.name) if is_ours else None

    def _shard_named(self, name: str) -> ShardId:
        return ShardId(self.place.name, shard_of(name, self.place.shards))


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((pause for pause in (one, other) if pause is not None), default=None)
