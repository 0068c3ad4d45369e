"""The Secret of a BMC against a real API server, with Dragonfly's own rights."""

from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from ulid import ULID

from dragonfly.controllers.fence import Fence
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.twins import Twins
from dragonfly.kube.bmc import secret_name
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.resources import SECRET, Ref
from dragonfly.model.machine import Bmc, Interface, Machine, MachineSpec
from dragonfly.model.values import Metadata
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.swarm.shards import ShardId
from tests.unit.store_model import StoreModel

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with Connection(Kubeconfig((control_plane.kubeconfig,))) as connection:
        yield connection


@pytest.fixture
def machine() -> Machine:
    bmc = Bmc(host="10.0.1.1", username="root")
    return Machine(
        metadata=Metadata(name=f"m-{ULID()}".lower(), created_at=NOW, updated_at=NOW),
        spec=MachineSpec(interfaces=(Interface(mac="02:00:00:00:00:01"),), bmc=bmc),
        sealed_password="sealed",
    )


async def test_it_is_set_right_after_an_edit_and_made_again_after_a_deletion(
    control_plane: ControlPlane, kube: Connection, machine: Machine
) -> None:
    shard, ref = ShardId("local", 0), Ref(SECRET, NAMESPACE, secret_name(machine.name))
    fence = Fence(StoreModel(), kube, shard, 5, lambda _: 5)
    twins = Twins(kube, NAMESPACE, lambda _: None, lambda: 0.0)
    hardware = HardwareLoop(twins, NAMESPACE, lambda _: "hunter2")
    right = {"username": b64encode(b"root").decode(), "password": b64encode(b"hunter2").decode()}

    await hardware.ensure_secret(fence, machine)
    made = await kube.get(ref)
    await hardware.ensure_secret(fence, machine)
    assert (await kube.get(ref)) == made, "what is right is not written"
    assert made["data"] == right

    async with Connection(Kubeconfig((control_plane.admin_kubeconfig,))) as admin:
        await admin.patch(ref, {"stringData": {"password": "by hand"}})
        await hardware.ensure_secret(fence, machine)
        assert (await kube.get(ref))["data"] == right

        await admin.delete(ref)
        await hardware.ensure_secret(fence, machine)
        assert (await kube.get(ref))["data"] == right
