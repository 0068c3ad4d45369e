"""A cluster that is registered twice: one registration wins, the other is told which."""

import asyncio
import json
from typing import Any

import pytest

from dragonfly.store import keys
from dragonfly.store.values import Put
from tests.unit.api.replicas import ANY, Replica, World, answer_of, problem_of
from tests.unit.api.test_clusters import CLUSTERS, document, kubeconfig, patched, stored

ADDRESSES = {"https://10.0.0.1:6443": "one", "https://lb.example:6443": "one", "https://10.0.0.2:6443": "two"}
"""Which API server is behind an address."""

UID = "3cc31835-97f2-483b-88d2-272ba65a1ef9"


async def identify(_name: str, given: str, namespace: str) -> str:
    server = json.loads(given)["clusters"][0]["cluster"]["server"].rstrip("/") if given else "https://10.0.0.1:6443"
    return f"{ADDRESSES[server]}-{namespace}"


async def nobody_reaches_it(*_: str) -> str:
    return ""


@pytest.fixture(params=[identify, nobody_reaches_it], ids=["reached", "out of reach"])
async def replica(world: World, request: pytest.FixtureRequest) -> Replica:
    await world.store.commit(Put(keys.cluster("local"), b'{"spec":{"shards":4},"uid":"two-tinkerbell"}'))
    await world.store.commit(Put(keys.cluster_place("two-tinkerbell"), b'{"cluster":"local"}'))
    return world.replica(identify=request.param)


def held(world: World) -> dict[str, str]:
    found = world.store.items().items()
    return {
        key.removeprefix(keys.CLUSTER_PLACES): json.loads(item.value)["cluster"]
        for key, item in found
        if key.startswith(keys.CLUSTER_PLACES)
    }


async def registered(replica: Replica, name: str, **spec: Any) -> Any:
    return await replica.http.post(CLUSTERS, json=document(name, **spec))


async def test_the_second_registration_is_told_which_is_the_first(replica: Replica) -> None:
    answer_of(await registered(replica, "fra"), 201)

    problem = problem_of(await registered(replica, "muc"), 409, "cluster-registered")

    assert problem["detail"] == (
        "Cluster fra leads to namespace tinkerbell of the same API server already (https://10.0.0.1:6443). "
        "Use that one, change it with PATCH /api/v1/clusters/fra, or name another namespace."
    )
    assert replica.mirror.get(keys.cluster("muc")) is None


async def test_another_user_and_another_way_of_writing_are_no_other_cluster(replica: Replica) -> None:
    answer_of(await registered(replica, "fra"), 201)
    same = kubeconfig(token="another", server="https://10.0.0.1:6443/")

    problem_of(await registered(replica, "muc", kubeconfig=same), 409, "cluster-registered")


async def test_another_namespace_of_it_is_another_cluster(replica: Replica) -> None:
    answer_of(await registered(replica, "fra"), 201)
    answer_of(await registered(replica, "muc", namespace="tinkerbell-2"), 201)


async def test_of_two_that_are_registered_at_once_on_two_replicas_one_wins(replica: Replica, world: World) -> None:
    other = world.replica("b", identify=replica.context.identify)
    replica.watch.hold()
    other.watch.hold()

    answers = await asyncio.gather(registered(replica, "fra"), registered(other, "muc"))

    (winner,) = [answer.json()["metadata"]["name"] for answer in answers if answer.status_code == 201]
    (loser,) = [answer for answer in answers if answer.status_code != 201]
    assert f"Cluster {winner} leads to" in problem_of(loser, 409, "cluster-registered")["detail"]
    assert set(held(world).values()) == {"local", winner}


async def test_the_same_one_by_another_address_is_found_out_where_it_is_reached(world: World) -> None:
    replica = world.replica(identify=identify)
    answer_of(await registered(replica, "fra"), 201)

    again = await registered(replica, "muc", kubeconfig=kubeconfig(server="https://lb.example:6443"))

    assert "Cluster fra leads to" in problem_of(again, 409, "cluster-registered")["detail"]


async def test_what_the_replicas_were_started_with_counts_too(world: World) -> None:
    await world.store.commit(Put(keys.cluster("local"), b'{"spec":{"shards":4},"uid":"two-tinkerbell"}'))
    await world.store.commit(Put(keys.cluster_place("two-tinkerbell"), b'{"cluster":"local"}'))
    replica = world.replica(identify=identify)
    there = kubeconfig(server="https://10.0.0.2:6443")

    problem = problem_of(await registered(replica, "muc", kubeconfig=there), 409, "cluster-registered")

    assert "Cluster local leads to namespace tinkerbell of the same API server already, which" in problem["detail"]


async def test_a_cluster_that_leads_elsewhere_gives_its_place_up(replica: Replica, world: World) -> None:
    answer_of(await registered(replica, "fra"), 201)
    before = set(held(world))
    answer_of(await patched(replica, {"spec": {"namespace": "elsewhere"}}), 200)

    assert before & set(held(world)) == {"two-tinkerbell"}
    answer_of(await registered(replica, "muc"), 201)
    problem_of(await patched(replica, {"spec": {"namespace": "tinkerbell"}}), 409, "cluster-registered")
    assert stored(replica).spec.namespace == "elsewhere"


async def test_a_put_moves_it_as_well(replica: Replica, world: World) -> None:
    answer_of(await registered(replica, "fra"), 201)
    elsewhere = document("fra", kubeconfig=kubeconfig(server="https://10.0.0.2:6443"), namespace="other")
    answer_of(await replica.http.put(f"{CLUSTERS}/fra", json=elsewhere, headers=ANY), 200)

    answer_of(await registered(replica, "muc"), 201)
    assert set(held(world).values()) == {"local", "fra", "muc"}


async def test_new_credentials_keep_the_place(replica: Replica, world: World) -> None:
    answer_of(await registered(replica, "fra"), 201)
    before = held(world)

    answer_of(await patched(replica, {"spec": {"kubeconfig": kubeconfig(token="renewed")}}), 200)

    assert held(world) == before


async def test_a_removed_one_gives_its_place_up(replica: Replica, world: World) -> None:
    answer_of(await registered(replica, "fra"), 201)
    assert (await replica.http.delete(f"{CLUSTERS}/fra", headers=ANY)).status_code == 204

    assert held(world) == {"two-tinkerbell": "local"}
    answer_of(await registered(replica, "muc"), 201)


async def test_a_place_whose_cluster_does_not_lead_there_any_more_is_taken_over(replica: Replica, world: World) -> None:
    """A replica of a version without places has removed or changed the cluster."""
    answer_of(await registered(replica, "fra"), 201)
    await world.store.commit(Put(keys.cluster("fra"), b'{"spec":{"shards":4,"namespace":"other"}}'))

    answer_of(await registered(replica, "muc"), 201)

    assert set(held(world).values()) == {"local", "muc"}


async def test_which_cluster_local_is_can_be_said_and_of_no_other(replica: Replica, world: World) -> None:
    answer_of(await registered(replica, "fra"), 201)
    said = {"spec": {"namespaceUid": UID}}

    changed = answer_of(await patched(replica, said, "local"), 200)

    assert changed["status"]["namespaceUid"] == UID
    assert held(world)[UID] == "local"
    assert "two-tinkerbell" not in held(world)
    again = {"metadata": {"name": "local"}, "spec": {"sites": ["fra1"]}}
    kept = answer_of(await replica.http.put(f"{CLUSTERS}/local", json=again, headers=ANY), 200)
    assert kept["status"]["namespaceUid"] == UID
    assert "is for clusters that replicas find by themselves" in (await patched(replica, said)).text


@pytest.mark.parametrize(
    "text",
    [
        "another",
        "Not a uid/",
        UID.upper(),
        UID.replace("-", ""),
        UID[:-1],
        f"{UID}0",
        f" {UID}",
        f"{UID}\n",
        f"{{{UID}}}",
        f"g{UID[1:]}",
        "٣" + UID[1:],
    ],
)
async def test_only_what_kubernetes_gives_is_a_uid(replica: Replica, world: World, text: str) -> None:
    problem = problem_of(await patched(replica, {"spec": {"namespaceUid": text}}, "local"), 422, "invalid")

    assert [error["field"] for error in problem["errors"]] == ["spec.namespaceUid"]
    assert held(world) == {"two-tinkerbell": "local"}


async def test_local_cannot_be_where_another_cluster_is(world: World) -> None:
    await world.store.commit(Put(keys.cluster("local"), b'{"spec":{"shards":4},"uid":"two-tinkerbell"}'))

    async def told(*_: str) -> str:
        return UID

    replica = world.replica(identify=told)
    answer_of(await registered(replica, "fra"), 201)

    refused = await patched(replica, {"spec": {"namespaceUid": UID}}, "local")

    assert "Cluster fra leads to" in problem_of(refused, 409, "cluster-registered")["detail"]
