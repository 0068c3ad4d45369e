"""Which controllers are woken by what changes in etcd, and what they ask for of all machines."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Final

import msgspec
import pytest

from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.queue import Priority
from dragonfly.model.machine import Interface, Machine, MachineSpec
from dragonfly.model.provision import Active, Provision, ProvisionPhase, ProvisionSpec, ProvisionStatus
from dragonfly.model.template import Action, TemplateSpec
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from tests.unit.store_model import StoreModel, Watch

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
MAC: Final = "02:00:00:00:00:01"
TEMPLATE: Final = TemplateSpec(actions=(Action(name="a", image="x", timeout=1),))
PROVISION: Final = keys.provision("m-1", "01JD")


class Swarm:
    """Three clusters' controllers, as far as they are woken."""

    def __init__(self) -> None:
        self.store = StoreModel()
        mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda _key, _why: None)
        self.dispatch = Dispatch(mirror)
        Watch(self.store, mirror)
        self.woken: dict[str, list[tuple[str, Priority]]] = defaultdict(list)
        self.stops = {cluster: self._followed(cluster) for cluster in ("fra", "ber", "muc")}

    def _followed(self, cluster: str) -> object:
        return self.dispatch.follow(cluster, lambda name, priority: self.woken[cluster].append((name, priority)))

    async def put(self, machine: Machine) -> None:
        await self.store.commit(Put(keys.machine(machine.name), encode(machine)))

    def taken(self) -> dict[str, list[tuple[str, Priority]]]:
        """Who was woken since this was last asked."""
        woken, self.woken = dict(self.woken), defaultdict(list)
        return woken


@pytest.fixture
def swarm() -> Swarm:
    return Swarm()


def machine(name: str = "m-1", mac: str = MAC, **changes: object) -> Machine:
    spec = MachineSpec(cluster="fra", interfaces=(Interface(mac=mac),))
    made = Machine(metadata=Metadata(name=name, created_at=NOW, updated_at=NOW), spec=spec)
    return msgspec.structs.replace(made, **changes)


def provision(phase: ProvisionPhase = "Running") -> Provision:
    spec = ProvisionSpec(machine="m-1", template="t", template_revision=1)
    finished = NOW if phase == "Succeeded" else None
    status = ProvisionStatus(phase=phase, started_at=NOW, running_at=NOW, finished_at=finished)
    return Provision(metadata=Metadata(name="01JD", created_at=NOW, updated_at=NOW), spec=spec, status=status)


def elsewhere(cluster: str, *formerly: str) -> Machine:
    here = machine(formerly=formerly)
    return msgspec.structs.replace(here, spec=msgspec.structs.replace(here.spec, cluster=cluster))


async def test_a_change_wakes_the_controller_of_the_machines_cluster_alone(swarm: Swarm) -> None:
    await swarm.put(machine())
    assert swarm.taken() == {"fra": [("m-1", Priority.USER)]}

    active = encode(Active(provision="01JD", template=TEMPLATE))
    await swarm.store.commit(Put(keys.active("m-1"), active))
    assert swarm.taken() == {"fra": [("m-1", Priority.USER)]}

    await swarm.store.commit(Delete(keys.active("m-1")))
    assert swarm.taken() == {"fra": [("m-1", Priority.USER)]}


async def test_a_machine_that_has_moved_wakes_where_it_is_and_where_it_was(swarm: Swarm) -> None:
    await swarm.put(machine())
    swarm.taken()

    await swarm.put(elsewhere("ber", "fra"))

    assert swarm.taken() == {"ber": [("m-1", Priority.USER)], "fra": [("m-1", Priority.USER)]}


async def test_what_is_said_of_a_machine_that_is_gone_wakes_all_since_any_may_have_something_of_it(
    swarm: Swarm,
) -> None:
    await swarm.put(machine())
    await swarm.store.commit(Delete(keys.machine("m-1")))
    swarm.taken()

    await swarm.store.commit(Put(keys.power("m-1"), b"{}"))

    assert swarm.taken().keys() == {"fra", "ber", "muc"}


async def test_a_provision_wakes_first_where_somebody_waits_for_it(swarm: Swarm) -> None:
    await swarm.put(machine())
    swarm.taken()
    await swarm.store.commit(Put(PROVISION, encode(provision())))
    assert swarm.taken() == {"fra": [("m-1", Priority.EVENT)]}

    await swarm.store.commit(Put(keys.active("m-1"), encode(Active(provision="01JD", template=TEMPLATE))))
    await swarm.store.commit(Put(PROVISION, encode(provision(phase="Succeeded"))))

    assert swarm.taken() == {"fra": [("m-1", Priority.USER), ("m-1", Priority.USER)]}


async def test_who_stopped_following_is_not_woken(swarm: Swarm) -> None:
    stop = swarm.stops["fra"]
    assert callable(stop)
    stop()

    await swarm.put(machine())

    assert swarm.taken() == {}


async def test_the_end_of_a_former_follower_leaves_its_successor(swarm: Swarm) -> None:
    former = swarm.stops["fra"]
    swarm.dispatch.follow("fra", lambda name, priority: swarm.woken["again"].append((name, priority)))
    assert callable(former)
    former()

    await swarm.put(machine())

    assert swarm.taken() == {"again": [("m-1", Priority.USER)]}


async def test_machines_are_known_by_cluster_and_by_agent(swarm: Swarm) -> None:
    await swarm.put(machine("m-2", "02:00:00:00:00:02"))
    await swarm.put(machine())
    assert swarm.dispatch.machines_of("fra") == ("m-2", "m-1")
    assert swarm.dispatch.machine_of(MAC) == "m-1"

    await swarm.put(elsewhere("ber", "fra"))
    assert swarm.dispatch.machines_of("ber") == ("m-1",)
    assert swarm.dispatch.machines_of("fra") == ("m-2", "m-1")

    await swarm.store.commit(Delete(keys.machine("m-1")))
    assert swarm.dispatch.machines_of("ber") == ()
    assert swarm.dispatch.machines_of("fra") == ("m-2",)
    assert swarm.dispatch.machine_of(MAC) is None


async def test_what_was_there_before_is_known_too(swarm: Swarm) -> None:
    await swarm.put(machine())
    await swarm.store.commit(Put(PROVISION, encode(provision(phase="Succeeded"))))
    mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda _key, _why: None)
    Watch(swarm.store, mirror)

    late = Dispatch(mirror)

    assert late.machines_of("fra") == ("m-1",)
    assert late.machine_of(MAC) == "m-1"
    assert late.durations.eta("t", NOW) is not None
