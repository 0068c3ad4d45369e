"""The admission policy on a real API server: kept installed, and what a late replica gets from it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ulid import ULID

from dragonfly.controllers.around import Around, Place
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.guard import Guard
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import Forbidden, NotFound
from dragonfly.kube.policy import REPLACES, binding, binding_ref, policy, policy_ref
from dragonfly.kube.resources import HARDWARE, Object, Ref
from dragonfly.kube.tinkerbell import EPOCH
from dragonfly.model.machine import Interface, Machine, MachineSpec
from dragonfly.model.provision import Provision
from dragonfly.model.swarm import Claim
from dragonfly.model.values import LOCAL, Metadata
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from tests.admission import until_in_force
from tests.contract.waiting import until
from tests.unit.store_model import StoreModel, Watch

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE = 60.0
NEVER = [{"name": "never", "expression": "false"}]


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    """With the rights of deploy/k3s/base and no others."""
    async with Connection(Kubeconfig((control_plane.kubeconfig,))) as connection:
        yield connection


@pytest.fixture
async def admin(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with Connection(Kubeconfig((control_plane.admin_kubeconfig,))) as connection:
        yield connection


def guard(kube: Connection) -> Guard:
    return Guard(kube, NAMESPACE, mine=lambda: True, clock=lambda: 0.0, now=lambda: NOW)


def reason(of: Guard) -> str:
    return of.state.reason if of.state else ""


async def test_it_is_installed_and_what_is_right_is_not_written_again(kube: Connection) -> None:
    keeper, other = guard(kube), guard(kube)

    await keeper.look()
    once = [await kube.get(ref) for ref in (policy_ref(NAMESPACE), binding_ref(NAMESPACE))]
    await keeper.look()
    await other.look()

    assert [await kube.get(ref) for ref in (policy_ref(NAMESPACE), binding_ref(NAMESPACE))] == once
    assert [obj["spec"] for obj in once] == [policy(NAMESPACE)["spec"], binding(NAMESPACE)["spec"]]
    assert (reason(keeper), reason(other)) == ("Installed", "Installed")


async def test_what_a_person_deletes_is_back(kube: Connection, admin: Connection) -> None:
    keeper = guard(kube)
    await keeper.look()
    for ref in (policy_ref(NAMESPACE), binding_ref(NAMESPACE)):
        await admin.delete(ref)
        with pytest.raises(NotFound):
            await kube.get(ref)

        await keeper.look()

        assert await kube.get(ref)
        assert reason(keeper) in {"Restored", "Contested"}
    await until_in_force(kube, NAMESPACE)


async def test_what_a_person_changes_is_set_back_and_told(control_plane: ControlPlane, kube: Connection) -> None:
    keeper = guard(kube)
    await keeper.look()
    edits = {
        policy_ref(NAMESPACE): {"spec": {"matchConditions": NEVER, "failurePolicy": "Fail"}},
        binding_ref(NAMESPACE): {"spec": {"validationActions": ["Audit"]}},
    }
    for ref, body in edits.items():
        path = f"{ref.path}?fieldManager=kubectl-edit"
        answer = control_plane.apiserver.admin.request("PATCH", path, body, "application/merge-patch+json")
        assert answer.status == 200, answer.body

    await keeper.look()

    specs = [(await kube.get(ref))["spec"] for ref in edits]
    assert specs == [policy(NAMESPACE)["spec"], binding(NAMESPACE)["spec"]]
    assert keeper.state is not None
    assert "by kubectl-edit" in keeper.state.message
    await until_in_force(kube, NAMESPACE)


async def test_without_the_right_it_says_so_until_it_has_it(control_plane: ControlPlane, tmp_path: Path) -> None:
    name = f"plain-{ULID()}".lower()
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    api = control_plane.apiserver.admin
    api.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}},
    )
    kubeconfig = control_plane.apiserver.kubeconfig(tmp_path / "plain", NAMESPACE, name, token_hours=1)

    async with Connection(Kubeconfig((kubeconfig,))) as plain:
        keeper = guard(plain)
        await keeper.look()
        assert keeper.state is not None
        assert (keeper.state.installed, keeper.state.reason) == (False, "Forbidden")
        assert "get validatingadmissionpolicies.admissionregistration.k8s.io" in keeper.state.message

        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"dragonfly-fence.{NAMESPACE}"}
        api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": role,
                "subjects": [subject],
            }
        )
        async with asyncio.timeout(DEADLINE):
            while reason(keeper) == "Forbidden":
                await asyncio.sleep(0.1)
                await keeper.look()
    assert reason(keeper) == "Installed"


async def test_the_rights_reach_no_other_policy(kube: Connection) -> None:
    other = policy("elsewhere")

    with pytest.raises(Forbidden):
        await kube.apply(other, force=True)
    with pytest.raises(Forbidden):
        await kube.create(other)
    with pytest.raises(Forbidden):
        await kube.get(policy_ref("elsewhere"))


class Late:
    """A controller on a real API server, whose mirror can be held back, and which believes in its epoch for ever."""

    def __init__(self, kube: Connection) -> None:
        self.machine = Machine(
            metadata=Metadata(name=f"m-{ULID()}".lower(), created_at=NOW, updated_at=NOW),
            spec=MachineSpec(interfaces=(Interface(mac="02:00:00:00:77:01"),)),
        )
        self.ref = Ref(HARDWARE, NAMESPACE, self.machine.name)
        self.was_refused = asyncio.Event()
        self.refusals: list[str] = []
        self.replacements: list[str] = []
        self._kube = kube
        self._store = StoreModel()
        self._mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda _key, _why: None)
        self.watch = Watch(self._store, self._mirror)
        self._epoch = 0

    def looked(self, cluster: str, waited: float, worked: float) -> None: ...
    def retried(self, cluster: str) -> None: ...
    def ended(self, provision: Provision) -> None: ...

    def refused(self, cluster: str) -> None:
        self.refusals.append(cluster)
        self.was_refused.set()

    def replaced(self, cluster: str) -> None:
        self.replacements.append(cluster)

    async def claim(self, owner: str) -> int:
        key = keys.claim(LOCAL, 0)
        await self._store.commit(Delete(key))
        await self._store.commit(Put(key, encode(Claim(owner=owner))))
        return self._store.items()[key].create_revision

    @asynccontextmanager
    async def working(self) -> AsyncIterator[int]:
        """Until the end of the block; gives the epoch."""
        epoch = await self.claim("late")
        await self._store.commit(Put(keys.machine(self.machine.name), encode(self.machine)))
        loop = asyncio.get_running_loop()
        around = Around(lambda: NOW, loop.time, lambda: 0.5, lambda _machine: "", gauges=self)
        controller = ClusterController(
            Place(LOCAL, NAMESPACE, shards=1, workers=1),
            kube=self._kube,
            store=self._store,
            mirror=self._mirror,
            dispatch=Dispatch(self._mirror),
            epoch=lambda _shard: epoch,
            around=around,
        )
        task = asyncio.create_task(controller.run())
        try:
            controller.gained(controller._shard_named(self.machine.name))
            yield epoch
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


async def test_the_api_server_stops_an_owner_that_was_overtaken_and_does_not_know(
    kube: Connection, admin: Connection
) -> None:
    """P4: its lease seems fine, its mirror shows its own claim, and it writes from what is there now."""
    await guard(kube).look()
    await until_in_force(kube, NAMESPACE)
    late = Late(kube)

    async with late.working() as epoch:
        await written(kube, late.ref, EPOCH, str(epoch))
        late.watch.hold()
        later = await late.claim("next")
        body = {"metadata": {"annotations": {EPOCH: str(later)}}, "spec": {"agentID": "02:00:00:00:77:02"}}
        theirs = await admin.patch(late.ref, body)
        async with asyncio.timeout(DEADLINE):
            await late.was_refused.wait()

    assert await kube.get(late.ref) == theirs
    assert (len(late.refusals), late.replacements) == (1, [])


async def test_an_owner_goes_on_in_an_etcd_that_began_anew(kube: Connection, admin: Connection) -> None:
    await guard(kube).look()
    await until_in_force(kube, NAMESPACE)
    owner = Late(kube)

    async with owner.working() as epoch:
        await written(kube, owner.ref, EPOCH, str(epoch))
        before = {"metadata": {"annotations": {EPOCH: "1000000"}}, "spec": {"agentID": "02:00:00:00:77:02"}}
        await admin.patch(owner.ref, before)
        hardware = await written(kube, owner.ref, REPLACES, "1000000")
        # What is written is seen by others before its writer has the answer.
        await until(lambda: bool(owner.replacements), "it knows of it", within=DEADLINE)

    assert hardware["metadata"]["annotations"][EPOCH] == str(epoch)
    assert hardware["spec"]["agentID"] == "02:00:00:00:77:01"
    assert (len(owner.refusals), len(owner.replacements)) == (1, 1)


async def written(kube: Connection, ref: Ref, annotation: str, value: str) -> Object:
    """The object, once it carries the annotation."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                obj = await kube.get(ref)
            except NotFound:
                obj = {"metadata": {}}
            if obj["metadata"].get("annotations", {}).get(annotation) == value:
                return obj
            await asyncio.sleep(0.05)
