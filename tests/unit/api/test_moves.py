"""Moves over HTTP: what is asked for, what is refused, what is taken back, and a cluster that is given up."""

from typing import Any

import msgspec
import pytest

from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.model.machine import Machine, Observed
from dragonfly.model.provision import Arming, Provision, advanced
from dragonfly.model.swarm import Member
from dragonfly.store import keys, records
from dragonfly.store.values import Put
from tests.unit.api.replicas import ANY, Replica, World, answer_of, fields_of, problem_of

MAC = "02:00:00:00:00:01"
MOVE = "/api/v1/machines/m-1/move"
TO_FRA = {"cluster": "fra"}
FORCED = {"cluster": "fra", "force": True}


@pytest.fixture
async def replica(world: World) -> Replica:
    replica = world.replica(clusters={"local": 4, "fra": 1})
    fra = Cluster(spec=ClusterSpec(shards=1))
    await world.store.commit(Put(keys.cluster("fra"), records.encode(fra)))
    await reach(replica, "local", "fra")
    await replica.machine("m-1", MAC)
    return replica


async def reach(replica: Replica, *clusters: str) -> None:
    now = replica.clock.now()
    lost = {name: now for name in ("local", "fra") if name not in clusters}
    member = Member(id="a", version="1", address="a", started=now, clusters=clusters, unreachable=lost)
    await replica.store.commit(Put(keys.member("a"), records.encode(member)))


async def asked(replica: Replica, body: dict[str, Any]) -> Any:
    return await replica.http.post(MOVE, json=body)


def machine(replica: Replica) -> Machine:
    held = replica.mirror.get(keys.machine("m-1"))
    assert held is not None
    assert isinstance(held.object, Machine)
    return held.object


async def test_a_move_is_written_down_and_asked_for_again_changes_nothing(replica: Replica) -> None:
    first = answer_of(await asked(replica, TO_FRA), 202)
    second = answer_of(await asked(replica, TO_FRA), 202)

    assert first["spec"]["cluster"] == "local"
    assert (first["status"]["moving"]["to"], first["status"]["moving"]["by"]) == ("fra", "admin")
    assert second["metadata"]["revision"] == first["metadata"]["revision"]


async def test_a_move_to_where_it_is_changes_nothing_and_takes_a_move_back(replica: Replica) -> None:
    assert "moving" not in answer_of(await asked(replica, {"cluster": "local"}), 202)["status"]
    answer_of(await asked(replica, TO_FRA), 202)

    assert "moving" not in answer_of(await asked(replica, {"cluster": "local"}), 202)["status"]
    assert machine(replica).moving is None


@pytest.mark.parametrize(
    ("path", "body", "status"), [("provision", {"template": "ubuntu"}, 409), ("power", {"action": "on"}, 409)]
)
async def test_a_machine_that_is_being_moved_begins_nothing_else(
    replica: Replica, path: str, body: dict[str, Any], status: int
) -> None:
    answer_of(await asked(replica, TO_FRA), 202)

    answer = await replica.http.post(f"/api/v1/machines/m-1/{path}", json=body)

    problem_of(answer, status, "machine-moving")


async def test_what_is_locked_or_unknown_or_out_of_reach_is_refused(replica: Replica) -> None:
    assert fields_of(problem_of(await asked(replica, {"cluster": "mars"}), 422, "invalid")) == ["cluster"]
    await reach(replica, "local")
    problem_of(await asked(replica, TO_FRA), 409, "cluster-unreachable")
    problem_of(await asked(replica, FORCED), 409, "cluster-unreachable")
    await reach(replica, "fra")
    assert "with force" in problem_of(await asked(replica, TO_FRA), 409, "cluster-unreachable")["detail"]
    answer_of(await replica.http.post("/api/v1/machines/m-1/lock", json={"reason": "disk"}), 200)
    problem_of(await asked(replica, FORCED), 409, "machine-locked")


async def test_a_machine_on_its_way_keeps_both_clusters_from_being_removed(replica: Replica) -> None:
    answer_of(await asked(replica, TO_FRA), 202)

    answer = await replica.http.delete("/api/v1/clusters/fra", headers=ANY)

    problem_of(answer, 409, "cluster-in-use")


async def test_a_delete_ends_a_move(replica: Replica) -> None:
    answer_of(await asked(replica, TO_FRA), 202)

    answer_of(await replica.http.delete("/api/v1/machines/m-1", headers=ANY), 202)

    assert machine(replica).moving is None


async def test_a_reached_cluster_is_left_in_order_even_with_force(replica: Replica) -> None:
    assert answer_of(await asked(replica, FORCED), 202)["spec"]["cluster"] == "local"


async def test_a_cluster_that_is_gone_is_left_with_what_was_under_way(replica: Replica) -> None:
    """It counts as failed, and what is installed as unknown, for the armed Workflow may have run."""
    action = {"name": "write", "image": "example/image:1", "timeout": 60}
    template = {"metadata": {"name": "ubuntu"}, "spec": {"actions": [action]}}
    answer_of(await replica.http.post("/api/v1/templates", json=template), 201)
    asked_for = await replica.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"})
    name = answer_of(asked_for, 202)["metadata"]["name"]
    await _arm(replica, name)
    await reach(replica, "fra")

    there = answer_of(await asked(replica, FORCED), 202)

    assert there["spec"]["cluster"] == "fra"
    assert (machine(replica).moving, machine(replica).formerly) == (None, ("local",))
    assert replica.mirror.get(keys.active("m-1")) is None
    done = answer_of(await replica.http.get(f"/api/v1/provisions/{name}"), 200)
    assert (done["status"]["phase"], done["status"]["error"]["reason"]) == ("Failed", "ClusterForsaken")
    seen = replica.mirror.get(keys.observed("m-1"))
    assert seen is not None
    assert isinstance(seen.object, Observed)
    assert seen.object.os is None
    shown = answer_of(await replica.http.get("/api/v1/machines/m-1"), 200)
    assert shown["status"]["phase"] == "Failed"


async def _arm(replica: Replica, name: str) -> None:
    key = keys.provision("m-1", name)
    held = replica.mirror.get(key)
    assert held is not None
    assert isinstance(held.object, Provision)
    now = replica.clock.now()
    arming = Arming(uid="u", resource_version="1", epoch=1, at=now)
    armed = advanced(held.object, now, phase="Starting", started_at=now)
    await replica.store.commit(Put(key, records.encode(msgspec.structs.replace(armed, arming=arming))))


async def test_batches_move(replica: Replica) -> None:
    body = {"operations": [{"op": "move", "name": "m-1", "body": TO_FRA}]}

    (result,) = answer_of(await replica.http.post("/api/v1/machines:batch", json=body), 200)["results"]

    assert result["status"] == 202
    assert result["body"]["status"]["moving"]["to"] == "fra"
