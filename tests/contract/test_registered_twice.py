"""The same name, MAC or cluster registered at two replicas at once, over real etcd: one wins, the other is told who."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import pytest

from dragonfly.store import keys
from dragonfly.store.client import EtcdStore
from dragonfly.store.follow import Follower
from dragonfly.store.mirror import Mirror
from dragonfly.store.settings import EtcdSettings
from tests.unit.api.replicas import ANY, Replica, answer_of, mac, machine_document, problem_of

pytestmark = pytest.mark.etcd

ROUNDS = 50
Stores = Callable[[EtcdSettings], EtcdStore]


class Race(NamedTuple):
    winner: str
    problem: dict[str, Any]


class Pair:
    """Two replicas' applications, each with a client, a watch and a mirror of its own on the same etcd."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas

    async def post(self, path: str, *bodies: Any, lost: str) -> Race:
        """Send one body to each at once; the loser's problem must be a 409 of this kind."""
        sent = (replica.http.post(path, json=body) for replica, body in zip(self.replicas, bodies, strict=True))
        answers: list[httpx.Response] = await asyncio.gather(*sent)
        assert sorted(answer.status_code for answer in answers) == [201, 409], [answer.text for answer in answers]
        won, other = sorted(answers, key=lambda answer: answer.status_code)
        return Race(won.json()["metadata"]["name"], problem_of(other, 409, lost))


async def identify(_name: str, given: str, namespace: str) -> str:
    """One API server is behind all addresses of `lb`; no other can be asked."""
    server = json.loads(given)["clusters"][0]["cluster"]["server"] if given else ""
    return f"uid-of-{namespace}" if "lb-" in server else ""


@pytest.fixture
async def pair(settings: EtcdSettings, stores: Stores) -> AsyncIterator[Pair]:
    followers: list[Follower] = []

    def follow(store: EtcdStore, mirror: Mirror) -> Follower:
        followers.append(Follower(store, store.gateway, mirror, jitter=lambda: 0.0))
        return followers[-1]

    ulids = (f"01J0000000000000000000{number:04d}" for number in itertools.count(1))
    replicas = [Replica(name, stores(settings), ulids, watch=follow, identify=identify) for name in ("a", "b")]
    for replica, follower in zip(replicas, followers, strict=True):
        await follower.start()
        await replica.mirror.wait_for(1, 60)
    yield Pair(replicas)
    for replica, follower in zip(replicas, followers, strict=True):
        await replica.inquiry.stop()
        await replica.http.aclose()
        await follower.stop()


async def test_one_machine_has_the_name(pair: Pair) -> None:
    for number in range(ROUNDS):
        bodies = [machine_document(f"m-{number}", mac(2 * number + which)) for which in (0, 1)]

        race = await pair.post("/api/v1/machines", *bodies, lost="already-exists")

        assert race.problem["detail"].startswith(f"Machine m-{number} exists already.")


async def test_one_machine_has_the_mac_and_its_cluster_is_told(pair: Pair) -> None:
    for number in range(ROUNDS):
        bodies = [machine_document(f"m-{number}-{which}", mac(number)) for which in ("a", "b")]

        race = await pair.post("/api/v1/machines", *bodies, lost="mac-in-use")

        words = f"{mac(number)} already belongs to machine {race.winner} in cluster local."
        assert words in race.problem["detail"]
        assert [error["field"] for error in race.problem["errors"]] == ["spec.interfaces[0].mac"]


@pytest.mark.parametrize("servers", [("10.0.0.1", "10.0.0.1"), ("lb-1", "lb-2")], ids=["one address", "two addresses"])
async def test_one_cluster_leads_there(pair: Pair, servers: tuple[str, str]) -> None:
    for number in range(ROUNDS):
        bodies = [_cluster(f"{which}-{number}", server) for which, server in zip("ab", servers, strict=True)]

        race = await pair.post("/api/v1/clusters", *bodies, lost="cluster-registered")

        assert race.problem["detail"].startswith(f"Cluster {race.winner} leads to namespace tinkerbell of the same")
        gone = await pair.replicas[number % 2].http.delete(f"/api/v1/clusters/{race.winner}", headers=ANY)
        assert gone.status_code == 204, gone.text
    assert await _holders(pair.replicas[0]) == []


async def test_a_place_that_is_given_up_and_taken_at_once_has_one_cluster(pair: Pair) -> None:
    first, second = pair.replicas
    answer_of(await first.http.post("/api/v1/clusters", json=_cluster("fra", "10.0.0.1")), 201)
    for number in range(ROUNDS):
        moved = {"spec": {"namespace": f"elsewhere-{number}"}}
        patch = first.http.patch("/api/v1/clusters/fra", json=moved, headers=ANY | _MERGE)
        new = second.http.post("/api/v1/clusters", json=_cluster(f"new-{number}", "10.0.0.1"))
        answers = await asyncio.gather(patch, new)

        assert answers[0].status_code == 200
        assert answers[1].status_code in {201, 409}
        if answers[1].status_code == 201:
            gone = await second.http.delete(f"/api/v1/clusters/new-{number}", headers=ANY)
            assert gone.status_code == 204, gone.text
        back = {"spec": {"namespace": "tinkerbell"}}
        answer_of(await first.http.patch("/api/v1/clusters/fra", json=back, headers=ANY | _MERGE), 200)
    assert await _holders(first) == ["fra"]


async def _holders(replica: Replica) -> list[str]:
    """Which clusters hold a place, as etcd has it."""
    found = await replica.store.range(keys.CLUSTER_PLACES)
    return [json.loads(item.value)["cluster"] for item in found.items]


_MERGE = {"Content-Type": "application/merge-patch+json"}


def _cluster(name: str, server: str) -> dict[str, Any]:
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"https://{server}:6443"}}],
        "users": [{"name": "u", "user": {"token": f"of-{name}"}}],
    }
    return {"metadata": {"name": name}, "spec": {"kubeconfig": json.dumps(kubeconfig)}}
