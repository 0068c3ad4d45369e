"""Copies of a real cluster whose etcd is put back from a backup: they have what the cluster has, and nothing else."""

import asyncio
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.port import Listing
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import SECRET, Object, Ref
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane

pytestmark = pytest.mark.cluster

SELECTOR = "test=restored"
Said = dict[str, tuple[str, str]]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(with_tinkerbell=False) as plane:
        yield plane


async def test_copies_follow_a_cluster_back_to_its_backup(plane: ControlPlane) -> None:
    async with Connection(Kubeconfig((plane.admin_kubeconfig,)), Limits()) as kube:
        backup = await _before_and_after(kube, plane)
        async with _copy(kube) as copy:
            await copy.synced.wait()
            former = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)
            assert _said(copy.store.values()) == _said(former.items)

            await asyncio.to_thread(_put_back, plane, backup)
            await _until(lambda: set(copy.store) == {"kept", "deleted-later"})
            now = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)

            assert _said(copy.store.values()) == _said(now.items)
            await _overtake(kube, former)
            await kube.create(_secret("new"))
            await _until(lambda: "new" in copy.store)


async def test_a_history_that_has_become_the_longer_one_unseen_is_found_out(plane: ControlPlane) -> None:
    """Nothing in the stream tells: a watch from what was seen goes on, and is silent of what had gone back."""
    async with Connection(Kubeconfig((plane.admin_kubeconfig,)), Limits()) as kube:
        backup = await _before_and_after(kube, plane)
        former = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)
        await asyncio.to_thread(_put_back, plane, backup)
        copy = _copy(kube)
        copy.store = {item["metadata"]["name"]: item for item in former.items}
        copy.resource_version, copy._must_list = former.resource_version, False
        await _overtake(kube, former)
        async with aclosing(kube.watch(SECRET, NAMESPACE, former.resource_version, label_selector=SELECTOR)) as stream:
            assert (await anext(stream)).type == "BOOKMARK"
            told = await anext(stream)
            assert told.object["metadata"]["name"] == "busy", "not a word of the others"

        async with copy:
            await _until(lambda: set(copy.store) == {"kept", "deleted-later", "busy"})
            now = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)

        assert _said(copy.store.values()) == _said(now.items)


async def _before_and_after(kube: Connection, plane: ControlPlane) -> Path:
    """Take a backup of two objects; then the one is changed, the other deleted, and a third made."""
    await kube.create(_secret("kept"))
    await kube.create(_secret("deleted-later"))
    [member] = plane.etcd.members
    await asyncio.to_thread(member.service.stop)
    backup = Path(shutil.copytree(member.data, plane.directory / "backup"))
    await asyncio.to_thread(member.service.start)
    for value in range(20):
        await kube.patch(Ref(SECRET, NAMESPACE, "kept"), {"stringData": {"value": str(value)}})
    await kube.delete(Ref(SECRET, NAMESPACE, "deleted-later"))
    await kube.create(_secret("made-later"))
    return backup


def _put_back(plane: ControlPlane, backup: Path) -> None:
    """As Kubernetes says: API servers are stopped first, and started again on the restored etcd."""
    [member] = plane.etcd.members
    plane.apiserver.service.stop()
    member.service.stop()
    shutil.rmtree(member.data)
    shutil.copytree(backup, member.data)
    member.service.start()
    plane.apiserver.service.start()


async def _overtake(kube: Connection, former: Listing) -> None:
    """Change something until the new history is longer than the former one was."""
    made = await kube.create(_secret("busy"))
    value = 0
    while int(made["metadata"]["resourceVersion"]) <= int(former.resource_version):
        value += 1
        made = await kube.patch(Ref(SECRET, NAMESPACE, "busy"), {"stringData": {"value": str(value)}})


def _copy(kube: Connection) -> Reflector:
    return Reflector(kube, SECRET, NAMESPACE, label_selector=SELECTOR)


def _secret(name: str) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"test": "restored"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"value": "first"}}


def _said(objects: Iterable[Object]) -> Said:
    found: Said = {}
    for obj in objects:
        metadata = obj["metadata"]
        found[metadata["name"]] = metadata["uid"], metadata["resourceVersion"]
    return found


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.05)
