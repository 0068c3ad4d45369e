"""Where a cluster leads is found out before anything is done there; who came first has it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dragonfly.kube.errors import Forbidden, KubeError, Unreachable
from dragonfly.kube.resources import NAMESPACE, Ref
from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Delete, Put
from dragonfly.whereabouts import Whereabouts
from tests.unit.controllers.kube_model import KubeModel
from tests.unit.store_model import StoreModel, Watch
from tests.virtual_time import now, play


class World:
    """An API server, etcd, and registrations that lead to the same namespace."""

    def __init__(self) -> None:
        self.kube, self.store = KubeModel(), StoreModel()
        self.uid = self.kube.put(Ref(NAMESPACE, "", "tinkerbell"))["metadata"]["uid"]

    def elsewhere(self) -> "World":
        """The same etcd, and another API server."""
        other = World()
        other.store = self.store
        other.kube.remove(Ref(NAMESPACE, "", "tinkerbell"))
        other.uid = other.kube.put(Ref(NAMESPACE, "", "tinkerbell"))["metadata"]["uid"]
        return other

    async def register(self, name: str) -> None:
        cluster = Cluster(spec=ClusterSpec(shards=2, namespace="tinkerbell", in_cluster=name == "pods"))
        await self.store.commit(Put(keys.cluster(name), encode(cluster)))

    def found(self, name: str, server_side: str = "") -> Whereabouts:
        mirror = Mirror(decode, clock=now, on_undecodable=lambda *_: None)
        Watch(self.store, mirror)
        return Whereabouts(name, self.kube, "tinkerbell", server_side=server_side, store=self.store, mirror=mirror)

    def stored(self, name: str) -> Cluster:
        found = decode(keys.cluster(name), self.store.items()[keys.cluster(name)].value)
        assert isinstance(found, Cluster)
        return found


def run(story: Callable[[World], Awaitable[None]]) -> None:
    async def played() -> None:
        await story(World())

    play(played())


def test_it_is_written_down_once_by_whoever_reaches_it() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        await asyncio.gather(*(world.found("fra", "side").settle() for _ in range(3)))
        revision = world.store.revision
        await world.found("fra", "side").settle()

        assert (world.stored("fra").uid, world.stored("fra").server_side) == (world.uid, "side")
        assert world.store.revision == revision, "nothing is written where nothing is new"
        assert {key for key in world.store.items() if key.startswith(keys.CLUSTER_PLACES)} == {
            keys.cluster_place(world.uid),
            keys.cluster_place("side.tinkerbell"),
        }

    run(story)


@pytest.mark.parametrize("first", ["local", "fra"])
def test_the_second_is_not_worked_on_and_says_why_until_the_first_is_gone(first: str) -> None:
    async def story(world: World) -> None:
        second = "muc" if first == "fra" else "fra"
        for name in (first, second):
            await world.register(name)
        await world.found(first).settle()
        found = world.found(second)
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(10)

        assert not task.done()
        assert f"as cluster {first} does, so nothing is done in it" in found.trouble
        assert not world.stored(second).uid
        await world.store.commit(Delete(keys.cluster(first)))
        await asyncio.wait_for(task, 10)
        assert found.trouble == ""
        assert world.stored(second).uid == world.uid

    run(story)


def test_of_two_that_are_found_out_at_once_one_is_worked_on() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        await world.register("muc")
        tasks = [asyncio.create_task(world.found(name).settle()) for name in ("fra", "muc")]
        await asyncio.sleep(10)

        assert sorted(task.done() for task in tasks) == [False, True]
        for task in tasks:
            task.cancel()

    run(story)


def test_a_cluster_that_is_away_is_asked_again() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        world.kube.faults["get"] = [Unreachable("connection refused", maybe_done=False)] * 3
        found = world.found("fra")
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(1)
        assert found.trouble == "connection refused"
        await asyncio.wait_for(task, 30)

        assert found.trouble == ""
        assert world.stored("fra").uid == world.uid

    run(story)


@pytest.mark.parametrize("error", [Forbidden("may not get namespaces", status=403), None])
def test_where_the_uid_is_not_to_be_had_work_goes_on_without(error: KubeError | None) -> None:
    """A service account of an earlier version has no right to read it."""

    async def story(world: World) -> None:
        await world.register("fra")
        if error is not None:
            world.kube.faults["get"] = [error]
        else:
            world.kube.remove(Ref(NAMESPACE, "", "tinkerbell"))
        await asyncio.wait_for(world.found("fra", "side").settle(), 1)

        assert world.stored("fra").uid == ""
        assert world.stored("fra").server_side == "side"

    run(story)


def test_a_login_that_is_refused_is_no_answer() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        world.kube.faults["get"] = [Forbidden("Unauthorized", status=401)] * 1000
        found = world.found("fra")
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(10)

        assert not task.done()
        assert found.trouble == "Unauthorized"
        task.cancel()

    run(story)


@pytest.mark.parametrize("name", ["local", "pods"])
def test_what_each_replica_finds_by_itself_stays_where_it_was_found_first(name: str) -> None:
    """By a kubeconfig of its own, or its pod, so another namespace there may be another cluster."""

    async def story(world: World) -> None:
        await world.register(name)
        await world.found(name).settle()
        elsewhere = world.elsewhere()
        found = elsewhere.found(name)
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(10)

        assert not task.done()
        assert f"swarm's {name} is" in found.trouble
        assert f"the uid {elsewhere.uid} here, and {world.uid} there" in found.trouble
        assert world.stored(name).uid == world.uid
        said = Cluster(spec=ClusterSpec(shards=2), uid=elsewhere.uid)
        await world.store.commit(Put(keys.cluster(name), encode(said)))
        await asyncio.wait_for(task, 10)
        assert found.trouble == ""

    run(story)


def test_of_two_that_find_another_local_at_once_one_works() -> None:
    async def story(world: World) -> None:
        await world.register("local")
        elsewhere = world.elsewhere()
        tasks = [asyncio.create_task(each.found("local").settle()) for each in (world, elsewhere)]
        await asyncio.sleep(10)

        assert sorted(task.done() for task in tasks) == [False, True]
        for task in tasks:
            task.cancel()

    run(story)


@pytest.mark.parametrize("error", [Forbidden("may not get namespaces", status=403), None])
def test_where_it_cannot_be_told_whether_it_is_local_nothing_is_done(error: KubeError | None) -> None:
    async def story(world: World) -> None:
        await world.register("local")
        await world.found("local").settle()
        if error is not None:
            world.kube.faults["get"] = [error] * 100
        else:
            world.kube.remove(Ref(NAMESPACE, "", "tinkerbell"))
        found = world.found("local")
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(10)

        assert not task.done()
        assert "whether this is the swarm's local cannot be told" in found.trouble
        task.cancel()

    run(story)


def test_local_is_written_down_by_a_replica_that_has_not_seen_its_record_yet() -> None:
    """Else two that begin at once would both work."""

    async def story(world: World) -> None:
        mirror = Mirror(decode, clock=now, on_undecodable=lambda *_: None)
        watch = Watch(world.store, mirror)
        found = Whereabouts("local", world.kube, "tinkerbell", server_side="", store=world.store, mirror=mirror)
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(1)
        assert not task.done(), "nobody has agreed on its shards"
        watch.hold()
        await world.register("local")
        await asyncio.sleep(10)
        assert world.stored("local").uid == world.uid

        watch.go_on()
        await asyncio.wait_for(task, 10)
        assert found.trouble == ""

    run(story)


def test_who_works_in_local_learns_that_it_is_another_one_now() -> None:
    async def story(world: World) -> None:
        await world.register("local")
        found = world.found("local")
        lost = asyncio.create_task(found.lost())
        await found.settle()
        await asyncio.sleep(10)
        assert not lost.done()
        sited = Cluster(spec=ClusterSpec(shards=2, sites=("fra1",)), uid=world.uid)
        await world.store.commit(Put(keys.cluster("local"), encode(sited)))
        await asyncio.sleep(10)
        assert not lost.done(), "it is the same one"

        await world.store.commit(Put(keys.cluster("local"), encode(Cluster(spec=sited.spec, uid="another"))))
        await asyncio.wait_for(lost, 10)

    run(story)


def test_a_namespace_that_was_made_anew_is_another_place() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        await world.found("fra").settle()
        world.kube.remove(Ref(NAMESPACE, "", "tinkerbell"))
        uid = world.kube.put(Ref(NAMESPACE, "", "tinkerbell"))["metadata"]["uid"]
        await world.found("fra").settle()

        assert uid != world.uid
        assert world.stored("fra").uid == uid
        assert keys.cluster_place(world.uid) not in world.store.items()

    run(story)


def test_one_that_is_never_reached_is_asked_less_and_less_and_found_within_seconds_when_it_is_there() -> None:
    async def story(world: World) -> None:
        await world.register("fra")
        world.kube.faults["get"] = [Unreachable("connection refused", maybe_done=False)] * 1000
        found = world.found("fra")
        task = asyncio.create_task(found.settle())
        await asyncio.sleep(60)
        left = len(world.kube.faults["get"])
        await asyncio.sleep(600)
        asked = left - len(world.kube.faults["get"])
        assert 60 <= asked <= 121, "every 5 to 10 s"
        world.kube.faults["get"].clear()

        await asyncio.wait_for(task, 10.1)

    run(story)
