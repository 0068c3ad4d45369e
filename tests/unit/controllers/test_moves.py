"""Moves between clusters: two controllers on two API servers, with a death between any two of their calls."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest

from dragonfly.controllers.around import Around, Place
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.kube.resources import BMC_MACHINE, HARDWARE, SECRET, WORKFLOW, Ref
from dragonfly.kube.tinkerbell import MACHINE as MACHINE_LABEL
from dragonfly.kube.tinkerbell import MANAGED_BY, MANAGER
from dragonfly.kube.tinkerbell import PROVISION as PROVISION_LABEL
from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.model.machine import Bmc, InstalledOs, Interface, Locked, Machine, MachineSpec, Moving, Observed
from dragonfly.model.provision import Provision, ProvisionSpec, ProvisionStatus, WorkflowRef, workflow_name
from dragonfly.model.swarm import Claim, Member
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.shards import ShardId
from tests.netboot import allows_netboot
from tests.unit.controllers.kube_model import KubeModel
from tests.unit.store_model import StoreModel, Watch
from tests.virtual_time import now, play

NAMESPACE: Final = "tinkerbell"
NAME: Final = "m-1"
MAC: Final = "02:00:00:00:00:01"
OLD: Final = "01JD0000000000000000000001"
OS: Final = InstalledOs(template="ubuntu", revision=1, installed_at=datetime(2025, 1, 1, tzinfo=UTC), provision=OLD)
CLUSTERS: Final = ("local", "fra")


class Killed(BaseException):
    """The replica's process ends here."""


class Fate:
    """Ends the replica at one of its calls, before or after it was carried out."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0
        self.after = False
        self.died = asyncio.Event()

    def of(self, real: Any) -> Any:
        return _Mortal(real, self)

    async def call(self, send: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        is_last = self.calls == self.at
        if is_last and not self.after:
            self._die()
        answer = await send()
        if is_last:
            self._die()
        return answer

    def _die(self) -> None:
        self.died.set()
        raise Killed


class _Mortal:
    def __init__(self, real: Any, fate: Fate) -> None:
        self._real = real
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in {"create", "apply", "patch", "delete", "commit"}:
            return found
        return lambda *args, **kwargs: self._fate.call(lambda: found(*args, **kwargs))


class World:
    def __init__(self) -> None:
        self.store = StoreModel()
        self.kubes = {name: KubeModel() for name in CLUSTERS}
        self.mirror = Mirror(decode, clock=now, on_undecodable=lambda _key, _why: None)
        self.watch = Watch(self.store, self.mirror)
        self.epochs: dict[str, int] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.fate = Fate()

    def time(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=now())

    async def begin(self) -> None:
        """A machine with an installed system and a BMC at rest in `local`; both clusters are reached."""
        metadata = Metadata(name=NAME, created_at=self.time(), updated_at=self.time())
        spec = MachineSpec(interfaces=(Interface(mac=MAC),), bmc=Bmc(host="10.0.1.1", username="root"))
        await self.store.commit(
            Put(keys.machine(NAME), encode(Machine(metadata=metadata, spec=spec, sealed_password="sealed"))),
            Put(keys.observed(NAME), encode(Observed(os=OS))),
            Put(keys.cluster("fra"), encode(Cluster(spec=ClusterSpec(shards=1)))),
        )
        await self.reach(*CLUSTERS)
        await self.start()
        await asyncio.sleep(5)

    async def reach(self, *clusters: str) -> None:
        lost = {name: self.time() for name in CLUSTERS if name not in clusters}
        member = Member(id="a", version="1", address="a", started=self.time(), clusters=clusters, unreachable=lost)
        await self.store.commit(Put(keys.member("a"), encode(member)))

    async def start(self) -> None:
        """A replica comes that drives both clusters."""
        for name in CLUSTERS:
            shard = ShardId(name, 0)
            await self.store.commit(Delete(keys.claim(*shard)))
            await self.store.commit(Put(keys.claim(*shard), encode(Claim(owner="a"))))
            self.epochs[name] = self.store.items()[keys.claim(*shard)].create_revision
            around = Around(now=self.time, monotonic=now, random=lambda: 0.5, unseal=lambda _: "hunter2")
            controller = ClusterController(
                Place(name, NAMESPACE, shards=1, workers=2),
                kube=self.fate.of(self.kubes[name]),
                store=self.fate.of(self.store),
                mirror=self.mirror,
                dispatch=Dispatch(self.mirror),
                epoch=lambda shard, epoch=self.epochs[name]: epoch,  # type: ignore[misc] # mypy infers no lambda with a default
                around=around,
            )
            self.tasks.append(asyncio.create_task(controller.run()))
            controller.gained(shard)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def change(self, **changes: Any) -> None:
        await self.store.commit(Put(keys.machine(NAME), encode(msgspec.structs.replace(self.machine, **changes))))

    async def move(self, to: str = "fra") -> None:
        await self.change(moving=Moving(to=to, by="ann", since=self.time()))

    async def leave_old_workflow(self, **status: Any) -> None:
        """What a backup may bring back: an armed Workflow of a provision that has its result."""
        metadata = Metadata(name=OLD, created_at=self.time(), updated_at=self.time())
        ref = WorkflowRef(cluster="local", namespace=NAMESPACE, name=workflow_name(OLD))
        provision = Provision(
            metadata=metadata,
            spec=ProvisionSpec(machine=NAME, template="ubuntu", template_revision=1),
            status=ProvisionStatus(phase="Succeeded", workflow=ref),
        )
        await self.store.commit(Put(keys.provision(NAME, OLD), encode(provision)))
        labels = {MANAGED_BY: MANAGER, MACHINE_LABEL: NAME, PROVISION_LABEL: OLD}
        found = Ref(WORKFLOW, NAMESPACE, workflow_name(OLD))
        self.kubes["local"].put(found, metadata={"labels": labels}, spec={"disabled": False}, status=status)

    @property
    def machine(self) -> Machine:
        found = decode(keys.machine(NAME), self.store.items()[keys.machine(NAME)].value)
        assert isinstance(found, Machine)
        return found

    @property
    def observed(self) -> Observed:
        found = decode(keys.observed(NAME), self.store.items()[keys.observed(NAME)].value)
        assert isinstance(found, Observed)
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(condition for condition in self.observed.conditions if condition.type == kind)
        return found.status, found.reason

    def left(self) -> list[str]:
        return sorted(str(ref) for ref in self.kubes["local"].objects)

    def is_there(self) -> bool:
        return self.machine.spec.cluster == "fra" and self.condition("Synced")[0] == "True"


def run(story: Callable[[World], Awaitable[None]]) -> None:
    async def played() -> None:
        world = World()
        await world.begin()
        try:
            await story(world)
        finally:
            await world.end()

    play(played())


def _check_moved(world: World) -> None:
    assert world.is_there()
    assert world.machine.moving is None
    assert world.machine.formerly == ("local",)
    assert world.observed.os == OS
    assert world.left() == []
    there = world.kubes["fra"]
    assert not allows_netboot(there.of(HARDWARE)[NAME])
    assert (list(there.of(BMC_MACHINE)), len(there.of(SECRET)), list(there.of(WORKFLOW))) == ([NAME], 1, [])


async def _with_leftovers(world: World) -> None:
    """Open netboot, an armed Workflow of the past that an agent has: what is worst to be moved."""
    await world.end()
    interfaces = [{"dhcp": {"mac": MAC}, "netboot": {"allowPXE": True}}]
    world.kubes["local"].put(Ref(HARDWARE, NAMESPACE, NAME), spec={"interfaces": interfaces})
    await world.leave_old_workflow(state="RUNNING", agentID=MAC, currentState={"actionName": "one"})
    await world.move()
    world.fate.calls = 0
    await world.start()


def test_a_move_leaves_nothing_behind_and_installs_nothing() -> None:
    async def story(world: World) -> None:
        await _with_leftovers(world)
        await asyncio.sleep(20)

        _check_moved(world)
        assert world.condition("Moved") == ("True", "Moved")
        assert ("create", "Workflow") not in world.kubes["fra"].writes()

    run(story)


@pytest.mark.parametrize("after", [False, True])
def test_a_replica_may_die_between_any_two_steps_of_a_move(after: bool) -> None:
    """P2, P7: whoever comes next goes on, and the new cluster gets nothing before the old one has given up all."""
    deaths = 0
    for at in range(1, 40):
        died: list[bool] = []

        async def story(world: World, at: int = at, died: list[bool] = died) -> None:
            world.fate.at, world.fate.after = at, after
            await _with_leftovers(world)
            await asyncio.sleep(20)
            died.append(world.fate.died.is_set())
            if died[0]:
                made = bool(world.kubes["fra"].objects)
                assert not (made and world.left()), "in both clusters at once"
                await world.end()
                await world.start()
                await asyncio.sleep(20)
            _check_moved(world)

        run(story)
        if not died[0]:
            break
        deaths += 1
    assert deaths >= 8
    assert deaths < 39


@pytest.mark.parametrize("obstacle", ["locked", "out of reach", "foreign"])
def test_a_move_that_cannot_go_on_waits_and_says_why(obstacle: str) -> None:
    async def story(world: World) -> None:
        foreign = Ref(WORKFLOW, NAMESPACE, "theirs")
        if obstacle == "locked":
            await world.change(
                spec=msgspec.structs.replace(world.machine.spec, locked=Locked(reason="x", by="bea", at=world.time()))
            )
        elif obstacle == "out of reach":
            await world.reach("local")
        else:
            world.kubes["local"].put(foreign, status={"state": "RUNNING", "agentID": MAC})
        await world.move()
        await asyncio.sleep(20)

        reasons = {"locked": "MachineLocked", "out of reach": "ClusterUnreachable", "foreign": "MachineBusy"}
        assert world.condition("Moved") == ("False", reasons[obstacle])
        assert NAME in world.kubes["local"].of(HARDWARE)

        if obstacle == "locked":
            await world.change(spec=msgspec.structs.replace(world.machine.spec, locked=None))
        elif obstacle == "out of reach":
            await world.reach(*CLUSTERS)
        else:
            world.kubes["local"].remove(foreign)
        await asyncio.sleep(20)
        _check_moved(world)

    run(story)


def test_a_move_that_is_taken_back_leaves_the_machine_where_it_is() -> None:
    async def story(world: World) -> None:
        await world.reach("local")
        await world.move()
        await asyncio.sleep(10)
        await world.change(moving=None)
        await asyncio.sleep(10)

        assert world.machine.spec.cluster == "local"
        assert [condition.type for condition in world.observed.conditions] == ["Synced"]
        assert NAME in world.kubes["local"].of(HARDWARE)
        assert world.kubes["fra"].objects == {}

    run(story)


def test_what_comes_up_in_the_old_cluster_after_a_move_is_removed() -> None:
    """A late write of a former owner, or a backup of the old cluster; another machine of that name is left alone."""

    async def story(world: World) -> None:
        await _with_leftovers(world)
        await asyncio.sleep(20)
        hardware = Ref(HARDWARE, NAMESPACE, NAME)
        theirs = {"labels": {MANAGED_BY: MANAGER}}
        world.kubes["local"].put(hardware, metadata=theirs, spec={"agentID": MAC, "interfaces": []})
        await world.leave_old_workflow(state="PENDING", agentID=MAC)
        await asyncio.sleep(10)
        _check_moved(world)

        world.kubes["local"].put(hardware, metadata=theirs, spec={"agentID": "02:00:00:00:00:99", "interfaces": []})
        await asyncio.sleep(10)
        assert NAME in world.kubes["local"].of(HARDWARE)

    run(story)


@pytest.mark.parametrize("served", [False, True])
def test_an_armed_workflow_of_an_ended_provision_never_runs_again(served: bool) -> None:
    """P2: a cluster that comes back from a backup may have one; what is found is told."""

    async def story(world: World) -> None:
        current = {"actionName": "one"} if served else {}
        await world.leave_old_workflow(state="RUNNING" if served else "PENDING", agentID=MAC, currentState=current)
        await asyncio.sleep(10)

        found = world.kubes["local"].of(WORKFLOW).get(workflow_name(OLD))
        assert (found is not None) == served
        if found is not None:
            assert (found["status"]["state"], found["status"]["agentID"]) == ("FAILED", "")
        assert world.condition("OldWorkflow") == ("True", "Stopped")
        assert world.observed.os == OS

    run(story)


def test_a_workflow_of_an_unknown_provision_is_not_touched() -> None:
    """It may be another swarm's, or the swarm's own from after the backup that etcd was restored from."""

    async def story(world: World) -> None:
        await world.leave_old_workflow(state="PENDING", agentID=MAC)
        await world.end()
        await world.store.commit(Delete(keys.provision(NAME, OLD)))
        labels = {MANAGED_BY: MANAGER, MACHINE_LABEL: NAME, PROVISION_LABEL: "01JD0000000000000000000009"}
        ref = Ref(WORKFLOW, NAMESPACE, "df-unknown")
        world.kubes["local"].put(
            ref, metadata={"labels": labels}, spec={"disabled": False}, status={"state": "RUNNING"}
        )
        await world.start()
        await asyncio.sleep(10)

        assert world.kubes["local"].objects[ref]["status"]["state"] == "RUNNING"

    run(story)
