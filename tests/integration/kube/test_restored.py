"""Copies of a cluster that is put back from a backup have what it has, and nothing else: a real one, and the model."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Protocol

import pytest

from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.port import Kube, Listing
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import SECRET, Object, Ref
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from tests.simulation.apiserver import ApiServer
from tests.simulation.kubeclient import KubeClient, Streams
from tests.simulation.loop import Process
from tests.simulation.wire import Chances, Wire

SELECTOR = "test=restored"
AWAY = 2.2
"""Seconds that the model is away: longer than a copy believes that nobody can have put the cluster back."""
Said = dict[str, tuple[str, str]]


class Restorable(Protocol):
    """A cluster of which a backup can be made."""

    kube: Kube

    async def back_up(self) -> None: ...

    async def put_back(self) -> None: ...


class RealCluster:
    """kube-apiserver, whose etcd's files are the backup."""

    def __init__(self, plane: ControlPlane, kube: Kube) -> None:
        self._plane = plane
        self.kube = kube

    async def back_up(self) -> None:
        [member] = self._plane.etcd.members
        await asyncio.to_thread(member.service.stop)
        self._backup = Path(shutil.copytree(member.data, self._plane.directory / "backup"))
        await asyncio.to_thread(member.service.start)
        # It says so when it has found its etcd again.
        await asyncio.to_thread(self._plane.apiserver.service.wait_ready)

    async def put_back(self) -> None:
        await asyncio.to_thread(self._put_back)

    def _put_back(self) -> None:
        """As Kubernetes says: API servers are stopped first, and started again on the restored etcd."""
        [member] = self._plane.etcd.members
        self._plane.apiserver.service.stop()
        member.service.stop()
        shutil.rmtree(member.data)
        shutil.copytree(self._backup, member.data)
        member.service.start()
        self._plane.apiserver.service.start()


class ModelCluster:
    """The simulator's model, whose moments are its backups."""

    def __init__(self) -> None:
        loop, random = asyncio.get_running_loop(), Random(0)
        self._server = ApiServer()
        self._wire = Wire(loop, random, Chances())
        self._streams = Streams(loop, self._server, self._wire, random)
        self.kube: Kube = KubeClient(self._server, self._streams, Process("one"))

    async def back_up(self) -> None:
        self._backup = self._server.version

    async def put_back(self) -> None:
        self._wire.down.add("kube")
        self._streams.end()
        await asyncio.sleep(AWAY)
        self._server.restore(self._backup)
        self._wire.down.clear()


@pytest.fixture(
    params=[pytest.param("model", marks=pytest.mark.slow), pytest.param("cluster", marks=pytest.mark.cluster)]
)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Restorable]:
    if request.param == "model":
        yield ModelCluster()
        return
    with ControlPlane(with_tinkerbell=False) as plane:
        async with Connection(Kubeconfig((plane.admin_kubeconfig,)), Limits()) as kube:
            yield RealCluster(plane, kube)


async def test_copies_follow_a_cluster_back_to_its_backup(cluster: Restorable) -> None:
    kube = cluster.kube
    await _before_and_after(cluster)
    async with _copy(kube) as copy:
        await copy.synced.wait()
        former = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)
        assert _said(copy.store.values()) == _said(former.items)

        await cluster.put_back()
        await _until(lambda: set(copy.store) == {"kept", "deleted-later"})
        now = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)

        assert _said(copy.store.values()) == _said(now.items)
        await _overtake(kube, former)
        await kube.create(_secret("new"))
        await _until(lambda: "new" in copy.store)


async def test_a_history_that_has_become_the_longer_one_unseen_is_found_out(cluster: Restorable) -> None:
    """Nothing in the stream tells: a watch from what was seen goes on, and is silent of what had gone back."""
    kube = cluster.kube
    await _before_and_after(cluster)
    former = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)
    await cluster.put_back()
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


async def test_a_watch_from_where_the_new_history_has_not_come_yet_is_silent_until_it_has(cluster: Restorable) -> None:
    """What it lacks are the changes up to there, and they are never told."""
    kube = cluster.kube
    await _before_and_after(cluster)
    former = await kube.list(SECRET, NAMESPACE, label_selector=SELECTOR)
    await cluster.put_back()
    async with aclosing(kube.watch(SECRET, NAMESPACE, former.resource_version, label_selector=SELECTOR)) as stream:
        assert (await anext(stream)).type == "BOOKMARK"
        await _overtake(kube, former)
        told = await anext(stream)

    assert told.object["metadata"]["name"] == "busy"
    assert int(told.object["metadata"]["resourceVersion"]) > int(former.resource_version)


async def _before_and_after(cluster: Restorable) -> None:
    """Take a backup of two objects; then the one is changed, the other deleted, and a third made."""
    kube = cluster.kube
    await kube.create(_secret("kept"))
    await kube.create(_secret("deleted-later"))
    await cluster.back_up()
    for value in range(20):
        await kube.patch(Ref(SECRET, NAMESPACE, "kept"), {"stringData": {"value": str(value)}})
    await kube.delete(Ref(SECRET, NAMESPACE, "deleted-later"))
    await kube.create(_secret("made-later"))


async def _overtake(kube: Kube, former: Listing) -> None:
    """Change something until the new history is longer than the former one was."""
    made = await kube.create(_secret("busy"))
    value = 0
    while int(made["metadata"]["resourceVersion"]) <= int(former.resource_version):
        value += 1
        made = await kube.patch(Ref(SECRET, NAMESPACE, "busy"), {"stringData": {"value": str(value)}})


def _copy(kube: Kube) -> Reflector:
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
