"""A replica's controller of one cluster, with real mirror and real copies, on models of etcd and of an API server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from dragonfly.controllers.around import Around, Place
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.steps import Limits
from dragonfly.kube.events import Note
from dragonfly.kube.resources import HARDWARE, WORKFLOW, Object, Ref
from dragonfly.model.machine import Interface, Locked, Machine, MachineSpec, Observed
from dragonfly.model.provision import (
    Active,
    CancelRequest,
    Provision,
    ProvisionSpec,
    ProvisionSummary,
    advanced,
    summary_of,
    workflow_name,
)
from dragonfly.model.swarm import Claim
from dragonfly.model.template import Action, TemplateSpec
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.seal import Unsealable
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.shards import ShardId
from tests.netboot import allows_netboot
from tests.unit.controllers.kube_model import KubeModel, Tinkerbell
from tests.unit.store_model import StoreModel, Watch
from tests.virtual_time import now, play

T = TypeVar("T")

NAMESPACE: Final = "tinkerbell"
SHARD: Final = ShardId("local", 0)
MACHINE: Final = "m-1"
MAC: Final = "02:00:00:00:00:01"
PROVISION: Final = "01JD0000000000000000000001"
WORKFLOW_NAME: Final = workflow_name(PROVISION)
TEMPLATE: Final = TemplateSpec(
    actions=(Action(name="one", image="x", timeout=1), Action(name="two", image="x", timeout=1)), global_timeout=300
)
LIMITS: Final = Limits(prepare=100, silence=200, render=10, grace=20, settle=0.25)


class Site:
    def __init__(self, store: StoreModel | None = None, kube: KubeModel | None = None) -> None:
        self.store = store or StoreModel()
        self.kube = kube or KubeModel()
        self.tinkerbell = Tinkerbell(self.kube, NAMESPACE)
        self.mirror = Mirror(decode, clock=now, on_undecodable=lambda _key, _why: None)
        self.watch = Watch(self.store, self.mirror)
        self.epoch: int | None = None
        self.notes: list[Note] = []
        self.unsealable: Unsealable | None = None
        around = Around(
            now=self.time,
            monotonic=now,
            random=lambda: 0.5,
            unseal=self._unseal,
            note=self.notes.append,
        )
        self.controller = ClusterController(
            Place("local", NAMESPACE, shards=1, workers=2, limits=LIMITS),
            kube=self.kube,
            store=self.store,
            mirror=self.mirror,
            dispatch=Dispatch(self.mirror),
            epoch=lambda _shard: self.epoch,
            around=around,
        )

    def successor(self) -> "Site":
        """Another replica, which has seen nothing of what was."""
        return Site(self.store, self.kube)

    def _unseal(self, _: Machine) -> str:
        if self.unsealable:
            raise self.unsealable
        return "hunter2"

    def time(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=now())

    @asynccontextmanager
    async def running(self, *, claim: bool = True) -> AsyncIterator[None]:
        task = asyncio.create_task(self.controller.run())
        try:
            if claim:
                await self.claim()
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def claim(self) -> None:
        await self.store.commit(Delete(keys.claim(*SHARD)))
        await self.store.commit(Put(keys.claim(*SHARD), encode(Claim(owner="a"))))
        self.epoch = self.store.items()[keys.claim(*SHARD)].create_revision
        self.controller.gained(SHARD)

    async def lose_claim(self) -> None:
        """Another replica claims; this one is told by its mirror."""
        await self.store.commit(Delete(keys.claim(*SHARD)))
        await self.store.commit(Put(keys.claim(*SHARD), encode(Claim(owner="b"))))
        self.epoch = None
        self.controller.lost(SHARD)

    async def settled(self, seconds: float = 5) -> None:
        """Let everything that is due within these seconds happen."""
        await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], bool], seconds: float = 1000) -> None:
        end = now() + seconds
        while not condition():
            assert now() < end, f"not within {seconds:g} s; calls: {self.kube.writes()}; {self.provision()}"
            await asyncio.sleep(0.01)

    async def add_machine(self, **spec: Any) -> None:
        metadata = Metadata(name=MACHINE, created_at=self.time(), updated_at=self.time())
        known: dict[str, Any] = {"interfaces": (Interface(mac=MAC),)}
        machine = Machine(metadata=metadata, spec=MachineSpec(**(known | spec)), sealed_password="sealed")
        await self.store.commit(Put(keys.machine(MACHINE), encode(machine)), Put(keys.mac(MAC), b"{}"))

    async def change_machine(self, **changes: Any) -> None:
        machine = self.machine()
        spec = msgspec.structs.replace(machine.spec, **changes)
        await self.store.commit(Put(keys.machine(MACHINE), encode(msgspec.structs.replace(machine, spec=spec))))

    async def observe(self, **changes: Any) -> None:
        """Let the machine have been observed so before."""
        held = self.store.items().get(keys.observed(MACHINE))
        observed = self.observed() if held is not None else Observed()
        await self.store.commit(Put(keys.observed(MACHINE), encode(msgspec.structs.replace(observed, **changes))))

    async def lock(self) -> None:
        await self.change_machine(locked=Locked(reason="audit", by="bea", at=self.time()))

    async def delete_machine(self) -> None:
        doomed = msgspec.structs.replace(self.machine(), deleting_since=self.time())
        await self.store.commit(Put(keys.machine(MACHINE), encode(doomed)))

    async def ask_for_provision(self, name: str = PROVISION, template: TemplateSpec = TEMPLATE) -> None:
        metadata = Metadata(name=name, created_at=self.time(), updated_at=self.time())
        spec = ProvisionSpec(machine=MACHINE, template="ubuntu", template_revision=1)
        await self.store.commit(
            Put(keys.provision(MACHINE, name), encode(Provision(metadata=metadata, spec=spec))),
            Put(keys.active(MACHINE), encode(Active(provision=name, template=template))),
        )

    async def cancel(self, name: str = PROVISION) -> None:
        cancelled = advanced(self.provision(name), self.time(), cancel=CancelRequest(by="ann", at=self.time()))
        await self.store.commit(Put(keys.provision(MACHINE, name), encode(cancelled)))

    async def install(self, name: str = WORKFLOW_NAME) -> None:
        """Tinkerbell and the machine do all their work."""
        await self.until(lambda: self.is_armed(name))
        self.tinkerbell.reconcile()
        for number, state in ((0, "RUNNING"), (1, "POST")):
            self.tinkerbell.serves(name, number)
            await self.settled(60)
            self.tinkerbell.reports(name, number, "SUCCESS", state=state)
        await self.settled(1)
        self.tinkerbell.reconcile()

    def is_armed(self, name: str = WORKFLOW_NAME) -> bool:
        workflow = self.kube.of(WORKFLOW).get(name)
        return workflow is not None and not workflow["spec"]["disabled"]

    def armings(self) -> int:
        patches = (call.body for call in self.kube.calls if call.verb == "patch")
        return sum(body.get("spec", {}).get("disabled") is False for body in patches)

    def machine(self) -> Machine:
        return _decoded(self.store, keys.machine(MACHINE), Machine)

    def provision(self, name: str = PROVISION) -> Provision:
        return _decoded(self.store, keys.provision(MACHINE, name), Provision)

    def observed(self) -> Observed:
        return _decoded(self.store, keys.observed(MACHINE), Observed)

    def summary(self, name: str = PROVISION) -> ProvisionSummary:
        return summary_of(self.provision(name))

    def is_active(self) -> bool:
        return keys.active(MACHINE) in self.store.items()

    def phase(self, name: str = PROVISION) -> str:
        return self.provision(name).status.phase

    def reason(self, name: str = PROVISION) -> str:
        error = self.provision(name).status.error
        return error.reason if error else ""

    def ref(self, name: str = WORKFLOW_NAME) -> Ref:
        return Ref(WORKFLOW, NAMESPACE, name)

    def workflows(self) -> dict[str, Object]:
        return self.kube.of(WORKFLOW)


def run(story: Callable[[Site], Awaitable[None]]) -> None:
    """Play a story at a new site."""

    async def played() -> None:
        await story(Site())

    play(played())


def netboot(site: Site) -> bool:
    """Whether the machine would boot from the network."""
    return allows_netboot(site.kube.of(HARDWARE)[MACHINE])


def _decoded(store: StoreModel, key: str, kind: type[T]) -> T:
    found = decode(key, store.items()[key].value)
    assert isinstance(found, kind)
    return found
