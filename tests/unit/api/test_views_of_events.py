"""What a follower's view means over HTTP: what comes into it is created there, what leaves it is deleted there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from dragonfly.feed.view import View
from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.model.machine import Machine
from dragonfly.store import keys, records
from dragonfly.store.values import Put
from tests.unit.api.replicas import Replica, World, answer_of, mac
from tests.unit.api.streaming import Stream, served

Step = Callable[[Replica], Awaitable[None]]


@pytest.fixture
async def replica(world: World) -> Replica:
    replica = world.replica(clusters={"local": 4, "fra": 1})
    await world.store.commit(Put(keys.cluster("fra"), records.encode(Cluster(spec=ClusterSpec(shards=1)))))
    await replica.template()
    return replica


@pytest.fixture
async def url(replica: Replica) -> AsyncIterator[str]:
    async with served(replica) as address:
        yield address


def labelled(site: str) -> Step:
    async def step(replica: Replica) -> None:
        await _changed(replica, {"labels": {"site": site}})

    return step


def tagged(*tags: str) -> Step:
    async def step(replica: Replica) -> None:
        await _changed(replica, {"tags": list(tags)})

    return step


def moved(cluster: str) -> Step:
    """As the last step of a move has it."""

    async def step(replica: Replica) -> None:
        held = replica.mirror.get(keys.machine("m-1"))
        assert held is not None
        assert isinstance(held.object, Machine)
        spec = msgspec.structs.replace(held.object.spec, cluster=cluster)
        machine = msgspec.structs.replace(held.object, spec=spec)
        await replica.store.commit(Put(keys.machine("m-1"), records.encode(machine)))

    return step


async def provisioned(replica: Replica) -> None:
    await replica.provision("m-1")


async def cancelled(replica: Replica) -> None:
    (provision,) = (await replica.get("/api/v1/provisions"))["items"]
    await replica.post(f"/api/v1/provisions/{provision['metadata']['name']}/cancel", {}, 202)


async def _changed(replica: Replica, metadata: dict[str, Any]) -> None:
    current = await replica.get("/api/v1/machines/m-1")
    current["metadata"] |= metadata
    etag = {"If-Match": f'"{current["metadata"]["revision"]}"'}
    answer_of(await replica.http.put("/api/v1/machines/m-1", json=current, headers=etag), 200)


@pytest.mark.parametrize(
    ("query", "leaves", "comes_back"),
    [
        ({"labelSelector": "site=fra"}, labelled("ams"), labelled("fra")),
        ({"labelSelector": "site in (fra,muc)"}, labelled("ams"), labelled("muc")),
        ({"labelSelector": "site!=ams"}, labelled("ams"), labelled("fra")),
        ({"tag": "gpu"}, tagged(), tagged("gpu", "new")),
        ({"phase": "Available"}, provisioned, cancelled),
        ({"cluster": "local"}, moved("fra"), moved("local")),
        ({"cluster": "local", "labelSelector": "site=fra", "phase": "Available"}, moved("fra"), moved("local")),
    ],
    ids=["label", "one of labels", "no such label", "tag", "phase", "cluster", "all at once"],
)
@pytest.mark.parametrize("coalesce", ["false", "true"])
async def test_what_leaves_a_view_is_deleted_there_and_created_when_it_comes_back(
    replica: Replica, url: str, query: dict[str, str], leaves: Step, comes_back: Step, coalesce: str
) -> None:
    await replica.machine("m-1", mac(1), metadata={"labels": {"site": "fra"}, "tags": ["gpu"]})
    before = await replica.get("/api/v1/machines/m-1")
    async with Stream(url, kind="Machine", snapshot="true", coalesce=coalesce, **query) as stream:
        _begins, there, _complete = await stream.take(3)
        await leaves(replica)
        gone = await stream.next()
        await comes_back(replica)
        back = await stream.next()

    assert (there.event, there.data["object"]) == ("created", before)
    assert (gone.event, gone.data["name"]) == ("deleted", "m-1")
    assert gone.data["object"] == before, "as it was last in the view, and nothing of what it is now"
    assert back.event == "created"
    assert back.data["object"] == await replica.get("/api/v1/machines/m-1")


async def test_who_may_see_some_objects_only_is_told_of_them_and_of_their_leaving(replica: Replica) -> None:
    """The rule is a part of the view, whatever else is asked for; nobody else's changes wake this one."""
    view = View(may_see=lambda shown: shown.labels.get("team") == "red")
    await replica.machine("m-1", mac(1), metadata={"labels": {"team": "red"}})
    await replica.machine("m-2", mac(2), metadata={"labels": {"team": "blue"}})
    snapshot = replica.feed.snapshot(view)
    assert [shown.ref.name for shown in snapshot.objects] == ["m-1"]

    told = []
    for team in ("blue", "green", "red"):
        await _changed(replica, {"labels": {"team": team}})
        taken = snapshot.subscription.take()
        told.append(b"".join(taken.chunks).decode() if taken is not None else "")

    assert told[0].startswith("event: deleted\n")
    assert '"team":"red"' in told[0]
    assert "blue" not in told[0]
    assert told[1] == ""
    assert told[2].startswith("event: created\n")
