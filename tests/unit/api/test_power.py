"""Power actions over HTTP: one at a time, none on a locked or busy machine."""

import asyncio
from typing import Any

import pytest

from dragonfly.model.power import PowerRequest
from dragonfly.model.swarm import Member
from dragonfly.store import keys, records
from dragonfly.store.values import Delete, Put
from tests.unit.api.replicas import ANY, Replica, World, answer_of, mac, problem_of

BMC = {"host": "10.0.1.1"}
M1 = "/api/v1/machines/m-1"


def power(replica: Replica, action: str = "cycle", **headers: str) -> Any:
    return replica.http.post(f"{M1}/power", json={"action": action}, headers=headers)


async def test_an_accepted_power_action_is_pending_and_shown_by_its_machine(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)

    response = await power(replica)

    action = answer_of(response, 202)
    assert response.headers["location"] == M1
    assert action["kind"] == "PowerAction"
    assert action["metadata"]["revision"] == replica.store.revision
    assert action["spec"] == {"machine": "m-1", "action": "cycle", "requestedBy": "admin"}
    assert action["status"] == {"phase": "Pending"}
    stored = records.decode(keys.power("m-1"), replica.store.items()[keys.power("m-1")].value)
    assert isinstance(stored, PowerRequest)
    assert (stored.name, stored.action) == (action["metadata"]["name"], "cycle")
    shown = (await replica.get(M1))["status"]["activePowerAction"]
    assert (shown["name"], shown["action"], shown["phase"]) == (stored.name, "cycle", "Pending")


async def test_of_two_power_actions_on_two_replicas_one_is_accepted(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1), bmc=BMC)
    first.watch.hold()
    second.watch.hold()

    responses = await asyncio.gather(power(first, "off"), power(second, "on"))

    assert sorted(response.status_code for response in responses) == [202, 409]
    loser = next(response for response in responses if response.status_code == 409)
    problem_of(loser, 409, "power-busy")


async def test_a_power_action_that_is_sent_again_is_the_same_one(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    first = answer_of(await power(replica, **{"Idempotency-Key": "k"}), 202)
    await replica.store.commit(Delete(keys.power("m-1")))

    again = answer_of(await power(replica, **{"Idempotency-Key": "k"}), 202)

    assert again == first
    assert keys.power("m-1") not in replica.store.items()


async def test_a_machine_without_a_bmc_cannot_be_switched(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))

    assert "spec.bmc" in problem_of(await power(replica), 422, "no-bmc")["detail"]


async def test_a_locked_machine_is_not_switched(replica: Replica) -> None:
    """P3."""
    await replica.machine("m-1", mac(1), bmc=BMC)
    await replica.post(f"{M1}/lock", {"reason": "disk"})

    problem_of(await power(replica, "on"), 409, "machine-locked")

    assert keys.power("m-1") not in replica.store.items()


@pytest.mark.parametrize("action", ["off", "cycle", "reset", "pxe"])
async def test_nothing_that_would_kill_an_installation_is_accepted_during_one(replica: Replica, action: str) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    await replica.template()
    provision = await replica.provision("m-1")

    assert provision["metadata"]["name"] in problem_of(await power(replica, action), 409, "provision-active")["detail"]


async def test_a_machine_may_be_switched_on_during_an_installation(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    await replica.template()
    await replica.provision("m-1")

    answer_of(await power(replica, "on"), 202)


async def test_nothing_else_begins_while_a_power_action_is_under_way(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    await replica.template()
    answer_of(await power(replica), 202)
    moved = {"spec": {"interfaces": [{"mac": mac(2)}]}}

    provision = await replica.http.post(f"{M1}/provision", json={"template": "ubuntu"})
    delete = await replica.http.delete(M1, headers=ANY)
    headers = {**ANY, "Content-Type": "application/merge-patch+json"}
    patch = await replica.http.patch(M1, json=moved, headers=headers)

    for response in (provision, delete, patch):
        assert "cycle" in problem_of(response, 409, "power-busy")["detail"]
    answer_of(await replica.http.patch(M1, json={"metadata": {"tags": ["x"]}}, headers=headers), 200)


async def test_a_machine_that_is_forgotten_leaves_no_power_action(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    answer_of(await power(replica), 202)

    assert (await replica.http.delete(f"{M1}?force=true", headers=ANY)).status_code == 204

    assert keys.power("m-1") not in replica.store.items()


async def test_an_unknown_action_and_an_unknown_machine_are_told(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)

    problem = problem_of(await power(replica, "explode"), 422, "invalid")
    assert "on, off, cycle, reset, pxe" in problem["detail"]
    response = await replica.http.post("/api/v1/machines/m-2/power", json={"action": "on"})
    problem_of(response, 404, "not-found")


async def test_a_machine_tells_whether_its_cluster_is_reached_and_since_when_not(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    assert (await replica.get(M1))["status"]["cluster"] == {"reachable": False}
    started = replica.clock.now()
    member = Member(id="a", version="1", address="", started=started, clusters=("local",))
    await replica.store.commit(Put(keys.member("a"), records.encode(member)))
    assert (await replica.get(M1))["status"]["cluster"] == {"reachable": True}

    lost = Member(id="a", version="1", address="", started=started, unreachable={"local": started})
    await replica.store.commit(Put(keys.member("a"), records.encode(lost)))

    cluster = (await replica.get("/api/v1/machines"))["items"][0]["status"]["cluster"]
    assert cluster == {"reachable": False, "since": started.isoformat().replace("+00:00", "Z")}
